"""1cycle in 24 epochs against 40 epochs at a constant rate: the final stage's gate on two sets of images.

    python tests/benchmarks/one_cycle.py --data DIR [--sets cifar10_4k mnist10k] [--seeds 5]

DIR holds cifar10_4k.npz (3,000 training images of CIFAR-10, of which a fifth validates, and 1,000 test
images) and mnist10k.npz (10,000 images of MNIST, split 60/20/20); the test splits are not read.

A CNN with SGD and momentum 0.9. The constant rate is the best of a coarse_grid stage, one seed each,
by the mean validation accuracy of its last three epochs. The final stage trains it with five fresh
seeds, then 1cycle with the same seeds, its peak by lr / (1 - momentum). Reported: the best mean
accuracy over the seeds that each reaches in any epoch, the first epoch in which 1cycle reaches the
constant rate's best, and what the gate, which judges by the last three epochs, keeps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from local import LocalStudy
from rich.console import Console
from rich.table import Table
from tunesmith_studies.log import StudyLog
from tunesmith_studies.planning import Seed
from tunesmith_studies.stages import Final
from tunesmith_studies.stages.repeats import Repeats, told
from tunesmith_studies.trial import TrialState
from tunesmith_workers.tasks import builtin

LONG, SHORT = 40, 24
RATES = [0.003, 0.01, 0.03, 0.1]
FIXED: dict[str, dict[str, Any]] = {
    "cifar10_4k": {"batch_size": 64, "weight_decay": 1e-3},
    "mnist10k": {"batch_size": 128, "weight_decay": 1e-4},
}
AUGMENTED: dict[str, dict[str, Any]] = {
    "cifar10_4k": {"batch_norm": True, "crop": 4, "flip": 0.5},
    "mnist10k": {"batch_norm": True, "crop": 2},
}
CNN = {"optimizer": "momentum", "momentum": 0.9, "model": "cnn", "hidden": 64, "depth": 2}


def study(name: str, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "one_cycle",
        "task": name,
        "objective": {"metric": "val/accuracy", "direction": "maximize", "reduce": "mean", "k": 3},
        "space": {"lr": {"low": min(RATES), "high": max(RATES), "log": True, "values": RATES}},
        "fixed": {**CNN, **FIXED[name], **(AUGMENTED[name] if options.augmented else {})},
        "stages": [
            {"kind": "coarse_grid", "epochs": options.sweep_epochs},
            {"kind": "final", "epochs": LONG, "one_cycle_epochs": SHORT, "top": 1, "seeds": options.seeds,
             "peak_scale": options.scale, "test": False},
        ],
    }  # fmt: skip


def one_set(name: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    began = time.monotonic()
    entry = builtin.registry(data_files={name: options.data / f"{name}.npz"})[name]
    local = LocalStudy(study(name, options), entry, scratch / name)
    with contextlib.redirect_stdout(None):  # a trial's own log
        local.run(enough=lambda log: compared(log, options.seeds))
    stage = local.log.stage("final")
    assert isinstance(stage, Final)
    choice = stage.choice(local.log.history("final"), Seed(local.spec.seed))
    assert choice is not None
    assert choice.cycle is not None
    constant, cycle = mean_curve(choice.winner), mean_curve(choice.cycle)
    goal = max(constant)
    reached = next((i + 1 for i, v in enumerate(cycle) if v >= goal), None)
    return {
        "set": name, "rate": choice.winner.params["lr"], "peak": choice.cycle.params["lr"],
        "constant": goal, "constant_epoch": constant.index(goal) + 1, "constant_end": told(choice.winner),
        "cycle": max(cycle), "cycle_epoch": cycle.index(max(cycle)) + 1, "cycle_end": told(choice.cycle),
        "reached": reached, "kept": choice.keeps_cycle, "seconds": time.monotonic() - began,
    }  # fmt: skip


def compared(log: StudyLog, seeds: int) -> bool:
    """Whether the gate can be asked: the further seeds and the evaluation tell nothing more about it."""
    done = [t for t in log.trials("final") if t.key.startswith("one_cycle:") and t.state.is_finished]
    return len(done) == seeds


def mean_curve(repeated: Repeats) -> list[float]:
    """Mean accuracy over the seeds after each epoch. Every seed must have run to its end."""
    assert all(t.state is TrialState.COMPLETE for t in repeated.trials.values()), "a seed diverged"
    curves = [[v for _, v in t.metric("val/accuracy")] for t in repeated.trials.values()]
    return [statistics.fmean(epoch) for epoch in zip(*curves, strict=True)]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("set", "rate", f"constant, best of {LONG}", "last 3", "1cycle's peak",
                  f"1cycle, best of {SHORT}", "last 3", "reached in", "gate keeps")  # fmt: skip
    for r in rows:
        table.add_row(
            r["set"], f"{r['rate']:g}", f"{r['constant']:.4f} (epoch {r['constant_epoch']})",
            r["constant_end"], f"{r['peak']:g}", f"{r['cycle']:.4f} (epoch {r['cycle_epoch']})",
            r["cycle_end"], f"epoch {r['reached']}" if r["reached"] else "not",
            "1cycle" if r["kept"] else "constant",
        )  # fmt: skip
    console.print(table)
    held = sum(r["reached"] is not None for r in rows)
    console.print(
        f"1cycle reaches the constant rate's best within {SHORT} epochs on {held} of {len(rows)} sets"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(FIXED), choices=list(FIXED))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="the final stage's peak_scale")
    parser.add_argument("--augmented", action="store_true", help="with batch normalisation, crops and flips")
    parser.add_argument("--sweep-epochs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    console, rows = Console(width=170), []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.sets:
            rows.append(one_set(name, options, Path(scratch)))
            show(rows, console)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
