"""The table of Explore: which trials, in which order, with which columns. All of it stands in the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from sqlalchemy import Connection

from tunesmith_service import sheets, trial_filter, trial_store
from tunesmith_service.errors import Unprocessable
from tunesmith_service.trial_store import Trial
from tunesmith_service.ui import formats, trial_rows, views
from tunesmith_service.ui.screens import PARAM_COLUMNS, StudyView

PAGE = 50
MOST_COLUMNS = 40
LONG = 28
"""Characters of a text from which it may be broken into lines."""
MOST_PICKED = 20
"""Trials that can be selected: as many as can be compared."""

OWN = ("state", "stage", "value", "step", "duration", "worker", "attempt", "reason", "kind", "tag")
"""Columns that every trial has; hyperparameters and metrics come beside them."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person wants to see.

    Attributes:
        sort: a name of filters, `-` before it: downwards. "": newest first.
        columns: names in order; empty: the usual ones.
        differ: leave out hyperparameters that are the same in all rows shown.
        after: number of the last trial of the page before.
    """

    filter: str = ""
    sort: str = ""
    columns: tuple[str, ...] = ()
    differ: bool = False
    after: int | None = None
    pick: tuple[int, ...] = ()  # trials that are selected

    def href(self, **changes: Any) -> str:
        """The address of this question with something else in it; what is usual is left out."""
        asked = replace(self, **changes)
        words = {
            "filter": asked.filter,
            "sort": asked.sort,
            "columns": ",".join(asked.columns),
            "differ": "1" if asked.differ else "",
            "after": "" if asked.after is None else str(asked.after),
            "pick": ",".join(map(str, asked.pick)),
        }
        return f"?{urlencode({k: v for k, v in words.items() if v})}"


@dataclass(frozen=True, slots=True)
class Head:
    """A column's head; `direction` is how the table is sorted by it."""

    name: str
    shown: str
    is_number: bool
    href: str
    direction: str = ""  # ascending, descending or ""


@dataclass(frozen=True, slots=True)
class Row:
    trial: trial_rows.TrialRow
    cells: list[Markup]


@dataclass(frozen=True, slots=True)
class Explored:
    question: Question
    heads: list[Head]
    rows: list[Row]
    total: int | None
    first: str | None
    next: str | None
    wrong: str  # why the filter or the order cannot be read
    choices: list[tuple[str, bool]]  # every column there is, and whether it is shown
    exported: str = ""  # the words of an address that asks for all of it as a file


def explored(conn: Connection, shown: StudyView, question: Question, now_us: int) -> Explored:
    """A page of the table; a filter that cannot be read is told in `wrong`, with no rows."""
    usual = ("state", "stage", "value", *views.varied(shown.row.spec)[:PARAM_COLUMNS], "step", "duration")
    columns = (question.columns or usual)[:MOST_COLUMNS]
    try:
        fields = trial_filter.Fields(conn, shown.row)
        rows = trial_store.trials(
            conn,
            shown.row,
            filter=question.filter,
            sort=question.sort or "-number",
            after=question.after,
            limit=PAGE + 1,
        )
        total = trial_filter.count(conn, shown.row, question.filter)
    except Unprocessable as e:
        return Explored(question, [], [], None, None, None, e.detail, [])
    more, rows = len(rows) > PAGE, rows[:PAGE]
    names = [c for c in columns if fields.find(c) is not None]
    if question.differ and len(rows) > 1:
        names = [n for n in names if n in OWN or _differs(rows, n)]
    best = shown.best.number if shown.best else None
    return Explored(
        question=question,
        heads=[_head(shown, fields, question, name) for name in names],
        rows=[
            Row(
                trial_rows.trial_row(r, shown.metric, best, now_us),
                [_cell(r, name, now_us) for name in names],
            )
            for r in rows
        ],
        total=total,
        first=question.href(after=None) if question.after is not None else None,
        next=question.href(after=rows[-1].number) if more else None,
        wrong="",
        choices=[(n, n in names) for n in _every(fields, shown)],
        exported=urlencode(
            {
                "filter": question.filter,
                "sort": question.sort or "-number",
                "columns": sheets.write_names(["number", *names]),
            }
        ),
    )


def _every(fields: trial_filter.Fields, shown: StudyView) -> list[str]:
    """Names of all columns, each once: a trial's own, hyperparameters, then metrics."""
    names = [n for n in fields.known if n not in ("number", "hand", shown.metric)]
    return [*OWN, *(n for n in names if n not in OWN)]


def _differs(rows: Sequence[Trial], name: str) -> bool:
    return len({repr(_value(r, name)) for r in rows}) > 1


def _head(shown: StudyView, fields: trial_filter.Fields, question: Question, name: str) -> Head:
    field = fields.find(name)
    assert field is not None, "only known columns are shown"
    now = {name: "ascending", f"-{name}": "descending"}.get(question.sort, "")
    first = f"-{name}" if name == "value" and shown.row.direction == "maximize" else name
    other = name if question.sort == f"-{name}" else f"-{name}"
    return Head(
        name=name,
        shown={"value": shown.metric, "duration": "time", "step": "done"}.get(name, name),
        is_number=field.is_number and name != "step",
        href=question.href(sort=other if now else first, after=None),
        direction=now,
    )


def _value(row: Trial, name: str) -> Any:
    """What a trial has under a name of filters, of those that are no column of their own."""
    if name in row.params:
        return row.params[name]
    metrics: Mapping[str, Any] = row.last_metrics or {}
    return metrics.get(name)


def _cell(row: Trial, name: str, now_us: int) -> Markup:
    special: Mapping[str, Callable[[], Any]] = {
        "state": lambda: formats.state(row.state),
        "stage": lambda: row.stage,
        "value": lambda: formats.exact(row.value),
        "step": lambda: trial_rows.done(row),
        "duration": lambda: formats.duration(trial_rows.time_of(row, now_us)),
        "worker": lambda: (row.worker_id or "–")[:8],
        "attempt": lambda: row.attempt,
        "reason": lambda: row.stop_reason or "",
        "kind": lambda: row.kind,
        "tag": lambda: ", ".join(row.tags or ()),
    }
    if name in special:
        return Markup.escape(special[name]())
    value = _value(row, name)
    if value is None:
        return Markup("")
    if isinstance(value, str) and len(value) > LONG:
        return Markup('<span class="long" title="{0}">{0}</span>').format(value)
    return formats.setting(sheets.ODD.get(value, value) if name not in row.params else value)
