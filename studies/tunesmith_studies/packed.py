"""Curves of trials that have ended, in a tenth of the memory: whoever plans a study keeps all of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import overload

from tunesmith_studies.trial import Point

_names: dict[tuple[str, ...], tuple[str, ...]] = {}
"""Each tuple of metrics' names once, however many curves have it."""


class PackedCurve(Sequence[Point]):
    """Points that all have the same metrics, as two arrays; equal to the tuple of the same points."""

    __slots__ = ("_names", "_steps", "_values")

    def __init__(self, points: Sequence[Point], names: tuple[str, ...]) -> None:
        self._names = _names.setdefault(names, names)
        self._steps = array("q", [p.step for p in points])
        self._values = array("d", [value for p in points for value in p.metrics.values()])

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, place: int) -> Point: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Point, ...]: ...
    def __getitem__(self, place: int | slice) -> Point | tuple[Point, ...]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(len(self))))
        at, width = range(len(self))[place], len(self._names)
        values = self._values[at * width : (at + 1) * width]
        return Point(self._steps[at], dict(zip(self._names, values, strict=True)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self._steps))


def packed(points: Sequence[Point]) -> Sequence[Point]:
    """The same points; as they are where they differ in their metrics, or there are few."""
    names = {tuple(p.metrics) for p in points}
    return PackedCurve(points, names.pop()) if len(names) == 1 and len(points) > 1 else points
