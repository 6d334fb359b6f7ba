"""How values are written for people: four significant digits, units, words beside icons."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

DIGITS = 4
WHOLE = 10**12
"""A whole number below it, such as a seed, is written in full."""
LONG = 160
"""Characters of a text that is shown whole."""
_HOLLOW = '<circle cx="5" cy="5" r="3.4" fill="none" stroke="currentColor" stroke-width="1.4"/>'
_PLAY = '<path d="M2.5 1.2 9 5 2.5 8.8z" fill="currentColor"/>'
_DASH = '<path d="M1.8 5h6.4" stroke="currentColor" stroke-width="1.6" stroke-linecap="round"/>'
_CHECK = '<path d="m1.6 5.4 2.4 2.4 4.4-5.4" fill="none" stroke="currentColor" stroke-width="1.7"/>'
_CROSS = '<path d="m2 2 6 6m0-6-6 6" stroke="currentColor" stroke-width="1.7" stroke-linecap="round"/>'
_HALF = _HOLLOW + '<path d="M5 1.6a3.4 3.4 0 0 0 0 6.8z" fill="currentColor"/>'
_BARS = '<path d="M3.2 1.5v7m3.6-7v7" stroke="currentColor" stroke-width="1.9"/>'
_SQUARE = '<path d="M2 2h6v6H2z" fill="currentColor"/>'
_SHAPES = {
    "waiting": _HOLLOW, "pending": _HOLLOW, "running": _PLAY, "active": _PLAY, "complete": _CHECK,
    "done": _CHECK, "pruned": _HALF, "failed": _CROSS, "cancelled": _DASH, "skipped": _DASH,
    "paused": _BARS, "stopped": _SQUARE, "pass": _CHECK, "info": _HOLLOW, "warn": _HALF, "fail": _CROSS,
    "online": _CHECK, "draining": _BARS, "away": _HOLLOW, "set aside": _CROSS,
}  # fmt: skip


def number(value: Any, *, pad: bool = True) -> str:
    """Four significant digits; `pad` keeps trailing zeros, so that a column of them lines up.

    >>> number(0.35304), number(1e-5, pad=False), number(64), number(float("nan")), number(None)
    ('0.3530', '1e-5', '64', 'NaN', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool | str) or (isinstance(value, int) and abs(value) < WHOLE):
        return str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    return _digits(value, pad) if value else "0"


def _digits(value: float, pad: bool) -> str:
    mantissa, exponent = f"{value:.{DIGITS - 1}e}".split("e")
    size = int(exponent)
    if -4 < size < 6:
        text = f"{value:.{max(DIGITS - 1 - size, 0)}f}"
        return text if pad or "." not in text else text.rstrip("0").rstrip(".")
    return f"{mantissa if pad else mantissa.rstrip('0').rstrip('.')}e{size}"


def exact(value: Any) -> Markup:
    """A number at four digits that carries its full value: shown on hover, taken on copy."""
    if isinstance(value, bool | str) or value is None:
        return escape(number(value))
    return Markup('<data class="num" value="{0}" title="{0}">{1}</data>').format(repr(value), number(value))


def setting(value: Any) -> Markup:
    """A hyperparameter's value: as `exact`, without trailing zeros."""
    if isinstance(value, float):
        return Markup('<data class="num" value="{0}" title="{0}">{1}</data>').format(
            repr(value), number(value, pad=False)
        )
    return escape(number(value))


def duration(us: int | None) -> str:
    """
    >>> duration(4_320_000_000), duration(95_000_000), duration(4_200_000), duration(None)
    ('1 h 12 min', '1 min 35 s', '4.2 s', '–')
    """
    if us is None:
        return "–"
    seconds = max(us, 0) / 1e6
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def roughly(seconds: float | None) -> str:
    """An estimate of a time, no finer than it is worth.

    >>> roughly(20), roughly(500), roughly(12_345), roughly(200_000), roughly(None)
    ('under 1 min', '8 min', '3 h 30 min', '2 d 7 h', '–')
    """
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under 1 min"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        tens = round(minutes / 10) * 10
        return f"{tens // 60} h {tens % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def size(count: float) -> str:
    """
    >>> size(512), size(3_400_000)
    ('512 B', '3.4 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def gpu_hours(us: int) -> str:
    """
    >>> gpu_hours(44_640_000_000), gpu_hours(90_000_000)
    ('12.40 h', '1 min 30 s')
    """
    return f"{us / 3.6e9:.2f} h" if us >= 3.6e9 else duration(us)


def moment(us: int | None) -> Markup | str:
    """A time for a <time> element; UTC here, which `app.js` turns into the reader's own."""
    if us is None:
        return "–"
    at = datetime.fromtimestamp(us / 1e6, UTC)
    iso = at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}">{}</time>').format(iso, at.strftime("%Y-%m-%d %H:%M UTC"))


def icon(word: str) -> Markup:
    """A state's shape, drawn in the colour of the text."""
    shape = Markup(_SHAPES.get(word, _HOLLOW))  # noqa: S704 -- our own constants
    return Markup('<svg class="icon" viewBox="0 0 10 10" aria-hidden="true">{}</svg>').format(shape)


def state(word: str) -> Markup:
    """A state as icon and word, so that colour is never alone."""
    return Markup('<span class="state {0}">{1}{0}</span>').format(word, icon(word))


def arrow(direction: str) -> Markup:
    better = "lower" if direction == "minimize" else "higher"
    sign = "↓" if direction == "minimize" else "↑"
    return Markup('<span class="arrow" title="{0} is better" aria-label="{0} is better">{1}</span>').format(
        better, sign
    )


def opening(text: str) -> tuple[str, str]:
    """A text's first sentence, and the rest where there is much of it.

    >>> opening("20 cells. Best is 18.")
    ('20 cells. Best is 18.', '')
    """
    if len(text) <= LONG:
        return text, ""
    first, dot, rest = text.partition(". ")
    return (f"{first}.", rest) if dot else (text, "")


FILTERS = {
    "opening": opening,
    "exact": exact,
    "setting": setting,
    "duration": duration,
    "roughly": roughly,
    "gpu_hours": gpu_hours,
    "size": size,
    "moment": moment,
    "state": state,
    "icon": icon,
    "arrow": arrow,
}
