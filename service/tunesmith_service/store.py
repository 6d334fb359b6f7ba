"""The reads: instance, tokens, studies, stages, trials, curves, bytes, workers.

Each is a function of a connection and returns frozen values, so nothing is read behind a caller's
back. `overviews` has what screens need beside these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    FromClause,
    Row,
    Select,
    String,
    and_,
    case,
    func,
    or_,
    select,
)
from tunesmith_studies.log import Entry
from tunesmith_studies.trial import Point

from tunesmith_service import reading, tables
from tunesmith_service.clock import SECOND
from tunesmith_service.commands import Lease
from tunesmith_service.db import batch, rows
from tunesmith_service.retention import named_by_rows

T = TypeVar("T")

LIVE_US = 60 * SECOND
"""A worker that has not been heard of for this long is away; each claims or beats more often."""


def _columns(kind: type[Any], table: FromClause) -> list[Any]:
    """The table's columns that a value of `kind` holds, by name."""
    return [table.c[f.name] for f in fields(kind) if f.name in table.c]


def _values(conn: Connection, kind: type[T], statement: Select[Any]) -> list[T]:
    return [kind(**row._mapping) for row in conn.execute(statement)]


# --- the instance and who may do what -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instance:
    uuid: str
    incarnation: int
    clock_floor_us: int
    last_tick_us: int


def instance(conn: Connection) -> Instance:
    return _values(conn, Instance, select(*_columns(Instance, tables.instance)))[0]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token; in what `session_token` finds, hash and expiry are the session's."""

    id: int
    project_id: int | None
    key_id: str
    secret_hash: bytes
    role: str
    name: str
    created_us: int
    expires_us: int | None
    last_used_us: int | None
    revoked_us: int | None


def token_by_key(conn: Connection, key_id: str) -> TokenRow | None:
    wanted = select(*_columns(TokenRow, tables.tokens)).where(tables.tokens.c.key_id == key_id)
    return next(iter(_values(conn, TokenRow, wanted)), None)


def tokens(conn: Connection, project_id: int | None) -> list[TokenRow]:
    """A project's tokens, oldest first; all there are if None."""
    wanted = select(*_columns(TokenRow, tables.tokens)).order_by(tables.tokens.c.id)
    if project_id is not None:
        wanted = wanted.where(tables.tokens.c.project_id == project_id)
    return _values(conn, TokenRow, wanted)


def session_token(conn: Connection, session_hash: bytes) -> TokenRow | None:
    """The token behind a browser's session; it ends with the session or the token, whichever is first."""
    t, s = tables.tokens, tables.sessions
    first = case((t.c.expires_us < s.c.expires_us, t.c.expires_us), else_=s.c.expires_us).label("expires_us")
    kept = [c for c in _columns(TokenRow, t) if c.name not in ("secret_hash", "expires_us")]
    wanted = (
        select(*kept, s.c.session_hash.label("secret_hash"), first)
        .join(s, s.c.token_id == t.c.id)
        .where(s.c.session_hash == session_hash)
    )
    return next(iter(_values(conn, TokenRow, wanted)), None)


# --- studies and stages ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Study:
    """A row of `studies`."""

    id: int
    project_id: int
    name: str
    state: str
    reason: str | None
    archived: bool
    spec: Mapping[str, Any]
    task: str
    task_digest: str | None
    priority: int
    event_n: int
    trial_n: int
    running: int
    waiting: int
    finished: int
    max_concurrent: int | None
    max_trials: int | None
    max_gpu_us: int | None
    gpu_us: int
    deadline_us: int | None
    created_us: int
    ended_us: int | None

    @property
    def direction(self) -> str:
        return str(self.spec["objective"]["direction"])


def find_study(conn: Connection, project_id: int | None, study: str) -> Study | None:
    """By name, else by id; in this project, or in any if None (the oldest of one name)."""
    s = tables.studies
    is_id = study.isascii() and study.isdecimal() and len(study) <= 18
    wanted = select(*_columns(Study, s)).where(
        or_(s.c.name == study, s.c.id == (int(study) if is_id else -1))
    )
    if project_id is not None:
        wanted = wanted.where(s.c.project_id == project_id)
    by_name_first = case((s.c.name == study, 0), else_=1)
    return next(iter(_values(conn, Study, wanted.order_by(by_name_first, s.c.id).limit(1))), None)


def studies(
    conn: Connection,
    project_id: int | None,
    *,
    before: int | None = None,
    limit: int = 50,
    state: str | None = None,
    archived: bool = False,
) -> list[Study]:
    """Newest first, from below id `before`; of all projects if None."""
    s = tables.studies
    wanted = select(*_columns(Study, s)).order_by(s.c.id.desc()).limit(limit)
    if project_id is not None:
        wanted = wanted.where(s.c.project_id == project_id)
    if before is not None:
        wanted = wanted.where(s.c.id < before)
    if state is not None:
        wanted = wanted.where(s.c.state == state)
    if not archived:
        wanted = wanted.where(s.c.archived.is_(False))
    return _values(conn, Study, wanted)


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage, and how many of its trials are in each state."""

    id: int
    position: int
    name: str
    kind: str
    spec: Mapping[str, Any]
    state: str
    reason: str | None
    result: Mapping[str, Any] | None
    activated_us: int | None
    ended_us: int | None
    counts: Mapping[str, int]


def stages(conn: Connection, study_id: int) -> list[StageRow]:
    """A study's stages in order."""
    t, g = tables.trials, tables.stages
    counts: dict[int, dict[str, int]] = {}
    counted = select(t.c.stage_id, t.c.state, func.count().label("n")).where(t.c.study_id == study_id)
    for row in conn.execute(counted.group_by(t.c.stage_id, t.c.state)):
        counts.setdefault(row.stage_id, {})[row.state] = row.n
    wanted = select(*_columns(StageRow, g)).where(g.c.study_id == study_id).order_by(g.c.position)
    return [StageRow(**row._mapping, counts=counts.get(row.id, {})) for row in conn.execute(wanted)]


@dataclass(frozen=True, slots=True)
class Demand:
    id: int
    project_id: int
    waiting: int
    running: int
    max_concurrent: int | None


def demand(conn: Connection) -> list[Demand]:
    """What each active study could hand out."""
    s = tables.studies
    wanted = select(*_columns(Demand, s)).where(s.c.state == "active", s.c.waiting > 0)
    return _values(conn, Demand, wanted.order_by(s.c.id))


# --- what the planner reads -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """A study to plan for.

    Attributes:
        event_n: number of its newest event.
        slots: how many live slots could run its trials, at most `max_concurrent`.
    """

    id: int
    spec: Mapping[str, Any]
    event_n: int
    slots: int


def planned_studies(conn: Connection) -> list[PlannedStudy]:
    """Active studies, and paused ones too: what runs there may still be pruned."""
    s = tables.studies
    live = _live_workers(conn)
    wanted = select(*_columns(Study, s)).where(s.c.state.in_(("active", "paused"))).order_by(s.c.id)
    return [PlannedStudy(y.id, y.spec, y.event_n, _slots_for(y, live)) for y in _values(conn, Study, wanted)]


def _live_workers(conn: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    w = tables.workers
    since_us = instance(conn).last_tick_us - LIVE_US
    wanted = select(w.c.project_id, w.c.tasks, w.c.slots)
    return conn.execute(wanted.where(w.c.draining.is_(False), w.c.last_seen_us >= since_us)).all()


def _slots_for(study: Study, live: Iterable[Any]) -> int:
    able = sum(
        len(w.slots)
        for w in live
        if w.project_id == study.project_id
        and study.task in w.tasks
        and study.task_digest in (None, w.tasks[study.task])
    )
    return able if study.max_concurrent is None else min(able, study.max_concurrent)


def entries_since(conn: Connection, study_id: int, n: int, limit: int | None = None) -> list[Entry]:
    """The study's log after event `n`, in order and without gaps; at most `limit` entries."""
    e, r = tables.events, tables.reports
    until = n + limit if limit is not None else 2**62
    happened = select(e.c.n, e.c.kind, e.c.trial_number, e.c.stage, e.c.data)
    reported = select(r.c.n, r.c.trial_number, r.c.stage, r.c.attempt, r.c.seq, r.c.points)
    found = [
        Entry(n=row.n, kind=row.kind, trial=row.trial_number, stage=row.stage, data=row.data)
        for row in conn.execute(happened.where(e.c.study_id == study_id, e.c.n > n, e.c.n <= until))
    ]
    for row in conn.execute(reported.where(r.c.study_id == study_id, r.c.n > n, r.c.n <= until)):
        data = {"attempt": row.attempt, "seq": row.seq, "points": row.points}
        found.append(Entry(n=row.n, kind="reported", trial=row.trial_number, stage=row.stage, data=data))
    return _without_gap(sorted(found, key=lambda entry: entry.n), n)


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


def events(conn: Connection, study_id: int, after: int, limit: int) -> list[Event]:
    """The study's log after event `after`, in order, for people; at most `limit` entries."""
    e, r = tables.events, tables.reports
    happened = select(*_columns(Event, e)).where(
        e.c.study_id == study_id, e.c.n > after, e.c.n <= after + limit
    )
    reported = select(r).where(r.c.study_id == study_id, r.c.n > after, r.c.n <= after + limit)
    found = _values(conn, Event, happened)
    for row in conn.execute(reported):
        data = {"attempt": row.attempt, "seq": row.seq, "points": row.points}
        found.append(
            Event(row.n, "reported", row.trial_number, row.stage, row.at_us, "worker", "report", data)
        )
    return sorted(found, key=lambda event: event.n)


# --- trials ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial with its stage's name."""

    id: int
    study_id: int
    number: int
    key: str
    ordinal: int
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
    stage: str


def _trials() -> Select[Any]:
    t, g = tables.trials, tables.stages
    return select(*_columns(Trial, t), g.c.name.label("stage")).join(g, g.c.id == t.c.stage_id)


def find_trial(conn: Connection, study_id: int, number: int) -> Trial | None:
    t = tables.trials
    wanted = _trials().where(t.c.study_id == study_id, t.c.number == number)
    return next(iter(_values(conn, Trial, wanted)), None)


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
    return _values(conn, Trial, wanted.order_by(order, t.c.number).limit(limit))


def project_of_trial(conn: Connection, trial_id: int) -> int | None:
    t, s = tables.trials, tables.studies
    return conn.scalar(select(s.c.project_id).join(t, t.c.study_id == s.c.id).where(t.c.id == trial_id))


def best_trials(conn: Connection, study: Study, *, stage: str | None = None, limit: int = 1) -> list[Trial]:
    """Complete trials by objective, best first; ties go to the lower number."""
    t = tables.trials
    wanted = _trials().where(t.c.study_id == study.id, t.c.state == "complete")
    if stage is not None:
        wanted = wanted.where(tables.stages.c.name == stage)
    better = t.c.value if study.direction == "minimize" else t.c.value.desc()
    return _values(conn, Trial, wanted.order_by(better, t.c.number).limit(limit))


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
    return _values(
        conn, Attempt, select(*_columns(Attempt, a)).where(a.c.trial_id == trial_id).order_by(a.c.attempt)
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
    wanted = select(*_columns(LogChunk, g)).where(
        g.c.trial_id == trial_id, g.c.attempt == attempt, g.c.seq > after
    )
    return _values(conn, LogChunk, wanted.order_by(g.c.seq).limit(limit))


@dataclass(frozen=True, slots=True)
class Artifact:
    name: str
    attempt: int
    sha256: str
    size: int
    at_us: int


def artifacts(conn: Connection, trial_id: int) -> list[Artifact]:
    a = tables.artifacts
    return _values(
        conn, Artifact, select(*_columns(Artifact, a)).where(a.c.trial_id == trial_id).order_by(a.c.name)
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
    return _values(
        conn, Snapshot, select(*_columns(Snapshot, s)).where(s.c.trial_id == trial_id).order_by(s.c.id)
    )


def may_fetch(conn: Connection, lease: Lease, sha256: str) -> bool:
    """Whether this lease is current and its grant goes on from the snapshot with these bytes."""
    t, a, s = tables.trials, tables.attempts, tables.snapshots
    wanted = (
        select(t.c.id)
        .join(a, and_(a.c.trial_id == t.c.id, a.c.attempt == t.c.attempt))
        .join(s, s.c.id == a.c.resume_snapshot_id)
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


# --- workers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker, whether it was heard of lately, and how many trials it runs."""

    id: str
    project_id: int
    name: str
    boot_id: str
    version: str
    tasks: Mapping[str, str]
    slots: Sequence[Mapping[str, Any]]
    draining: bool
    first_seen_us: int
    last_seen_us: int
    live: bool
    running: int


def workers(conn: Connection, project_id: int | None) -> list[Worker]:
    """A project's workers by name; all there are if None."""
    w, t = tables.workers, tables.trials
    since_us = instance(conn).last_tick_us - LIVE_US
    counted = select(t.c.worker_id, func.count().label("n")).where(t.c.state == "running")
    running = {row.worker_id: row.n for row in conn.execute(counted.group_by(t.c.worker_id))}
    wanted = select(*_columns(Worker, w)).order_by(w.c.name, w.c.id)
    if project_id is not None:
        wanted = wanted.where(w.c.project_id == project_id)
    return [
        Worker(**row._mapping, live=row.last_seen_us >= since_us, running=running.get(row.id, 0))
        for row in conn.execute(wanted)
    ]
