"""Watchers of a loop, one for each thing that can be seen in it. Each measures; `studies` judges.

Beside these: `samples.Samples` sees the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, median, variance

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith_workers.losses import Kind, LossCall
from tunesmith_workers.probes.costs import WINDOW
from tunesmith_workers.watching import Batch, Rectified, Stopwatch, Watcher

_PARTS = ("loading", "forward", "backward", "step")
_LONGEST = 128  # characters of a metric's name
_WARM_UP = 3  # first iterations, which allocate and compile
_EXTREMES = {"sum_error": max, "column_sum_error": max, "log_sum": max, "lowest": min, "highest": max}
_ROUNDING = 0.02  # relative, of half precision
_ALL_AT_FIRST, _THEN_EVERY = 10, 10  # of what is not looked at in each step


def _looks(step: int) -> bool:
    return step < _ALL_AT_FIRST or step % _THEN_EVERY == 0


class Losses(Watcher):
    """The training loss of each step, as a mean over samples, and what the loss function was given.

    Attributes:
        kind: of the first loss that a gradient flows from; others are left out.
        first: its calls before the first step.
        steps: loss of each step; of a loss that is none of torch's functions, what backward began from.
    """

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self.first: list[LossCall] = []
        self.steps: list[float] = []
        self._outputs: dict[str, float] = {}
        self._lowest = math.inf
        self._together: tuple[float, float] | None = None  # a batch's loss, and its samples' mean
        self._rate = math.nan
        self._optimizers: set[int] = set()
        self._since: list[LossCall] = []
        self._roots: list[float] = []

    def trained(self, batch: Batch) -> None:
        for call in batch.losses:
            self.kind = self.kind or call.kind
            if call.kind == self.kind:
                self._since.append(call)
                self._take(call)
        if not self.steps:
            self.first = list(self._since)

    def _take(self, call: LossCall) -> None:
        if math.isfinite(call.mean):
            self._lowest = min(self._lowest, call.mean)
        for name, most in _EXTREMES.items():
            value = getattr(call, name)
            if math.isfinite(value):
                self._outputs[name] = most(value, self._outputs.get(name, value))

    def backward_begins(self, root: Tensor) -> None:
        if root.numel() == 1:
            self._roots.append(float(root.detach()))

    def step_ended(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self._optimizers.add(id(optimizer))
        calls, roots, self._since, self._roots = self._since, self._roots, [], []
        if not calls and not roots:
            return
        if not self.steps:
            self._rate = float(optimizer.param_groups[0]["lr"])
            self._together = _together(calls, roots)
        samples = max(sum(c.samples for c in calls), 1)
        self.steps.append(sum(c.mean * c.samples for c in calls) / samples if calls else fmean(roots))

    def facts(self) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.first:
            found |= self._of_the_function(self.first)
        if self.steps and (len(self._optimizers) == 1 or not all(map(math.isfinite, self.steps))):
            # Of losses that work against each other none need fall.
            found |= {"check/rate/lr": self._rate, "check/rate/steps": float(len(self.steps))}
            found |= _course(self.steps)
        return found

    def _of_the_function(self, calls: list[LossCall]) -> dict[str, float]:
        found = {"check/initial/loss": fmean(c.mean for c in calls)}
        found["check/loss/batch"] = found["check/loss/values"] = float(calls[0].elements)
        if math.isfinite(self._lowest):
            found["check/loss/lowest"] = self._lowest
        if self._together is not None:
            found["check/loss/together"], found["check/loss/alone"] = self._together
        if self.kind == "cross_entropy":
            found["check/loss/shifted"] = 0.0
            found |= {f"check/outputs/{name}": value for name, value in self._outputs.items()}
        if self.kind == "bce_logits":
            extremes = {f"check/outputs/{name}": self._outputs[name] for name in ("lowest", "highest")}
            found |= {"check/outputs/sigmoid": 1.0, **extremes}
        return found


def _together(calls: list[LossCall], roots: list[float]) -> tuple[float, float] | None:
    """What backward began from, beside the mean of the losses it is made of, if it is a plain multiple of it.

    A loss with other terms, or scaled against underflow, is none. Accumulated batches may be averaged or not.
    """
    if not calls or len(calls) != len(roots):
        return None
    alone = fmean(c.averaged for c in calls)
    if not math.isfinite(alone) or alone <= 0:
        return None
    elements = calls[0].elements
    for times in (1, elements, 1 / elements):
        for together in (fmean(roots), sum(roots)):
            if abs(together / alone / times - 1) < _ROUNDING:
                return together, alone
    return None


def _course(steps: list[float]) -> dict[str, float]:
    """Where the loss began and ended, the lowest it was on the way, and how sure the difference is."""
    means = [fmean(steps[i : i + WINDOW]) for i in range(max(1, len(steps) - WINDOW + 1))]
    found = {
        "check/rate/first": steps[0],
        "check/rate/last": means[-1] if all(map(math.isfinite, steps)) else math.nan,
        "check/rate/lowest": min((m for m in means if math.isfinite(m)), default=math.nan),
    }
    if len(steps) >= 2 * WINDOW and math.isfinite(found["check/rate/last"]):
        begin, end = steps[:WINDOW], steps[-WINDOW:]
        found["check/rate/begin"] = means[0]
        found["check/rate/noise"] = math.sqrt((variance(begin) + variance(end)) / WINDOW)
    return found


@dataclass(slots=True)
class _Held:
    """An optimizer, and what became of its gradients since its last step."""

    optimizer: torch.optim.Optimizer
    backwards: int = 0
    cleared: bool = False  # at the beginning of one of these backwards all its gradients were zero
    intervals: int = 0  # between two of its steps, in which a backward was seen
    carried: int = 0  # of these, the ones in which they never were

    def parameters(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]


@dataclass(slots=True)
class _Seen:
    """What the looked-at steps showed of one parameter."""

    steps: int = 0
    missing: int = 0  # steps at which it had no gradient
    not_finite: int = 0
    reached: bool = False  # by a gradient that is not zero
    ratios: list[float] = field(default_factory=list)  # |update| / |weight|


class Gradients(Watcher):
    """Which parameters get gradients, and whether gradients are cleared between steps.

    Real accumulation has several backwards between two steps, and clears before the first of them; where
    zero_grad is forgotten, no backward begins with gradients at zero.
    """

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._seen: dict[nn.Parameter, _Seen] = {}
        self._modules: dict[int, nn.Module] = {}
        self._before: dict[nn.Parameter, Tensor] = {}
        self.steps = 0

    def trained(self, batch: Batch) -> None:
        for call in batch.forwards:
            self._modules.setdefault(id(call.module), call.module)

    def backward_begins(self, root: Tensor) -> None:
        for held in self._held.values():
            held.backwards += 1
            held.cleared = held.cleared or not any(_is_some(p.grad) for p in held.parameters())

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        held = self._held.setdefault(id(optimizer), _Held(optimizer, cleared=True))
        if held.backwards:
            held.intervals += 1
            held.carried += not held.cleared
        held.backwards, held.cleared = 0, False
        if _looks(self.steps):
            for parameter in held.parameters():
                self._look(parameter)

    def _look(self, parameter: nn.Parameter) -> None:
        seen = self._seen.setdefault(parameter, _Seen())
        seen.steps += 1
        gradient = parameter.grad
        if gradient is None:
            seen.missing += 1
            return
        values = gradient.coalesce().values() if gradient.is_sparse else gradient
        finite = bool(torch.isfinite(values).all())
        seen.not_finite += not finite
        seen.reached = seen.reached or (finite and bool(values.any()))
        if parameter.dim() > 1:
            self._before[parameter] = parameter.detach().clone()

    def step_ended(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self.steps += 1
        for parameter, before in self._before.items():
            size = float(before.norm())
            if size > 0:
                self._seen[parameter].ratios.append(float((parameter.detach() - before).norm()) / size)
        self._before = {}

    # --- what there is to say --------------------------------------------------------------------------

    def facts(self) -> dict[str, float]:
        if not self.steps:
            return {}
        names = self._names()
        held = {p for h in self._held.values() for p in h.parameters()}
        found = {"check/gradients/parameters": float(sum(p.requires_grad for p in held))}
        for parameter, name in names.items():
            fault = self._fault(parameter, parameter in held)
            if fault:
                found[f"check/gradients/{fault}/{name}"[:_LONGEST]] = float(parameter.numel())
        if names:
            found["check/gradients/foreign"] = float(sum(p not in names for p in held))
        intervals = [h for h in self._held.values() if h.intervals]
        if intervals:
            found["check/zero_grad/kept"] = max(h.carried / h.intervals for h in intervals)
        if ratios := [median(s.ratios) for s in self._seen.values() if s.ratios]:
            found["check/rate/update"] = median(ratios)
        return found

    def _fault(self, parameter: nn.Parameter, held: bool) -> str | None:
        if not parameter.requires_grad:
            return "frozen"
        if not held:
            return "left_out"
        seen = self._seen[parameter]
        if seen.not_finite:
            return "not_finite"
        if seen.missing == seen.steps:
            return "missing"
        return None if seen.reached else "zero"

    def _names(self) -> dict[nn.Parameter, str]:
        """Parameters of the modules that were trained; one that is all frozen is there to teach another."""
        modules = list(self._modules.values())
        learning = [m for m in modules if any(p.requires_grad for p in m.parameters())]
        return {p: name for module in learning or modules for name, p in module.named_parameters()}


def _is_some(gradient: Tensor | None) -> bool:
    if gradient is None:
        return False
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


class Modes(Watcher):
    """Whether dropout and normalisation compute as in training exactly while training."""

    def __init__(self) -> None:
        self._trained = self._trained_off = 0
        self._evaluated = self._evaluated_on = 0

    def trained(self, batch: Batch) -> None:
        if batch.forwards:
            self._trained += 1
            self._trained_off += bool(batch.switches) and not any(s.on for s in batch.switches)

    def evaluated(self, batch: Batch) -> None:
        if batch.forwards:
            self._evaluated += 1
            self._evaluated_on += any(s.on for s in batch.switches)

    def facts(self) -> dict[str, float]:
        found = {}
        if self._evaluated:
            found["check/modes/evaluating_in_training"] = self._evaluated_on / self._evaluated
        if self._trained:
            found["check/modes/training_in_evaluation"] = self._trained_off / self._trained
        return found


class Activations(Watcher):
    """Units behind a ReLU that were never above zero in any forward that was looked at."""

    def __init__(self) -> None:
        self._alive: dict[tuple[object, ...], Tensor] = {}
        self._steps = 0

    def step_ended(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self._steps += 1

    def rectified(self, seen: Rectified) -> None:
        output = seen.output
        if not _looks(self._steps) or output.dim() < 2:
            return
        units = 1 if output.dim() > 3 else output.dim() - 1  # channels of images, else features
        alive = (output > 0).transpose(0, units).flatten(1).any(1).cpu()
        key = (*seen.site, output.shape[units], output.dim())
        before = self._alive.get(key)
        self._alive[key] = alive if before is None else before | alive

    def facts(self) -> dict[str, float]:
        found = {}
        for i, alive in enumerate(self._alive.values()):
            found[f"check/units/constant/relu {i}"] = float((~alive).double().mean())
        return found


class Times(Watcher):
    """Where the time of an iteration goes; iterations with a report in them are left out."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._now = stopwatch.now
        self._entered = stopwatch.now()
        self._built: float | None = None
        self._began: float | None = None  # of this iteration
        self._parts = {"forward": 0.0, "backward": 0.0, "step": 0.0}
        self._first: int | None = None  # the optimizer whose step ends an iteration
        self.iterations: list[dict[str, float]] = []
        self._evaluations: list[float] = []
        self._skipped = 0

    def forward_took(self, seconds: float) -> None:
        if self._built is None:
            self._built = self._now() - self._entered - seconds
        self._parts["forward"] += seconds

    def backward_took(self, seconds: float) -> None:
        self._parts["backward"] += seconds

    def step_ended(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self._parts["step"] += seconds
        self._first = self._first or id(optimizer)
        if id(optimizer) != self._first:
            return
        now = self._now()
        if self._began is not None:
            total = now - self._began
            rest = max(0.0, total - sum(self._parts.values()))
            self._skipped += 1
            if self._skipped > _WARM_UP:
                self.iterations.append({**self._parts, "loading": rest, "total": total})
        self._began = now
        self._parts = dict.fromkeys(self._parts, 0.0)

    def reported(self, step: int, metrics: object) -> None:
        if self._began is not None:
            self._evaluations.append(self._now() - self._began)
        self._began = None

    def facts(self) -> dict[str, float]:
        if not self.iterations:
            return {}
        found = {f"time/{part}": median(i[part] for i in self.iterations) for part in _PARTS}
        totals = [i["total"] for i in self.iterations]
        found |= {"time/median": median(totals), "time/p95": float(np.percentile(totals, 95))}
        if self._evaluations:
            found["time/evaluate"] = median(self._evaluations)
        return found | {"time/build": self._built or 0.0}
