"""Whether suggestions come as fast as Optuna's, and are as good, although they are drawn ahead as drafts.

    python tests/benchmarks/suggestions.py [--only planning claims regret] [--data DIR] [--pairs 1008]
    nice python tests/benchmarks/suggestions.py --only regret --data DIR --kept FILE --jobs 2

planning: how long a fresh proposal of TPE takes at 100, 1,000 and 10,000 finished trials, beside Optuna in
memory, and how many a second there are while 64 slots wait (`fresh_proposals.py`).
claims: what a claim waits for when a draft is ready, and the share of stale drafts (`ready_drafts.py`).
regret: searches with drafts beside searches that ask at each claim, eight workers each, in virtual time, the
same seeds (`regret.py`), on three functions and, with --data, on the TaskSet tables (taskset_*.npz) of that
directory. Printed is the mean of log(our regret / theirs) over all pairs and its 95 % interval by Student's
t. A pair takes about 2.5 s of one core, so 1,008 about 45 minutes; nothing in it measures time. 504 give an
interval of ±0.09, about as wide as the bound. With --kept a pair is kept in that file once it is done: a run
that was broken off goes on, and one with more --pairs adds to it.

Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

import fresh_proposals  # noqa: E402
import numpy as np  # noqa: E402
import optuna  # noqa: E402
import ready_drafts  # noqa: E402
from interleaved import add_options  # noqa: E402
from objectives import FUNCTIONS, Objective, tables  # noqa: E402
from regret import Latency, Pair, pair  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy import stats  # noqa: E402

PARTS = ("planning", "claims", "regret")
BOUND = 0.1
ENOUGH = 500


@cache
def objectives(data: Path | None) -> dict[str, Objective]:
    return {one.name: one for one in (*FUNCTIONS, *(tables(data) if data is not None else ()))}


def one_pair(data: Path | None, name: str, seed: int, trial_seconds: float) -> Pair:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return pair(objectives(data)[name], seed, trial_seconds, Latency())


def pairs(options: argparse.Namespace) -> list[Pair]:
    """Those that --kept has, and those that it lacks."""
    names = list(objectives(options.data))
    wanted = list(product(range(math.ceil(options.pairs / len(names))), names))
    kept = options.kept or Path(tempfile.mkdtemp()) / "pairs"
    how = {"trial_seconds": options.trial_seconds, **asdict(Latency())}
    found = {(p.seed, p.objective): p for p in read(kept, how)}
    with ProcessPoolExecutor(options.jobs) as pool, kept.open("a") as file:
        todo = [place for place in wanted if place not in found]
        for made in pool.map(one_pair, *zip(*_arguments(options, todo), strict=True)) if todo else ():
            found[made.seed, made.objective] = made
            file.write(json.dumps({"how": how, **asdict(made)}) + "\n")
            file.flush()
            print(f"{len(found)} of {len(wanted)} pairs", file=sys.stderr, flush=True)
    return [found[place] for place in wanted]


def _arguments(options: argparse.Namespace, todo: Sequence[tuple[int, str]]) -> list[tuple[Any, ...]]:
    return [(options.data, name, seed, options.trial_seconds) for seed, name in todo]


def read(kept: Path, how: dict[str, float]) -> list[Pair]:
    """Pairs of an earlier run, if they were made the same way."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    return [Pair(**{k: v for k, v in line.items() if k != "how"}) for line in lines if line["how"] == how]


def show(found: Sequence[Pair]) -> list[str]:
    """Returns: what missed the bound."""
    table = Table("objective", "pairs", "mean log-ratio", "95 % interval", "stale drafts", "waited ms")
    groups = {
        name: [p for p in found if p.objective == name] for name in dict.fromkeys(p.objective for p in found)
    }
    for name, group in {**groups, "all": found}.items():
        mean, low, high = interval([p.ratio for p in group])
        stale, waited = (np.mean([getattr(p, key) for p in group]) for key in ("stale", "waited_ms"))
        table.add_row(
            name,
            f"{len(group)}",
            f"{mean:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            f"{stale:.0%}",
            f"{waited:.0f}",
        )
    Console(width=110).print(table)
    few = f"; it takes {ENOUGH} pairs to say so" if len(found) < ENOUGH else ""
    print(f"upper end of the interval: {high:+.3f} (goal: at most {BOUND:g}){few}")
    return [f"regret: the interval's upper end is {high:+.3f}"] if high > BOUND and not few else []


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t."""
    mean, error = float(np.mean(ratios)), float(stats.sem(ratios)) if len(ratios) > 1 else math.inf
    half = float(stats.t.ppf(0.975, max(len(ratios) - 1, 1))) * error
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser, seconds=120.0)
    parser.set_defaults(rounds=30)
    parser.add_argument("--trials", type=int, default=2000, help="of the study that is claimed from")
    parser.add_argument("--data", type=Path, help="directory of taskset_*.npz")
    parser.add_argument("--pairs", type=int, default=1008, help="at least so many, as many of each objective")
    parser.add_argument(
        "--trial-seconds", type=float, default=0.5, help="of a trial in virtual time, on average"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that search")
    parser.add_argument("--kept", type=Path, help="where pairs are kept once they are done")
    options = parser.parse_args()
    parts = options.only or PARTS
    found: dict[str, Any] = {}
    missed: list[str] = []
    if "planning" in parts:
        found["planning"], late = fresh_proposals.measure(options.rounds)
        missed += late
    if "claims" in parts:
        claims, late = ready_drafts.measure(options.home, options.trials, options.seconds)
        found["claims"] = asdict(claims)
        missed += late
    if "regret" in parts:
        if options.data is None:
            print("regret: on the functions alone, for want of --data")
        made = pairs(options)
        found["regret"] = [asdict(one) for one in made]
        missed += show(made)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
