"""What the shape of one curve says, as numbers: trends, plateaus, noise. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tunesmith_studies.curves import smoothed
from tunesmith_studies.trial import Trial

WINDOW = 3
"""Curves are judged by means of this many neighbouring values (recipe §2.2)."""


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through the newest values: change per point, and how much of the variance it holds."""

    slope: float
    r2: float


@dataclass(frozen=True, slots=True)
class Losses:
    """Training and validation loss of one trial, shapes (points,), in the loss's unit (nats per example).

    `train` is as of each point: the trainer reports the mean over the epoch, which lags by half an
    epoch, so neighbours are averaged and the last is extrapolated. Without that, validation looks
    better than training in every young curve. `means` are the values as reported, for their noise.
    """

    train: tuple[float, ...]
    val: tuple[float, ...]
    means: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.val)


def losses_of(trial: Trial) -> Losses | None:
    """Both losses at the points that have both, up to the first that is not finite; None below one point."""
    both = [p.metrics for p in trial.curve if _has_both(p.metrics)]
    finite: list[tuple[float, float]] = []
    for m in both:
        if not (math.isfinite(m["train/loss"]) and math.isfinite(m["val/loss"])):
            break
        finite.append((m["train/loss"], m["val/loss"]))
    if not finite:
        return None
    means = [t for t, _ in finite]
    return Losses(tuple(at_the_end(means)), tuple(v for _, v in finite), tuple(means))


def _has_both(metrics: Mapping[str, float]) -> bool:
    """A point of restored weights repeats an earlier one: it says nothing of its own step."""
    return "train/loss" in metrics and "val/loss" in metrics and "sys/restored_step" not in metrics


def at_the_end(means: Sequence[float]) -> list[float]:
    """Values at the end of each epoch, from means over each epoch. Never below 0."""
    if len(means) < 2:
        return list(means)
    between = [(a + b) / 2 for a, b in pairwise(means)]
    last = means[-1] + (means[-1] - means[-2]) / 2
    return [*between, max(last, 0.0)]


def line(values: Sequence[float]) -> Line:
    """Least squares through (0, v0), (1, v1), …; needs two values."""
    n = len(values)
    middle, mean = (n - 1) / 2, math.fsum(values) / n
    spread = math.fsum((i - middle) ** 2 for i in range(n))
    slope = math.fsum((i - middle) * (v - mean) for i, v in enumerate(values)) / spread
    total = math.fsum((v - mean) ** 2 for v in values)
    rest = math.fsum((v - mean - slope * (i - middle)) ** 2 for i, v in enumerate(values))
    return Line(slope, 1 - rest / total if total > 0 else 0.0)


def wobble(values: Sequence[float]) -> float:
    """Spread of the values around their own trend, in their unit; 0 of fewer than three.

    By second differences, whose standard deviation is √6 times that of independent noise; a smooth
    curve, however steep, gives nearly 0.
    """
    seconds = [c - 2 * b + a for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return math.sqrt(math.fsum(s * s for s in seconds) / len(seconds) / 6) if seconds else 0.0


def relative_noise(values: Sequence[float]) -> float:
    """`wobble` as a share of the values' level; 0 where that is 0."""
    level = math.fsum(abs(v) for v in values) / len(values) if values else 0.0
    return wobble(values) / level if level > 0 else 0.0


def generalisation_loss(val: Sequence[float]) -> float:
    """By how many per cent the newest smoothed value is above the best. Source: Prechelt 1998, GL(t)."""
    means = smooth(val)
    best = min(means)
    return 100 * (means[-1] / best - 1) if best > 0 else 0.0


def smooth(values: Sequence[float]) -> list[float]:
    """Means of `WINDOW` neighbours, or of as many as there are."""
    return smoothed(values, min(WINDOW, len(values)))


def gain_of_the_end(values: Sequence[float], share: float = 0.2) -> float:
    """By which part of itself the loss fell over the last `share` of the points; 0.02 is 2 %."""
    means = smooth(values)
    back = max(1, round(share * len(values)))
    if len(means) <= back:
        return 0.0
    before = min(means[:-back])
    return (before - min(means[-back:])) / abs(before) if before else 0.0
