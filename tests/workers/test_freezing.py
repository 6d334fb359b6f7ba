"""What is trained and what is not: which layers, and until when."""

import pytest
import torch
from torch import nn
from tunesmith_workers.freezing import Freezing
from tunesmith_workers.optim import make_optimizer
from tunesmith_workers.tasks import models

DIGITS = models.Shape(sample=(1, 8, 8), classes=10)


def cnn(**params) -> nn.Module:
    return models.build("digits", DIGITS, {"model": "cnn", "batch_norm": True} | params)


def trained(model: nn.Module, **params) -> set[str]:
    """Names of the modules whose parameters are trained in the first epoch."""
    Freezing(model, params).train(0)
    return {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad}


LAYERS = {"0", "1", "4", "5", "9", "10", "13"}  # conv, norm, conv, norm, dense, norm, dense


def test_the_head_is_the_last_layer_with_weights_and_the_input_layer_the_first():
    assert trained(cnn()) == LAYERS
    assert trained(cnn(), freeze="none") == LAYERS
    assert trained(cnn(), freeze="all_but_head") == {"13"}
    assert trained(cnn(), freeze="all_but_ends") == {"0", "13"}


class Odd(nn.Module):
    """A normalisation before the first and after the last layer, a nest in the middle, and a tie."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.first = nn.Embedding(7, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
        self.head = nn.Linear(4, 7)
        self.scale = nn.LayerNorm(7)
        self.head.weight = self.first.weight


def test_norms_around_the_ends_belong_to_them_and_tied_weights_are_trained_with_either():
    assert trained(Odd(), freeze="all_but_head") == {"first", "head", "scale"}
    assert trained(Odd(), freeze="all_but_ends") == {"norm", "first", "head", "scale"}


class Transformer(nn.Module):
    """Owns a token of its own, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.patches = nn.Conv2d(1, 4, 2)
        self.block = nn.TransformerEncoderLayer(4, 1, 8)
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3), nn.Identity())


def test_what_a_model_owns_beside_its_layers_goes_with_its_input():
    assert trained(Transformer(), freeze="all_but_head") == {"head.1"}
    assert trained(Transformer(), freeze="all_but_ends") == {"", "patches", "head.1"}


def test_frozen_norms_that_keep_statistics_stay_in_evaluation_mode():
    model = cnn()
    Freezing(model, {"freeze": "all_but_head", "unfreeze_epoch": 1}).train(0)
    assert [m.training for m in model if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)] == [False] * 3
    assert model.training
    assert model[12].training  # dropout
    before = {name: t.clone() for name, t in model.named_buffers()}
    model(torch.rand(8, 1, 8, 8))
    assert all(torch.equal(t, before[name]) for name, t in model.named_buffers())


def test_norms_without_weights_are_frozen_with_what_stands_around_them():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    Freezing(model, {"freeze": "all_but_head"}).train(0)
    assert not model[1].training


def test_all_is_trained_once_the_epochs_are_done():
    model = cnn()
    freezing = Freezing(model, {"freeze": "all_but_head", "unfreeze_epoch": 2})
    for epoch, count in [(0, 2), (1, 2), (2, 14), (3, 14)]:
        freezing.train(epoch)
        assert sum(p.requires_grad for p in model.parameters()) == count
        assert all(m.training for m in model.modules()) == (epoch >= 2)


def test_what_the_task_itself_froze_stays_frozen():
    model = cnn()
    model[0].weight.requires_grad_(False)
    Freezing(model, {"freeze": "all_but_head", "unfreeze_epoch": 1}).train(1)
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "rmsprop", "adagrad"])
def test_frozen_weights_do_not_even_decay(optimizer):
    model = cnn()
    freezing = Freezing(model, {"freeze": "all_but_head"})
    steps = make_optimizer(model, {"optimizer": optimizer, "weight_decay": 0.5, "lr": 0.1})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        freezing.train(0)
        steps.zero_grad()
        nn.functional.cross_entropy(model(torch.rand(8, 1, 8, 8)), torch.arange(8)).backward()
        steps.step()
    moved = {n.rpartition(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"13"}


def test_the_log_says_what_is_trained_and_for_how_long():
    model = cnn(hidden=64)
    assert Freezing(model, {}).described() == ""
    assert Freezing(model, {"freeze": "all_but_head"}).described() == (
        "all_but_head: 650 of 13,930 parameters are trained throughout, the rest is frozen"
    )
    later = Freezing(model, {"freeze": "all_but_ends", "unfreeze_epoch": 3}).described()
    assert later.startswith("all_but_ends: 810 of 13,930 parameters are trained up to epoch 3,")


def test_a_model_of_one_layer_has_nothing_to_freeze():
    model = models.build("digits", DIGITS, {"depth": 0})
    assert trained(model, freeze="all_but_head") == {"1"}
    assert Freezing(model, {"freeze": "all_but_head"}).described() == ""


def test_unknown_words_are_named():
    with pytest.raises(ValueError, match="freeze must be one of none, all_but_head, all_but_ends, got 'all'"):
        Freezing(cnn(), {"freeze": "all"})
    with pytest.raises(ValueError, match="unfreeze_epoch must be a whole number"):
        Freezing(cnn(), {"freeze": "all_but_head", "unfreeze_epoch": 0.5})
