"""The range test's suggestion against a sweep of whole trainings.

    python tests/benchmarks/range_test.py --data DIR [--cache DIR] [--sets digits spam] [--optimizer adam]

For each set and seed: a coarse_grid of 13 rates, three a decade, each trained for 20 epochs at a constant
rate; the product's own lr_range_test stage; and a training at the rate that it suggests. A rate's loss is
the lowest validation loss of its run, which is what early stopping keeps; the loss of the last epoch stands
beside it, and on sets that overfit within 20 epochs it tells how long to train, not at which rate. One lucky
epoch of 13 × 20 can be worth a fifth, so beside it stands the lowest mean of three epochs on end (`held`),
and what the rate that is best by the mean of all seeds, which nobody can know before, would have had; and the
regret of each set by means over its seeds, which one lucky epoch moves less.
Regret is the loss at the suggestion over the loss at the sweep's best rate, less one, of the same seed; so
it holds the luck of the best of 13 as well. Goals: at most 5 % in the median over sets and seeds, 15 % at
worst, and no suggestion that diverges.

Beside the product's rule stand two of fastai's over the same losses (`valley`, `minimum`), their regret
read off the sweep by interpolation over the log of the rate.

Sets: scikit-learn's digits, and of --data (see its README) satellite, spam (an MLP of two layers of 64),
mnist10k, cifar10_4k (the built-in CNN of two blocks). Batches of 32, momentum 0.9 unless --optimizer says
otherwise. The sweeps of the two image sets take most of an hour on one core; --cache keeps every training
and every range test, so that a changed rule is judged again in a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from local import LocalStudy
from rich.console import Console
from rich.table import Table
from tunesmith_studies.rates import Reading, Sweep, agreed, read
from tunesmith_studies.trial import StopReason, Trial
from tunesmith_workers.tasks import builtin
from tunesmith_workers.tasks.registry import Entry

SETS = ("digits", "mnist10k", "satellite", "spam", "cifar10_4k")
HIGHEST = {"sgd": 3.0, "momentum": 1.0, "nesterov": 1.0, "adam": 0.1, "adamw": 0.1}
EPOCHS, POINTS = 20, 13
MEDIAN, WORST = 0.05, 0.15
SPACE = {"lr": {"low": 1e-7, "high": 100.0, "log": True}}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """What is measured, and where its results are kept."""

    entry: Entry
    optimizer: str
    batch: int
    steps: int
    sweeps: int
    cache: Path

    def run(self, seed: int, *stages: dict[str, Any]) -> LocalStudy:
        spec = {
            "name": self.entry.name, "task": self.entry.name, "seed": seed, "space": SPACE, "stages": stages,
            "fixed": {"optimizer": self.optimizer, "batch_size": self.batch},
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            study = LocalStudy(spec, self.entry, Path(scratch))
            study.run()
        return study

    def kept(self, what: str, seed: int, measure: Callable[[], Any]) -> Any:
        """What `measure` gives, from the cache if it is there."""
        name = f"{self.entry.name}-{self.optimizer}-{self.batch}-{what}-{seed}.json"
        path = self.cache / name
        if not path.exists():
            path.write_text(json.dumps(measure()))
        return json.loads(path.read_text())

    # --- trainings ----------------------------------------------------------------------------------

    def trained(self, seed: int, rates: Sequence[float]) -> Rows:
        stage = {"kind": "coarse_grid", "name": "sweep", "epochs": EPOCHS, "axes": {"lr": rates}}
        return [row(t) for t in self.run(seed, stage).log.trials("sweep")]

    def sweep(self, seed: int) -> Rows:
        top = HIGHEST[self.optimizer]
        rates = [float(f"{top * 10 ** (-i / 3):.3g}") for i in reversed(range(POINTS))]
        found: Rows = self.kept("sweep", seed, lambda: self.trained(seed, rates))
        return found

    def at(self, seed: int, rate: float) -> dict[str, Any]:
        (found,) = self.kept(f"at{rate:g}", seed, lambda: self.trained(seed, [rate]))
        return dict(found)

    # --- range tests --------------------------------------------------------------------------------

    def tests(self, seed: int) -> list[Sweep]:
        """The losses of the stage's sweeps."""
        found = self.kept(f"test{self.steps}x{self.sweeps}", seed, lambda: self._tested(seed))
        return [Sweep(rates, losses) for rates, losses in found]

    def _tested(self, seed: int) -> list[Any]:
        stage = {"kind": "lr_range_test", "steps": self.steps, "seeds": self.sweeps}
        study = self.run(seed, stage)
        curves = [
            [[p.metrics[name] for p in t.curve] for name in ("sys/lr", "train/loss")]
            for t in study.log.trials("lr_range_test")
        ]
        (chosen,) = study.results["lr_range_test"].chosen["suggestions"]
        assert chosen["lr"] == suggestion([Sweep(*c) for c in curves]), "the stage reads them otherwise"
        return curves


def row(trial: Trial) -> dict[str, Any]:
    return {
        "lr": trial.params["lr"],
        "diverged": trial.stop_reason is StopReason.DIVERGED,
        "curve": [value for _, value in trial.metric("val/loss")],
    }


def lowest(found: dict[str, Any]) -> float:
    """Of one training; infinite if it diverged."""
    return math.inf if found["diverged"] else min(found["curve"])


def held(found: dict[str, Any]) -> float:
    """The lowest mean of three epochs on end."""
    curve = found["curve"]
    return (
        math.inf
        if found["diverged"]
        else min(map(statistics.mean, zip(curve, curve[1:], curve[2:], strict=False)))
    )


def last(found: dict[str, Any]) -> float:
    return math.inf if found["diverged"] else float(found["curve"][-1])


# --- rules --------------------------------------------------------------------------------------------------


def suggestion(tests: Sequence[Sweep]) -> float:
    """The product's."""
    readings = [r for t in tests if isinstance(r := read(t), Reading)]
    return agreed(readings, {}, {}).lr


def valley(test: Sweep) -> float:
    """fastai 2's `valley`: the middle of the longest decreasing subsequence of the averaged loss."""
    rates, losses = averaged(test)
    length, before = [1] * len(losses), [-1] * len(losses)
    for i, loss in enumerate(losses):
        for j in range(i):
            if loss < losses[j] and length[j] + 1 > length[i]:
                length[i], before[i] = length[j] + 1, j
    end = length.index(max(length))
    start = end - length[end]
    third = (end - start) / 3
    return rates[max(start + int(third) + int(third / 2), 0)]


def minimum(test: Sweep) -> float:
    """fastai's `minimum`: a tenth of where the averaged loss is lowest."""
    rates, losses = averaged(test)
    return rates[losses.index(min(losses))] / 10


def averaged(test: Sweep) -> tuple[list[float], list[float]]:
    """Rates and exponential averages of the loss, without the first tenth and the last 5."""
    average, found = 0.0, []
    for n, loss in enumerate(test.losses, start=1):
        if not math.isfinite(loss):
            break
        average = 0.98 * average + 0.02 * loss
        found.append(average / (1 - 0.98**n))
    first = len(test.losses) // 10
    return list(test.rates[first : len(found) - 5]), found[first : len(found) - 5]


def between(rows: Rows, rate: float, loss: Callable[[dict[str, Any]], float]) -> float:
    """The loss at a rate of the sweep, or between two, over the log of the rate."""
    here = min(max(rate, rows[0]["lr"]), rows[-1]["lr"])
    for low, high in pairwise(rows):
        if low["lr"] <= here <= high["lr"]:
            share = math.log(here / low["lr"]) / math.log(high["lr"] / low["lr"])
            ends = loss(low), loss(high)
            return ends[0] + (ends[1] - ends[0]) * share if all(map(math.isfinite, ends)) else math.inf
    raise AssertionError("a rate lies within the sweep")


# --- the table ----------------------------------------------------------------------------------------------


def measured(setting: Setting, seed: int) -> dict[str, Any]:
    rows, tests = setting.sweep(seed), setting.tests(seed)
    best = min(rows, key=lowest)
    rate = suggestion(tests)
    at = setting.at(seed, rate)
    others = {f.__name__: math.exp(statistics.mean(math.log(f(t)) for t in tests)) for f in (valley, minimum)}
    return {
        "set": setting.entry.name, "seed": seed, "best": best["lr"], "loss": lowest(best), "lr": rate,
        "regret": lowest(at) / lowest(best) - 1, "held": held(at) / min(map(held, rows)) - 1,
        "hindsight": [lowest(r) / lowest(best) - 1 for r in rows],
        "last": last(at) / min(map(last, rows)) - 1,
        "diverged": at["diverged"], "points": [len(t.losses) for t in tests],
        **{name: between(rows, r, lowest) / lowest(best) - 1 for name, r in others.items()},
    }  # fmt: skip


def means(rows: list[dict[str, Any]], name: str) -> list[float]:
    """For each rate of a set's sweep, the mean of its loss over the seeds."""
    of_seeds = [[r["loss"] * (1 + regret) for regret in r["hindsight"]] for r in rows if r["set"] == name]
    return [statistics.mean(losses) for losses in zip(*of_seeds, strict=True)]


def of_mean(rows: list[dict[str, Any]], name: str) -> float:
    """A set's regret: the mean loss at the suggestions over that of the rate which is best by its mean."""
    suggested = statistics.mean(r["loss"] * (1 + r["regret"]) for r in rows if r["set"] == name)
    return suggested / min(means(rows, name)) - 1


def hindsight(rows: list[dict[str, Any]], name: str) -> list[float]:
    """Of each seed's sweep of a set, the regret at the rate whose mean over the seeds is lowest."""
    found = means(rows, name)
    return [r["hindsight"][found.index(min(found))] for r in rows if r["set"] == name]


def of_the_sets_best(rows: list[dict[str, Any]], name: str) -> list[float]:
    """Of each seed, the regret against that rate: luck is the same for both."""
    theirs = [1 + r["regret"] for r in rows if r["set"] == name]
    return [ours / (1 + best) - 1 for ours, best in zip(theirs, hindsight(rows, name), strict=True)]


def show(rows: list[dict[str, Any]], title: str) -> None:
    table = Table("set", "seed", "best of 13", "its loss", "suggested", "regret", "held", "of last epoch",
                  "diverges", "fastai valley", "fastai minimum", title=title)  # fmt: skip
    for r in rows:
        table.add_row(
            r["set"], str(r["seed"]), f"{r['best']:g}", f"{r['loss']:.4g}", f"{r['lr']:g}",
            f"{r['regret']:.1%}", f"{r['held']:.1%}", f"{r['last']:.0%}", "yes" if r["diverged"] else "no",
            f"{r['valley']:.1%}", f"{r['minimum']:.1%}",
        )  # fmt: skip
    console = Console(width=130)
    console.print(table)
    found = {name: [r[name] for r in rows] for name in ("regret", "held", "valley", "minimum")}
    sets = sorted({r["set"] for r in rows})
    found["regret of a set, by means over its seeds"] = [of_mean(rows, name) for name in sets]
    found["regret against the rate that is best for the set"] = [
        v for name in sets for v in of_the_sets_best(rows, name)
    ]
    found["best by the mean of the seeds"] = [v for name in sets for v in hindsight(rows, name)]
    for name, values in found.items():
        console.print(
            f"{name}: median {statistics.median(values):.1%} (goal {MEDIAN:.0%}), worst {max(values):.1%} "
            f"(goal {WORST:.0%})"
        )
    console.print(f"suggestions that diverge: {sum(r['diverged'] for r in rows)} of {len(rows)} (goal 0)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory with the .npz files")
    parser.add_argument("--cache", type=Path, help="keeps trainings and range tests here")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--optimizer", default="momentum", choices=sorted(HIGHEST))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300, help="of a sweep, or an epoch if that is more")
    parser.add_argument("--sweeps", type=int, default=2, help="of a range test")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = {n: options.data / f"{n}.npz" for n in options.sets if n != "digits" and options.data}
    registry = builtin.registry([], files)
    with tempfile.TemporaryDirectory() as scratch:
        cache = options.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        rows = [
            measured(
                Setting(
                    registry[name], options.optimizer, options.batch, options.steps, options.sweeps, cache
                ),
                seed,
            )
            for name in options.sets
            if name == "digits" or options.data
            for seed in options.seeds
        ]
    show(rows, f"{options.optimizer}, batches of {options.batch}, {options.sweeps} × {options.steps} steps")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
