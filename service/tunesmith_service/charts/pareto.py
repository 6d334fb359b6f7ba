"""What a value costs: the objective of each trial against the slot time that it took, and the trials that no
other beats in both.

    {"metric": "val/loss", "direction": "minimize", "stages": ["coarse", "refine"],
     "number": [0, 1], "seconds": [12.0, 40.0], "value": [0.9, 0.5], "stage": [0, 0],
     "front": {"number": [0, 1], "seconds": [12.0, 40.0], "value": [0.9, 0.5]},
     "range": [0.4, 0.9], "shown": 2, "total": 2}

`seconds` go from a trial's first start to its end. One that goes on from another's snapshot cost what that
took as well. `front` ascends in cost and gets better with each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_service.charts.asked import Asked, described, figures, thinned
from tunesmith_service.columns import Columns, Floats
from tunesmith_service.ui.curves import robust_range


def view(asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    cost = costs(columns)
    drawn = np.flatnonzero(asked.keep & columns.trains & ~np.isnan(columns.value) & ~np.isnan(cost))
    drawn = drawn[np.lexsort((asked.sign * columns.value[drawn], cost[drawn]))]
    most = asked.query.points // 2
    front = drawn[_front(asked.sign * columns.value[drawn])]
    front = front[thinned(cost[front], most, columns.value[front])]
    kept = drawn[thinned(cost[drawn], most, columns.value[drawn])]
    return {
        **described(asked),
        "stages": list(columns.stages),
        "number": kept.tolist(),
        "seconds": figures(cost[kept]),
        "value": figures(columns.value[kept]),
        "stage": columns.stage[kept].tolist(),
        "front": {
            "number": front.tolist(),
            "seconds": figures(cost[front]),
            "value": figures(columns.value[front]),
        },
        "range": robust_range(columns.value[drawn].tolist()),
        "shown": len(kept),
        "total": len(drawn),
    }


def costs(columns: Columns) -> Floats:
    """Seconds of each trial and of those from whose snapshots it goes on; NaN until all have ended."""
    found = np.array(columns.seconds)
    for i in np.flatnonzero(columns.start >= 0):  # a trial's number is higher than its parent's
        found[i] += found[columns.start[i]]
    return found


def _front(signed: Floats) -> NDArray[np.int64]:
    """Places at which the values, which come in order of cost, get better than all before."""
    if not len(signed):
        return np.empty(0, np.int64)
    before = np.minimum.accumulate(np.concatenate(([np.inf], signed[:-1])))
    return np.flatnonzero(signed < before)
