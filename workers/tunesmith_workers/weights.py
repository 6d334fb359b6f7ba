"""Transfer learning: a trial that starts from other weights.

The hyperparameter `init_from` names weights that the worker was started with (`--weights NAME=FILE`), so
the API never names a file. What fits the model by name and shape is taken, the rest stays fresh, and the
trial's log says which. The weights are part of every task's digest: two workers with different files of
one name, or one without, would else train different trials in one study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tunesmith_workers import snapshots
from tunesmith_workers.optim import Params

_NAMED_AT_MOST = 8  # in a message


class WeightsError(Exception):
    """A weights file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors of a file, on the CPU. `sha256` is of the file, in hex."""

    name: str
    sha256: str
    tensors: Mapping[str, Tensor]


def read_weights(name: str, path: Path) -> Weights:
    """The model in a snapshot of Tunesmith's, or every tensor of another safetensors file.

    Raises WeightsError, naming the file, if it is neither.
    """
    try:
        with snapshots.opened(path) as file:
            is_snapshot = "tunesmith" in (file.metadata() or {})
            tensors = {} if is_snapshot else {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if is_snapshot:
            tensors = snapshots.load(path)["model"]
        digest = _sha256(path)
    except (SafetensorError, OSError, snapshots.SnapshotCorrupt, KeyError, TypeError) as e:
        raise WeightsError(
            f"--weights {name}={path}: neither a snapshot nor a safetensors file of named tensors: {e}"
        ) from e
    return Weights(name, digest, tensors)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_from(model: nn.Module, params: Params, known: Mapping[str, Weights]) -> str:
    """Put the weights that `init_from` names into a fresh model; returns a line that says which fitted.

    Raises ValueError on a name that the worker has no weights for, and if nothing fits.
    """
    name = params.get("init_from", "")
    if name == "":
        return ""
    if name not in known:
        has = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise ValueError(
            f"init_from names {name!r}, for which this worker has no weights ({has}): "
            f"start it with --weights {name}=FILE"
        )
    return take_over(model, known[str(name)])


def take_over(model: nn.Module, weights: Weights) -> str:
    """Copy what fits `model` by name and shape into it; returns a line that says what did and what not.

    Raises ValueError if nothing fits.
    """
    own = model.state_dict(keep_vars=True)
    fitting = [name for name, tensor in own.items() if _fits(weights.tensors.get(name), tensor)]
    if not fitting:
        raise ValueError(
            f"nothing in the weights {weights.name} fits the model by name and shape: they have "
            f"{_shapes(weights.tensors)}; the model has {_shapes(own)}"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(weights.tensors[name])
    fresh = [name for name in own if name not in set(fitting)]
    unused = [name for name in weights.tensors if name not in set(fitting)]
    taken = f"{len(fitting)} of {len(own)} tensors"
    return (
        f"starts from {weights.name} (sha256 {weights.sha256[:12]}), which gives {taken}"
        + (f"; fresh: {_named(fresh)}" if fresh else "")
        + (f"; not used: {_named(unused)}" if unused else "")
    )


def _fits(tensor: Tensor | None, own: Tensor) -> bool:
    return tensor is not None and tensor.shape == own.shape


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return _named([f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()])


def _named(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
