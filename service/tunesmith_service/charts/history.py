"""The objective of every trial, and the best so far: over trials, time, or the slot time spent.

    {"metric": "val/loss", "direction": "minimize", "x": "trial", "stages": ["coarse", "refine"],
     "number": [0, 1], "at": [0, 1], "value": [0.9, 0.5], "stage": [0, 0], "state": ["complete", …],
     "best": {"at": [0, 1], "value": [0.9, 0.5], "number": [0, 1]},
     "infeasible": {"at": […], "number": […]}, "bands": [{"stage": "coarse", "from": 0, "to": 12}],
     "range": [0.4, 0.9], "share": 100, "shown": 2, "total": 2}

`at` counts trials by number, seconds since the first began, or hours that slots have trained until the trial
ended. `share` is how many percent of the trials, the best, are there. `range` is where the bulk lies; what
runs away does not set it. `infeasible` are trials that diverged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_service.charts.asked import Asked, described, figures, thinned
from tunesmith_service.columns import STATES, Columns, Floats
from tunesmith_service.ui.curves import robust_range


def view(asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    place = _place(columns, asked.query.x)
    here = asked.keep & columns.trains & ~np.isnan(place)
    drawn = np.flatnonzero(here & ~np.isnan(columns.value))
    drawn = drawn[np.argsort(place[drawn], kind="stable")]
    drawn = drawn[_among_the_best(asked.sign * columns.value[drawn], asked.query.best)]
    lost = np.flatnonzero(here & columns.diverged)
    best = _best(asked.sign * columns.value[drawn])
    kept = drawn[thinned(place[drawn], asked.query.points, columns.value[drawn])]
    lost = lost[thinned(place[lost], asked.query.points // 4, place[lost])]
    return {
        **described(asked),
        "x": asked.query.x,
        "stages": list(columns.stages),
        "number": kept.tolist(),
        "at": figures(place[kept]),
        "value": figures(columns.value[kept]),
        "stage": columns.stage[kept].tolist(),
        "state": [STATES[s] for s in columns.state[kept]],
        "best": {
            "number": drawn[best].tolist(),
            "at": figures(place[drawn[best]]),
            "value": figures(columns.value[drawn[best]]),
        },
        "infeasible": {"number": lost.tolist(), "at": figures(place[lost])},
        "bands": _bands(columns, place),
        "range": robust_range(columns.value[drawn].tolist()),
        "share": asked.query.best,
        "shown": len(kept),
        "total": len(drawn),
    }


def _place(columns: Columns, along: str) -> Floats:
    """Where each trial stands along the axis; NaN for what has not ended, unless trials are counted."""
    if along == "trial":
        return np.arange(len(columns), dtype=np.float64)
    first = np.nanmin(columns.started_us) if np.isfinite(columns.started_us).any() else 0.0
    if along == "time":
        return np.asarray((columns.ended_us - first) / 1e6)
    order = np.argsort(columns.ended_us, kind="stable")  # NaN last
    spent = np.full(len(columns), np.nan)
    spent[order] = np.cumsum(np.nan_to_num(columns.seconds[order])) / 3600
    spent[np.isnan(columns.ended_us)] = np.nan
    return spent


def _among_the_best(signed: Floats, percent: int) -> NDArray[np.int64]:
    """Places of the lowest so many percent, at least one, in their order."""
    kept = max(len(signed) * percent // 100, 1)
    return np.sort(np.argsort(signed, kind="stable")[:kept])


def _best(signed: Floats) -> NDArray[np.int64]:
    """Places at which the best so far gets better."""
    if not len(signed):
        return np.empty(0, np.int64)
    so_far = np.minimum.accumulate(signed)
    return np.flatnonzero(np.diff(so_far, prepend=np.inf) < 0)


def _bands(columns: Columns, place: Floats) -> list[dict[str, Any]]:
    """Where the trials of each stage lie; stages whose trials have not ended have none yet."""
    found = []
    for i, name in enumerate(columns.stages):
        here = place[(columns.stage == i) & ~np.isnan(place)]
        if len(here):
            found.append({"stage": name, "from": float(here.min()), "to": float(here.max())})
    return found
