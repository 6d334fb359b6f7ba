"""A figure with two axes, or bars, as values: what is drawn, not how. `svg` and `text` draw it.

Colours are names: `kind-0` to `kind-7` as in the dashboard's charts, `best`, `soft`, `lost`, and `heat-0` to
`heat-15` for cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeAlias

from tunesmith_service.ui import formats

HEATS = 16
Pair: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis: values to shares of its length.

    Attributes:
        labels: (value, text) of its ticks; None: round values, as many as look well.
    """

    name: str
    low: float
    high: float
    log: bool = False
    labels: Sequence[tuple[float, str]] | None = None

    def at(self, value: float) -> float:
        """
        >>> Scale("lr", 1e-4, 1.0, log=True).at(1e-2), Scale("epoch", 1, 5).at(2)
        (0.5, 0.25)
        """
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.5

    def padded(self, share: float = 0.03) -> Scale:
        """With room at both ends, so that no mark is cut in half."""
        if self.log:
            room = (self.high / self.low) ** share
            return replace(self, low=self.low / room, high=self.high * room)
        room = share * (self.high - self.low)
        return replace(self, low=self.low - room, high=self.high + room)

    def ticks(self) -> list[tuple[float, str]]:
        """
        >>> Scale("epoch", 1, 20).ticks()
        [(5.0, '5'), (10.0, '10'), (15.0, '15'), (20.0, '20')]
        """
        if self.labels is not None:
            return list(self.labels)
        values = _decades(self.low, self.high) if self.log else _even(self.low, self.high)
        return [(v, formats.number(v, pad=False)) for v in values]


def _even(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between two: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / most
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, (last - first) // 6 + 1)
    return [10.0**e for e in range(first, last + 1, every)] or [low, high]


@dataclass(frozen=True, slots=True)
class Line:
    """Straight from point to point. `again`: the colour is another line's as well, so it is dashed."""

    points: Sequence[Pair]
    kind: str
    again: bool = False
    thin: bool = False


@dataclass(frozen=True, slots=True)
class Dots:
    points: Sequence[Pair]
    kind: str


@dataclass(frozen=True, slots=True)
class Crosses:
    """Where something was lost."""

    points: Sequence[Pair]


@dataclass(frozen=True, slots=True)
class Area:
    """Between two lines of the same places: (place, low, high)."""

    points: Sequence[tuple[float, float, float]]
    kind: str


@dataclass(frozen=True, slots=True)
class Box:
    """A cell from left to right and bottom to top, in the axes' own values; `title` says what it is."""

    sides: tuple[float, float, float, float]
    heat: int
    title: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A mark whose colour is a value, such as a trial on a map."""

    at: Pair
    heat: int
    title: str


@dataclass(frozen=True, slots=True)
class Ring:
    """Around the best."""

    at: Pair


@dataclass(frozen=True, slots=True)
class Band:
    """A part of the x axis with a name, behind all marks."""

    low: float
    high: float
    label: str
    even: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """A place on the x axis with a name, from top to bottom."""

    at: float
    label: str


Mark: TypeAlias = Line | Dots | Crosses | Area | Box | Spot | Ring | Band | Rule


@dataclass(frozen=True, slots=True)
class Key:
    """A line of what is what; `how`: line, dots, crosses or spot; `kind` as of marks."""

    kind: str
    how: str
    text: str
    again: bool = False


@dataclass(slots=True)
class Figure:
    """Marks are drawn in the order in which they were added; those outside the axes are cut off.

    Args:
        title: what it shows, in words, for those who do not see it.
    """

    title: str
    x: Scale
    y: Scale
    is_tall: bool = False
    marks: list[Mark] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks += marks

    def legend(self, kind: str, how: str, text: str, *, again: bool = False) -> None:
        self.keys.append(Key(kind, how, text, again))


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars from the left with a name before and a percentage behind each."""

    title: str
    shares: Sequence[tuple[str, float]]


Drawing: TypeAlias = Figure | Bars


def steps(points: Sequence[Pair]) -> list[Pair]:
    """Each value holds until the next.

    >>> steps([(0, 3), (2, 1)])
    [(0, 3), (2, 3), (2, 1)]
    """
    held: Iterable[Pair] = (p for a, b in pairwise(points) for p in (a, (b[0], a[1])))
    return [*held, *points[-1:]]
