"""Each optimizer against its formula, worked out in plain Python on loss = w²/2, so gradient = w."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from tunesmith_studies.vocabulary import HYPERPARAMETERS
from tunesmith_workers.optim import make_optimizer

LR, WD, STEPS, START = 0.1, 0.25, 4, 1.5


def trained(params: dict[str, object]) -> list[float]:
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(START)
    optimizer = make_optimizer(model, {"lr": LR, "weight_decay": WD} | params)
    seen = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model.weight**2 / 2).sum().backward()
        optimizer.step()
        seen.append(model.weight.item())
    return seen


def sgd(momentum: float, nesterov: bool = False) -> list[float]:
    w, v, seen = START, 0.0, []
    for _ in range(STEPS):
        g = w + WD * w
        v = momentum * v + g
        w -= LR * (g + momentum * v if nesterov else v)
        seen.append(w)
    return seen


def adagrad() -> list[float]:
    w, total, seen = START, 0.0, []
    for _ in range(STEPS):
        g = w + WD * w
        total += g * g
        w -= LR * g / (math.sqrt(total) + 1e-10)
        seen.append(w)
    return seen


def rmsprop(momentum: float = 0.0, alpha: float = 0.99) -> list[float]:
    w, square, v, seen = START, 0.0, 0.0, []
    for _ in range(STEPS):
        g = w + WD * w
        square = alpha * square + (1 - alpha) * g * g
        v = momentum * v + g / (math.sqrt(square) + 1e-8)
        w -= LR * v
        seen.append(w)
    return seen


def adam(decoupled: bool, beta1: float = 0.9, beta2: float = 0.999) -> list[float]:
    w, m, v, seen = START, 0.0, 0.0, []
    for t in range(1, STEPS + 1):
        if decoupled:
            w -= LR * WD * w
        g = w / (1 - LR * WD) if decoupled else w + WD * w  # adamw's gradient is of the undecayed weight
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w -= LR * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + 1e-8)
        seen.append(w)
    return seen


@pytest.mark.parametrize(
    ("params", "formula"),
    [
        ({"optimizer": "sgd"}, lambda: sgd(0.0)),
        ({}, lambda: sgd(0.0)),
        ({"optimizer": "sgd", "momentum": 0.5}, lambda: sgd(0.5)),
        ({"optimizer": "momentum"}, lambda: sgd(0.9)),
        ({"optimizer": "momentum", "momentum": 0.8}, lambda: sgd(0.8)),
        ({"optimizer": "nesterov"}, lambda: sgd(0.9, nesterov=True)),
        ({"optimizer": "adagrad"}, adagrad),
        ({"optimizer": "rmsprop"}, rmsprop),
        ({"optimizer": "rmsprop", "momentum": 0.9, "alpha": 0.5}, lambda: rmsprop(0.9, 0.5)),
        ({"optimizer": "adam"}, lambda: adam(decoupled=False)),
        ({"optimizer": "adamw"}, lambda: adam(decoupled=True)),
        ({"optimizer": "adamw", "beta1": 0.5, "beta2": 0.9}, lambda: adam(True, 0.5, 0.9)),
    ],
)
def test_each_optimizer_follows_its_formula(params: dict[str, object], formula: Callable[[], list[float]]):
    assert trained(params) == pytest.approx(formula(), rel=1e-12)


def test_weight_decay_is_on_every_parameter_biases_included():
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, {"lr": 0.5, "weight_decay": 0.1})
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for was, p in zip(before, model.parameters(), strict=True):
        assert torch.allclose(p, was * (1 - 0.5 * 0.1))


@pytest.mark.parametrize("optimizer", HYPERPARAMETERS["optimizer"].choices)
def test_decay_spares_biases_and_norms_when_asked(optimizer):
    def end(decay, spared):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
        params = {"optimizer": optimizer, "lr": 0.1, "weight_decay": decay, "decay_spares": spared}
        trainer = make_optimizer(model, params)
        for gradient in (1.0, 3.0):
            for p in model.parameters():
                p.grad = torch.full_like(p, gradient)
            trainer.step()
        return dict(model.named_parameters())

    plain, decayed, spared = end(0.0, "none"), end(0.5, "none"), end(0.5, "biases_and_norms")
    weights = {"0.weight", "3.weight"}
    for name in plain:
        assert torch.equal(spared[name], (decayed if name in weights else plain)[name])
    assert not torch.equal(plain["3.weight"], decayed["3.weight"])


def test_a_model_of_weights_alone_has_one_group_whatever_is_spared():
    optimizer = make_optimizer(nn.Linear(2, 2, bias=False), {"decay_spares": "biases_and_norms"})
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"optimizer": "adamax"}, "optimizer must be one of sgd, momentum, nesterov, .*, got 'adamax'"),
        ({"lr": -0.1}, "lr must be a number from 0 up, got -0.1"),
        ({"lr": math.nan}, "lr must be a number from 0 up, got nan"),
        ({"lr": True}, "lr must be a number from 0 up, got True"),
        ({"decay_spares": "norms"}, "decay_spares must be one of none, biases_and_norms, got 'norms'"),
        ({"weight_decay": "0.1"}, "weight_decay must be a number from 0 up, got '0.1'"),
        ({"optimizer": "momentum", "momentum": 1.5}, "momentum must be a number from 0 to 1, got 1.5"),
    ],
)
def test_a_value_that_makes_no_optimizer_is_named(params, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(nn.Linear(1, 1), params)


def test_the_optimizers_are_those_of_the_vocabulary():
    for name in HYPERPARAMETERS["optimizer"].choices:
        assert make_optimizer(nn.Linear(1, 1), {"optimizer": name}).param_groups[0]["lr"] == 0.01
