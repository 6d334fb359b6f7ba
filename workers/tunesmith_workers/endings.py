"""What training says on its way, and the rules by which a trial's own curve ends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tunesmith_service.wire import WorkOrder
from tunesmith_studies.curves import epochs_since_best, plateaued

from tunesmith_workers.optim import whole
from tunesmith_workers.snapshots import WrittenFile

Wish: TypeAlias = Literal["hand_back", "abandon"]
Asked: TypeAlias = Callable[[], Wish | None]
"""What the supervisor wants of the trial now, if anything."""

DIVERGED_FACTOR = 4.0
"""A validation loss this many times its best has diverged (fastai's and Lightning's bound) …"""
DIVERGED_CHANCE = 3.0
"""… if it is also above this many times log C, what a guess among C classes costs."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """A point of the curve: `step` epochs are done, counted from the start of the whole run; or optimizer
    steps, where the work order counts these.

    `is_last`: the ending follows at once.
    """

    step: int
    metrics: Mapping[str, float]
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot was written after `step` whole epochs and `batch` optimizer steps of the next; or after
    `step` optimizer steps, where the work order counts these, and `batch` 0."""

    step: int
    batch: int
    file: WrittenFile
    final: bool


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that shall be kept beside the trial, under `name`."""

    name: str
    file: WrittenFile


@dataclass(frozen=True, slots=True)
class Ending:
    """The last word about a trial."""

    state: Literal["complete", "pruned", "failed", "released", "abandoned"]
    stop_reason: Literal["budget", "early_stopping", "plateau", "diverged", "error"] | None = None
    error: Mapping[str, str] | None = None
    retryable: bool = False


Said: TypeAlias = EpochResult | Saved | Artifact | Ending

RELEASED = Ending("released")
ABANDONED = Ending("abandoned")
BUDGET = Ending("complete", "budget")


class Curve:
    """A trial's own points, and whether they end it.

    A trial that starts from another's snapshot starts a curve of its own: a trunk that was cut at
    its plateau does not end its branches.
    """

    def __init__(self, work: WorkOrder, classes: int | None) -> None:
        self._work = work
        self._chance = math.log(classes) if classes else None
        self._patience = whole(work.params, "early_stopping")
        self.points: list[tuple[int, dict[str, float]]] = []

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Wall times and rates (`sys/…`) are left out: they decide nothing and differ between runs."""
        self.points.append((step, {k: float(v) for k, v in metrics.items() if not k.startswith("sys/")}))

    def ending(self) -> Ending | None:
        """How the points so far end the trial, if they do; a spent budget is the caller's to see."""
        if not self.points:
            return None
        if self._diverged():
            return Ending("pruned", "diverged")
        values = self._values(self._work.metric)
        if self._patience and epochs_since_best(values, self._work.direction) >= self._patience:
            return Ending("complete", "early_stopping")
        if self._work.stop_at_plateau and plateaued(values, self._work.direction):
            return Ending("complete", "plateau")
        return None

    def best(self) -> tuple[int, float] | None:
        """Step and value of the best finite point of the objective's metric, the first of equal ones."""
        sign = 1.0 if self._work.direction == "minimize" else -1.0
        found = [(step, m[self._work.metric]) for step, m in self.points if self._work.metric in m]
        return min((p for p in found if math.isfinite(p[1])), key=lambda p: sign * p[1], default=None)

    def _values(self, metric: str) -> list[float]:
        return [metrics[metric] for _, metrics in self.points if metric in metrics]

    def _diverged(self) -> bool:
        newest = self.points[-1][1]
        watched = {"train/loss", "val/loss", self._work.metric}
        if any(not math.isfinite(v) for k, v in newest.items() if k in watched):
            return True
        if self._chance is None or "val/loss" not in newest:
            return False  # of a loss in unknown units nobody knows how much is too much
        losses = self._values("val/loss")
        return losses[-1] > max(DIVERGED_FACTOR * min(losses), DIVERGED_CHANCE * self._chance)

    def save(self) -> list[Any]:
        return [[step, metrics] for step, metrics in self.points]

    def restore(self, saved: list[Any]) -> None:
        self.points = [(int(step), dict(metrics)) for step, metrics in saved]
