"""The reads of trials: rows, curves, attempts, and the bytes they left. See `store` for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, String, and_, func, or_, select
from tunesmith_studies.trial import Point

from tunesmith_service import reading, tables
from tunesmith_service.commands import Lease
from tunesmith_service.db import batch, columns, rows, values
from tunesmith_service.retention import named_by_rows
from tunesmith_service.store import Study


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial with its stage's name."""

    id: int
    study_id: int
    number: int
    key: str
    ordinal: int
    kind: str
    state: str
    stop_reason: str | None
    params: Mapping[str, Any]
    work: Mapping[str, Any]
    start: Mapping[str, int] | None
    planned_at: int
    draft: bool
    hand: bool
    retry_of: int | None
    attempt: int
    worker_id: str | None
    not_before_us: int
    losses: int
    failures: int
    preemptions: int
    step: int
    value: float | None
    last_metrics: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    created_us: int
    started_us: int | None
    ended_us: int | None
    test_read: int | None
    stage: str


def _trials() -> Select[Any]:
    t, g = tables.trials, tables.stages
    return select(*columns(Trial, t), g.c.name.label("stage")).join(g, g.c.id == t.c.stage_id)


def find_trial(conn: Connection, study_id: int, number: int) -> Trial | None:
    t = tables.trials
    wanted = _trials().where(t.c.study_id == study_id, t.c.number == number)
    return next(iter(values(conn, Trial, wanted)), None)


def trials(
    conn: Connection,
    study_id: int,
    *,
    after: int | None = None,
    limit: int = 100,
    stage: str | None = None,
    state: str | None = None,
    sort: str = "number",
) -> list[Trial]:
    """A page of a study's trials, from behind the one numbered `after`.

    Args:
        sort: number or value (those that have one); `-` before it: downwards.
    """
    t = tables.trials
    by, down = t.c[sort.removeprefix("-")], sort.startswith("-")
    wanted = _trials().where(t.c.study_id == study_id, by.is_not(None))
    if after is not None:
        at = select(by).where(t.c.study_id == study_id, t.c.number == after).scalar_subquery()
        behind = by < at if down else by > at
        wanted = wanted.where(or_(behind, and_(by == at, t.c.number > after)))
    if stage is not None:
        wanted = wanted.where(tables.stages.c.name == stage)
    if state is not None:
        wanted = wanted.where(t.c.state == state)
    order = by.desc() if down else by
    return values(conn, Trial, wanted.order_by(order, t.c.number).limit(limit))


def project_of_trial(conn: Connection, trial_id: int) -> int | None:
    t, s = tables.trials, tables.studies
    return conn.scalar(select(s.c.project_id).join(t, t.c.study_id == s.c.id).where(t.c.id == trial_id))


FOLDED = "cross_validation"
"""The kind of stage whose trials are judged on folds."""


def best_trials(conn: Connection, study: Study, *, stage: str | None = None, limit: int = 1) -> list[Trial]:
    """Trials with an objective, best first; ties go to the lower number. Those that measure have none.

    Folds are judged on other samples than all else, so that they stand in their own stage's order alone.
    """
    t = tables.trials
    wanted = _trials().where(t.c.study_id == study.id, t.c.value.is_not(None))
    if stage is not None:
        wanted = wanted.where(tables.stages.c.name == stage)
    else:
        wanted = wanted.where(tables.stages.c.kind != FOLDED)
    better = t.c.value if study.direction == "minimize" else t.c.value.desc()
    return values(conn, Trial, wanted.order_by(better, t.c.number).limit(limit))


@dataclass(frozen=True, slots=True)
class ReadOfTest:
    """A trial that has read its task's test split."""

    trial: int
    stage: str
    nth: int  # of its project to read it


def test_reads(conn: Connection, study_id: int) -> list[ReadOfTest]:
    """A study's trials that have read the test split, in order of reading."""
    t, g = tables.trials, tables.stages
    wanted = (
        select(t.c.number.label("trial"), g.c.name.label("stage"), t.c.test_read.label("nth"))
        .join(g, g.c.id == t.c.stage_id)
        .where(t.c.study_id == study_id, t.c.test_read.is_not(None))
    )
    return values(conn, ReadOfTest, wanted.order_by(t.c.test_read))


def curve(conn: Connection, trial_id: int) -> list[Point]:
    """A trial's points in order of step, without those that a resumed attempt threw away."""
    return reading.curves(conn, [trial_id]).get(trial_id, [])


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lease of a trial."""

    attempt: int
    incarnation: int
    worker_id: str
    slot_id: str
    devices: int
    claimed_us: int
    resume_step: int
    ended_us: int | None
    ending: str | None


def attempts(conn: Connection, trial_id: int) -> list[Attempt]:
    a = tables.attempts
    return values(
        conn, Attempt, select(*columns(Attempt, a)).where(a.c.trial_id == trial_id).order_by(a.c.attempt)
    )


# --- bytes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogChunk:
    attempt: int
    seq: int
    sha256: str
    size: int
    at_us: int


def logs(
    conn: Connection, trial_id: int, *, attempt: int | None = None, after: int = 0, limit: int = 100
) -> list[LogChunk]:
    """Chunks of an attempt's log in order, from above seq `after`; of the newest that wrote one if None."""
    g = tables.logs
    if attempt is None:
        attempt = conn.scalar(select(func.max(g.c.attempt)).where(g.c.trial_id == trial_id)) or 0
    wanted = select(*columns(LogChunk, g)).where(
        g.c.trial_id == trial_id, g.c.attempt == attempt, g.c.seq > after
    )
    return values(conn, LogChunk, wanted.order_by(g.c.seq).limit(limit))


@dataclass(frozen=True, slots=True)
class Artifact:
    name: str
    attempt: int
    sha256: str
    size: int
    at_us: int


def artifacts(conn: Connection, trial_id: int) -> list[Artifact]:
    a = tables.artifacts
    return values(
        conn, Artifact, select(*columns(Artifact, a)).where(a.c.trial_id == trial_id).order_by(a.c.name)
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    attempt: int
    step: int
    sha256: str
    size: int
    committed_us: int
    forgotten_us: int | None


def snapshots(conn: Connection, trial_id: int) -> list[Snapshot]:
    """Committed snapshots, oldest first; the bytes of forgotten ones are gone."""
    s = tables.snapshots
    return values(
        conn, Snapshot, select(*columns(Snapshot, s)).where(s.c.trial_id == trial_id).order_by(s.c.id)
    )


def largest_snapshot(conn: Connection, project_id: int, task: str) -> int | None:
    """Bytes of the largest snapshot that a trial of this task has left in the project, if any has."""
    t, s, studies = tables.trials, tables.snapshots, tables.studies
    wanted = (
        select(func.max(s.c.size))
        .join(t, t.c.id == s.c.trial_id)
        .join(studies, studies.c.id == t.c.study_id)
        .where(studies.c.project_id == project_id, studies.c.task == task)
    )
    return conn.execute(wanted).scalar()


def may_fetch(conn: Connection, lease: Lease, sha256: str) -> bool:
    """Whether this lease is current and its grant names the snapshot with these bytes: it goes on from it,
    or evaluates it."""
    t, a, s, m = tables.trials, tables.attempts, tables.snapshots, tables.members
    evaluated = select(m.c.snapshot_id).where(m.c.trial_id == t.c.id)
    wanted = (
        select(t.c.id)
        .join(a, and_(a.c.trial_id == t.c.id, a.c.attempt == t.c.attempt))
        .join(s, or_(s.c.id == a.c.resume_snapshot_id, s.c.id.in_(evaluated)))
        .where(
            t.c.id == lease.trial_id,
            t.c.incarnation == lease.incarnation,
            t.c.attempt == lease.attempt,
            t.c.lease_hash == lease.secret_hash.hex(),
            t.c.state == "running",
            s.c.sha256 == sha256,
        )
    )
    return conn.execute(wanted).first() is not None


def named_blobs(conn: Connection, hashes: Iterable[str]) -> set[str]:
    """Those among these hashes whose bytes a row needs."""
    b = batch(conn, sha256=String)
    blobs = tables.blobs
    wanted = select(blobs.c.sha256).join(b, b.c.sha256 == blobs.c.sha256).where(named_by_rows())
    return set(conn.execute(wanted, {"batch": rows({"sha256": h} for h in hashes)}).scalars())
