"""A trial's curve, as handlers and readers see it: the points that its resumed attempts have kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, select
from tunesmith_studies.trial import Point

from tunesmith_service.db import ids, rows
from tunesmith_service.tables import attempts, reports


def point(data: Mapping[str, Any]) -> Point:
    """A point as it is stored; "NaN" and the infinities become floats."""
    return Point(data["step"], {name: float(value) for name, value in data["metrics"].items()})


def curves(conn: Connection, trial_ids: Iterable[int]) -> dict[int, list[Point]]:
    """Points of each trial in order of step. When an attempt resumes from step r, the points of
    earlier attempts past r are dropped: they are trained again."""
    asked = {"batch": rows({"id": i} for i in sorted(set(trial_ids)))}
    dialect = conn.dialect.name
    resumed: dict[tuple[int, int], int] = {}
    for row in conn.execute(_attempts(dialect), asked):
        resumed[row.trial_id, row.attempt] = row.resume_step
    found: dict[int, list[Point]] = {}
    last: dict[int, int] = {}
    for row in conn.execute(_reports(dialect), asked):
        curve = found.setdefault(row.trial_id, [])
        for attempt in range(last.get(row.trial_id, row.attempt) + 1, row.attempt + 1):
            cut = resumed[row.trial_id, attempt]
            curve[:] = [p for p in curve if p.step <= cut]
        last[row.trial_id] = row.attempt
        curve.extend(point(p) for p in row.points)
    for trial_id, curve in found.items():
        later = [r for (i, attempt), r in resumed.items() if i == trial_id and attempt > last[trial_id]]
        if later:
            curve[:] = [p for p in curve if p.step <= min(later)]
    return found


@cache
def _attempts(dialect: str) -> Executable:
    tried = select(attempts.c.trial_id, attempts.c.attempt, attempts.c.resume_step)
    return tried.where(attempts.c.trial_id.in_(ids(dialect)))


@cache
def _reports(dialect: str) -> Executable:
    return (
        select(reports.c.trial_id, reports.c.attempt, reports.c.points)
        .where(reports.c.trial_id.in_(ids(dialect)))
        .order_by(reports.c.trial_id, reports.c.attempt, reports.c.seq)
    )
