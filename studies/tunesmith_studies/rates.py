"""Learning rates: what a range test says, and how a rate follows the batch.

Needs no Optuna. The worker sweeps the rate and reports losses (`range_test`); the rules that read
them stand here, so a suggestion can be asked again from the log.

Sources: Smith, arXiv 1506.01186 and 1803.09820 §4.1 (the test, the bounds); fastai `lr_find` (the
exponential sweep, the smoothing, the valley); Goyal et al., arXiv 1706.02677 (linear scaling);
Malladi et al., arXiv 2205.10287 (square root for Adam).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tunesmith_studies.space import Params, Scalar, tidy

if TYPE_CHECKING:
    from tunesmith_studies.planning import History, StageResult

Scaling = Literal["linear", "sqrt", "auto", "none"]

ADAPTIVE = frozenset({"adagrad", "rmsprop", "adam", "adamw"})
"""Optimizers that divide by the gradient's own size: their rate goes with the root of the batch."""

SMOOTHING = 0.98
"""Of the loss, over 300 points: an average over about a sixth of the sweep, one of its six decades."""
STOP_FACTOR = 4.0
"""A smoothed loss this many times its best ends a sweep (fastai's and Lightning's bound)."""
CYCLE = 4.0
"""The turn-up over this is the largest sound peak of 1cycle: measured for the recipe."""
CYCLE_SPAN = 10.0
"""1cycle begins at its peak over this (Smith 1803.09820: max/10 or max/20)."""
_HEAD, _TAIL = 0.1, 5  # share of the first points and number of the last that are no use (fastai)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One range test: `rates` rise, `losses[i]` is the training loss at `rates[i]`; shapes (points,)."""

    rates: Sequence[float]
    losses: Sequence[float]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sweep says: the suggested rate, and the one at which the smoothed loss turns up."""

    lr: float
    turn_up: float


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What the sweeps of several seeds say together.

    Attributes:
        given: values of choices that it holds for, such as {"optimizer": "adam"}; empty: for all.
        lr: for a constant rate.
        low, high: between which 1cycle may move its rate; `high` is its peak.
        max: where the loss turned up: the largest usable rate. Of seeds, geometric means all.
        spread: largest over smallest rate that a seed suggested; 1 for one seed.
        seeds: how many sweeps gave a rate.
        at: where it was measured: all hyperparameters of the sweeps but `lr`.
    """

    given: Params
    lr: float
    low: float
    high: float
    max: float
    spread: float = 1.0
    seeds: int = 1
    at: Params = field(default_factory=dict)

    def fits(self, params: Params) -> bool:
        """Whether it holds there: no value of `given` is another in `params`."""
        return all(params.get(name, value) == value for name, value in self.given.items())

    def rate(self, params: Params, scaling: Scaling = "auto") -> float:
        """The suggested rate at these hyperparameters: `lr`, scaled to their batch."""
        return self.lr * batch_factor(self.at, params, scaling)

    def to_json(self) -> dict[str, Any]:
        return {
            "given": dict(self.given), "lr": self.lr, "low": self.low, "high": self.high, "max": self.max,
            "spread": self.spread, "seeds": self.seeds, "at": dict(self.at),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Suggestion:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def suggestions(result: StageResult) -> tuple[Suggestion, ...]:
    """Those that a range test left; none of another stage's result."""
    return tuple(Suggestion.from_json(s) for s in result.chosen.get("suggestions", ()))


def suggested(history: History, params: Params, source: str | None = None) -> Suggestion | None:
    """What fits `params` of the range test named `source`, by default of the last one that has any.

    None where no range test was run, was skipped, or suggests nothing for these choices. Its `rate`
    says what to use at the batch size of `params`.
    """
    tests = [e for e in history.earlier.values() if suggestions(e.result)]
    if source is not None:
        tests = [e for e in tests if e.stage.name == source]
    found = suggestions(tests[-1].result) if tests else ()
    return next((s for s in found if s.fits(params)), None)


def batch_factor(before: Params, after: Params, scaling: Scaling = "auto") -> float:
    """By how much the rate grows with the samples of an optimizer step from `before` to `after`.

    A step's samples are batch_size times accumulation (32 and 1 where they are missing). `linear` is
    for the family of SGD, `sqrt` for optimizers that divide by the gradient's size, `auto` takes the
    one that fits the optimizer of `after`, `none` is 1.
    """
    ratio = _step_samples(after) / _step_samples(before)
    if scaling == "auto":
        scaling = "sqrt" if after.get("optimizer", "sgd") in ADAPTIVE else "linear"
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[scaling]


def _step_samples(params: Params) -> float:
    return _number(params.get("batch_size", 32)) * _number(params.get("accumulation", 1))


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 1.0


def smoothed_by_average(losses: Sequence[float], beta: float = SMOOTHING) -> list[float]:
    """Exponential averages with their bias towards 0 corrected, as Adam does; shape (points,)."""
    average, found = 0.0, []
    for n, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * loss
        found.append(average / (1 - beta**n))
    return found


def read(sweep: Sweep) -> Reading | str:
    """The suggestion of one sweep by the valley rule, or a sentence that says why there is none.

    The loss is smoothed, the first tenth of the sweep and its last points are left out; where what
    is left falls for longest (the longest decreasing subsequence, whose gaps are noise), the middle
    of that stretch on the log axis is the suggestion. Rates are compared by ratio alone: a slope
    over the linear axis divides noise by tiny differences, and suggests the smallest rate.
    """
    finite = next((i for i, loss in enumerate(sweep.losses) if not math.isfinite(loss)), len(sweep.losses))
    first = round(_HEAD * len(sweep.losses))
    losses = smoothed_by_average(sweep.losses[:finite])[first : finite - _TAIL]
    rates = sweep.rates[first : finite - _TAIL]
    if len(losses) < 2 or min(losses) == losses[0]:
        return "the loss never fell"
    start, end = longest_fall(losses)
    bottom = min(range(len(losses)), key=losses.__getitem__)
    return Reading(lr=rates[(start + end) // 2], turn_up=rates[bottom])


def longest_fall(values: Sequence[float]) -> tuple[int, int]:
    """First and last index of the longest strictly decreasing subsequence; O(n log n)."""
    ends: list[float] = []  # ends[k]: the negated last value of the best subsequence of length k + 1
    last: list[int] = []  # its index
    before = [-1] * len(values)
    for i, value in enumerate(values):
        k = bisect_left(ends, -value)
        before[i] = last[k - 1] if k else -1
        ends[k : k + 1] = [-value]
        last[k : k + 1] = [i]
    start = end = last[-1]
    while before[start] >= 0:
        start = before[start]
    return start, end


def agreed(readings: Sequence[Reading], given: Params, at: Params) -> Suggestion:
    """One suggestion of several seeds: geometric means, with the ratio by which the seeds differ."""
    lr = _geometric_mean([r.lr for r in readings])
    top = _geometric_mean([r.turn_up for r in readings])
    rates = [r.lr for r in readings]
    return Suggestion(
        given=given, lr=_round(lr), low=_round(top / CYCLE / CYCLE_SPAN), high=_round(top / CYCLE),
        max=_round(top), spread=tidy(max(rates) / min(rates)), seeds=len(readings), at=at,
    )  # fmt: skip


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(v) for v in values) / len(values))


def _round(rate: float) -> float:
    """Three digits: a range test knows no more, and people read it."""
    return float(f"{rate:.3g}")
