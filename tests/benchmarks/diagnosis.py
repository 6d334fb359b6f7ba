"""Curves whose trouble is known by construction, and what diagnosis says of them.

    python tests/benchmarks/diagnosis.py --data DIR

Real trainings on digits, spam, satellite and phoneme (files in DIR): rates far too low and too high, few
samples and a wide network (overfit), one hidden unit or a strong weight decay (underfit), and sound
settings. Agreement is the share of curves of which the named finding is told, and of sound ones of which
no trouble is. Exits with 1 below 90 %. About five minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tunesmith_service.wire import WorkOrder
from tunesmith_studies.diagnosis import of_trial
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Point, StopReason, Trial, TrialState, Work
from tunesmith_workers import trainer
from tunesmith_workers.endings import Ending, EpochResult
from tunesmith_workers.tasks import builtin

CHANCE = {"digits": 2.3026, "spam": 0.6705, "satellite": 1.7213, "phoneme": 1.5915}
"""Entropy of the class prior, in nats."""
TARGET = {"digits": 0.08, "spam": 0.15, "satellite": 0.27, "phoneme": 0.17}
"""Validation loss of a good search."""
TROUBLES = {
    "rate_too_low",
    "rate_too_high",
    "overfit",
    "underfit",
    "no_learning",
    "diverged",
    "training_rises",
}
ANSWERS = {
    "rate_too_low": {"rate_too_low"},
    "rate_too_high": {"rate_too_high", "diverged"},
    "overfit": {"overfit"},
    "underfit": {"underfit", "no_learning"},
}
SEEDS = (0, 1)
AGREEMENT = 0.9


@dataclass(frozen=True)
class Case:
    label: str
    task: str
    seed: int
    params: dict[str, Any]
    epochs: int
    fraction: float = 1.0


def cases() -> Iterator[Case]:
    for task in CHANCE:
        for seed in SEEDS:
            sgd = {"optimizer": "momentum", "batch_size": 32, "hidden": 64}
            for lr in (1e-5, 3e-5) if task == "spam" else (1e-5, 1e-4):
                yield Case("rate_too_low", task, seed, sgd | {"lr": lr}, 15)
            for lr in (1.0, 3.0):
                yield Case("rate_too_high", task, seed, sgd | {"lr": lr}, 15)
            adam = {"optimizer": "adam", "batch_size": 64, "hidden": 64}
            yield Case("rate_too_high", task, seed, adam | {"lr": 0.3, "batch_size": 32}, 15)
            wide = {"batch_size": 16, "hidden": 256}
            yield Case("overfit", task, seed, adam | wide | {"lr": 3e-3}, 40, 0.1)
            yield Case("overfit", task, seed, sgd | wide | {"lr": 0.02}, 60, 0.2)
            narrow = {"hidden": 1, "depth": 1, "lr": 0.03} if task != "spam" else {"weight_decay": 2.0}
            yield Case("underfit", task, seed, adam | {"optimizer": "adamw", "lr": 0.01} | narrow, 50)
            yield Case("underfit", task, seed, sgd | {"batch_size": 64, "lr": 0.02, "weight_decay": 0.1}, 25)
            sound = {"lr": 1e-3, "weight_decay": 1e-3, "dropout": 0.2}
            yield Case("sound", task, seed, adam | sound, 8 if task == "phoneme" else 25)


def trained(case: Case, registry: Any, scratch: Path) -> Trial:
    work = WorkOrder(
        study="diagnosis", stage="s", number=0, task=case.task, params=case.params, epochs=case.epochs,
        seed=case.seed, metric="val/loss", direction="minimize", data_fraction=case.fraction,
    )  # fmt: skip
    points, end = [], Ending("failed")
    with contextlib.redirect_stdout(io.StringIO()):
        for said in trainer.epochs(registry[case.task], work, device=torch.device("cpu"), scratch=scratch):
            if isinstance(said, EpochResult):
                points.append(Point(said.step, dict(said.metrics)))
            elif isinstance(said, Ending):
                end = said
    reason = StopReason(end.stop_reason or "budget")
    return Trial(
        0, "s", "k", 0, case.params, Work(case.epochs, case.seed), state=TrialState(end.state),
        stop_reason=reason, curve=tuple(points),
    )  # fmt: skip


def told(case: Case, trial: Trial) -> set[str]:
    study = StudySpec.model_validate(
        {
            "name": "diagnosis",
            "task": case.task,
            "space": {"lr": {"low": 1e-5, "high": 10, "log": True}},
            "objective": {"target": TARGET[case.task]},
            "stages": [{"kind": "random", "epochs": 1, "trials": 1}],
        }
    )
    return {f.kind for f in of_trial(trial, study, chance=CHANCE[case.task])}


def agrees(case: Case, kinds: set[str]) -> bool:
    if case.label == "sound":
        return bool(kinds) and not kinds & TROUBLES
    return bool(kinds & ANSWERS[case.label])


def main() -> int:
    parser = argparse.ArgumentParser(description="Diagnosis against curves of known trouble.")
    parser.add_argument("--data", type=Path, required=True, help="directory of spam.npz, satellite.npz, …")
    data = parser.parse_args().data
    registry = builtin.registry([], {n: data / f"{n}.npz" for n in CHANCE if n != "digits"})
    right: Counter[str] = Counter()
    all_: Counter[str] = Counter()
    instead: defaultdict[str, list[str]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases():
            kinds = told(case, trained(case, registry, Path(scratch)))
            all_[case.label] += 1
            if agrees(case, kinds):
                right[case.label] += 1
            else:
                instead[case.label].append(f"{case.task}: {', '.join(sorted(kinds)) or 'nothing'}")
    for label, n in all_.items():
        print(f"{label:14} {right[label]:3} of {n:3}   {'; '.join(instead[label])}")
    share = right.total() / all_.total()
    print(f"agreement {share:.1%} on {all_.total()} curves (at least {AGREEMENT:.0%})")
    return 0 if share >= AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(main())
