"""Trials as a table of chosen columns: what a page shows and what an export writes.

A column's name is one that filters know, so that what is seen can be filtered and sorted by.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Connection, select

from tunesmith_service import store
from tunesmith_service.errors import Unprocessable
from tunesmith_service.tables import workers
from tunesmith_service.trial_filter import Field, Fields
from tunesmith_service.trial_store import Trial

Cell: TypeAlias = bool | int | float | str | None

MOST_COLUMNS = 200
VARIED = 8
"""Hyperparameters that stand in a table for which nobody chose columns."""
NUMBER = "number"
WHOLE = ("number", "step", "attempt")
ODD: Mapping[Any, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: as filters know it.
        label: what stands above it: of the objective its metric.
        is_number: whether its cells are numbers, NaN and infinity among them.
        home: trial, params or metrics.
    """

    name: str
    label: str
    is_number: bool
    home: str

    @property
    def is_whole(self) -> bool:
        return self.home == "trial" and self.name in WHOLE


class Sheet:
    """The columns that one study's trials may have, and their cells."""

    def __init__(self, conn: Connection, study: store.Study) -> None:
        self.metric = str(study.spec["objective"]["metric"])
        self.varied = tuple(study.spec.get("space", {}))
        fields = {f.name: f for f in Fields(conn, study).known.values()}  # a name is written once
        order = {"trial": 0, "params": 1, "metrics": 2}
        listed = sorted(fields.values(), key=lambda f: (order[f.home], _plain_order(f)))
        self.columns = {f.name: self._column(f) for f in listed}
        named = select(workers.c.id, workers.c.name).where(workers.c.project_id == study.project_id)
        self._workers: Mapping[str, str] = {row.id: row.name for row in conn.execute(named)}

    def _column(self, field: Field) -> Column:
        label = self.metric if field.name == "value" and field.home == "trial" else field.name
        return Column(field.name, label, field.is_number, field.home)

    def usual(self) -> list[Column]:
        """Those that are shown when nobody has chosen."""
        varied = [n for n in self.varied if n in self.columns][:VARIED]
        names = ["number", "state", "stage", "value", *varied, "step", "duration", "reason"]
        return [self.columns[n] for n in names]

    def chosen(self, text: str) -> list[Column]:
        """The columns that a text names, a comma between them; the usual ones of an empty text.

        Raises: Unprocessable with the column that there is not.
        """
        names = list(dict.fromkeys(n.strip() for n in read_names(text)))
        if not names:
            return self.usual()
        found = [self.columns.get("value" if n == self.metric else n) for n in names]
        wrong = [n for n, column in zip(names, found, strict=True) if column is None]
        if wrong or len(names) > MOST_COLUMNS:
            listed = ", ".join(list(self.columns)[:40])
            raise Unprocessable(f"there is no column {', '.join(wrong)[:128]!r}; there are {listed}")
        return [c for c in found if c is not None]

    def cell(self, trial: Trial, column: Column) -> Cell:
        """None where the trial has none."""
        if column.home == "params":
            return _read(trial.params.get(column.name), column)
        if column.home == "metrics":
            return _read((trial.last_metrics or {}).get(column.name), column)
        if column.name == "worker":
            return self._workers.get(trial.worker_id or "")
        return _OF_TRIAL[column.name](trial)

    def row(self, trial: Trial, columns: Sequence[Column]) -> list[Cell]:
        return [self.cell(trial, c) for c in columns]


def _read(value: Any, column: Column) -> Cell:
    """A cell as it is stored in JSON, where what is not finite is a word."""
    if column.is_number:
        return ODD.get(value) if isinstance(value, str) else value
    return value if value is None or isinstance(value, str) else _word(value)


def _word(value: bool | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _duration(trial: Trial) -> float | None:
    if trial.started_us is None or trial.ended_us is None:
        return None
    return (trial.ended_us - trial.started_us) / 1e6


_OF_TRIAL: Mapping[str, Callable[[Trial], Cell]] = {
    "number": lambda t: t.number,
    "state": lambda t: t.state,
    "stage": lambda t: t.stage,
    "value": lambda t: t.value,
    "reason": lambda t: t.stop_reason,
    "kind": lambda t: t.kind,
    "tag": lambda t: ", ".join(t.tags or ()) or None,
    "hand": lambda t: _word(t.hand),
    "step": lambda t: t.step,
    "attempt": lambda t: t.attempt,
    "duration": _duration,
    "worker": lambda t: t.worker_id,  # its name, where a `Sheet` knows it
}


def _plain_order(field: Field) -> int:
    return list(_OF_TRIAL).index(field.name) if field.home == "trial" and field.name in _OF_TRIAL else 99


def read_names(text: str) -> list[str]:
    """
    >>> read_names('lr,"a, b"'), read_names("")
    (['lr', 'a, b'], [])
    """
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as e:
        raise Unprocessable(f"columns are names with commas between them: {e}") from e


def write_names(names: Sequence[str]) -> str:
    """
    >>> write_names(["lr", "a, b"])
    'lr,"a, b"'
    """
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(names)
    return out.getvalue()
