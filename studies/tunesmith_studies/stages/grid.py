"""Grids of cells: what the coarse and the refined grid share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import TypeAlias

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


def cells(space: Space, axes: Axes, base: Params, held: Params) -> Iterator[Cell]:
    """Every cell of the product once. Cells that differ in inactive parameters only are one cell.

    The first axis changes slowest, so neighbours in the order differ little.

    Args:
        base: values of what no axis varies, held ones included.
        held: names that are the same for the whole stage and so are no part of a cell's key.
    """
    seen: set[str] = set()
    for values in product(*axes.values()):
        params = space.switched_on({**base, **dict(zip(axes, values, strict=True))})
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
