"""Two hyperparameters against each other, a layer a stage: what was tried, as it was measured.

    {"metric": "val/loss", "direction": "minimize", "choices": ["lr", "weight_decay", "dropout"],
     "x": {"name": "lr", "log": true, "labels": [{"at": 0.0, "text": "1e-4"}]}, "y": {…},
     "range": [0.35, 0.9], "best": 55, "shown": 12, "total": 12,
     "layers": [{"stage": "coarse", "tiles": true,
                 "number": [3], "x": [0.25], "y": [0.5], "value": [0.61], "count": [2],
                 "xs": ["0.001"], "ys": ["1e-4"], "box": [[0.1, 0.4, 0.3, 0.7]]}]}

Places are on the axes' own scales, see `axes`. Grids are tiles, whose `box` (left, right, bottom, top)
reaches half way to the neighbours; all else are marks. Trials of a stage at one place are one, with the
best's number and value and their count; a value of None means that none of them has one: they diverged.
Nothing is interpolated, and what was not tried stays empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_service.charts.asked import Asked, described, figures
from tunesmith_service.charts.axes import Axis, axis, varied_numbers
from tunesmith_service.columns import Floats
from tunesmith_service.errors import Unprocessable
from tunesmith_service.ui import formats
from tunesmith_service.ui.curves import robust_range

GRIDS = ("coarse_grid", "refine_grid")


def view(asked: Asked) -> dict[str, Any]:
    columns, query = asked.columns, asked.query
    choices = varied_numbers(asked.study.spec["space"], columns)
    for name in (query.across, query.up):
        if name and name not in columns.numbers:
            listed = ", ".join(choices)
            raise Unprocessable(f"{name!r} is no number that trials here have; there are {listed}")
    names = _pair(choices, query.across, query.up)
    empty = {**described(asked), "choices": choices, "layers": [], "best": None, "range": None}
    if names is None:
        return empty | {"x": None, "y": None, "shown": 0, "total": 0}
    x, y = (axis(asked.study.spec["space"], columns, name) for name in names)
    places = x.places(columns.numbers[x.name]), y.places(columns.numbers[y.name])
    here = asked.keep & columns.trains & ~np.isnan(places[0]) & ~np.isnan(places[1])
    here &= ~np.isnan(columns.value) | columns.diverged
    trials = {s: np.flatnonzero(here & (columns.stage == i)) for i, s in enumerate(columns.stages)}
    trials = {stage: theirs for stage, theirs in trials.items() if len(theirs)}
    most = asked.query.points // max(len(trials), 1)
    layers = [_layer(asked, stage, theirs, (x, y), places, most=most) for stage, theirs in trials.items()]
    measured = columns.value[here & ~np.isnan(columns.value)]
    ranked = np.flatnonzero(here & ~np.isnan(columns.value))
    best = int(ranked[np.argmin(asked.sign * columns.value[ranked])]) if len(ranked) else None
    return empty | {
        "x": x.to_json(),
        "y": y.to_json(),
        "layers": layers,
        "best": best,
        "range": robust_range(measured.tolist()),
        "shown": sum(len(layer["number"]) for layer in layers),
        "total": int(here.sum()),
    }


def _pair(choices: list[str], across: str, up: str) -> tuple[str, str] | None:
    """What was asked for, else the first of the choices; None where there are not two."""
    x = across or next((n for n in choices if n != up), "")
    y = up or next((n for n in choices if n != x), "")
    return (x, y) if x and y and x != y else None


def _layer(
    asked: Asked,
    stage: str,
    trials: NDArray[np.int64],
    axes: tuple[Axis, Axis],
    places: tuple[Floats, Floats],
    *,
    most: int,
) -> dict[str, Any]:
    """One stage's trials, those at one place as one; at most so many places."""
    x, y = places[0][trials], places[1][trials]
    signed = asked.sign * asked.columns.value[trials]
    order = np.lexsort((np.where(np.isnan(signed), np.inf, signed), y, x))  # the best of a place first
    trials, x, y = trials[order], x[order], y[order]
    new = np.ones(len(trials), np.bool_)
    new[1:] = (np.diff(x) != 0) | (np.diff(y) != 0)
    first = np.flatnonzero(new)
    count = np.diff(np.append(first, len(trials)))
    kept = _most(asked, trials[first], most)
    first, count = first[kept], count[kept]
    best, x, y = trials[first], x[first], y[first]
    tiles = _kind(asked, stage) in GRIDS
    return {
        "stage": stage,
        "tiles": tiles,
        "number": best.tolist(),
        "x": figures(x),
        "y": figures(y),
        "value": figures(asked.columns.value[best]),
        "count": count.tolist(),
        "xs": [formats.number(float(v), pad=False) for v in asked.columns.numbers[axes[0].name][best]],
        "ys": [formats.number(float(v), pad=False) for v in asked.columns.numbers[axes[1].name][best]],
        "box": _boxes(x, y) if tiles and len(x) else [],
    }


def _most(asked: Asked, trials: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Which of these to draw: all, or the better half of the marks and of the rest every so many-th."""
    if len(trials) <= most:
        return np.arange(len(trials))
    signed = asked.sign * asked.columns.value[trials]
    ranked = np.argsort(np.where(np.isnan(signed), np.inf, signed), kind="stable")
    best, rest = ranked[: most // 2], ranked[most // 2 :]
    return np.sort(np.concatenate((best, rest[:: -(-len(rest) // (most - most // 2))])))


def _kind(asked: Asked, stage: str) -> str:
    return next((s["kind"] for s in asked.study.spec["stages"] if s.get("name") == stage), "")


def _boxes(x: Floats, y: Floats) -> list[list[float]]:
    """Of each cell left, right, bottom and top: half way to the next value that the grid has."""
    across, up = _halves(x), _halves(y)
    return [[*across[float(a)], *up[float(b)]] for a, b in zip(x, y, strict=True)]


def _halves(places: Floats) -> dict[float, tuple[float, float]]:
    values = np.unique(places)
    if len(values) == 1:
        return {float(values[0]): (float(values[0]) - 0.08, float(values[0]) + 0.08)}
    middle = (values[1:] + values[:-1]) / 2
    left = np.concatenate(([2 * values[0] - middle[0]], middle))
    right = np.concatenate((middle, [2 * values[-1] - middle[-1]]))
    return {
        float(v): (float(f"{a:.6g}"), float(f"{b:.6g}")) for v, a, b in zip(values, left, right, strict=True)
    }
