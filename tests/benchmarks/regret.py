"""Searches in virtual time: drafts that are drawn ahead and claimed, beside asking at each claim.

Eight workers claim, train and finish. In one search each claim asks Optuna, which knows all that has finished
and answers at once. In the other a planner thinks for as long as it was measured to, its drafts go stale at
each finish and are drawn anew, and a claim takes a fresh one, or a stale one after `fresh_wait`. The planner
and its log are the real ones (`virtual_study.py`). The n-th trial has the same seed, and takes as long, in
both.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import optuna
from objectives import Objective
from tunesmith_service.planner import drawn_at_once
from tunesmith_studies.planning import Seed
from tunesmith_studies.samplers import distribution
from tunesmith_studies.space import Params
from virtual_study import TPE, VirtualStudy, seed_of

WORKERS, TRIALS = 8, 100
FRESH_WAIT_SECONDS = 0.25
COMMIT_SECONDS = 0.02
"""From the end of a decision to its commit, and from a commit to the next decision, together."""


@dataclass(frozen=True)
class Latency:
    """How long a suggestion takes after so many trials, as `fresh_proposals.py` measures it."""

    first_seconds: float = 0.007
    trial_seconds: float = 16e-6

    def suggestion(self, trials: int) -> float:
        return self.first_seconds + trials * self.trial_seconds


@dataclass
class Found:
    """What a search came to.

    Attributes:
        values: of the trials that ended well.
        stale: claims that were given a stale draft.
        waited_seconds: of all claims together.
    """

    values: list[float] = field(default_factory=list)
    stale: int = 0
    waited_seconds: float = 0.0


class Clock:
    """Events in the order of their times; of equal times in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._n = count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._n), do))

    def run(self) -> None:
        while self._due:
            self.now, _, do = heapq.heappop(self._due)
            do()


def durations(seed: int, mean_seconds: float) -> list[float]:
    """Of the trials, by ordinal: log-normal, most within a factor of two of their median."""
    draw = random.Random(seed)
    return [mean_seconds * draw.lognormvariate(-0.125, 0.5) for _ in range(TRIALS)]


@dataclass
class _Waiting:
    since: float
    stale_at: float = math.inf


class Drafts:
    """The service's way. `search()` once."""

    def __init__(self, objective: Objective, seed: int, mean_seconds: float, latency: Latency) -> None:
        self._objective, self._latency = objective, latency
        self._study = VirtualStudy(objective.space, TRIALS, seed)
        self._takes = durations(seed, mean_seconds)
        self._clock, self._found = Clock(), Found()
        self._line: list[_Waiting] = []
        self._drafts: dict[int, Mapping[str, Any]] = {}  # by number: what was said of it last
        self._last_end, self._planned, self._decided_at = 0, 0, 0
        self._thinks = False

    def search(self) -> Found:
        self._plan()
        for _ in range(WORKERS):
            self._claim()
        self._clock.run()
        assert self._study.planner.log.trials("tpe")[-1].state.is_finished
        return self._found

    # --- workers ---------------------------------------------------------------------------------------

    def _claim(self) -> None:
        self._line.append(_Waiting(self._clock.now))
        self._serve()

    def _serve(self) -> None:
        """Give drafts to those who wait, first come, first served."""
        for waiting in list(self._line):
            number = self._choose(waiting)
            if number is not None:
                self._line.remove(waiting)
                self._found.waited_seconds += self._clock.now - waiting.since
                self._begin(number)
        self._plan()

    def _choose(self, waiting: _Waiting) -> int | None:
        if not self._drafts:
            waiting.stale_at = math.inf
            return None
        fresh = [n for n in sorted(self._drafts) if self._drafts[n]["planned_at"] >= self._last_end]
        if fresh:
            return fresh[0]
        if waiting.stale_at == math.inf:
            waiting.stale_at = self._clock.now + FRESH_WAIT_SECONDS
            self._clock.after(FRESH_WAIT_SECONDS, self._serve)
        if self._clock.now < waiting.stale_at:
            return None
        self._found.stale += 1
        return min(self._drafts)

    def _begin(self, number: int) -> None:
        params = self._drafts.pop(number)["params"]
        self._study.start(number)
        self._clock.after(self._takes[number], lambda: self._end(number, params))

    def _end(self, number: int, params: Params) -> None:
        value = self._objective.value(params)
        self._found.values += [value] if value is not None else []
        self._last_end = self._study.end(number, value)
        self._claim()

    # --- planner ---------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Let the planner read on, if it rests and there is something to read."""
        if self._thinks or self._decided_at == self._study.at:
            return
        self._decided_at = self._study.at
        one = self._latency.suggestion(self._planned)
        said = self._study.decide(WORKERS, drawn_at_once(one))
        if commands := [c for c in said if c["do"] != "end_stage"]:
            self._thinks = True
            self._clock.after(len(commands) * one + COMMIT_SECONDS, lambda: self._commit(commands))

    def _commit(self, commands: list[dict[str, Any]]) -> None:
        self._thinks = False
        for said in commands:
            if said["do"] == "propose":
                self._study.propose(said, self._planned)
                self._drafts[self._planned] = said
                self._planned += 1
            elif said["trial"] in self._drafts:  # else it was claimed meanwhile
                self._study.redraw(said)
                self._drafts[said["trial"]] = said
        self._serve()


def ask_at_claim(objective: Objective, seed: int, mean_seconds: float) -> Found:
    """Optuna asked by each claim, with everything told that has finished by then."""
    virtual = VirtualStudy(objective.space, TRIALS, seed)
    axes = {name: distribution(parameter) for name, parameter in virtual.space.items()}
    study, clock, found, takes = optuna.create_study(), Clock(), Found(), durations(seed, mean_seconds)
    ordinals = iter(range(TRIALS))

    def claim() -> None:
        ordinal = next(ordinals, None)
        if ordinal is None:
            return
        study.sampler = optuna.samplers.TPESampler(
            seed=seed_of(virtual, ordinal), n_startup_trials=TPE["n_startup_trials"]
        )
        trial = study.ask()
        params = {name: trial._suggest(name, axis) for name, axis in axes.items()}
        clock.after(takes[ordinal], lambda: end(trial, params))

    def end(trial: optuna.Trial, params: Params) -> None:
        value = objective.value(params)
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            found.values.append(value)
            study.tell(trial, value)
        claim()

    for _ in range(WORKERS):
        claim()
    clock.run()
    return found


@dataclass(frozen=True)
class Pair:
    """One seed of one objective, both ways.

    Attributes:
        ratio: log of our regret over that of asking at each claim.
        stale: share of claims that were given a stale draft.
        waited_ms: of a claim, on average.
    """

    objective: str
    seed: int
    ratio: float
    stale: float
    waited_ms: float


def pair(objective: Objective, seed: int, mean_seconds: float, latency: Latency) -> Pair:
    mixed = Seed(seed).stream("regret", objective.name)
    ours = Drafts(objective, mixed, mean_seconds, latency).search()
    theirs = ask_at_claim(objective, mixed, mean_seconds)
    regrets = [objective.regret(min(found.values)) for found in (ours, theirs)]
    return Pair(
        objective.name, seed, math.log(regrets[0] / regrets[1]), ours.stale / TRIALS,
        1000 * ours.waited_seconds / TRIALS,
    )  # fmt: skip
