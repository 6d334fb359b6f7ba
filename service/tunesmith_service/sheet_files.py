"""A table of trials as a file: CSV and Parquet for programs, in full; Markdown and LaTeX for a text, rounded.

Each writer gives bytes as rows come: `begin`, `rows` any number of times, `end`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from tunesmith_service.errors import Unprocessable
from tunesmith_service.sheets import Cell, Column
from tunesmith_service.ui.formats import number

Format: TypeAlias = Literal["csv", "parquet", "markdown", "latex"]

MOST_PRINTED = 5000
"""Rows of what is meant to be read."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are the first four in full width, which spreadsheets of East Asia take for the same."""


class SheetWriter(Protocol):
    media_type: str
    suffix: str

    def __init__(self, columns: Sequence[Column]) -> None: ...
    def begin(self) -> bytes: ...
    def rows(self, rows: Sequence[Sequence[Cell]]) -> bytes: ...
    def end(self) -> bytes: ...


class Csv:
    """RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe before it."""

    media_type, suffix = "text/csv; charset=utf-8", "csv"

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def begin(self) -> bytes:
        return self._written([[_plain(c.label) for c in self._columns]])

    def rows(self, rows: Sequence[Sequence[Cell]]) -> bytes:
        return self._written([[_full(cell) for cell in row] for row in rows])

    def end(self) -> bytes:
        return b""

    @staticmethod
    def _written(rows: Sequence[Sequence[str]]) -> bytes:
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\r\n").writerows(rows)
        return out.getvalue().encode("utf-8", "replace")


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _full(cell: Cell) -> str:
    """
    >>> _full(0.1), _full(float("-inf")), _full(None), _full("=1+1")
    ('0.1', '-Infinity', '', "'=1+1")
    """
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and not math.isfinite(cell):
        return "NaN" if math.isnan(cell) else "Infinity" if cell > 0 else "-Infinity"
    return _plain(cell) if isinstance(cell, str) else repr(cell)


class Parquet:
    """Numbers are doubles, counts 64-bit integers, all else texts; a group of rows a chunk."""

    media_type, suffix = "application/vnd.apache.parquet", "parquet"

    def __init__(self, columns: Sequence[Column]) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415  (a server may do without)
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError as e:
            raise Unprocessable(
                "Parquet needs pyarrow on the server: install tunesmith[export] there, or ask for csv"
            ) from e
        self._pa: Any = pa
        types = [pa.int64() if c.is_whole else pa.float64() if c.is_number else pa.string() for c in columns]
        self._schema = pa.schema(list(zip((c.label for c in columns), types, strict=True)))
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(pa.PythonFile(self._sink, mode="w"), self._schema)

    def begin(self) -> bytes:
        return self._sink.take()

    def rows(self, rows: Sequence[Sequence[Cell]]) -> bytes:
        if rows:
            made = zip(zip(*rows, strict=True), self._schema, strict=True)
            arrays = [self._pa.array(cells, field.type, from_pandas=False) for cells, field in made]
            self._writer.write_table(self._pa.table(arrays, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """A file that is handed on as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._at += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class _Printed:
    """Four significant digits, as on the pages; columns line up, so that all rows must be known first."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._lines: list[list[str]] = []

    def begin(self) -> bytes:
        return b""

    def rows(self, rows: Sequence[Sequence[Cell]]) -> bytes:
        self._lines += [[self._shown(cell) for cell in row] for row in rows]
        return b""

    def _shown(self, cell: Cell) -> str:
        if cell is None:
            return ""
        return self._number(number(cell)) if isinstance(cell, float) else self._text(_word(cell))

    def _number(self, text: str) -> str:
        return text

    def _text(self, text: str) -> str:
        raise NotImplementedError

    def _aligned(self, lines: Sequence[Sequence[str]], between: str) -> list[str]:
        widths = [max(map(len, column), default=0) for column in zip(*lines, strict=True)]
        return [
            between.join(
                text.rjust(width) if c.is_number else text.ljust(width)
                for text, width, c in zip(line, widths, self._columns, strict=True)
            )
            for line in lines
        ]


def _word(cell: bool | int | str) -> str:
    return str(cell).lower() if isinstance(cell, bool) else " ".join(str(cell).split())


_MARKUP = re.compile(r"[\\`*_{}\[\]<>|#~]|&(?=#?\w+;)")


class Markdown(_Printed):
    media_type, suffix = "text/markdown; charset=utf-8", "md"

    def end(self) -> bytes:
        head = [self._text(c.label) for c in self._columns]
        lines = self._aligned([head, *self._lines], " | ")
        widths = [max(map(len, column)) for column in zip(head, *self._lines, strict=True)]
        rules = [
            "-" * (w - 1) + ":" if c.is_number else "-" * w
            for w, c in zip((max(w, 3) for w in widths), self._columns, strict=True)
        ]
        return "".join(f"| {line} |\n" for line in (lines[0], " | ".join(rules), *lines[1:])).encode()

    def _aligned(self, lines: Sequence[Sequence[str]], between: str) -> list[str]:
        return super()._aligned(
            [[text.ljust(3) if i == 0 else text for text in line] for i, line in enumerate(lines)], between
        )

    def _text(self, text: str) -> str:
        """Nothing of it is markup, and no `&lt;` becomes another character."""
        return _MARKUP.sub(r"\\\g<0>", text)


_LATEX: Mapping[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


class Latex(_Printed):
    """A tabular for \\usepackage{booktabs}."""

    media_type, suffix = "text/x-tex; charset=utf-8", "tex"

    def end(self) -> bytes:
        places = "".join("r" if c.is_number else "l" for c in self._columns)
        head, *lines = self._aligned([[self._text(c.label) for c in self._columns], *self._lines], " & ")
        body = "".join(f"{line} \\\\\n" for line in lines)
        return (
            f"\\begin{{tabular}}{{{places}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}"
            "\\bottomrule\n\\end{tabular}\n"
        ).encode()

    def _number(self, text: str) -> str:
        """
        >>> Latex([])._number("1.500e-5"), Latex([])._number("−∞")
        ('$1.500\\\\times10^{-5}$', '$-\\\\infty$')
        """
        digits, e, power = text.partition("e")
        if e:
            return f"${digits}\\times10^{{{power}}}$"
        if "∞" in text:
            return "$-\\infty$" if text != "∞" else "$\\infty$"
        return f"${text}$" if text.startswith("-") else text

    def _text(self, text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text)


WRITERS: Mapping[str, Callable[[Sequence[Column]], SheetWriter]] = {
    "csv": Csv,
    "parquet": Parquet,
    "markdown": Markdown,
    "latex": Latex,
}
