"""Which share of the trials came out at least so good: the empirical distribution of the objective.

    {"metric": "val/loss", "direction": "minimize", "range": [0.35, 0.9], "shown": 2,
     "lines": [{"name": "coarse", "kind": 0, "dashed": false, "at": [0.4, 0.5], "share": [0.1, 0.2],
                "n": 20, "ended": 25}]}

`share[i]` of the `ended` trials have `at[i]` or better. Those that were pruned or diverged count as ended and
have no value, so a line ends below 1 where there are any; failed and cancelled trials say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith_service.charts.asked import Asked, described, figures
from tunesmith_service.columns import Columns
from tunesmith_service.ui.curves import robust_range


def view(asked: Asked) -> dict[str, Any]:
    """A line for each stage that has a value."""
    columns = asked.columns
    of_stages = [asked.keep & columns.trains & (columns.stage == i) for i in range(len(columns.stages))]
    most = asked.query.points // max(len(of_stages), 1)
    lines = [
        {"name": name, "kind": i % 8, "dashed": i >= 8} | line(columns, here, asked.sign, most)
        for i, (name, here) in enumerate(zip(columns.stages, of_stages, strict=True))
    ]
    return described(asked) | drawn(lines)


def drawn(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The lines that have a value, and what their axis shows."""
    told = [one for one in lines if one["n"]]
    values = [v for one in told for v in one["at"]]
    return {"lines": told, "range": robust_range(values), "shown": len(told)}


def line(columns: Columns, here: NDArray[np.bool_], sign: int, most: int) -> dict[str, Any]:
    """Of these trials; at most `most` places, evenly along the ranks, the best and the worst among them."""
    values = np.sort(sign * columns.value[here & ~np.isnan(columns.value)])
    ended = int((here & columns.is_state("complete", "pruned")).sum())
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), max(most, 2))).astype(np.int64))
    share = (kept + 1) / max(ended, 1)
    return {"at": figures(sign * values[kept]), "share": figures(share), "n": len(values), "ended": ended}
