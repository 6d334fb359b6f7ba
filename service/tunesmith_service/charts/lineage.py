"""Which trial went on from which: the tree of restarts, promotions and branches.

    {"metric", "direction", "unit": "epoch", "number": [41, 55], "parent": [-1, 0], "depth": [0, 1],
     "value": [0.36, 0.353], "state": ["complete", …], "stage": ["trunk", …], "step": [null, 15],
     "changed": ["", "weight_decay 0.0002 → 0.00021"], "shown": 2, "total": 2}

Trials stand depth first, the best child first; `parent` is a place in the columns, `step` the snapshot's.
Only trials with a parent or a child are part of it: the best `MOST`, and all that those came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Connection, select

from tunesmith_service.charts.asked import Asked, described, figures
from tunesmith_service.columns import STATES, Columns
from tunesmith_service.db import batch, rows
from tunesmith_service.tables import trials
from tunesmith_service.ui import formats

MOST = 500
DEEPEST = 64


def view(asked: Asked) -> dict[str, Any]:
    columns = asked.columns
    child = (columns.start >= 0) & (columns.start < len(columns))
    parents = np.zeros(len(columns), np.bool_)
    parents[columns.start[child]] = True
    part = np.flatnonzero((child | parents) & asked.keep)
    signed = np.where(np.isnan(columns.value), np.inf, asked.sign * columns.value)
    best = part[np.lexsort((part, signed[part]))][:MOST]
    return drawn(asked, kept=_with_ancestors(columns, best), total=len(part))


def around(asked: Asked, number: int) -> dict[str, Any]:
    """A trial's own corner of the tree: all it came from, its siblings and its children, the best first."""
    columns = asked.columns
    if number >= len(columns):
        return drawn(asked, kept=[], total=0)
    parent = int(columns.start[number])
    children = np.flatnonzero(columns.start == number)
    siblings = np.flatnonzero(columns.start == parent) if parent >= 0 else np.empty(0, np.int64)
    total = len(children) + len(siblings)
    signed = np.where(np.isnan(columns.value), np.inf, asked.sign * columns.value)
    near = [group[np.lexsort((group, signed[group]))][:12] for group in (children, siblings)]
    kept = _with_ancestors(columns, np.concatenate((np.array([number]), *near)))
    return drawn(asked, kept=kept if total or parent >= 0 else [], total=total) | {"here": number}


def _with_ancestors(columns: Columns, wanted: NDArray[np.int64]) -> list[int]:
    kept: dict[int, None] = {}
    for number in wanted.tolist():
        at, depth = number, 0
        while 0 <= at < len(columns) and at not in kept and depth < DEEPEST:
            kept[at] = None
            at, depth = int(columns.start[at]), depth + 1
    return list(kept)


def drawn(asked: Asked, *, kept: Iterable[int], total: int) -> dict[str, Any]:
    """The columns of the view for these trials."""
    columns = asked.columns
    order, depth = _depth_first(asked, set(kept))
    place = {number: i for i, number in enumerate(order)}
    steps = _steps(asked.conn, asked.study.id, [n for n in order if columns.start[n] >= 0])
    at = np.array(order, np.int64)
    return {
        **described(asked),
        "number": order,
        "parent": [place.get(int(columns.start[n]), -1) for n in order],
        "from": [int(columns.start[n]) if columns.start[n] >= 0 else None for n in order],
        "depth": depth,
        "value": figures(columns.value[at]),
        "state": [STATES[columns.state[n]] for n in order],
        "stage": [columns.stages[columns.stage[n]] if columns.stage[n] >= 0 else "" for n in order],
        "step": [steps.get(n) for n in order],
        "changed": [changes(columns, int(columns.start[n]), n) for n in order],
        "shown": len(order),
        "total": total,
    }


def _depth_first(asked: Asked, kept: set[int]) -> tuple[list[int], list[int]]:
    columns = asked.columns
    children: dict[int, list[int]] = {}
    for number in kept:
        parent = int(columns.start[number])
        children.setdefault(parent if parent in kept else -1, []).append(number)

    def worth(number: int) -> tuple[float, int]:
        value = columns.value[number]
        return (float("inf") if np.isnan(value) else asked.sign * float(value), number)

    best = {n: worth(n) for n in kept}
    for number in sorted(kept, key=lambda n: -_depth(columns, n)):  # leaves first: a root is worth its best
        parent = int(columns.start[number])
        if parent in best:
            best[parent] = min(best[parent], best[number])
    order: list[int] = []
    depths: list[int] = []
    waiting = [(n, 0) for n in sorted(children.get(-1, []), key=best.__getitem__, reverse=True)]
    while waiting:
        number, depth = waiting.pop()
        order.append(number)
        depths.append(depth)
        own = sorted(children.get(number, []), key=best.__getitem__, reverse=True)
        waiting.extend((n, depth + 1) for n in own)
    return order, depths


def _depth(columns: Columns, number: int) -> int:
    depth = 0
    while 0 <= number < len(columns) and depth < DEEPEST:
        number, depth = int(columns.start[number]), depth + 1
    return depth


def _steps(conn: Connection, study_id: int, numbers: list[int]) -> dict[int, int]:
    """Of which step the snapshot was that each trial goes on from."""
    if conn is None or not numbers:
        return {}
    b = batch(conn.dialect.name, number=BigInteger)
    wanted = select(trials.c.number, trials.c.start).where(
        trials.c.study_id == study_id, trials.c.number.in_(select(b.c.number))
    )
    found = conn.execute(wanted, {"batch": rows({"number": n} for n in numbers)})
    return {row.number: row.start["step"] for row in found if row.start}


def changes(columns: Columns, parent: int, number: int) -> str:
    """What a trial has set otherwise than the one it goes on from: `weight_decay 0.0002 → 0.00021`."""
    if not 0 <= parent < len(columns):
        return ""
    before, after = params(columns, parent), params(columns, number)
    named = [n for n in after if before.get(n) != after[n]]
    return ", ".join(f"{n} {_shown(before.get(n))} → {_shown(after[n])}" for n in named)


def params(columns: Columns, number: int) -> Mapping[str, Any]:
    """A trial's hyperparameters, from the columns."""
    found: dict[str, Any] = {
        n: float(v[number]) for n, v in columns.numbers.items() if not np.isnan(v[number])
    }
    return found | {n: w.labels[w.codes[number]] for n, w in columns.words.items() if w.codes[number] >= 0}


def _shown(value: Any) -> str:
    return formats.number(int(value) if isinstance(value, float) and value.is_integer() else value, pad=False)
