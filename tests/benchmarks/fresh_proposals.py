"""How long a fresh proposal of TPE takes: the planner's code beside Optuna in memory, in turn in one process.

Ours is what the planner process does between the end of a trial and the redraw that follows from it: fold
what is new of the log, judge, draw the waiting draft anew, write the command down. Optuna's is `ask` and a
suggestion of every parameter by the same sampler, in a study that was told of a trial just before.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from itertools import count

import numpy as np
import optuna
from interleaved import take_turns
from rich.console import Console
from rich.table import Table
from tunesmith_studies.samplers import distribution
from tunesmith_studies.space import Params
from virtual_study import EPOCHS, TPE, VirtualStudy, proposal_of, random_points

SIZES = (100, 1_000, 10_000)
BOUND = 1.3
WAITING_SLOTS = 64
SPACE = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "dropout": {"low": 0.0, "high": 0.5},
    "width": {"type": "int", "low": 16, "high": 256, "log": True},
}


def loss(params: Params) -> float:
    places = np.array([np.log10(float(params["lr"])) + 2, np.log10(float(params["weight_decay"])) + 4])
    return float((places**2).sum() + abs(float(params["dropout"]) - 0.2) + float(params["width"]) / 1000)


class Ours:
    """A study of so many finished trials, one that runs and a draft that waits."""

    def __init__(self, finished: int) -> None:
        self.study = VirtualStudy(SPACE, 100_000)
        for ordinal, params in enumerate(random_points(self.study.space, finished, seed=0)):
            self.study.propose(proposal_of(ordinal, params), ordinal)
            self._finish(ordinal, params)
        self._new = count(finished)
        self.waiting = self._draw(1)[0]
        self.running = self._claim()

    def _finish(self, number: int, params: Params) -> None:
        self.study.start(number)
        self._end(number, params)

    def _end(self, number: int, params: Params) -> None:
        for step in range(1, EPOCHS + 1):
            self.study.report(number, step, loss(params) + 1 / step)
        self.study.end(number, loss(params))

    def _draw(self, slots: int) -> list[tuple[int, Params]]:
        """Let the planner propose, and write it into the log."""
        drawn = []
        for said in self.study.decide(slots):
            number = next(self._new)
            self.study.propose(said, number)
            drawn.append((number, said["params"]))
        return drawn

    def _claim(self) -> tuple[int, Params]:
        claimed = self.waiting
        self.study.start(claimed[0])
        self.waiting = self._draw(1)[0]
        return claimed

    def proposal_seconds(self) -> float:
        """A trial ends; until the draft that waits is drawn again."""
        self._end(*self.running)
        began = time.perf_counter()
        (said,) = self.study.decide(1)
        json.dumps(said)
        took = time.perf_counter() - began
        self.study.redraw(said)
        self.waiting = (said["trial"], said["params"])
        self.running = self._claim()
        return took

    def proposals_per_second(self, slots: int) -> float:
        """While that many slots wait, until each has its draft. Comes last: they stay."""
        drawn, began = 0, time.perf_counter()
        while found := self._draw(slots):
            drawn += len(found)
        return drawn / (time.perf_counter() - began)


class Theirs:
    """Optuna's study in memory with the same trials."""

    def __init__(self, finished: int) -> None:
        space = VirtualStudy(SPACE, 1).space
        self._axes = {name: distribution(parameter) for name, parameter in space.items()}
        sampler = optuna.samplers.TPESampler(seed=1, n_startup_trials=TPE["n_startup_trials"])
        self.study = optuna.create_study(sampler=sampler)
        self.study.add_trials(
            optuna.trial.create_trial(
                params=dict(params), distributions=self._axes, value=loss(params),
                intermediate_values={step: loss(params) + 1 / step for step in range(1, EPOCHS + 1)},
            )
            for params in random_points(space, finished, seed=0)
        )  # fmt: skip
        self.running = self._ask()

    def _ask(self) -> optuna.Trial:
        trial = self.study.ask()
        for name, axis in self._axes.items():
            trial._suggest(name, axis)
        return trial

    def _tell(self) -> None:
        for step in range(1, EPOCHS + 1):
            self.running.report(loss(self.running.params) + 1 / step, step)
        self.study.tell(self.running, loss(self.running.params))

    def proposal_seconds(self) -> float:
        self._tell()
        began = time.perf_counter()
        self.running = self._ask()
        return time.perf_counter() - began

    def proposals_per_second(self, slots: int) -> float:
        began = time.perf_counter()
        for _ in range(slots):
            self._ask()
        return slots / (time.perf_counter() - began)


def measure(rounds: int) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Returns: by size, seconds of each proposal of ours and of theirs; and the goals that were missed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    took, missed = {}, []
    table = Table(
        "finished trials", "Tunesmith: median ms", "p95", "Optuna: median ms", "p95", "ratio of medians",
        f"{WAITING_SLOTS} slots wait: Tunesmith /s", "Optuna /s",
    )  # fmt: skip
    for size in SIZES:
        ours, theirs = Ours(size), Theirs(size)
        measures: dict[str, Callable[[], float]] = {
            "Tunesmith": ours.proposal_seconds,
            "Optuna": theirs.proposal_seconds,
        }
        for measure in measures.values():  # what is made at first use
            measure()
        found = took[f"{size}"] = take_turns(measures, rounds)
        medians = [statistics.median(of) for of in found.values()]
        cells = [f"{1000 * np.quantile(of, q):.1f}" for of in found.values() for q in (0.5, 0.95)]
        rates = [f"{one.proposals_per_second(WAITING_SLOTS):.0f}" for one in (ours, theirs)]
        ratio = medians[0] / medians[1]
        table.add_row(f"{size:,}", *cells, f"{ratio:.2f}", *rates)
        if size == max(SIZES) and ratio > BOUND:
            missed.append(f"a fresh proposal takes {ratio:.2f} × Optuna's ask (goal: at most {BOUND:g})")
    Console(width=130).print(table)
    print(f"goal: a ratio of at most {BOUND:g} at {max(SIZES):,} finished trials")
    return took, missed
