"""Preflight of somebody's own loop: it is run for a little while and watched; see `watching`.

What is measured has the names of `tunesmith_studies.checks`. What cannot be seen in a loop is left out, so no
check of it is passed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import replica, rng
from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, Asked, EpochResult, Said
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
        try:
            super().report(step, metrics, **named)
        except TrialEnded:  # the loss is no number any more; what gave it shall be seen
            self._shown(step, {**(metrics or {}), **named})
            raise
        self._shown(step, {**(metrics or {}), **named})

    def _shown(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.watch is not None:
            self.watch.reported(step, metrics)

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

    def step_ended(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self._first = self._first or id(optimizer)
        self.steps += id(optimizer) == self._first
        late = self.steps >= self._most or self._clock() > self._until
        if late or self._asked():
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
    """Run a loop until it has shown enough, then a few steps again with the same seed, and at other rates
    where its loss does not fall. With the option `only_times` a few steps are all.

    Yields what was measured, then an Ending. What the loop raises is raised after that.
    """
    if not isinstance(entry.task, Loop):
        raise TypeError(f"{entry.name} is no loop")
    for said in _Observation(Room(entry.task, work, place), clock).said():
        if wish := place.asked():
            yield ABANDONED if wish == "abandon" else RELEASED
            return
        yield said
    yield BUDGET


class _Observation:
    """Runs of a loop, and what each of them is for."""

    def __init__(self, room: Room, clock: Callable[[], float]) -> None:
        self.room, self.work, self.clock = room, room.work, clock
        self.samples, self.losses, self.model = Samples(), Losses(), replica.Replica()
        self._passes, self._points = 0.0, 0

    def said(self) -> Iterator[EpochResult]:
        only_times = bool(self.work.options.get("only_times"))
        began = self.clock()
        facts, error = self._watched(
            int(self.work.options.get("rate_steps", 8)) if only_times else MOST_STEPS
        )
        if only_times:
            facts = {name: value for name, value in facts.items() if name.startswith("time/")}
        else:
            facts = replica.of_data(self.samples) | facts
        facts |= {
            "cost/loop/samples": float(self.samples.reads),
            "cost/loop/seconds": self.clock() - began,
        }
        yield from self._told(facts)
        if error is not None:
            raise error
        if not only_times and self.losses.steps:
            yield from self._told(self._again() | self._at_other_rates())
            yield from self._probed()

    def _watched(self, most_steps: int) -> tuple[dict[str, float], Exception | None]:
        stopwatch = Stopwatch()
        watchers: list[Watcher] = [self.losses, self.samples, self.model]
        watchers += [Gradients(), Modes(), Activations(), Times(stopwatch)]
        enough = Enough(self.room.place.asked, most_steps, MOST_SECONDS, self.clock)
        error = self.room.run([*watchers, enough], stopwatch)
        self._passes = self.samples.epochs() or float(enough.reports)
        facts = {name: value for watcher in watchers for name, value in watcher.facts().items()}
        return facts | self._per_sample(facts), error

    def _per_sample(self, facts: Mapping[str, float]) -> dict[str, float]:
        """Times as a forecast of whole epochs needs them, if one was seen whole."""
        batch = self.samples.batch_size
        if not batch or "time/median" not in facts:
            return {}
        found = {
            "time/batch": float(batch),
            "time/train_samples": float(len(self.samples.train.seen)),
            "time/val_samples": float(len(self.samples.val.seen)),
        }
        if self.samples.epochs() is not None:
            found |= {"time/fixed": 0.0, "time/sample": facts["time/median"] / batch}
        return found

    def _again(self) -> dict[str, float]:
        again = self._course_of(self.room, STEPS_AGAIN)
        return {"check/determinism/difference": _difference(self.losses.steps, again.steps)}

    def _at_other_rates(self) -> dict[str, float]:
        """The course of the loss at the rates that the order names, if it hardly falls at the study's own."""
        own, options = self.losses.facts(), self.work.options
        fell = float(options.get("clearly_fell", 0.7))
        if "lr" not in self.work.params or own.get("check/rate/last", 0.0) < fell * own.get(
            "check/rate/first", 1.0
        ):
            return {}
        found = {}
        for prefix in ("low_", "high_"):
            if lr := float(options.get(f"rate_{prefix[:-1]}", 0.0)):
                params = {**self.work.params, "lr": lr}
                room = replace(self.room, work=self.work.model_copy(update={"params": params}))
                course = self._course_of(room, int(options.get("rate_steps", 100))).facts()
                for name in ("lr", "steps", "first", "last", "lowest"):
                    if f"check/rate/{name}" in course:
                        found[f"check/rate/{prefix}{name}"] = course[f"check/rate/{name}"]
        return found

    def _course_of(self, room: Room, steps: int) -> Losses:
        losses = Losses()
        enough = Enough(self.room.place.asked, steps, MOST_SECONDS, self.clock)
        room.run([losses, enough], Stopwatch())
        return losses

    def _probed(self) -> Iterator[EpochResult]:
        task, place = self.model.task(self.samples), self.room.place
        if task is None:
            return
        train, val = task.splits.train.to(place.device), task.splits.val.to(place.device)
        bench = Bench(
            task, {}, train, val, place.device, self.work.seed, place.threads, options=self.work.options
        )
        try:
            for found in replica.probed(bench):
                yield from self._told(found)
        except Exception as e:  # somebody else's class: a copy of it may not take what the loop gives it
            if isinstance(e, torch.AcceleratorError):
                raise  # this device runs no more
            print(f"the model cannot be trained on its own ({type(e).__name__}: {e}): nothing more is seen")

    def _told(self, facts: Mapping[str, float]) -> Iterator[EpochResult]:
        """Points of what was measured, in rising order of step, none larger than a report may be."""
        names = sorted(facts)
        for first in range(0, len(names), _MOST_METRICS):
            self._points += 1
            some = {name: facts[name] for name in names[first : first + _MOST_METRICS]}
            yield EpochResult(self._points, some | {"sys/epoch": self._passes})


def _difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest relative difference of two runs' first losses; both NaN are equal."""
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if not (math.isnan(a) and math.isnan(b))]
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs if a != b), default=0.0)
