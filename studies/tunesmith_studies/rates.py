"""Learning rates: what a range test says, and how a rate follows the batch.

Needs no Optuna. The worker sweeps the rate and reports losses (`range_test`); the rules that read
them stand here, so a suggestion can be asked again from the log.

Sources: Smith, arXiv 1506.01186 and 1803.09820 §4.1 (the test, the bounds); fastai `lr_find` (the
exponential sweep, the valley); Goyal et al., arXiv 1706.02677 (linear scaling);
Malladi et al., arXiv 2205.10287 (square root for Adam).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from tunesmith_studies.space import Params, Scalar, tidy

if TYPE_CHECKING:
    from tunesmith_studies.planning import History, StageResult
    from tunesmith_studies.trial import Point

Scaling = Literal["linear", "sqrt", "auto", "none"]

ADAPTIVE = frozenset({"adagrad", "rmsprop", "adam", "adamw"})
"""Optimizers that divide by the gradient's own size: their rate goes with the root of the batch."""

STOP_SMOOTHING, STOP_FACTOR = 0.98, 4.0
"""A sweep ends where the average of its losses, with this decay, is so many times its lowest (fastai's and
Lightning's bound)."""
DECADES = 0.3
"""Width of the smoothing that reads a sweep: a normal curve's standard deviation over log10 of the rate."""
BEGUN = 0.2
"""The loss has begun to fall where this share of its fall is done."""
CERTAIN = 8.0
"""A fall counts if it is this many standard errors of the smoothed loss in the middle of the sweep; at its
ends, where a mean has half as many losses, it is half as certain."""
_REACH = 4.0  # standard deviations beyond which a loss has no weight
_SD_OF_MEDIAN = 1.4826  # standard deviation of a normal variable over the median of its absolute value
FEWEST = 10
"""Points of a sweep that can be read."""
CYCLE = 2.0
"""The turn-up over this is 1cycle's peak: of 1, 2, 4 and 8 best on three sets (docs/measured.md)."""
CYCLE_SPAN = 10.0
"""1cycle begins at its peak over this (Smith 1803.09820: max/10 or max/20)."""


LOSS, RATE = "train/loss", "sys/lr"
"""Metrics of a sweep's points."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One range test: `rates` rise, `losses[i]` is the training loss at `rates[i]`; shapes (points,)."""

    rates: Sequence[float]
    losses: Sequence[float]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Sweep:
        """Of a trial's curve: its points that have a loss and a rate."""
        told = [p.metrics for p in points if LOSS in p.metrics and p.metrics.get(RATE, 0.0) > 0]
        return cls([m[RATE] for m in told], [m[LOSS] for m in told])

    def finite(self) -> Sweep:
        """What comes before its first loss that is not finite."""
        end = next((i for i, loss in enumerate(self.losses) if not math.isfinite(loss)), len(self.losses))
        return Sweep(self.rates[:end], self.losses[:end])

    def smoothed(self) -> tuple[list[float], float]:
        """What `read` reads of a sweep that is finite: see `smoothed`. A blow-up is cut off."""
        return smoothed(self.rates, _capped(self.losses))


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sweep says.

    Attributes:
        lr: the suggested rate.
        turn_up: at which the smoothed loss turns up.
        begun: at which it has begun to fall; what comes before is burn-in.
        steepest: at which it falls most for the same ratio of rates.
    """

    lr: float
    turn_up: float
    begun: float
    steepest: float


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


def read(sweep: Sweep) -> Reading | str:
    """The suggestion of one sweep by the valley rule, or why there is none, as the end of a sentence.

    The valley is where the smoothed loss falls: from the rate at which a fifth of its fall is done to the
    one at which it is lowest. The suggestion is its middle on the log axis. Rates are compared by ratio
    alone: a slope over the linear axis divides noise by tiny differences, and suggests the smallest rate.

    Two things differ from fastai's `valley`. The smoothing is symmetric: an exponential average lags, of
    300 losses by a decade. And the slow fall at rates too small to learn is no part of the valley. In
    fastai's rule the two errors go against each other, and cancel on some tasks; see docs/measured.md.
    """
    finite = sweep.finite()
    rates = finite.rates
    if len(rates) < FEWEST:
        first = sweep.rates[min(len(rates), len(sweep.rates) - 1)]
        return f"the loss broke away at once, at a rate of {first:.3g}"
    smooth, error = finite.smoothed()
    bottom = min(range(len(rates)), key=smooth.__getitem__)
    fall = smooth[0] - smooth[bottom]
    if fall <= max(CERTAIN * error, 1e-9 * abs(smooth[0])):
        return (
            f"the loss never fell: from {smooth[0]:.4g} to {smooth[bottom]:.4g} at the lowest, where chance "
            f"alone gives a standard error of {error:.2g}"
        )
    begun = max(i for i in range(bottom + 1) if smooth[i] >= smooth[0] - BEGUN * fall)
    return Reading(
        lr=math.sqrt(rates[begun] * rates[bottom]), turn_up=rates[bottom], begun=rates[begun],
        steepest=_steepest(rates[begun : bottom + 1], smooth[begun : bottom + 1]),
    )  # fmt: skip


def _steepest(rates: Sequence[float], smooth: Sequence[float]) -> float:
    """The middle of the two neighbours between which a loss that ends lower than it begins falls most."""
    found = zip(pairwise(rates), pairwise(smooth), strict=True)
    falls = [((b - a) / math.log(end / start), start * end) for (start, end), (a, b) in found if end > start]
    return math.sqrt(min(falls)[1])


def _capped(losses: Sequence[float]) -> list[float]:
    """Losses with what is far above the start cut off: a blow-up says where it is, not how far it went."""
    start = losses[: max(len(losses) // 10, 1)]
    most = STOP_FACTOR * abs(math.fsum(start) / len(start))
    return [min(loss, most) for loss in losses]


def smoothed(rates: Sequence[float], losses: Sequence[float]) -> tuple[list[float], float]:
    """Means of the losses around each rate, shape (points,), and the standard error of such a mean.

    Weights are a normal curve over the log of the rate. The error is what the differences of neighbouring
    losses say of their noise (their variance is twice that of the losses), by the weights of a point in the
    middle of the sweep. A blow-up is no noise, so the differences count by their median.
    """
    places = [math.log10(rate) / DECADES for rate in rates]
    found, error = [], 0.0
    differences = sorted(abs(b - a) for a, b in pairwise(losses))
    noise = _SD_OF_MEDIAN * differences[len(differences) // 2] / math.sqrt(2)
    for i, here in enumerate(places):
        first, end = bisect_left(places, here - _REACH), bisect_right(places, here + _REACH)
        weights = [math.exp(-0.5 * (there - here) ** 2) for there in places[first:end]]
        total = math.fsum(weights)
        found.append(math.fsum(w * v for w, v in zip(weights, losses[first:end], strict=True)) / total)
        if i == len(places) // 2:
            error = noise * math.sqrt(math.fsum(w * w for w in weights)) / total
    return found, error


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
