"""Studies, or stages, side by side: the best and how many, what it cost, and where each looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from tunesmith_service import spending, store
from tunesmith_service.charts.axes import axis
from tunesmith_service.column_cache import ColumnCache
from tunesmith_service.columns import Columns
from tunesmith_service.comparison.lines import Line, Panel, against_first, panels, plain
from tunesmith_service.comparison.named import Group
from tunesmith_service.ui import formats

HOUR_US = 3_600_000_000
MOST_PARAMS = 40


@dataclass(frozen=True, slots=True)
class Tried:
    """Where a group looked along one hyperparameter.

    Attributes:
        text: its lowest and highest value, or its words.
        values: how many different ones.
        left, width: percent of the hyperparameter's own scale; None of words.
        share: of the first group's width, in percent; None where that has none.
    """

    text: str
    values: int
    left: float | None = None
    width: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """A hyperparameter, and where each group looked; None where its trials do not have it."""

    name: str
    cells: list[Tried | None]


@dataclass(frozen=True, slots=True)
class Groups:
    """Attributes: `bests` are the numbers of each group's best trial."""

    groups: list[Group]
    bests: list[int | None]
    results: list[Line]
    space: list[Looked]
    panels: list[Panel]


def of(group: Group, columns: Columns) -> NDArray[np.bool_]:
    """Which trials belong to a group: those that train."""
    if group.stage is None:
        return columns.trains
    own: NDArray[np.bool_] = columns.trains & (columns.stage == columns.stages.index(group.stage))
    return own


def ranked(group: Group, columns: Columns) -> NDArray[np.int64]:
    """Numbers of its complete trials, the best first."""
    complete = np.flatnonzero(of(group, columns) & columns.is_state("complete") & ~np.isnan(columns.value))
    sign = 1 if group.direction == "minimize" else -1
    return complete[np.argsort(sign * columns.value[complete], kind="stable")]


def compared(conn: Connection, cache: ColumnCache, found: list[Group], now_us: int) -> Groups:
    columns = [cache.get(conn, g.study.id) for g in found]
    orders = [ranked(g, c) for g, c in zip(found, columns, strict=True)]
    return Groups(
        groups=found,
        bests=[int(order[0]) if len(order) else None for order in orders],
        results=_results(conn, found, columns, orders, now_us),
        space=_space(found, columns),
        panels=panels(found),
    )


def _results(
    conn: Connection,
    found: Sequence[Group],
    columns: Sequence[Columns],
    orders: Sequence[NDArray[np.int64]],
    now_us: int,
) -> list[Line]:
    lines = []
    for panel in panels(found):
        here = [g.name in panel.names for g in found]
        values = [c.value[o] if h else c.value[:0] for c, o, h in zip(columns, orders, here, strict=True)]
        best = [float(v[0]) if len(v) else None for v in values]
        middle = [float(np.median(v)) if len(v) else None for v in values]
        lines.append(against_first(f"best {panel.metric}", best, panel.direction))
        lines.append(against_first(f"median {panel.metric}", middle, panel.direction))
    counts = [_counts(g, c) for g, c in zip(found, columns, strict=True)]
    lines += [against_first(word, [c[word] for c in counts], None) for word in counts[0]]
    cost = [_costs(conn, g, now_us) for g in found]
    lines.append(plain("epochs a trial", [_length(conn, g) for g in found]))
    whole = [
        int(epochs) if float(epochs).is_integer() else epochs for epochs, _ in cost
    ]  # a part in a range test
    lines.append(against_first("epochs trained", whole, None))
    lines.append(against_first("slot-hours", [slot_us / HOUR_US for _, slot_us in cost], None))
    return [line for line in lines if any(cell.value for cell in line.cells)]


def _counts(group: Group, columns: Columns) -> dict[str, int]:
    here = of(group, columns)
    states = {
        "complete": columns.is_state("complete"),
        "pruned by comparison": columns.is_state("pruned") & ~columns.diverged,
        "diverged": columns.diverged,
        "failed": columns.is_state("failed"),
        "running or waiting": columns.is_state("running", "waiting"),
    }
    return {word: int((here & those).sum()) for word, those in states.items()}


def _costs(conn: Connection, group: Group, now_us: int) -> tuple[float, int]:
    costs = spending.costs(conn, group.study.id, now_us)
    own = [c for c in costs if group.stage in (None, c.stage)]
    return sum(c.epochs for c in own), sum(c.slot_us for c in own)


def _length(conn: Connection, group: Group) -> int | None:
    """Of a stage's trials, which is worth knowing where their values are compared."""
    rows = store.stages(conn, group.study.id)
    return next((row.spec["epochs"] for row in rows if row.name == group.stage), None)


# --- where they looked ----------------------------------------------------------------------------


def _space(found: Sequence[Group], columns: Sequence[Columns]) -> list[Looked]:
    """What varies within a group or between them, in the order of the spaces."""
    names = dict.fromkeys(n for g in found for n in g.study.spec["space"])
    names |= dict.fromkeys(n for c in columns for n in (*c.numbers, *c.words))
    rows = [_numbers(n, found, columns) or _words(n, found, columns) for n in names]
    return [row for row in rows if _varies(row.cells)][:MOST_PARAMS]


def _varies(cells: Sequence[Tried | None]) -> bool:
    return len({c and c.text for c in cells}) > 1 or any(c and c.values > 1 for c in cells)


def _numbers(name: str, found: Sequence[Group], columns: Sequence[Columns]) -> Looked | None:
    """Along the scale of the first study that has it."""
    first = next((i for i, c in enumerate(columns) if name in c.numbers), None)
    if first is None or any(name in c.words for c in columns):
        return None
    scale = axis(found[first].study.spec["space"], columns[first], name)
    cells: list[Tried | None] = []
    whole = None
    for group, each in zip(found, columns, strict=True):
        values = each.numbers.get(name)
        values = values[of(group, each) & ~np.isnan(values)] if values is not None else np.empty(0)
        if not len(values):
            cells.append(None)
            continue
        low, high = float(values.min()), float(values.max())
        left, right = (float(v) for v in scale.places(np.array([low, high])))
        width = right - left
        share = round(100 * width / whole, 1) if whole else None
        place = (round(100 * left, 1), round(100 * width, 1))
        cells.append(Tried(_range(low, high), len(np.unique(values)), *place, share))
        whole = width if whole is None else whole
    return Looked(name, cells)


def _range(low: float, high: float) -> str:
    ends = dict.fromkeys(formats.number(v, pad=False) for v in (low, high))
    return " to ".join(ends)


def _words(name: str, found: Sequence[Group], columns: Sequence[Columns]) -> Looked:
    cells: list[Tried | None] = []
    for group, each in zip(found, columns, strict=True):
        column = each.words.get(name)
        codes = np.unique(column.codes[of(group, each)]) if column is not None else np.empty(0, np.int16)
        words = [str(column.labels[c]) for c in codes if c >= 0] if column is not None else []
        cells.append(Tried(", ".join(words), len(words)) if words else None)
    return Looked(name, cells)
