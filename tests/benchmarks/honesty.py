"""Honesty: does the final stage's printed interval hold what ten fresh seeds of its winner give?

    python tests/benchmarks/honesty.py [--data DIR] [--runs 3] [--trials 20] [--epochs 10]

A short random search, then a final stage, on digits and, with --data a directory that holds spam.npz and
satellite.npz (UCI Spambase and Statlog Landsat; arrays X and y), on these. MLPs; the rate, the weight
decay, dropout, width and batch size are searched. Then the winner is trained with ten more seeds that
nobody has used. Reported for each run: what the search claimed, the stage's honest number with its
95 % interval, the mean of the ten, whether it lies inside, and how far claim and number are from it.
Where 1cycle was kept the ten have it too, and the claim, which is about the run without it, compares with
nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from local import CPU, LocalStudy
from rich.console import Console
from rich.table import Table
from tunesmith_service.wire import WorkOrder
from tunesmith_studies.curves import objective_value
from tunesmith_studies.planning import Seed
from tunesmith_studies.trial import Point
from tunesmith_workers import trainer
from tunesmith_workers.endings import EpochResult
from tunesmith_workers.tasks import builtin
from tunesmith_workers.tasks.registry import Entry

SETS = ("digits", "spam", "satellite")
FRESH = 10
SPACE: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 0.3, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
    "dropout": {"low": 0.0, "high": 0.4},
    "hidden": {"type": "int", "low": 16, "high": 128, "log": True},
    "batch_size": [32, 64, 128],
}


def study(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "honesty",
        "task": name,
        "seed": seed,
        "space": SPACE,
        "fixed": {"optimizer": "momentum", "momentum": 0.9, "model": "mlp", "depth": 2},
        "stages": [
            {"kind": "random", "epochs": options.epochs, "trials": options.trials},
            {"kind": "final", "epochs": options.epochs, "test": True},
        ],
    }


def one_run(entry: Entry, seed: int, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    with contextlib.redirect_stdout(None):  # a trial's own log
        local = LocalStudy(study(entry.name, seed, options), entry, scratch)
        local.run()
        result = local.results["final"]
        params = result.chosen["params"]
        seeds = [Seed(seed).stream("nobody's", j) for j in range(FRESH)]
        fresh = [trained(local, params, s, options.epochs) for s in seeds]
    low, high = result.numbers["honest"]["interval"]
    claimed, honest = result.numbers["claimed"], result.numbers["honest"]["mean"]
    mean = statistics.fmean(fresh)
    return {
        "set": entry.name, "seed": seed, "claimed": claimed, "honest": honest, "low": low, "high": high,
        "fresh": mean, "fresh_sd": statistics.stdev(fresh), "inside": low <= mean <= high,
        "bias": honest / mean - 1, "claim_bias": claimed / mean - 1,
        "cycle": params.get("schedule") == "one_cycle", "ensemble": result.numbers["ensemble"]["loss"],
        "test": result.numbers["test"]["ensemble"]["loss"], "why": result.why,
        "findings": [f.kind for f in result.findings],
    }  # fmt: skip


def trained(local: LocalStudy, params: dict[str, Any], seed: int, epochs: int) -> float:
    """The objective of one more training of the winner, by the same trainer."""
    objective = local.spec.objective
    work = WorkOrder(
        study="honesty", stage="check", number=0, task=local.task.name, params=params, epochs=epochs,
        seed=seed, metric=objective.metric, direction=objective.direction,
    )  # fmt: skip
    said = trainer.epochs(local.task, work, device=CPU, scratch=local.scratch)
    curve = [Point(s.step, s.metrics) for s in said if isinstance(s, EpochResult)]
    value = objective_value(curve, objective)
    assert value is not None, f"seed {seed} of {params} diverged"
    return value


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("set", "run", "claimed", "honest", "95 % interval", "ten fresh", "inside", "claim off",
                  "honest off", "1cycle", "ensemble", "test")  # fmt: skip
    for r in rows:
        table.add_row(
            r["set"], str(r["seed"]), f"{r['claimed']:.4f}", f"{r['honest']:.4f}",
            f"{r['low']:.4f} to {r['high']:.4f}", f"{r['fresh']:.4f} ± {r['fresh_sd']:.4f}",
            "yes" if r["inside"] else "no", "" if r["cycle"] else f"{r['claim_bias']:+.1%}",
            f"{r['bias']:+.1%}", "kept" if r["cycle"] else "no", f"{r['ensemble']:.4f}", f"{r['test']:.4f}",
        )  # fmt: skip
    console.print(table)
    alike = [r["claim_bias"] for r in rows if not r["cycle"]]
    claims = f"; of claims, where 1cycle was not kept, {statistics.fmean(alike):+.1%}" if alike else ""
    console.print(
        f"inside: {sum(r['inside'] for r in rows)} of {len(rows)}; mean bias "
        f"{statistics.fmean(r['bias'] for r in rows):+.1%}{claims}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory with spam.npz and satellite.npz")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    names = [name for name in options.sets if name == "digits" or options.data]
    tasks = builtin.registry(data_files={n: options.data / f"{n}.npz" for n in names if n != "digits"})
    console, rows = Console(width=170), []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            for seed in range(options.runs):
                rows.append(one_run(tasks[name], seed, options, Path(scratch) / f"{name}-{seed}"))
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows, console)


if __name__ == "__main__":
    main()
