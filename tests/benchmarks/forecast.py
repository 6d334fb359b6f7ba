"""The time forecast of preflight against what later stages take.

    python tests/benchmarks/forecast.py --data DIR [--runs 5]

Each run: a study of preflight, a random stage over rate, batch size, width and weight decay, and a coarse
grid with width and decay held, on another data set in turn, in this process. Prints forecast and time of each
stage; those that take at least 20 s must be within a factor of 1.5 in all runs but one, else it exits with 1.
Nothing else should run on the machine: a forecast cannot know what others will do.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from benchmarks.local import LocalStudy  # noqa: E402
from tunesmith_studies.log import EntryKind  # noqa: E402
from tunesmith_workers.tasks import builtin  # noqa: E402

SETS = ("digits", "satellite", "spam", "phoneme", "mnist10k")
TRIALS = {"digits": 160, "satellite": 50, "spam": 70, "phoneme": 60, "mnist10k": 24}
LEAST, FACTOR = 20.0, 1.5
SPACE = {
    "lr": {"low": 1e-3, "high": 0.3, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
    "hidden": {"type": "int", "low": 16, "high": 256, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
}


class TimedStudy(LocalStudy):
    """Notes when each stage begins and ends."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began: dict[str, float] = {}
        self.took: dict[str, float] = {}

    def _note(self, kind: EntryKind, trial: int | None, stage: str, **data: Any) -> None:
        super()._note(kind, trial, stage, **data)
        if kind == "stage" and data["state"] == "active":
            self.began[stage] = time.monotonic()
        elif kind == "stage":
            self.took[stage] = time.monotonic() - self.began[stage]


def study(name: str) -> dict[str, Any]:
    trials = TRIALS[name]
    axes = {"lr": 3, "batch_size": [16, 64, 256]}
    grid = {"kind": "coarse_grid", "epochs": trials, "axes": axes}
    stages = [
        {"kind": "preflight"},
        {"kind": "random", "trials": trials, "epochs": 10},
        grid | {"fixed": {"hidden": 128, "weight_decay": 0.0}},
    ]
    fixed = {"optimizer": "momentum", "model": "mlp"}
    return {"name": name, "task": name, "space": SPACE, "fixed": fixed, "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the .npz files are")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    registry = builtin.registry([], {n: options.data / f"{n}.npz" for n in SETS if n != "digits"})
    good = 0
    for run in range(options.runs):
        name = SETS[run % len(SETS)]
        with tempfile.TemporaryDirectory() as scratch:
            timed = TimedStudy(study(name), registry[name], Path(scratch))
            with contextlib.redirect_stdout(io.StringIO()):
                timed.run()
        good += told(name, timed)
    print(f"{good} of {options.runs} runs within a factor of {FACTOR:g}")
    sys.exit(good < options.runs - 1)


def told(name: str, timed: TimedStudy) -> bool:
    """Print a line a stage; whether those that took long enough were forecast well."""
    within = True
    for stage, forecast in timed.results["preflight"].numbers["forecast"].items():
        took, seconds = timed.took[stage], forecast["seconds"]
        counts = took >= LEAST
        within &= not counts or took / FACTOR <= seconds <= took * FACTOR
        print(
            f"{name:10} {stage:12} forecast {seconds:6.1f} s, took {took:6.1f} s, ratio {seconds / took:.2f}"
            f"{'' if counts else f'  (below {LEAST:g} s)'}",
            flush=True,
        )
    return within


if __name__ == "__main__":
    main()
