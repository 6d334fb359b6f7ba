"""What `economy.py` prints: epochs to the goal, paired differences, what was had when, winners anew."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from tunesmith_studies.statistics import interval

Run: TypeAlias = dict[str, Any]
Runs: TypeAlias = Mapping[tuple[str, str, int], Run]
Trail: TypeAlias = list[tuple[float, float]]
"""(epochs trained by then, lowest loss had by then), in order."""

AT = (50, 100, 200, 400, 600)
GOAL = 100
"""Of the default recipe in the median over the sets."""


def of_trials(run: Run) -> Iterator[tuple[float, float]]:
    """What a search has by the objective of its trials that ended well."""
    spent, best = 0.0, math.inf
    for trial in run["trials"]:
        spent += trial["epochs"]
        if trial["losses"] and trial["value"] is not None:
            best = min(best, trial["value"])
            yield spent, best


def of_epochs(run: Run) -> Iterator[tuple[float, float]]:
    """What it has by any epoch of any training."""
    spent, best = 0.0, math.inf
    for trial in run["trials"]:
        for n, loss in enumerate(trial["losses"], start=1):
            if loss < best:
                best = loss
                yield spent + n, best
        spent += trial["epochs"]


def had(trail: Trail, epochs: float) -> float:
    return min((best for spent, best in trail if spent <= epochs), default=math.inf)


def reached(trail: Trail, goal: float, budget: float) -> float:
    """Epochs until a loss of at most `goal`; `budget` if that takes longer."""
    return min(next((spent for spent, best in trail if best <= goal), budget), budget)


def show(runs: Runs, budget: int, ours: str = "standard") -> None:
    console = Console(width=190)
    for title, read in (
        ("By the objective of trials that ended well", of_trials),
        ("By the lowest loss of any epoch of any training", of_epochs),
    ):
        console.rule(title)
        medians = []
        for data in dict.fromkeys(data for data, _, _ in runs):
            trails: dict[str, dict[int, Trail]] = {}
            for (d, method, seed), run in runs.items():
                if d == data:
                    trails.setdefault(method, {})[seed] = list(read(run))
            if "random" not in trails:
                console.print(f"{data}: no random search, so no goal")
                continue
            goal = statistics.median(had(t, budget) for t in trails["random"].values())
            fresh = {m: _winners(runs, data, m) for m in trails}
            console.print(_table(data, trails, goal, budget, fresh))
            if ours in trails:
                medians.append(statistics.median(reached(t, goal, budget) for t in trails[ours].values()))
        if medians:
            console.print(
                f"{ours}: {', '.join(f'{m:.0f}' for m in medians)} epochs; median of the sets "
                f"{statistics.median(medians):.0f}, asked for at most {GOAL}\n"
            )


def _table(
    data: str,
    trails: Mapping[str, Mapping[int, Trail]],
    goal: float,
    budget: int,
    winners: Mapping[str, tuple[str, str]],
) -> Table:
    seeds = len(trails["random"])
    table = Table(
        "method", "seeds", "epochs", "each", "less TPE+Median's", *(f"has at {n}" for n in AT),
        "winner", "anew",
        title=f"{data}: epochs until {goal:.4f}, what random search has after {budget} ({seeds} seeds)",
    )  # fmt: skip
    rivals = {s: reached(t, goal, budget) for s, t in trails.get("tpe_median", {}).items()}
    for method, own in trails.items():
        epochs = {seed: reached(t, goal, budget) for seed, t in own.items()}
        table.add_row(
            method, str(len(own)), f"{statistics.median(epochs.values()):.0f}",
            " ".join(f"{n:.0f}" if n < budget else "–" for n in epochs.values()),
            _difference(epochs, rivals) if method != "tpe_median" else "",
            *(f"{statistics.median(had(t, n) for t in own.values()):.3f}" for n in AT),
            *winners[method],
        )  # fmt: skip
    return table


def _difference(epochs: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """Mean over common seeds of how many epochs more it took, with its 95 % t interval."""
    differences = [epochs[seed] - theirs[seed] for seed in sorted(epochs.keys() & theirs.keys())]
    if len(differences) < 2:
        return ""
    low, high = interval(differences)
    return f"{(low + high) / 2:+.0f} [{low:+.0f}, {high:+.0f}]"


def _winners(runs: Runs, data: str, method: str) -> tuple[str, str]:
    """What the searches said of their winners, and what fresh seeds of them give, both on average."""
    own = [run for (d, m, _), run in runs.items() if (d, m) == (data, method)]
    fresh = [statistics.mean(run["fresh"]) for run in own if "fresh" in run]
    said = statistics.mean(run["claimed"] for run in own)
    return f"{said:.3f}", f"{statistics.mean(fresh):.3f}" if fresh else "–"
