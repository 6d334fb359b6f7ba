"""How answers are written on a terminal: aligned columns, four significant digits, local times."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from tunesmith_service.ui.formats import number


def value(item: Any) -> str:
    """A number at four significant digits, anything else as it is; – for nothing.

    >>> value(0.353041), value(1e-05), value(None), value("adam")
    ('0.353', '1e-5', '–', 'adam')
    """
    return number(item, pad=False)


def params(settings: Mapping[str, Any], but: Container[str] = ()) -> str:
    """
    >>> params({"lr": 0.01, "optimizer": "adam", "depth": 2}, but={"depth"})
    'lr=0.01 optimizer=adam'
    """
    return " ".join(f"{k}={value(v)}" for k, v in settings.items() if k not in but)


def moment(iso: str | None) -> str:
    """An instant of the API in this machine's own time zone."""
    if iso is None:
        return "–"
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """
    >>> duration(7.25), duration(95), duration(4320)
    ('7.2 s', '1 min 35 s', '1 h 12 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(n: int, noun: str) -> str:
    """
    >>> count(1, "stage"), count(4, "trial")
    ('1 stage', '4 trials')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> str:
    """Aligned columns under a heading; columns named in `right` are flush right."""
    cells = [[value(c) for c in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]

    def line(texts: Sequence[str]) -> str:
        padded = (
            t.rjust(w) if h in right else t.ljust(w) for t, w, h in zip(texts, widths, header, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([bold(line(header)), *(line(c) for c in cells)])


def facts(pairs: Mapping[str, Any]) -> str:
    """One `name  value` line a fact."""
    width = max(map(len, pairs))
    return "\n".join(f"{bold(k.ljust(width))}  {value(v)}" for k, v in pairs.items())


def bold(text: str) -> str:
    return click.style(text, bold=True) if is_coloured() else text


def is_coloured() -> bool:
    """Whether standard output wants ANSI: a terminal, and NO_COLOR not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
