"""Parallel axes: one line a trial through its hyperparameters to its objective.

    {"metric": "val/loss", "direction": "minimize",
     "axes": [{"name": "lr", "log": true, "zero": false, "whole": false, "low": 1e-3, "high": 1.0,
               "labels": [{"at": 0.0, "text": "0.001"}]}, {"name": "optimizer", "words": ["sgd", "adam"], …}],
     "range": [0.35, 0.9], "number": [4], "lines": [[0.3, 1.0]], "value": [0.41], "on": [true],
     "shown": 1, "picked": 1, "total": 1}

Axes come in order of importance. A line has a place from 0 to 1 on each axis, None where the trial has no
such hyperparameter. `on`: the filter picks it; the others stand behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tunesmith_service.charts.asked import Asked, described, figures
from tunesmith_service.charts.explored import drawn, parameters
from tunesmith_service.ui.curves import robust_range

MOST_AXES = 10


def view(asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    axes = parameters(asked)[:MOST_AXES]
    valued = columns.trains & ~np.isnan(columns.value)
    lines = drawn(asked, asked.query.points)
    lines = lines[valued[lines]]
    places = [figures(p.place[lines]) for p in axes]
    return {
        **described(asked),
        "axes": [p.axis for p in axes],
        "range": robust_range(columns.value[valued].tolist()),
        "number": lines.tolist(),
        "lines": [list(line) for line in zip(*places, strict=True)],
        "value": figures(columns.value[lines]),
        "on": asked.keep[lines].tolist(),
        "shown": len(lines),
        "picked": int((asked.keep & valued).sum()),
        "total": int(valued.sum()),
    }
