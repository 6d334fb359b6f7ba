"""Grids of cells: what the coarse and the refined grid share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any, TypeAlias

from tunesmith_studies.planning import History
from tunesmith_studies.space import Params, Scalar, Space, canonical
from tunesmith_studies.trial import Start

LONGEST_KEY = 400

Axes: TypeAlias = Mapping[str, Sequence[Scalar]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of a grid: all hyperparameters that are active there, held ones included."""

    key: str
    params: Params
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The axes of the cells with these values of other axes: rates may differ by optimizer and batch."""

    given: Params
    axes: Axes

    def holds(self, params: Params) -> bool:
        return all(params.get(name) == value for name, value in self.given.items())


def cells(
    space: Space,
    axes: Axes,
    base: Params,
    held: Params,
    settled: Callable[[Params], Params] = lambda params: params,
) -> Iterator[Cell]:
    """Every cell of the product once. Cells that differ in inactive parameters only are one cell.

    The first axis changes slowest, so neighbours in the order differ little.

    Args:
        base: values of what no axis varies, held ones included.
        held: names that are the same for the whole stage and so are no part of a cell's key.
        settled: gives the cell's final values, where one follows from others.
    """
    seen: set[str] = set()
    for values in product(*axes.values()):
        params = space.switched_on(settled({**base, **dict(zip(axes, values, strict=True))}))
        key = cell_key(params, held)
        if key not in seen:
            seen.add(key)
            yield Cell(key, params)


def cell_key(params: Params, held: Params) -> str:
    """Names the cell within its stage; a long one ends in a digest, for a key has a largest length."""
    key = canonical({n: v for n, v in params.items() if n not in held}) or "only"
    return key if len(key) <= LONGEST_KEY else f"{key[:300]}…{sha256(key.encode()).hexdigest()}"


def unique(found: Iterable[Cell]) -> list[Cell]:
    """Each cell once, where it first came; one that goes on from a snapshot is kept before its equal."""
    first: dict[str, Cell] = {}
    for cell in found:
        if cell.key not in first or (first[cell.key].start is None and cell.start is not None):
            first[cell.key] = cell
    return list(first.values())


def missing(todo: Sequence[Cell], history: History) -> list[tuple[int, Cell]]:
    """Cells that no trial stands for yet, with their index."""
    taken = history.keys
    return [(i, cell) for i, cell in enumerate(todo) if cell.key not in taken]


def unfinished(todo: Sequence[Cell], history: History) -> int:
    """How many of these cells have a trial that has not ended."""
    by_key = history.by_key()
    return sum(not by_key[cell.key].state.is_finished for cell in todo if cell.key in by_key)


# --- a grid as its result tells it -----------------------------------------------------------------------


def groups_of(chosen: Mapping[str, Any]) -> list[Group]:
    """The groups of a grid's result; one for all cells unless it says otherwise."""
    by = chosen.get("axes_by")
    return [Group(g["given"], g["axes"]) for g in by] if by else [Group({}, chosen["axes"])]


def as_chosen(groups: Sequence[Group]) -> dict[str, Any]:
    """`axes`, each with all its values, and where groups differ `axes_by`, as `groups_of` reads them."""
    axes: dict[str, list[Scalar]] = {}
    for group in groups:
        for name, values in group.axes.items():
            axes[name] = ascending([*axes.get(name, []), *values])
    found: dict[str, Any] = {"axes": axes}
    if len(groups) > 1:
        found["axes_by"] = [
            {"given": dict(g.given), "axes": {n: list(v) for n, v in g.axes.items()}} for g in groups
        ]
    return found


def group_of(groups: Sequence[Group], params: Params) -> Group:
    """The group that holds these values; the first if none does, as for a trial by hand."""
    return next((g for g in groups if g.holds(params)), groups[0])


def with_cells(groups: Sequence[Group], done: Sequence[Cell]) -> list[Group]:
    """The groups with the values that cells added."""
    return [_with_cells(g, [c for c in done if g.holds(c.params)]) for g in groups]


def _with_cells(group: Group, done: Sequence[Cell]) -> Group:
    added = {n: [c.params[n] for c in done if n in c.params] for n in group.axes}
    return Group(group.given, {n: ascending([*values, *added[n]]) for n, values in group.axes.items()})


def ascending(values: Iterable[Scalar]) -> list[Scalar]:
    """Each once; numbers ascending, others in their order."""
    found = list(dict.fromkeys(values))
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
    return sorted(found, key=float) if numeric else found
