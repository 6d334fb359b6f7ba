"""Measurements that take turns, so that each round finds the machine in about one state; ratios are of one
round, and what counts is their median."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

Measure = Callable[[], float]
"""More is better."""


@dataclass(frozen=True)
class Goal:
    """What one measures over another, at least."""

    ours: str
    theirs: str
    ratio: float


def add_options(parser: argparse.ArgumentParser, *, seconds: float) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds, help="of each measurement")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of what is measured")
    parser.add_argument("--home", type=Path, help="where everything lies; default: a temporary directory")
    parser.add_argument("--json", type=Path, help="also write all figures here")


def take_turns(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            found[name].append(measure())
            print(f"round {number}: {name}: {found[name][-1]:.4g}", file=sys.stderr, flush=True)
    return dict(found)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies that these are drawn around, with at least 95 % certainty, by the sign test.

    Of fewer than six values, that is the whole range with less."""
    ordered, count = sorted(values), len(values)
    out = 0  # values left out at either end
    while 2 * sum(math.comb(count, k) for k in range(out + 2)) <= 0.05 * 2**count:
        out += 1
    return ordered[out], ordered[count - 1 - out]


def report(
    found: Mapping[str, Sequence[float]], unit: str, goals: Sequence[Goal], into: Path | None
) -> list[str]:
    """Print a table and ratios. Returns: the goals that were missed."""
    console, table = Console(width=110), Table("", f"{unit}, median", "lowest to highest")
    for name, values in found.items():
        table.add_row(name, f"{statistics.median(values):,.4g}", f"{min(values):,.4g} to {max(values):,.4g}")
    console.print(table)
    missed = []
    for goal in goals:
        if goal.ours in found and goal.theirs in found:
            ratios = [a / b for a, b in zip(found[goal.ours], found[goal.theirs], strict=True)]
            ratio, (low, high) = statistics.median(ratios), interval(ratios)
            said = (
                f"{goal.ours} over {goal.theirs}: {ratio:.3g}, between {low:.3g} and {high:.3g} "
                f"(goal: at least {goal.ratio:.3g})"
            )
            console.print(said)
            missed += [said] if ratio < goal.ratio else []
    if into is not None:
        into.write_text(json.dumps(found, indent=1) + "\n")
    return missed
