"""What a call of one of torch's loss functions shows: its mean, its labels, and what it was given."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Kind: TypeAlias = Literal["cross_entropy", "nll", "bce", "bce_logits", "squared", "absolute"]

LOSSES: Mapping[Callable[..., Any], Kind] = {
    functional.cross_entropy: "cross_entropy",
    functional.nll_loss: "nll",
    functional.binary_cross_entropy: "bce",
    functional.binary_cross_entropy_with_logits: "bce_logits",
    functional.mse_loss: "squared",
    functional.l1_loss: "absolute",
    functional.smooth_l1_loss: "absolute",
    functional.huber_loss: "absolute",
}


@dataclass(frozen=True, slots=True)
class LossCall:
    """One call of a loss function.

    Attributes:
        samples: targets that count, those of `ignore_index` left out.
        classes: of the outputs, or None where a target is no class.
        mean: loss of a sample, without class weights and smoothing: nats of a classifier, else the mean
            over all elements.
        averaged: what the call would have given with `reduction="mean"`, its weights and smoothing kept.
        elements: losses that this is the mean of.
        accuracy: share of labels whose class the outputs rank first, or None.
        value: what the loop got, if one number.
        labels: class of each target on the CPU, shape (samples,), or None.
        numeric: mean and variance of targets that are no classes.
        sum_error, column_sum_error: largest distance of a sample's sum of outputs from 1, and of a class's
            over the samples; infinite where outputs are no rows of classes.
        log_sum: largest distance of a sample's sum of exp(outputs) from 1, as a logarithm.
        lowest, highest: of all outputs.
        not_finite: outputs and targets that are not finite.
        grad: whether a gradient can flow from it.
        outputs, target: the loop's own tensors; no longer than until its backward.
    """

    function: Callable[..., Tensor]
    kind: Kind
    samples: int
    classes: int | None
    mean: float
    averaged: float
    elements: int
    accuracy: float | None
    value: float | None
    labels: Tensor | None
    numeric: tuple[float, float] | None
    sum_error: float
    column_sum_error: float
    log_sum: float
    lowest: float
    highest: float
    not_finite: int
    grad: bool
    outputs: Tensor | None = None
    target: Tensor | None = None

    def gave(self, value: Any) -> LossCall:
        """With what the loop got."""
        tensor = value if isinstance(value, Tensor) else None
        one = float(tensor.detach()) if tensor is not None and tensor.numel() == 1 else None
        if tensor is not None and tensor.requires_grad:
            return replace(self, value=one, grad=True)
        return replace(self, value=one, grad=False, outputs=None, target=None)

    def refusal(self) -> str:
        """What to say of labels that are none of the classes."""
        found = "" if self.labels is None else f" {int(self.labels.min())} to {int(self.labels.max())}"
        return (
            f"{self.out_of_range} of {self.samples} labels are out of range: labels are{found}, and outputs "
            f"of {self.classes} classes take 0 to {(self.classes or 0) - 1}"
        )

    @property
    def out_of_range(self) -> int:
        """Labels that are none of the classes."""
        if self.labels is None or self.classes is None:
            return 0
        return int(((self.labels < 0) | (self.labels >= self.classes)).sum())


class Called(TorchFunctionMode):
    """Which loss function is called first while this is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.kind: Kind | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.kind = self.kind or LOSSES.get(func)
        return func(*args, **(kwargs or {}))


def look_at(function: Callable[..., Any], args: Any, kwargs: Any) -> LossCall:
    """What the arguments of one of LOSSES show. `grad` says for now what its outputs need."""
    given = dict(zip(_names(function), args, strict=False)) | kwargs
    kind, outputs, target = LOSSES[function], given["input"].detach(), given["target"]
    classes, labels = _labels(kind, outputs, target, int(given.get("ignore_index", -100)))
    seen = LossCall(
        function=function,
        kind=kind,
        samples=len(labels) if labels is not None else max(len(target) if target.dim() else 1, 1),
        classes=classes,
        mean=math.nan,
        averaged=math.nan,
        elements=1,
        accuracy=_accuracy(kind, outputs, target),
        value=None,
        labels=labels,
        numeric=_numeric(target) if classes is None else None,
        not_finite=int((~torch.isfinite(outputs)).sum()) + _not_finite(target),
        grad=given["input"].requires_grad and torch.is_grad_enabled(),
        outputs=given["input"],
        target=target,
        **_shape(kind, outputs),
    )
    return seen if seen.out_of_range else replace(seen, **_means(function, given, seen.samples))


def _labels(kind: Kind, outputs: Tensor, target: Tensor, ignored: int) -> tuple[int | None, Tensor | None]:
    """How many classes there are, and the class of each target that counts."""
    if kind in ("squared", "absolute"):
        return None, None
    if kind in ("bce", "bce_logits"):
        binary = outputs.dim() == 1 or outputs.shape[1:].numel() == 1
        hard = bool(((target == 0) | (target == 1)).all())
        return (2 if binary else None), (target.flatten().long().cpu() if binary and hard else None)
    classes = outputs.shape[1] if outputs.dim() > 1 else outputs.shape[0]
    if target.is_floating_point():  # probabilities
        hard = outputs.dim() == 2 and bool((target.max(1).values == 1).all() and (target.sum(1) == 1).all())
        return classes, target.argmax(1).cpu() if hard else None
    labels = target.flatten().cpu()
    return classes, labels[labels != ignored]


def _accuracy(kind: Kind, outputs: Tensor, target: Tensor) -> float | None:
    if kind in ("cross_entropy", "nll") and outputs.dim() == 2:
        wanted = target if target.dim() == 1 else target.argmax(1)
        return float((outputs.argmax(1) == wanted).double().mean())
    if kind in ("bce", "bce_logits"):
        cut = 0.5 if kind == "bce" else 0.0
        return float(((outputs > cut) == (target > 0.5)).double().mean())
    return None


_NOT_THE_LOSS_S_OWN = frozenset(
    {"reduction", "reduce", "size_average", "weight", "label_smoothing", "pos_weight"}
)


def _means(function: Callable[..., Any], given: Mapping[str, Any], samples: int) -> dict[str, Any]:
    plain = {k: v for k, v in given.items() if k not in _NOT_THE_LOSS_S_OWN}
    own = {k: v for k, v in given.items() if k not in ("reduction", "reduce", "size_average")}
    with torch.no_grad():
        losses = function(**plain, reduction="none")
        averaged = function(**own, reduction="mean")
    counted = samples if LOSSES[function] in ("cross_entropy", "nll") else losses.numel()
    mean = float(losses.sum(dtype=torch.float64)) / max(counted, 1)
    return {"mean": mean, "averaged": float(averaged), "elements": counted}


def _numeric(target: Tensor) -> tuple[float, float]:
    values = target.detach().double()
    return float(values.mean()), float(values.var(correction=0))


def _not_finite(target: Tensor) -> int:
    return int((~torch.isfinite(target)).sum()) if target.is_floating_point() else 0


def _shape(kind: Kind, outputs: Tensor) -> dict[str, float]:
    """Whether the outputs already went through a softmax or a sigmoid."""
    values = outputs.double()
    empty = values.numel() == 0
    found = {
        "sum_error": math.inf,
        "column_sum_error": math.inf,
        "log_sum": math.inf,
        "lowest": math.nan if empty else float(values.min()),
        "highest": math.nan if empty else float(values.max()),
    }
    if kind in ("cross_entropy", "nll") and values.dim() >= 2 and not empty:
        found["log_sum"] = float(values.logsumexp(1).abs().max())
        found["sum_error"] = float((values.sum(1) - 1).abs().max())
        if len(values) > 1:
            found["column_sum_error"] = float((values.sum(0) - 1).abs().max())
    return found


@lru_cache(maxsize=32)
def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)
