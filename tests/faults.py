"""Broken tasks and loops, sound ones, and what the product's own preflight and diagnosis find in them.

`benchmarks/planted_faults.py` goes through all of them, `test_faults.py` through a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faulty_loops
import faulty_tasks
from benchmarks.local import CPU, LocalStudy
from tunesmith_studies import diagnosis
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.log import StudyLog
from tunesmith_studies.planning import Proposal
from tunesmith_workers import rng
from tunesmith_workers.child import failure
from tunesmith_workers.endings import Said
from tunesmith_workers.loop import Trial, TrialEnded
from tunesmith_workers.tasks.registry import Entry, Loop, Task

EPOCHS = 12
"""Of the trainings whose curves are diagnosed."""


@dataclass(frozen=True)
class Case:
    """Something to look for faults in.

    Attributes:
        make: the task, or the function that trains.
        expected: kinds of findings that would name its fault; none of a sound one.
    """

    name: str
    make: Callable[[], Task | Loop]
    params: Mapping[str, Any] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()

    @property
    def entry(self) -> Entry:
        return Entry(self.name, self.make(), "0" * 64)


@dataclass(frozen=True)
class Found:
    """Everything above `info` that was said of a case, and where."""

    preflight: tuple[Finding, ...]
    diagnosis: tuple[Finding, ...]

    def naming(self, case: Case) -> tuple[str, Finding] | None:
        """Who names the fault, and how; the gravest, preflight before diagnosis."""
        for where, findings in (("preflight", self.preflight), ("diagnosis", self.diagnosis)):
            for finding in findings:
                if finding.kind in case.expected:
                    return where, finding
        return None

    def count(self, level: str) -> int:
        return sum(f.level == level for f in self.preflight)


class LoopStudy(LocalStudy):
    """A LocalStudy whose task may train by its own loop, and whose trials may fail, as a worker's may."""

    def _epochs(self, number: int, stage: str, proposal: Proposal, resume: Path | None) -> Iterator[Said]:
        try:
            if isinstance(self.task.task, Loop) and proposal.work.kind == "train":
                yield from self._train_loop(self.task.task, number, stage, proposal)
            else:
                yield from super()._epochs(number, stage, proposal, resume)
        except Exception as error:
            yield failure(error)

    def _train_loop(self, loop: Loop, number: int, stage: str, proposal: Proposal) -> list[Said]:
        said: list[Said] = []
        scratch = self.scratch / str(number)
        scratch.mkdir(parents=True, exist_ok=True)
        trial = Trial(self._order(number, stage, proposal), device=CPU, scratch=scratch, say=said.append)
        rng.begin(trial.seed, 1)
        with suppress(TrialEnded):
            loop.run(trial)
        return [*said, trial.ending()]


def look_for_faults(case: Case, scratch: Path, *, train: bool = True) -> Found:
    """Run preflight, and if it does not name the fault a training; what both say above `info`."""
    study = LoopStudy(_spec(case), case.entry, scratch)

    def found() -> Found:
        return Found(_grave(study.results["preflight"].findings), ())

    def enough(log: StudyLog) -> bool:
        return "preflight" in study.results and (not train or found().naming(case) is not None)

    study.run(enough)
    if "training" not in study.results:
        return found()
    (trial,) = study.log.trials("training")
    chance = study.results["preflight"].chosen.get("prior_entropy")
    return replace(found(), diagnosis=_grave(diagnosis.of_trial(trial, study.spec, chance=chance)))


def _grave(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return gravest_first(f for f in findings if f.level in ("fail", "warn"))


def _spec(case: Case) -> dict[str, Any]:
    least = {"low": 1e-8, "high": 1e-7, "log": True}  # of what varies, for something must
    return {
        "name": case.name,
        "task": case.name,
        "space": {"eps" if "weight_decay" in case.params else "weight_decay": least},
        "fixed": dict(case.params),
        "stages": [
            {"kind": "preflight", "on_failure": "warn"},
            {"kind": "random", "name": "training", "trials": 1, "epochs": EPOCHS},
        ],
    }


def _of_task(written: faulty_tasks.Written, name: str, expected: Iterable[str] = ()) -> Case:
    return Case(name, written.task, written.params, frozenset(expected))


def _of_loop(function: Callable[[Trial], object], name: str, expected: Iterable[str] = ()) -> Case:
    return Case(f"loop: {name}", lambda: Loop(function), {}, frozenset(expected))


FAULTY: dict[str, Case] = {
    case.name: case
    for case in [
        *(_of_task(written, name, expected) for name, written, expected in faulty_tasks.FAULTY),
        *(_of_loop(function, name, expected) for name, function, expected in faulty_loops.FAULTY),
    ]
}
HEALTHY_LOOPS: dict[str, Case] = {
    case.name: case for case in (_of_loop(function, name) for name, function in faulty_loops.HEALTHY.items())
}
