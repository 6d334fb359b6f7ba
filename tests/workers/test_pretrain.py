"""Hidden layers that learn to reconstruct their inputs before the training proper."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional
from training import same_bits, wish_at
from tunesmith_workers.pretrain import Pretraining, reconstruction_errors
from tunesmith_workers.tasks import models

DIGITS = models.Shape(sample=(1, 8, 8), classes=10)
STEPS = 4  # a pass: 100 samples in batches of 32


def inputs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(100, 1, 8, 8, generator=generator)


def build(**params) -> nn.Sequential:
    torch.manual_seed(4)
    made = models.build("digits", DIGITS, params)
    assert isinstance(made, nn.Sequential)
    return made


def pretraining(model: nn.Module, epochs: int = 3, seed: int = 1) -> Pretraining:
    return Pretraining(model, inputs(), epochs=epochs, batch_size=32, seed=seed)


def never() -> None:
    return None


def test_the_error_is_that_of_tied_autoencoders_worked_out_by_hand():
    model = build(hidden=5, depth=2).double()
    x = inputs().double()[:10]
    biases = [nn.Parameter(torch.rand(64).double()), nn.Parameter(torch.rand(5).double())]
    found = reconstruction_errors(model, [model[1], model[4]], biases, x)
    h0 = x.flatten(1)
    h1 = torch.relu(h0 @ model[1].weight.T + model[1].bias)
    h2 = torch.relu(h1 @ model[4].weight.T + model[4].bias)
    first = ((h1 @ model[1].weight + biases[0] - h0) ** 2).mean()
    second = ((h2 @ model[4].weight + biases[1] - h1) ** 2).mean()
    assert torch.allclose(found, first + second)


def test_no_gradient_passes_between_layers():
    model = build(hidden=5, depth=2)
    x = inputs()
    biases = [nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(5))]
    reconstruction_errors(model, [model[1], model[4]], biases, x).backward()
    both = model[1].weight.grad.clone()
    model.zero_grad()
    reconstruction_errors(model, [model[1]], biases[:1], x).backward()
    assert torch.equal(model[1].weight.grad, both)
    assert model[4].weight.grad is None


def test_a_convolution_is_undone_by_its_transposed_one():
    model = build(model="cnn", depth=1)
    x, bias = inputs(), nn.Parameter(torch.zeros(1))
    found = reconstruction_errors(model, [model[0]], [bias], x)
    code = torch.relu(functional.conv2d(x, model[0].weight, model[0].bias, padding=1))
    flipped = model[0].weight.flip(2, 3).transpose(0, 1)
    assert torch.allclose(found, functional.mse_loss(functional.conv2d(code, flipped, padding=1), x))


@pytest.mark.parametrize(
    "params",
    [{}, {"model": "cnn"}, {"batch_norm": True, "dropout": 0.5}, {"model": "cnn", "batch_norm": True}],
)
def test_hidden_layers_learn_and_nothing_else_changes(params):
    model = build(**params)
    before = copy.deepcopy(model.state_dict())
    before_rng = torch.get_rng_state()
    learning = pretraining(model, epochs=10)
    assert learning.train(never) is None
    layers = [name for name, m in model.named_children() if isinstance(m, nn.Linear | nn.Conv2d)]
    changed = {
        name.partition(".")[0] for name, t in model.state_dict().items() if not torch.equal(t, before[name])
    }
    assert changed == set(layers[:-1])
    assert torch.equal(torch.get_rng_state(), before_rng)
    assert all(p.grad is None for p in model.parameters())
    line = learning.described()
    assert line.startswith(
        f"hidden layers pre-trained ({len(layers) - 1}) to epoch 10, which sys/epoch counts"
    )
    first, last = (float(number) for number in re.findall(r" ([\d.]+) in the", line))
    assert last < first / 2


@pytest.mark.parametrize("at", [0, 1, STEPS, STEPS + 3])
def test_a_pre_training_handed_back_goes_on_as_if_never_interrupted(at):
    whole, half = build(), build()
    pretraining(whole).train(never)
    first = pretraining(half)
    assert first.train(wish_at(at)) == "hand_back"
    assert (first.epoch, first.batch) == divmod(at, STEPS)
    saved = copy.deepcopy(first.save())
    second = pretraining(half)
    second.restore(saved)
    assert second.train(never) is None
    assert same_bits(half.state_dict(), whole.state_dict())
    reference = pretraining(build())
    reference.train(never)
    assert second.described() == reference.described()


def test_the_order_of_samples_follows_the_seed():
    one, same, other = build(), build(), build()
    for model, seed in [(one, 1), (same, 1), (other, 2)]:
        pretraining(model, seed=seed).train(never)
    assert same_bits(one.state_dict(), same.state_dict())
    assert not same_bits(one.state_dict(), other.state_dict())


def test_models_that_are_no_plain_sequence_of_hidden_layers_are_refused():
    with pytest.raises(ValueError, match="needs a model with a hidden layer; this one has none"):
        pretraining(build(depth=0))
    nested = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 5), nn.ReLU()), nn.Linear(5, 10))
    for model in (nn.Bilinear(2, 2, 2), nested):
        with pytest.raises(ValueError, match="for the models of built-in tasks, plain"):
            pretraining(model)
