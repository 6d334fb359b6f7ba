"""Rows of a comparison: a name, a cell for each of what is compared, and the differences to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Cell:
    """A value; `delta` is the difference to the first that has one, `better` whether that is good."""

    value: Any
    delta: float | None = None
    better: bool | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the tables: what it is, a cell each, and whether the cells differ."""

    name: str
    cells: list[Cell]
    differs: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """What has the same objective; what has another has no axis in common with it."""

    metric: str
    direction: str
    names: list[str]


def plain(name: str, values: Sequence[Any]) -> Line:
    """Values that have no difference."""
    return Line(name, [Cell(v) for v in values], _differ(values))


def against_first(name: str, values: Sequence[float | None], direction: str | None) -> Line:
    """Numbers and their differences; `direction` None: neither less nor more is better."""
    first = next((v for v in values if v is not None), None)
    cells, is_first = [], True
    for value in values:
        if value is None or first is None or is_first:
            cells.append(Cell(value))
            is_first = is_first and value is None
            continue
        delta = value - first
        better = None if not delta or direction is None else (delta < 0) == (direction == "minimize")
        cells.append(Cell(value, delta, better))
    return Line(name, cells, _differ(values))


def _differ(values: Sequence[Any]) -> bool:
    return len({repr(v) for v in values}) > 1


class Objective(Protocol):
    """What `panels` asks of what is compared."""

    @property
    def name(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def direction(self) -> str: ...


def panels(compared: Sequence[Objective]) -> list[Panel]:
    """By metric and direction, in the order in which these first come."""
    found: dict[tuple[str, str], list[str]] = {}
    for c in compared:
        found.setdefault((c.metric, c.direction), []).append(c.name)
    return [Panel(metric, direction, names) for (metric, direction), names in found.items()]
