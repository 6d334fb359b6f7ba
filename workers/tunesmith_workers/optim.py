"""Optimizers by name: torch's own classes, with a trial's hyperparameters.

| optimizer | torch | reads beside lr and weight_decay |
|---|---|---|
| sgd | SGD | momentum (0) |
| momentum | SGD | momentum (0.9) |
| nesterov | SGD(nesterov=True) | momentum (0.9), above 0 |
| adagrad | Adagrad | eps (1e-10) |
| rmsprop | RMSprop | momentum (0), alpha (0.99), eps (1e-8) |
| adam | Adam | beta1 (0.9), beta2 (0.999), eps (1e-8) |
| adamw | AdamW | beta1 (0.9), beta2 (0.999), eps (1e-8) |

`weight_decay` (0) is what torch means by it: an L2 term in the gradient of all but adamw, where it
is decoupled; on all parameters, biases included. With `decay_spares` biases_and_norms it is on those
of two or more dimensions alone: biases, and the scales and shifts of norms, have one (timm's rule,
timm/optim/_param_groups.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from tunesmith_studies.vocabulary import HYPERPARAMETERS, misfit

Params: TypeAlias = Mapping[str, bool | int | float | str]


def real(params: Params, name: str, default: float | None = None) -> float:
    """A number of the vocabulary; `default` where the vocabulary leaves it to the trainer.

    Raises ValueError, naming it and its bounds, on what is no such number.
    """
    known = HYPERPARAMETERS[name].default if default is None else default
    return float(_fitting(name, params.get(name, known)))


def whole(params: Params, name: str, default: int | None = None) -> int:
    """A whole number of the vocabulary. Raises ValueError, naming it, on what is none."""
    return int(real(params, name, default))


def word(params: Params, name: str) -> str:
    """One of the vocabulary's choices. Raises ValueError, naming them, on another."""
    return str(_fitting(name, params.get(name, HYPERPARAMETERS[name].default)))


def flag(params: Params, name: str) -> bool:
    """A yes or no of the vocabulary. Raises ValueError, naming it, on another value."""
    return bool(_fitting(name, params.get(name, HYPERPARAMETERS[name].default)))


def _fitting(name: str, value: Any) -> Any:
    if why := misfit(name, value):
        raise ValueError(why)
    return value


Groups: TypeAlias = list[dict[str, Any]]


def _sgd(
    groups: Groups, params: Params, lr: float, decay: float, *, momentum: float, nesterov: bool
) -> torch.optim.SGD:
    momentum = real(params, "momentum", momentum)
    return torch.optim.SGD(groups, lr, momentum, weight_decay=decay, nesterov=nesterov)


def _adagrad(groups: Groups, params: Params, lr: float, decay: float) -> torch.optim.Adagrad:
    return torch.optim.Adagrad(groups, lr, weight_decay=decay, eps=real(params, "eps", 1e-10))


def _rmsprop(groups: Groups, params: Params, lr: float, decay: float) -> torch.optim.RMSprop:
    momentum, alpha = real(params, "momentum", 0.0), real(params, "alpha")
    eps = real(params, "eps", 1e-8)
    return torch.optim.RMSprop(groups, lr, alpha, eps, weight_decay=decay, momentum=momentum)


def _adam(
    groups: Groups, params: Params, lr: float, decay: float, kind: type[torch.optim.Adam]
) -> torch.optim.Adam:
    betas = (real(params, "beta1"), real(params, "beta2"))
    return kind(groups, lr, betas, eps=real(params, "eps", 1e-8), weight_decay=decay)


_BUILDERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(_sgd, momentum=0.0, nesterov=False),
    "momentum": partial(_sgd, momentum=0.9, nesterov=False),
    "nesterov": partial(_sgd, momentum=0.9, nesterov=True),
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": partial(_adam, kind=torch.optim.Adam),
    "adamw": partial(_adam, kind=torch.optim.AdamW),
}


def make_optimizer(model: nn.Module, params: Params) -> torch.optim.Optimizer:
    """The optimizer that `params` describe. Raises ValueError on a name or value that makes none."""
    build = _BUILDERS[word(params, "optimizer")]
    groups = _groups(model, word(params, "decay_spares"))
    return build(groups, params, real(params, "lr"), real(params, "weight_decay"))


def _groups(model: nn.Module, spared: str) -> Groups:
    """The model's parameters, those that weight decay spares in a group of their own."""
    parameters = list(model.parameters())
    if spared == "none":
        return [{"params": parameters}]
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    groups: Groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
