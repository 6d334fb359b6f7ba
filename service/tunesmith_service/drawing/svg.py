"""A figure as SVG without scripts or style attributes.

Colours are classes, which `static/plots.css` turns into those of both themes. Whatever is text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import singledispatchmethod

from markupsafe import Markup

from tunesmith_service.drawing.figure import (
    Area,
    Band,
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

WIDTH, HEIGHT, TALL = 720, 320, 380
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 24, 40
LETTER = 6.7
"""Width of a letter, on average and rather too wide."""
ROW = 18


def markup(drawing: Drawing, *, css: str = "") -> Markup:
    """The `<svg>`; one that stands alone, as a file, brings its own `css`."""
    style = Markup("<style>{}</style>").format(Markup(css)) if css else Markup("")  # noqa: S704 -- our own file
    return _bars(drawing, style) if isinstance(drawing, Bars) else _Drawn(drawing).markup(style)


def _opened(height: float, title: str, style: Markup) -> Markup:
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        "{}<title>{}</title>"
    ).format(WIDTH, height, title, style, title)


class _Drawn:
    """One figure at its size."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.height = TALL if figure.is_tall else HEIGHT
        self.across, self.up = WIDTH - LEFT - RIGHT, self.height - TOP - BOTTOM
        self.over: list[Markup] = []  # labels above the axes
        self.rules = 0

    def markup(self, style: Markup) -> Markup:
        keys, rows = self._keys()
        inside = Markup("").join(self.mark(m) for m in self.figure.marks)
        opened = _opened(self.height + rows * ROW + 6, self.figure.title, style)
        return opened + Markup(
            '<g transform="translate({left} {top})">{axes}<svg width="{across}" height="{up}">{inside}</svg>'
            "{over}</g>{keys}</svg>"
        ).format(
            left=LEFT, top=TOP, axes=self._axes(), across=self.across, up=self.up, inside=inside,
            over=Markup("").join(self.over), keys=keys,
        )  # fmt: skip

    # --- marks ------------------------------------------------------------------------------------

    def _x(self, value: float) -> float:
        return self.figure.x.at(value) * self.across

    def _y(self, value: float) -> float:
        return (1 - self.figure.y.at(value)) * self.up

    def _at(self, point: Pair) -> str:
        return f"{self._x(point[0]):.1f} {self._y(point[1]):.1f}"

    @singledispatchmethod
    def mark(self, mark: Mark) -> Markup:
        raise TypeError(f"{mark!r} is no mark")

    @mark.register
    def _(self, mark: Line) -> Markup:
        kind = f"{mark.kind}{' again' if mark.again else ''}{' thin' if mark.thin else ''}"
        return _path("L".join(map(self._at, mark.points)), "line", kind)

    @mark.register
    def _(self, mark: Dots) -> Markup:
        """All in one path: each is a stroke of no length with round ends."""
        return _path("M".join(f"{self._at(p)}h0" for p in mark.points), "dots", mark.kind)

    @mark.register
    def _(self, mark: Crosses) -> Markup:
        path = "M".join(f"{self._at(p)}m-3 -3l6 6m0 -6l-6 6" for p in mark.points)
        return _path(path, "crosses", "lost")

    @mark.register
    def _(self, mark: Area) -> Markup:
        there = [self._at((at, high)) for at, _, high in mark.points]
        back = [self._at((at, low)) for at, low, _ in reversed(mark.points)]
        return _path("L".join([*there, *back]), "area", mark.kind)

    @mark.register
    def _(self, mark: Box) -> Markup:
        left, right = (self._x(v) for v in mark.sides[:2])
        bottom, top = (self._y(v) for v in mark.sides[2:])
        return Markup(
            '<rect class="cell heat-{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        ).format(
            mark.heat, f"{left:.1f}", f"{top:.1f}", f"{right - left:.1f}", f"{bottom - top:.1f}", mark.title
        )

    @mark.register
    def _(self, mark: Spot) -> Markup:
        x, y = self._at(mark.at).split()
        return Markup('<circle class="spot heat-{}" cx="{}" cy="{}" r="5"><title>{}</title></circle>').format(
            mark.heat, x, y, mark.title
        )

    @mark.register
    def _(self, mark: Ring) -> Markup:
        x, y = self._at(mark.at).split()
        return Markup('<circle class="ring" cx="{}" cy="{}" r="9"/>').format(x, y)

    @mark.register
    def _(self, mark: Band) -> Markup:
        left, right = self._x(mark.low), self._x(mark.high)
        self._name(left, right, mark.label)
        return Markup('<rect class="band{}" x="{}" y="0" width="{}" height="{}"/>').format(
            " even" if mark.even else "", f"{left:.1f}", f"{max(right - left, 0):.1f}", f"{self.up:.1f}"
        )

    @mark.register
    def _(self, mark: Rule) -> Markup:
        """Labels of several stand in rows of their own."""
        at, y = self._x(mark.at), 12 + 14 * (self.rules % 4)
        self.rules += 1
        return Markup('<path class="rule" d="M{0} 0v{1}"/><text x="{2}" y="{3}">{4}</text>').format(
            f"{at:.1f}", f"{self.up:.1f}", f"{at + 4:.1f}", y, mark.label
        )

    def _name(self, left: float, right: float, label: str) -> None:
        if int((right - left) / LETTER) >= len(label):
            self.over.append(Markup('<text x="{}" y="-8">{}</text>').format(f"{left + 2:.1f}", label))

    # --- axes and legend --------------------------------------------------------------------------

    def _axes(self) -> Markup:
        figure = self.figure
        parts = [Markup('<rect class="frame" width="{}" height="{}"/>').format(self.across, self.up)]
        taken = -math.inf
        for value, text in figure.x.ticks():
            at, half = self._x(value), len(text) * LETTER / 2
            if not -0.5 <= at <= self.across + 0.5 or at - half < taken:
                continue
            taken = at + half + 6
            place = f"{at:.1f}"
            parts.append(Markup('<path class="tick" d="M{} {}v4"/>').format(place, self.up))
            parts.append(
                Markup('<text class="middle" x="{}" y="{}">{}</text>').format(place, self.up + 17, text)
            )
        for value, text in figure.y.ticks():
            at = self._y(value)
            if not -0.5 <= at <= self.up + 0.5:
                continue
            parts.append(Markup('<path class="grid" d="M0 {}h{}"/>').format(f"{at:.1f}", self.across))
            parts.append(Markup('<text class="end" x="-7" y="{}">{}</text>').format(f"{at + 4:.1f}", text))
        parts.append(
            Markup('<text class="middle name" x="{}" y="{}">{}</text>').format(
                self.across / 2, self.up + 35, figure.x.name
            )
        )
        parts.append(
            Markup('<text class="end name" x="{}" y="-9">{}</text>').format(self.across, figure.y.name)
        )
        return Markup("").join(parts)

    def _keys(self) -> tuple[Markup, int]:
        """The legend below the axes, and how many rows it takes."""
        x, row, parts = float(LEFT), 0, []
        for key in self.figure.keys:
            wide = 26 + len(key.text) * LETTER + 14
            if x > LEFT and x + wide > WIDTH:
                x, row = float(LEFT), row + 1
            parts.append(_key(key, x, self.height + row * ROW + 14))
            x += wide
        return Markup("").join(parts), row + 1 if self.figure.keys else 0


def _path(path: str, how: str, kind: str) -> Markup:
    return Markup('<path class="{} {}" d="M{}"/>').format(how, kind, path) if path else Markup("")


def _key(key: Key, x: float, y: int) -> Markup:
    shape = {
        "line": f"{x:.1f} {y - 4}h18",
        "dots": f"{x + 9:.1f} {y - 4}h0",
        "crosses": f"{x + 9:.1f} {y - 4}m-3 -3l6 6m0 -6l-6 6",
    }
    if key.how == "spot":
        mark = Markup('<circle class="spot {}" cx="{}" cy="{}" r="5"/>').format(
            key.kind, f"{x + 9:.1f}", y - 4
        )
    else:
        mark = _path(shape[key.how], key.how, f"{key.kind}{' again' if key.again else ''}")
    return mark + Markup('<text x="{}" y="{}">{}</text>').format(f"{x + 24:.1f}", y, key.text)


def _bars(drawing: Bars, style: Markup) -> Markup:
    names: Iterable[str] = (n for n, _ in drawing.shares)
    name_room = min(max(map(len, names), default=0), 32) * LETTER + 14
    room = WIDTH - name_room - 70
    rows: list[Markup] = []
    for i, (name, share) in enumerate(drawing.shares):
        y, shown = i * 24, name if len(name) <= 32 else f"{name[:31]}…"
        name_at, bar_at, end = name_room - 8, name_room, name_room + room * share
        rows += [
            Markup('<text class="end" x="{}" y="{}">{}</text>').format(f"{name_at:.1f}", y + 16, shown),
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="14"/>').format(
                f"{bar_at:.1f}", y + 5, f"{max(room * share, 1):.1f}"
            ),
            Markup('<text x="{}" y="{}">{}</text>').format(f"{end + 7:.1f}", y + 16, f"{share:.1%}"),
        ]
    opened = _opened(24 * len(drawing.shares) + 6, drawing.title, style)
    return opened + Markup("").join(rows) + Markup("</svg>")
