"""The networks of the built-in tasks: an MLP for any input, a small CNN for images.

torch's own initialisation, which draws from the generator that the trial's seed has set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from tunesmith_workers.tasks.registry import Params, TaskError

_MAX_UNITS = 65_536
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """What a network reads and writes: shape of one sample, and number of classes."""

    sample: tuple[int, ...]
    classes: int

    @property
    def inputs(self) -> int:
        size = 1
        for n in self.sample:
            size *= n
        return size


def build(task: str, shape: Shape, params: Params, *, default: str = "mlp") -> nn.Module:
    """The network that `model`, `hidden`, `depth`, `dropout` and `batch_norm` describe.

    Raises TaskError on another name or a value that makes no network.
    """
    defaults: Params = {"model": default, "hidden": 64, "depth": 2, "dropout": 0.0, "batch_norm": False}
    if unknown := sorted(params.keys() - defaults.keys()):
        known = ", ".join(defaults)
        raise TaskError(
            f"{task} takes {known} beside the trainer's own; it does not know {', '.join(unknown)}"
        )
    values = {**defaults, **params}
    hidden = _whole(values, "hidden", 1, _MAX_UNITS)
    depth = _whole(values, "depth", 0 if values["model"] == "mlp" else 1, _MAX_DEPTH)
    dropout = values["dropout"]
    if isinstance(dropout, bool | str) or not 0 <= dropout < 1:
        raise TaskError(f"dropout must be in [0, 1), got {dropout!r}")
    norms = values["batch_norm"]
    if not isinstance(norms, bool):
        raise TaskError(f"batch_norm must be true or false, got {norms!r}")
    if values["model"] == "mlp":
        return mlp(shape, hidden, depth, float(dropout), batch_norm=norms)
    if values["model"] == "cnn" and len(shape.sample) == 3:
        return cnn(shape, hidden, depth, float(dropout), batch_norm=norms)
    models = "mlp or cnn" if len(shape.sample) == 3 else "mlp"
    raise TaskError(f"model must be {models} for {task}, got {values['model']!r}")


def _whole(values: Mapping[str, object], name: str, low: int, high: int) -> int:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise TaskError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return value


def mlp(shape: Shape, hidden: int, depth: int, dropout: float, *, batch_norm: bool = False) -> nn.Sequential:
    """`depth` hidden layers of `hidden` units with ReLU, each followed by dropout; depth 0 is linear.

    A dropout of 0 is a layer too (torch skips it): branches may differ in it, and names must fit. Batch
    normalisation stands between a layer and its ReLU (Ioffe & Szegedy 1502.03167); without it there is no
    layer in its place, so it is not a thing to change at a snapshot.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = shape.inputs
    for _ in range(depth):
        norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
        layers += [nn.Linear(width, hidden), *norm, nn.ReLU(), nn.Dropout(dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, shape.classes))


def cnn(shape: Shape, hidden: int, depth: int, dropout: float, *, batch_norm: bool = False) -> nn.Sequential:
    """`depth` blocks (3×3 convolution, ReLU, 2×2 maximum while the image has 4 pixels a side), of
    16, 32, 64, … channels up to 128, then one dense layer of `hidden` units with dropout.

    With batch normalisation, one stands between each convolution or dense layer and its ReLU.
    """
    channels, height, width = shape.sample
    layers: list[nn.Module] = []
    for block in range(depth):
        out = min(16 * 2**block, 128)
        norm: list[nn.Module] = [nn.BatchNorm2d(out)] if batch_norm else []
        layers += [nn.Conv2d(channels, out, 3, padding=1), *norm, nn.ReLU()]
        if min(height, width) >= 4:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        channels = out
    norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
    dense = [nn.Linear(channels * height * width, hidden), *norm, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), *dense, nn.Linear(hidden, shape.classes))
