"""What the curve charts draw, as JSON small enough for a screen.

    {"metric": "val/loss", "metrics": ["train/loss", "val/loss"], "range": [0.35, 2.31],
     "axis": {"name": "epoch", "log": false}, "marks": [],
     "curves": [{"label": "#55", "href": "/ui/…", "about": "refine", "state": "complete",
                 "role": "", "rank": 0, "value": 0.353, "steps": [1, 2], "values": [0.9, 0.353],
                 "lost": []}]}

`axis` is what `steps` count: epochs, optimizer steps, or rates on a logarithmic axis; `marks` are
places on it with a name, such as `{"at": 0.03, "label": "suggested 0.03"}`. `range` is what the value
axis shows by default; a few runaway points do not set it. `lost` holds steps whose value was not finite;
they are drawn as crosses at the edge. `rank` is 0 for the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MOST_POINTS = 2000
"""Points of one curve that a screen can show."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What a chart's steps count."""

    name: str
    log: bool = False


EPOCHS, STEPS, RATES = Axis("epoch"), Axis("step"), Axis("learning rate", log=True)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on the axis that is worth a name."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: (step, value) in order of step, values as reported."""

    label: str
    points: Sequence[tuple[float, float]]
    href: str = ""
    about: str = ""
    state: str = ""
    role: str = ""  # "train" and "val" have colours of their own; others are coloured by rank
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    label: str
    href: str
    about: str
    state: str
    role: str
    rank: int | None
    value: float | None
    steps: list[float]
    values: list[float]
    lost: list[float]


def decimate(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` of the points: the lowest and the highest of each bucket, first and last kept.

    Unlike a mean, this loses no spike. `most` is at least 4.
    """
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    buckets = (most - 2) // 2
    kept = [points[0]]
    for b in range(buckets):
        bucket = inner[b * len(inner) // buckets : (b + 1) * len(inner) // buckets]
        ends = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept.extend(sorted(ends))
    return [*kept, points[-1]]


def robust_range(values: Sequence[float]) -> tuple[float, float] | None:
    """Bounds that show the bulk: the extremes, or 1.5 times the middle 90 % beyond it if they run away."""
    if not values:
        return None
    ordered = sorted(values)
    low, high = (ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in (0.05, 0.95))
    reach = 1.5 * (high - low)
    bottom, top = max(ordered[0], low - reach), min(ordered[-1], high + reach)
    if bottom == top:
        pad = abs(bottom) * 0.05 or 1.0
        return bottom - pad, top + pad
    return bottom, top


def _drawn(line: Line) -> Drawn:
    kept = decimate([p for p in line.points if math.isfinite(p[1])])
    return Drawn(
        label=line.label, href=line.href, about=line.about, state=line.state, role=line.role, rank=line.rank,
        value=kept[-1][1] if kept else None,
        steps=[step for step, _ in kept],
        values=[value for _, value in kept],
        lost=[step for step, value in line.points if not math.isfinite(value)][:20],
    )  # fmt: skip


def view(
    metric: str,
    metrics: Sequence[str],
    lines: Sequence[Line],
    *,
    axis: Axis = EPOCHS,
    marks: Sequence[Mark] = (),
) -> dict[str, Any]:
    """The JSON of the module's head."""
    curves = [_drawn(line) for line in lines]
    shown = robust_range([v for c in curves for v in c.values])
    return {
        "metric": metric,
        "metrics": list(metrics),
        "range": shown,
        "axis": asdict(axis),
        "marks": [asdict(mark) for mark in marks],
        "curves": [asdict(c) for c in curves if c.values or c.lost],
    }
