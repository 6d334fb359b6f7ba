"""The reads of trials: rows, curves, attempts, and the bytes they left. See `store` for the rest."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    Select,
    String,
    and_,
    func,
    literal,
    or_,
    select,
)
from tunesmith_studies import trial as planned
from tunesmith_studies.trial import Point

from tunesmith_service import reading, tables, trial_filter
from tunesmith_service.commands import Lease
from tunesmith_service.db import batch, columns, rows, values
from tunesmith_service.errors import NotFound, Unprocessable
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
    tags: Sequence[str] | None
    variant_of: int | None
    imported: Mapping[str, Any] | None
    stage: str


def _trials() -> Select[Any]:
    t, g = tables.trials, tables.stages
    return select(*columns(Trial, t), g.c.name.label("stage")).join(g, g.c.id == t.c.stage_id)


def find_trial(conn: Connection, study_id: int, number: int) -> Trial | None:
    t = tables.trials
    wanted = _trials().where(t.c.study_id == study_id, t.c.number == number)
    return next(iter(values(conn, Trial, wanted)), None)


def as_planned(row: Trial, curve: Sequence[Point] = ()) -> planned.Trial:
    """The trial as planning and diagnosis know it, with these points of its curve."""
    return planned.Trial(
        number=row.number,
        stage=row.stage,
        key=row.key,
        ordinal=row.ordinal,
        params=row.params,
        work=planned.Work.from_json(row.work),
        state=planned.TrialState(row.state),
        stop_reason=planned.StopReason(row.stop_reason) if row.stop_reason else None,
        start=planned.Start.from_json(row.start) if row.start else None,
        value=row.value,
        curve=tuple(curve),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of trials ends: what its last trial was sorted by, and its number."""

    by: float | None
    number: int

    def __str__(self) -> str:
        """A cursor, which `Place.read` reads."""
        return base64.urlsafe_b64encode(json.dumps([self.by, self.number]).encode()).decode().rstrip("=")

    @classmethod
    def read(cls, cursor: str) -> Place:
        """Raises: Unprocessable for what is no cursor."""
        try:
            by, number = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if type(number) is int and 0 <= number < 2**53 and (by is None or math.isfinite(by)):
                return cls(by, number)
        except (ValueError, TypeError, OverflowError):
            pass
        raise Unprocessable("cursor is not one of ours; begin again without it")


def trials(
    conn: Connection,
    study: Study,
    *,
    filter: str = "",
    after: Place | int | None = None,
    limit: int = 100,
    stage: str | None = None,
    state: str | None = None,
    sort: str = "number",
) -> list[Trial]:
    """A page of a study's trials, from behind a place, or behind where the trial of this number stands now.

    Args:
        filter: in the words of `filters`.
        sort: a name that filters know; trials that have none come last. `-` before it: downwards.

    Raises: Unprocessable for a filter or an order that means nothing here.
    """
    t = tables.trials
    by, down = trial_filter.order(conn, study, sort.removeprefix("-")), sort.startswith("-")
    wanted = _trials().where(t.c.study_id == study.id)
    if filter:
        wanted = wanted.where(trial_filter.clause(conn, study, filter))
    if stage is not None:
        wanted = wanted.where(tables.stages.c.name == stage)
    if state is not None:
        wanted = wanted.where(t.c.state == state)
    if isinstance(after, int):
        after = place(conn, study, sort, after)
    way = by.desc() if down else by
    if by is t.c.number:
        if after is not None:
            wanted = wanted.where(by < after.number if down else by > after.number)
        return values(conn, Trial, wanted.order_by(way).limit(limit))
    # first those that have such a value, which an index may have in this order; then the others
    found: list[Trial] = []
    if after is None or after.by is not None:
        having = wanted.where(by.is_not(None), *([_behind(by, after, down=down)] if after else []))
        found = values(conn, Trial, having.order_by(way, t.c.number).limit(limit))
        after = None
    if len(found) < limit:
        lacking = wanted.where(by.is_(None), *([t.c.number > after.number] if after else []))
        found += values(conn, Trial, lacking.order_by(t.c.number).limit(limit - len(found)))
    return found


def numbers(conn: Connection, study: Study, *, filter: str = "", sort: str = "number") -> list[int]:
    """Numbers of all trials that a filter picks, in order. Raises what `trials` does."""
    t, g = tables.trials, tables.stages
    by, down = trial_filter.order(conn, study, sort.removeprefix("-")), sort.startswith("-")
    wanted = select(t.c.number).join(g, g.c.id == t.c.stage_id)
    wanted = wanted.where(t.c.study_id == study.id, trial_filter.clause(conn, study, filter))
    order = (by.is_(None), by.desc() if down else by, t.c.number)
    return list(conn.execute(wanted.order_by(*order)).scalars())


def numbered(conn: Connection, study_id: int, numbers: Sequence[int]) -> list[Trial]:
    """The trials of these numbers, in their order."""
    b = batch(conn.dialect.name, number=BigInteger)
    t = tables.trials
    wanted = _trials().where(t.c.study_id == study_id, t.c.number.in_(select(b.c.number)))
    found = conn.execute(wanted, {"batch": rows({"number": n} for n in numbers)})
    by_number = {row.number: Trial(**row._mapping) for row in found}
    return [by_number[n] for n in numbers if n in by_number]


def _behind(by: ColumnElement[Any], place: Place, *, down: bool) -> ColumnElement[bool]:
    """Of those that have such a value: behind this one, or level with it and of a higher number."""
    at = literal(place.by, Float)
    from_here = by <= at if down else by >= at  # on its own, so that an index can begin there
    return and_(from_here, or_(by != at, tables.trials.c.number > place.number))


def place(conn: Connection, study: Study, sort: str, number: int) -> Place:
    """Where a trial stands in this order; the last of a page is where the next one begins."""
    by = trial_filter.order(conn, study, sort.removeprefix("-"))
    t = tables.trials
    found = conn.scalar(select(by).where(t.c.study_id == study.id, t.c.number == number))
    return Place(None if found is None else float(found), number)


def project_of_trial(conn: Connection, trial_id: int) -> int | None:
    t, s = tables.trials, tables.studies
    return conn.scalar(select(s.c.project_id).join(t, t.c.study_id == s.c.id).where(t.c.id == trial_id))


def run_out(conn: Connection, now_us: int) -> list[int]:
    """Trials whose leases have run out, by id."""
    t = tables.trials.c
    return list(conn.scalars(select(t.id).where(t.state == "running", t.lease_expires_us < now_us)))


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


def kept_snapshots(conn: Connection, trial_id: int) -> dict[int, Snapshot]:
    """By rising step the newest of those whose bytes are still kept."""
    kept = {s.step: s for s in snapshots(conn, trial_id) if s.forgotten_us is None}
    return dict(sorted(kept.items()))


def snapshot_at(conn: Connection, trial: Trial, step: int) -> Snapshot:
    """Raises: NotFound, saying which steps there are."""
    kept = kept_snapshots(conn, trial.id)
    if step not in kept:
        there = f"it has {', '.join(map(str, kept))}" if kept else "it has none (any more)"
        raise NotFound(f"trial {trial.number} has no snapshot at step {step}; {there}")
    return kept[step]


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


def snapshot_bytes(conn: Connection, project_id: int) -> int:
    """Bytes of all snapshots that a project has."""
    t, s, studies = tables.trials, tables.snapshots, tables.studies
    wanted = (
        select(func.coalesce(func.sum(s.c.size), 0))
        .join(t, t.c.id == s.c.trial_id)
        .join(studies, studies.c.id == t.c.study_id)
        .where(studies.c.project_id == project_id, s.c.forgotten_us.is_(None))
    )
    return int(conn.execute(wanted).scalar_one())


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
    b = batch(conn.dialect.name, sha256=String)
    blobs = tables.blobs
    wanted = select(blobs.c.sha256).join(b, b.c.sha256 == blobs.c.sha256).where(named_by_rows())
    return set(conn.execute(wanted, {"batch": rows({"sha256": h} for h in hashes)}).scalars())


def newest_snapshots(conn: Connection, limit: int) -> list[str]:
    """Hashes of bytes that must be there for trials to go on, newest first."""
    s = tables.snapshots.c
    wanted = select(s.sha256).where(s.forgotten_us.is_(None)).order_by(s.id.desc()).limit(limit)
    return list(conn.execute(wanted).scalars())
