"""A study's log, read by event number: for planning as entries, for people with when and who."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    String,
    and_,
    bindparam,
    cast,
    select,
    type_coerce,
)
from tunesmith_studies.log import Entry

from tunesmith_service import tables
from tunesmith_service.db import columns, values


def entries_since(conn: Connection, study_id: int, n: int, limit: int | None = None) -> list[Entry]:
    """The study's log after event `n`, in order and without gaps; at most `limit` entries."""
    asked = {"study": study_id, "since": n, "until": n + limit if limit is not None else 2**62}
    happened, reported = _since(conn.dialect.name)
    found = [
        Entry(at, kind, trial, stage, json.loads(data))
        for at, kind, trial, stage, data in conn.execute(happened, asked)
    ]
    for at, trial, stage, attempt, seq, points in conn.execute(reported, asked):
        data = {"attempt": attempt, "seq": seq, "points": json.loads(points)}
        found.append(Entry(at, "reported", trial, stage, data))
    found.sort(key=attrgetter("n"))
    return _without_gap(found, n)


@cache
def _since(dialect: str) -> tuple[Executable, Executable]:
    """Events and reports of a study behind one event, up to another."""
    e, r = tables.events.c, tables.reports.c

    def raw(column: Column[Any]) -> Any:  # as it is stored: SQLAlchemy's own reading of JSON takes longer
        return type_coerce(column, String) if dialect == "sqlite" else cast(column, String)

    def asked(of: Any) -> ColumnElement[bool]:
        here = of.study_id == bindparam("study")
        return and_(here, of.n > bindparam("since"), of.n <= bindparam("until"))

    happened = select(e.n, e.kind, e.trial_number, e.stage, raw(e.data)).where(asked(e))
    reported = select(r.n, r.trial_number, r.stage, r.attempt, r.seq, raw(r.points)).where(asked(r))
    return happened, reported


def _without_gap(entries: list[Entry], n: int) -> list[Entry]:
    """Two statements of one reader may see two moments: keep what follows on without a gap."""
    for place, entry in enumerate(entries):
        if entry.n != n + 1 + place:
            return entries[:place]
    return entries


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the log with when it happened and who did it."""

    n: int
    kind: str
    trial_number: int | None
    stage: str | None
    at_us: int
    actor: str
    cause: str | None
    data: Mapping[str, Any]


def page(conn: Connection, study_id: int, after: int, limit: int) -> list[Event]:
    """The study's log after event `after`, in order, for people; at most `limit` entries."""
    e, r = tables.events, tables.reports
    happened = select(*columns(Event, e)).where(
        e.c.study_id == study_id, e.c.n > after, e.c.n <= after + limit
    )
    reported = select(r).where(r.c.study_id == study_id, r.c.n > after, r.c.n <= after + limit)
    found = values(conn, Event, happened)
    for row in conn.execute(reported):
        data = {"attempt": row.attempt, "seq": row.seq, "points": row.points}
        found.append(
            Event(row.n, "reported", row.trial_number, row.stage, row.at_us, "worker", "report", data)
        )
    return sorted(found, key=lambda event: event.n)


def newest(
    conn: Connection, study_id: int, *, before: int | None, kind: str | None, limit: int
) -> list[Event]:
    """The newest events below number `before`, the newest first; of one kind if asked, without reports."""
    e = tables.events
    wanted = select(*columns(Event, e)).where(e.c.study_id == study_id)
    if before is not None:
        wanted = wanted.where(e.c.n < before)
    if kind is not None:
        wanted = wanted.where(e.c.kind == kind)
    return values(conn, Event, wanted.order_by(e.c.n.desc()).limit(limit))
