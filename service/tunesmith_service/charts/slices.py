"""The objective against each hyperparameter by itself, and the best of each part of its range.

    {"metric": "val/loss", "direction": "minimize", "range": [0.35, 0.9], "shown": 2, "total": 2,
     "slices": [{"axis": {"name": "lr", …}, "number": [0, 1], "at": [0.1, 0.6], "value": [0.9, 0.4],
                 "best": {"at": [0.1, 0.6], "value": [0.9, 0.4]}, "lost": {"number": [2], "at": [0.95]}}]}

Slices come in order of importance; places are on each axis's own scale, so that 0 and 1 are the ends of the
space. `lost` diverged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_service.charts.asked import Asked, described, figures
from tunesmith_service.charts.explored import Parameter, drawn, parameters
from tunesmith_service.ui.curves import robust_range

MOST_BUCKETS = 20


def view(asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    found = parameters(asked)
    trials = drawn(asked, max(asked.query.points // max(len(found), 1), 10))
    trials = trials[asked.keep[trials]]
    picked = asked.keep & columns.trains & ~np.isnan(columns.value)
    return {
        **described(asked),
        "range": robust_range(columns.value[picked].tolist()),
        "slices": [_slice(asked, p, trials) for p in found],
        "shown": len(trials),
        "total": int((asked.keep & columns.trains & (~np.isnan(columns.value) | columns.diverged)).sum()),
    }


def _slice(asked: Asked, parameter: Parameter, trials: NDArray[np.int64]) -> dict[str, Any]:
    columns, place = asked.columns, parameter.place
    here = trials[~np.isnan(place[trials])]
    marks, lost = here[~np.isnan(columns.value[here])], here[np.isnan(columns.value[here])]
    return {
        "axis": parameter.axis,
        "number": marks.tolist(),
        "at": figures(place[marks]),
        "value": figures(columns.value[marks]),
        "best": _best(asked, parameter, marks),
        "lost": {"number": lost.tolist(), "at": figures(place[lost])},
    }


def _best(asked: Asked, parameter: Parameter, marks: NDArray[np.int64]) -> dict[str, Any]:
    """The best trial of each bucket of the range, from the left; as many buckets as trials in one, about."""
    place = parameter.place[marks]
    many = min(max(math.isqrt(len(marks)), 5), MOST_BUCKETS)
    buckets = np.clip((place * many).astype(np.int64), 0, many - 1)
    order = np.lexsort((asked.sign * asked.columns.value[marks], buckets))
    first = order[np.flatnonzero(np.diff(buckets[order], prepend=-1))]
    first = first[np.argsort(place[first], kind="stable")]
    return {"at": figures(place[first]), "value": figures(asked.columns.value[marks[first]])}
