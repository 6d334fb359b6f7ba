"""Search economy: epochs until a search first has what random search has after 600.

    python tests/benchmarks/economy.py [--data DIR] [--seeds 10] [--jobs 2] [--cache DIR]
    python tests/benchmarks/economy.py --summary --cache DIR

Beside each other on one trainer, one space and the same seeds: the product's default recipe (and, if asked
for, its quick one), and Optuna's random search, TPE + MedianPruner and TPE + HyperbandPruner: Optuna's own
objects, in memory, at their defaults, Hyperband's max_resource 20. A trial trains 20 epochs at most. The
objective is val/loss, its last value. Sets: scikit-learn's digits, and with --data a directory that holds
spam.npz and satellite.npz (see weight_decay_restarts.py).

What a search *has* after t epochs is the best objective of the trials that have ended well by then (a rung of
halving is a trial; a pruned one has none). Beside it stands the same with the lowest loss that any epoch of
any trial has reported. Every epoch counts, those of preflight and the range test too, as passes over the
training split with a fraction. The goal of a set is the median over the seeds of what random search has
after 600. A search that never gets there counts as 600. Comparisons are paired by seed.

The best trial of each search, as the search itself names it, is trained again for 20 epochs with five fresh
seeds. Each (set, method, seed) is kept as a file in --cache, so that a part can be run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import torch
from economy_table import show
from local import CPU, LocalStudy
from tunesmith_service.wire import WorkOrder
from tunesmith_studies.log import StudyLog
from tunesmith_studies.samplers import distribution, from_optuna
from tunesmith_studies.study import StudySpec
from tunesmith_workers import kinds
from tunesmith_workers.endings import EpochResult
from tunesmith_workers.tasks import builtin
from tunesmith_workers.tasks.registry import Entry

SETS = ("digits", "spam", "satellite")
SPACE: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "momentum": {"low": 0.5, "high": 0.99},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
    "batch_size": [32, 64, 128, 256],
    "dropout": {"low": 0.0, "high": 0.5},
    "hidden": {"type": "int", "low": 16, "high": 256, "log": True},
}
FIXED: dict[str, Any] = {"model": "mlp", "depth": 2, "optimizer": "momentum", "schedule": "constant"}
BUDGET, LONGEST, FRESH = 600, 20, 5
RECIPES = ("standard", "quick")
METHODS = ("random", "tpe_median", "tpe_hyperband", *RECIPES)

Run = dict[str, Any]
"""One search: `trials`, each {stage, kind, epochs, losses, params, value}, in the order they ran; `winner`,
the params that it names; `claimed`, their loss; `fresh`, the last losses of their new trainings."""


def spec(name: str, data: str, seed: int, **changes: Any) -> dict[str, Any]:
    base = {"name": name, "task": data, "seed": seed, "space": SPACE, "fixed": FIXED}
    return base | changes


# --- one training --------------------------------------------------------------------------------------


def train(entry: Entry, params: dict[str, Any], seed: int, scratch: Path) -> Iterator[float]:
    """The validation loss after each epoch; there are fewer than asked for if the training diverges."""
    work = WorkOrder(
        study="economy", stage="search", number=0, task=entry.name, params={**FIXED, **params},
        epochs=LONGEST, seed=seed, metric="val/loss", direction="minimize", snapshot_every_seconds=math.inf,
    )  # fmt: skip
    for said in kinds.run(entry, work, kinds.Place(CPU, scratch)):
        if isinstance(said, EpochResult):
            yield float(said.metrics["val/loss"])


def fresh_losses(entry: Entry, params: dict[str, Any], seed: int, scratch: Path) -> list[float]:
    """The last loss of each of five trainings with seeds that no search has seen."""
    return [list(train(entry, params, 10_000 + FRESH * seed + i, scratch))[-1] for i in range(FRESH)]


# --- Optuna's searches ---------------------------------------------------------------------------------


def reference(method: str, entry: Entry, seed: int, scratch: Path) -> Run:
    sampler, pruner = _optuna(method, seed)
    study = optuna.create_study(study_name=f"{entry.name}-{seed}", sampler=sampler, pruner=pruner)
    space = StudySpec.model_validate(
        spec("s", entry.name, seed, stages=[{"kind": "random", "epochs": 1, "trials": 1}])
    ).space
    trials: list[dict[str, Any]] = []
    left = BUDGET
    while left > 0:
        asked = study.ask()
        params = {name: from_optuna(p, asked._suggest(name, distribution(p))) for name, p in space.items()}
        losses: list[float] = []
        for loss in train(entry, params, seed, scratch):
            losses.append(loss)
            asked.report(loss, len(losses))
            if len(losses) == min(left, LONGEST) or asked.should_prune():
                break
        left -= len(losses)
        whole = len(losses) == LONGEST and math.isfinite(losses[-1])
        if whole:
            study.tell(asked, losses[-1])
        else:  # by the pruner, by divergence, or at the end of the budget
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        trials.append(
            {"stage": "search", "kind": "train", "epochs": len(losses), "losses": losses, "params": params,
             "value": losses[-1] if whole else None}
        )  # fmt: skip
    best = min((t for t in trials if t["value"] is not None), key=lambda t: t["value"])
    return {"trials": trials, "winner": best["params"], "claimed": best["value"]}


def _optuna(method: str, seed: int) -> tuple[optuna.samplers.BaseSampler, optuna.pruners.BasePruner]:
    if method == "random":
        return optuna.samplers.RandomSampler(seed), optuna.pruners.NopPruner()
    tpe = optuna.samplers.TPESampler(seed=seed)
    if method == "tpe_median":
        return tpe, optuna.pruners.MedianPruner()
    return tpe, optuna.pruners.HyperbandPruner(max_resource=LONGEST)


# --- the product's recipes -----------------------------------------------------------------------------


def recipe(name: str, entry: Entry, seed: int, scratch: Path, until: float) -> Run:
    """The study that a person gets who names a recipe and no stages, stopped after `until` epochs."""
    written = {"name": name, "epochs": LONGEST}
    study = LocalStudy(spec("economy", entry.name, seed, recipe=written), entry, scratch)
    study.run(lambda log: epochs_of(log, study.spec) >= until)
    trials = [
        {"stage": stage.name, "kind": t.work.kind, "epochs": t.epochs_run, "params": dict(t.params),
         "losses": [v for _, v in t.metric("val/loss")] if t.work.kind == "train" else [], "value": t.value}
        for stage in study.spec.stages
        for t in study.log.trials(stage.name)
    ]  # fmt: skip
    ranked = [r for stage in study.spec.stages if (r := study.results.get(stage.name)) and r.ranking]
    if ranked:
        params, claimed = ranked[-1].chosen["params"], ranked[-1].ranking[0].value
    else:  # stopped within its first search
        best = min((t for t in trials if t["value"] is not None), key=lambda t: t["value"])
        params, claimed = best["params"], best["value"]
    winner = {k: v for k, v in params.items() if FIXED.get(k) != v}
    return {"trials": trials, "winner": winner, "claimed": claimed}


def epochs_of(log: StudyLog, study: StudySpec) -> float:
    """All that its trials have trained and measured."""
    return sum(t.epochs_run for stage in study.stages for t in log.trials(stage.name))


# --- many of them --------------------------------------------------------------------------------------


def entry_of(data: str, path: str | None) -> Entry:
    return builtin.registry(data_files={data: Path(path)} if path else {})[data]


@dataclass(frozen=True)
class Job:
    """A search, or with a `winner` the new trainings of it."""

    data: str
    path: str | None
    method: str
    seed: int
    until: float
    winner: dict[str, Any] | None


def one(job: Job) -> Run:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    entry = entry_of(job.data, job.path)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(os.devnull, "w") as null,
        redirect_stdout(null),  # a trial's log
    ):
        if job.winner is not None:
            return {"fresh": fresh_losses(entry, job.winner, job.seed, Path(scratch))}
        if job.method in RECIPES:
            return recipe(job.method, entry, job.seed, Path(scratch), job.until)
        return reference(job.method, entry, job.seed, Path(scratch))


def place(cache: Path, data: str, method: str, seed: int, *, fresh: bool = False) -> Path:
    return cache / f"{data}-{method}-{seed}{'-fresh' if fresh else ''}.json"


def run_missing(options: argparse.Namespace, *, fresh: bool) -> None:
    """Searches, or new trainings of their winners, that the cache lacks; a file appears whole or not."""
    options.cache.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        jobs = {}
        for seed, data, method in product(range(options.seeds), options.sets, options.methods):
            searched = place(options.cache, data, method, seed)
            file = place(options.cache, data, method, seed, fresh=fresh)
            if file.exists() or (fresh and not searched.exists()):
                continue
            winner = json.loads(searched.read_text())["winner"] if fresh else None
            path = None if data == "digits" else str(options.data / f"{data}.npz")
            jobs[pool.submit(one, Job(data, path, method, seed, options.until, winner))] = file
        for job in as_completed(jobs):
            partial = jobs[job].with_suffix(".partial")
            partial.write_text(json.dumps(job.result()))
            partial.rename(jobs[job])
            print(jobs[job].stem, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory with spam.npz and satellite.npz")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--methods", nargs="+", default=METHODS[:4], choices=METHODS)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tunesmith-economy")
    parser.add_argument("--until", type=float, default=math.inf, help="stop recipes after so many epochs")
    parser.add_argument("--no-fresh", action="store_true", help="leave out the winners' new trainings")
    parser.add_argument("--summary", action="store_true", help="only say what the cache holds")
    options = parser.parse_args()
    if options.data is None:
        options.sets = [name for name in options.sets if name == "digits"]
    if not options.summary:
        run_missing(options, fresh=False)
        if not options.no_fresh:
            run_missing(options, fresh=True)
    runs: dict[tuple[str, str, int], Run] = {}
    for data, method, seed in product(SETS, METHODS, range(options.seeds)):
        files = [place(options.cache, data, method, seed, fresh=fresh) for fresh in (False, True)]
        if files[0].exists():
            runs[data, method, seed] = {
                k: v for f in files if f.exists() for k, v in json.loads(f.read_text()).items()
            }
    print("space:", json.dumps(SPACE), "held:", json.dumps(FIXED))
    show(runs, BUDGET)


if __name__ == "__main__":
    main()
