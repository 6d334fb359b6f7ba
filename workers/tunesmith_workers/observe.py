"""Preflight of somebody's own loop: it is run for a little while and watched; see `watching`.

What is measured has the names of `tunesmith_studies.checks`. What cannot be seen in a loop is left out, so no
check of it is passed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import replica, rng
from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, Asked, EpochResult, Said, Wish
from tunesmith_workers.loop import Trial, TrialEnded
from tunesmith_workers.observations import Activations, Gradients, Losses, Modes, Times
from tunesmith_workers.probes.bench import Bench
from tunesmith_workers.samples import Samples
from tunesmith_workers.tasks.registry import Entry, Loop
from tunesmith_workers.watching import Stopwatch, Watch, Watcher

if TYPE_CHECKING:
    from tunesmith_workers.kinds import Place

FEWEST_STEPS, MOST_STEPS = 300, 1500
FEWEST_REPORTS, MOST_REPORTS = 2, 100
MOST_SECONDS = 90.0
_MOST_METRICS = 200  # in a point; the wire takes 256
STEPS_AGAIN = 5  # of the second run with the same seed


class Watched(Trial):
    """A trial that shows itself to a watch, and leaves nothing behind."""

    def __init__(self, work: WorkOrder, *, device: torch.device, scratch: Path, asked: Asked) -> None:
        super().__init__(work, device=device, scratch=scratch, say=lambda said: None, asked=asked)
        self.epochs = max(self.epochs, FEWEST_REPORTS)  # evaluations and orders are compared
        self.watch: Watch | None = None

    def report(self, step: int, metrics: Mapping[str, float] | None = None, /, **named: float) -> None:
        super().report(step, metrics, **named)
        if self.watch is not None:
            self.watch.reported(step, {**(metrics or {}), **named})

    def snapshot_due(self) -> bool:
        return False

    def snapshot(self, **state: Any) -> None:
        """Nothing goes on from a trial that measures."""

    def artifact(self, name: str, path: Path) -> None:
        """Nor is it looked at."""


class Enough(Watcher):
    """Ends a loop once it has shown enough, or when the supervisor wants the trial back."""

    def __init__(self, asked: Asked, most_steps: int, seconds: float, clock: Callable[[], float]) -> None:
        self._asked, self._most, self._clock = asked, most_steps, clock
        self._until = clock() + seconds
        self._first: int | None = None
        self.steps = self.reports = 0
        self.wish: Wish | None = None

    def step_ended(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self._first = self._first or id(optimizer)
        self.steps += id(optimizer) == self._first
        self.wish = self._asked()
        late = self.steps >= self._most or self._clock() > self._until
        if self.wish or late:
            raise TrialEnded

    def reported(self, step: int, metrics: Mapping[str, float]) -> None:
        self.reports += 1
        shown = self.reports >= FEWEST_REPORTS and self.steps >= FEWEST_STEPS
        if shown or self.reports >= MOST_REPORTS:
            raise TrialEnded


@dataclass(frozen=True, slots=True)
class Room:
    """A loop, and where it is run to be watched."""

    loop: Loop
    work: WorkOrder
    place: Place

    def run(self, watchers: Sequence[Watcher], stopwatch: Stopwatch) -> Exception | None:
        """Run the loop from its beginning until it returns, a watcher ends it, or it raises this."""
        place = self.place
        trial = Watched(self.work, device=place.device, scratch=place.scratch, asked=place.asked)
        rng.begin(trial.seed, place.threads)
        with torch.compiler.set_stance("force_eager"), Watch(watchers, stopwatch) as watch:
            trial.watch = watch
            try:
                self.loop.run(trial)
            except TrialEnded:
                pass
            except Exception as error:
                watch.broken_off()
                return error
        return None


def preflight(
    entry: Entry, work: WorkOrder, place: Place, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Said]:
    """Run a loop until it has shown enough, then a few steps again with the same seed.

    Yields what was measured, then an Ending. What the loop raises is raised after that.
    """
    if not isinstance(entry.task, Loop):
        raise TypeError(f"{entry.name} is no loop")
    began, stopwatch = clock(), Stopwatch()
    losses, samples = Losses(), Samples()
    model = replica.Replica()
    watchers = [losses, samples, model, Gradients(), Modes(), Activations(), Times(stopwatch)]
    enough = Enough(place.asked, MOST_STEPS, MOST_SECONDS, clock)
    room = Room(entry.task, work, place)
    error = room.run([*watchers, enough], stopwatch)
    if enough.wish:
        yield ABANDONED if enough.wish == "abandon" else RELEASED
        return
    passes = samples.epochs() or float(enough.reports)
    facts = {name: value for watcher in watchers for name, value in watcher.facts().items()}
    facts = replica.of_data(samples) | facts
    if samples.batch_size:
        facts |= {
            "time/batch": float(samples.batch_size),
            "time/train_samples": float(len(samples.train.seen)),
        }
    facts |= {"cost/loop/samples": float(samples.reads), "cost/loop/seconds": clock() - began}
    tell = Telling(passes)
    yield from tell.points(facts)
    if error is not None:
        raise error
    if losses.steps:
        again = Losses()
        room.run([again, Enough(lambda: None, STEPS_AGAIN, MOST_SECONDS, clock)], Stopwatch())
        yield from tell.points({"check/determinism/difference": _difference(losses.steps, again.steps)})
    if (task := model.task(samples)) is not None:
        train, val = task.splits.train.to(place.device), task.splits.val.to(place.device)
        bench = Bench(task, {}, train, val, place.device, work.seed, place.threads, options=work.options)
        for found in replica.probed(bench):
            yield from tell.points(found)
            if wish := place.asked():
                yield ABANDONED if wish == "abandon" else RELEASED
                return
    yield BUDGET


def _difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest relative difference of two runs' first losses; both NaN are equal."""
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if not (math.isnan(a) and math.isnan(b))]
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs if a != b), default=0.0)


class Telling:
    """Points of what was measured, in rising order of step, none larger than a report may be."""

    def __init__(self, passes: float) -> None:
        self._passes, self._step = passes, 0

    def points(self, facts: Mapping[str, float]) -> Iterator[EpochResult]:
        names = sorted(facts)
        for first in range(0, len(names), _MOST_METRICS):
            self._step += 1
            some = {name: facts[name] for name in names[first : first + _MOST_METRICS]}
            yield EpochResult(self._step, some | {"sys/epoch": self._passes})
