"""How the weights of a fresh model are drawn.

| init | weights of linear and convolution layers | source |
|---|---|---|
| as_built | as the task's model builder left them | |
| xavier | uniform, variance 2 / (fan_in + fan_out) | Glorot & Bengio 2010 |
| he | normal, variance 2 / fan_in: for ReLU | He et al. 1502.01852 |
| orthogonal | a random orthogonal matrix | Saxe et al. 1312.6120 |

All but `as_built` set the biases of these layers to zero; norms, embeddings and all else stay as built.
They draw from a generator of their own, so that what a trial draws later does not depend on `init`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tunesmith_workers import rng
from tunesmith_workers.optim import Params, word

_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def _xavier(weight: Tensor, generator: torch.Generator) -> None:
    nn.init.xavier_uniform_(weight, generator=generator)


def _he(weight: Tensor, generator: torch.Generator) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _orthogonal(weight: Tensor, generator: torch.Generator) -> None:
    nn.init.orthogonal_(weight, generator=generator)


_DRAWS: Mapping[str, Callable[[Tensor, torch.Generator], None]] = {
    "xavier": _xavier,
    "he": _he,
    "orthogonal": _orthogonal,
}


def initialise(model: nn.Module, params: Params, seed: int) -> None:
    """Draw the weights of a fresh model, on the CPU, as `init` says. Raises ValueError on another word."""
    how = word(params, "init")
    if how == "as_built":
        return
    generator = torch.Generator().manual_seed(rng.derive(seed, "init"))
    for module in model.modules():
        if isinstance(module, _LAYERS):
            _DRAWS[how](module.weight, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
