"""Reads about workers: what ran where lately, what runs now, and how long the queue is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, or_, select
from tunesmith_studies.trial import StudyState, TrialState

from tunesmith_service.tables import attempts, studies, trials

MOST_BARS = 5000


def attempts_since(
    conn: Connection, project_id: int | None, since_us: int, *, limit: int = MOST_BARS
) -> Sequence[Row[Any]]:
    """The newest attempts that ran after `since_us`, newest first; of all projects if None."""
    ran = or_(attempts.c.ended_us.is_(None), attempts.c.ended_us >= since_us)
    return _attempts(conn, [ran, *_of(project_id)], limit)


def attempts_of_study(
    conn: Connection, study_id: int, first_number: int, *, limit: int
) -> Sequence[Row[Any]]:
    """The newest attempts of a study's trials from a number on, newest first."""
    return _attempts(conn, [trials.c.study_id == study_id, trials.c.number >= first_number], limit)


def _attempts(conn: Connection, where: list[ColumnElement[bool]], limit: int) -> Sequence[Row[Any]]:
    a = attempts.c
    wanted: Select[Any] = (
        select(
            a.worker_id, a.slot_id, a.attempt, a.claimed_us, a.ended_us, a.ending, a.outcome,
            trials.c.number, trials.c.study_id, studies.c.name.label("study"),
        )
        .join(trials, trials.c.id == a.trial_id)
        .join(studies, studies.c.id == trials.c.study_id)
        .where(a.devices > 0, *where)  # what was run elsewhere held no slot
        .order_by(a.claimed_us.desc())
        .limit(limit)
    )  # fmt: skip
    return conn.execute(wanted).all()


def running(conn: Connection, project_id: int | None, *, limit: int = 1000) -> Sequence[Row[Any]]:
    """Trials that hold a lease now, by slot."""
    t = trials.c
    wanted: Select[Any] = (
        select(t.worker_id, t.slot_id, t.number, t.study_id, t.step, t.work, t.lease_expires_us,
               studies.c.name.label("study"))
        .join(studies, studies.c.id == t.study_id)
        .where(t.state == TrialState.RUNNING, *_of(project_id))
        .order_by(t.lease_expires_us)
        .limit(limit)
    )  # fmt: skip
    return conn.execute(wanted).all()


def queued(conn: Connection, project_id: int | None) -> int:
    """Trials that wait for a slot, of studies that are active."""
    active = studies.c.state == StudyState.ACTIVE
    return int(conn.scalar(select(func.sum(studies.c.waiting)).where(active, *_of(project_id))) or 0)


def _of(project_id: int | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [studies.c.project_id == project_id]
