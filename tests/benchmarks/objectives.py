"""What a search is tried on: functions whose least value is known, and tables of real trainings.

A table is a file of TaskSet (Metz et al. 2020, arXiv 2002.11887): 1,000 settings of an Adam with eight
hyperparameters, and their validation losses. A proposal is answered by its nearest row, each hyperparameter
on a log scale from 0 to 1; what diverged there diverges here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tunesmith_studies.space import Params, Space


@dataclass(frozen=True)
class Objective:
    """Attributes:
    value: of a point, to be made small; None: diverged.
    least: the lowest value that there is.
    scale: what a regret is divided by.
    floor: a regret, so divided, that counts as none; it is added to each before they are compared.
    """

    name: str
    space: Mapping[str, Any]
    value: Callable[[Params], float | None]
    least: float
    scale: float = 1.0
    floor: float = 0.0

    def regret(self, best: float) -> float:
        return (best - self.least) / self.scale + self.floor


def _plain(names: str, low: float, high: float) -> dict[str, Any]:
    return {name: {"low": low, "high": high} for name in names.split()}


def branin(p: Params) -> float:
    """Of the axes as they are mostly given, [-5, 10] and [0, 15]."""
    x, y = float(p["x"]), float(p["y"])
    bent = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return bent**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8],
               [17, 8, 0.05, 10, 0.1, 14]])  # fmt: skip
_P = np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
               [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]]) / 1e4  # fmt: skip


def hartmann6(p: Params) -> float:
    x = np.array([float(p[name]) for name in "abcdef"])
    return -float(_ALPHA @ np.exp(-(_A * (x - _P) ** 2).sum(axis=1)))


def rosenbrock(p: Params) -> float:
    x = np.array([float(p[name]) for name in "abcd"])
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


FUNCTIONS = (
    Objective(
        "Branin",
        {"x": {"low": -5.0, "high": 10.0}, "y": {"low": 0.0, "high": 15.0}},
        branin,
        0.39788735772973816,
    ),
    Objective("Hartmann6", _plain("a b c d e f", 0.0, 1.0), hartmann6, -3.322368011415515),
    Objective("Rosenbrock4", _plain("a b c d", -2.0, 2.0), rosenbrock, 0.0),
)

AXES = {
    "learning_rate": (1e-8, 10.0), "1-beta1": (1e-4, 1.0), "1-beta2": (1e-6, 1.0), "epsilon": (1e-10, 1e3),
    "l1": (1e-8, 10.0), "l2": (1e-8, 10.0), "linear_decay": (1e-7, 1e-4), "exponential_decay": (1e-6, 1e-3),
}  # fmt: skip
"""The ranges that TaskSet drew from, on log scales, in the order of its columns."""

FLOOR = 0.01
"""A hundredth of the way from the median of a table's rows down to its best: there are 1,000 losses in it."""


def tables(directory: Path) -> list[Objective]:
    return [_table(file) for file in sorted(directory.glob("taskset_*.npz"))]


def _table(file: Path) -> Objective:
    with np.load(file) as kept:
        settings, losses = kept["hp"].astype(float), kept["valid_loss"][:, -1].astype(float)
    settings[:, 1:3] = 1 - settings[:, 1:3]
    lows, highs = np.log(np.array(list(AXES.values()))).T
    rows = (np.log(settings) - lows) / (highs - lows)
    space = {name: {"low": low, "high": high, "log": True} for name, (low, high) in AXES.items()}
    places = Space.model_validate(space)

    def nearest(p: Params) -> float | None:
        asked = np.array([places[name].position(p[name]) for name in AXES])  # type: ignore[arg-type]
        loss = float(losses[((rows - asked) ** 2).sum(axis=1).argmin()])
        return loss if math.isfinite(loss) else None

    finite = losses[np.isfinite(losses)]
    name = file.stem.removeprefix("taskset_imdb_")
    return Objective(
        name, space, nearest, float(finite.min()), float(np.median(finite) - finite.min()), FLOOR
    )
