"""A figure as text for a terminal: dots of Braille in the colours of the marks; letters where colour is not
wanted.

Each character holds two by four dots. Where two marks share one, it has the colour of the later. Areas and
bands, which stand behind all else, are left out: a terminal has no room for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import click

from tunesmith_service.drawing.figure import (
    HEATS,
    Bars,
    Box,
    Crosses,
    Dots,
    Drawing,
    Figure,
    Key,
    Line,
    Mark,
    Pair,
    Ring,
    Rule,
    Spot,
)

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, by row and column
_SHADES = "░▒▓█"
_COLOURS = {
    "kind-0": "cyan", "kind-1": "yellow", "kind-2": "magenta", "kind-3": "green", "kind-4": "bright_magenta",
    "kind-5": "blue", "kind-6": "bright_red", "kind-7": "white", "lost": "red", "soft": "bright_black",
}  # fmt: skip
_LETTERS = {f"kind-{i}": letter for i, letter in enumerate("abcdefgh")} | {"best": "*", "soft": "."}
LEAST = (40, 8)
"""Columns and rows of the axes that something can be seen in."""


def text(drawing: Drawing, columns: int, rows: int, *, coloured: bool) -> str:
    """As wide as `columns`, axes and legend about `rows` high."""
    if isinstance(drawing, Bars):
        return _bars(drawing, columns, coloured=coloured)
    return _Text(drawing, columns, rows, coloured).lines()


@dataclass(slots=True)
class _Cell:
    """A character: dots or a sign, and the kind that colours it."""

    dots: int = 0
    sign: str = ""
    kind: str = ""


@dataclass(slots=True)
class _Text:
    figure: Figure
    columns: int
    rows: int
    coloured: bool
    cells: dict[tuple[int, int], _Cell] = field(default_factory=dict)
    width: int = 0
    height: int = 0

    def lines(self) -> str:
        self.height = max(self.rows - 4, LEAST[1])
        labels = self._labels()
        left = max(map(len, labels.values()), default=0)
        self.width = max(self.columns - left - 2, LEAST[0])
        for mark in self.figure.marks:
            self._mark(mark)
        found = [f"{'':{left}} {self.figure.y.name}"]
        for row in range(self.height):
            label = labels.get(row, "")
            drawn = "".join(self._shown(column, row) for column in range(self.width)).rstrip()
            found.append(f"{label:>{left}} {'┤' if label else '│'}{drawn}")
        found.append(f"{'':{left}} └{'─' * self.width}")
        found.append(f"{'':{left}}  {self._ticks()}".rstrip())
        found.append(f"{'':{left}}  {self.figure.x.name:^{self.width}}".rstrip())
        return "\n".join([*found, *self._legend(left)])

    def _labels(self) -> dict[int, str]:
        """Those of the y axis by row; where two fall together the later is left out."""
        found: dict[int, str] = {}
        for value, label in self.figure.y.ticks():
            share = self.figure.y.at(value)
            if 0 <= share <= 1:
                found.setdefault(min(int((1 - share) * self.height), self.height - 1), label)
        return found

    def _ticks(self) -> str:
        line = ""
        for value, label in self.figure.x.ticks():
            share = self.figure.x.at(value)
            start = min(int(share * self.width), self.width - 1) - len(label) // 2
            if 0 <= share <= 1 and start > len(line) and start + len(label) <= self.width + 1:
                line = line.ljust(start) + label
            elif 0 <= share <= 1 and not line:
                line = label
        return line

    def _legend(self, left: int) -> list[str]:
        found: list[str] = []
        used = self.columns
        for key in self.figure.keys:
            wide = len(key.text) + 5
            if used + wide > self.columns:
                found.append(" " * (left + 2))
                used = left + 2
            found[-1] += f"{self._key(key)} {key.text}   "
            used += wide
        return [line.rstrip() for line in found]

    def _key(self, key: Key) -> str:
        if key.how == "crosses":
            return self._styled("×", "lost")
        if key.how == "spot":
            return _shade(int(key.kind.removeprefix("heat-")))
        return self._styled("●" if self.coloured else _LETTERS.get(key.kind, "o"), key.kind)

    # --- marks ------------------------------------------------------------------------------------

    def _mark(self, mark: Mark) -> None:
        match mark:
            case Line(points, kind):
                self._dots(points[:1], kind)
                for a, b in pairwise(points):
                    self._line(a, b, kind)
            case Dots(points, kind):
                self._dots(points, kind)
            case Crosses(points):
                for point in points:
                    self._sign(point, "×", "lost")
            case Box(sides, heat):
                self._box(sides, heat)
            case Spot(at, heat):
                self._sign(at, _shade(heat), "")
            case Ring(at):
                self._sign(at, "◎", "best")
            case Rule(at):
                self._rule(at)

    def _column(self, value: float) -> int:
        """In dots."""
        return round(self.figure.x.at(value) * (2 * self.width - 1))

    def _row(self, value: float) -> int:
        return round((1 - self.figure.y.at(value)) * (4 * self.height - 1))

    def _set(self, column: int, row: int, kind: str) -> None:
        if 0 <= column < 2 * self.width and 0 <= row < 4 * self.height:
            cell = self.cells.setdefault((column // 2, row // 4), _Cell())
            cell.dots |= _DOTS[row % 4][column % 2]
            cell.kind = kind

    def _dots(self, points: Sequence[Pair], kind: str) -> None:
        for x, y in points:
            self._set(self._column(x), self._row(y), kind)

    def _rule(self, at: float) -> None:
        for row in range(self.height):
            self.cells.setdefault((self._column(at) // 2, row), _Cell(sign="┊", kind="soft"))

    def _line(self, a: Pair, b: Pair, kind: str) -> None:
        (x0, y0), (x1, y1) = ((self._column(p[0]), self._row(p[1])) for p in (a, b))
        most = 8 * (self.width + self.height)  # what leaves the axes by far is not followed
        count = min(max(abs(x1 - x0), abs(y1 - y0), 1), most)
        for i in range(count + 1):
            self._set(round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count), kind)

    def _sign(self, point: Pair, sign: str, kind: str) -> None:
        column, row = self._column(point[0]) // 2, self._row(point[1]) // 4
        if 0 <= column < self.width and 0 <= row < self.height:
            self.cells[column, row] = _Cell(sign=sign, kind=kind)

    def _box(self, sides: tuple[float, float, float, float], heat: int) -> None:
        left, right = (round(self._column(v) / 2) for v in sides[:2])
        bottom, top = (round(self._row(v) / 4) for v in sides[2:])
        for column in range(max(left, 0), min(max(right, left + 1), self.width)):
            for row in range(max(top, 0), min(max(bottom, top + 1), self.height)):
                self.cells[column, row] = _Cell(sign=_shade(heat))

    def _shown(self, column: int, row: int) -> str:
        cell = self.cells.get((column, row))
        if cell is None:
            return " "
        sign = cell.sign or (chr(0x2800 + cell.dots) if self.coloured else _LETTERS.get(cell.kind, "o"))
        return self._styled(sign, cell.kind)

    def _styled(self, sign: str, kind: str) -> str:
        colour = _COLOURS.get(kind)
        return click.style(sign, fg=colour) if self.coloured and colour else sign


def _shade(heat: int) -> str:
    """Darker is better, as on paper."""
    return _SHADES[heat * len(_SHADES) // HEATS]


def _bars(drawing: Bars, columns: int, *, coloured: bool) -> str:
    names: Iterable[str] = (n for n, _ in drawing.shares)
    left = min(max(map(len, names), default=0), 32)
    room = max(columns - left - 10, 10)
    found = []
    for name, share in drawing.shares:
        bar = "█" * max(round(room * share), 1)
        shown = name if len(name) <= left else f"{name[: left - 1]}…"
        found.append(f"{shown:>{left}} {click.style(bar, fg='cyan') if coloured else bar} {share:.1%}")
    return "\n".join(found)
