"""The reads: instance, tokens, studies, stages, workers, and what is to be planned.

Each is a function of a connection and returns frozen values, so nothing is read behind a caller's
back. `trial_store` reads trials, `event_log` the log; `overviews` has what screens need beside these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, func, or_, select

from tunesmith_service import tables
from tunesmith_service.clock import SECOND
from tunesmith_service.db import columns, values

LIVE_US = 60 * SECOND
"""A worker that has not been heard of for this long is away; each claims or beats more often."""


# --- the instance and who may do what -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instance:
    uuid: str
    incarnation: int
    clock_floor_us: int
    last_tick_us: int


def instance(conn: Connection) -> Instance:
    return values(conn, Instance, select(*columns(Instance, tables.instance)))[0]


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
    wanted = select(*columns(TokenRow, tables.tokens)).where(tables.tokens.c.key_id == key_id)
    return next(iter(values(conn, TokenRow, wanted)), None)


def tokens(conn: Connection, project_id: int | None) -> list[TokenRow]:
    """A project's tokens, oldest first; all there are if None."""
    wanted = select(*columns(TokenRow, tables.tokens)).order_by(tables.tokens.c.id)
    if project_id is not None:
        wanted = wanted.where(tables.tokens.c.project_id == project_id)
    return values(conn, TokenRow, wanted)


def session_token(conn: Connection, session_hash: bytes) -> TokenRow | None:
    """The token behind a browser's session; it ends with the session or the token, whichever is first."""
    t, s = tables.tokens, tables.sessions
    first = case((t.c.expires_us < s.c.expires_us, t.c.expires_us), else_=s.c.expires_us).label("expires_us")
    kept = [c for c in columns(TokenRow, t) if c.name not in ("secret_hash", "expires_us")]
    wanted = (
        select(*kept, s.c.session_hash.label("secret_hash"), first)
        .join(s, s.c.token_id == t.c.id)
        .where(s.c.session_hash == session_hash)
    )
    return next(iter(values(conn, TokenRow, wanted)), None)


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
    wanted = select(*columns(Study, s)).where(or_(s.c.name == study, s.c.id == (int(study) if is_id else -1)))
    if project_id is not None:
        wanted = wanted.where(s.c.project_id == project_id)
    by_name_first = case((s.c.name == study, 0), else_=1)
    return next(iter(values(conn, Study, wanted.order_by(by_name_first, s.c.id).limit(1))), None)


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
    wanted = select(*columns(Study, s)).order_by(s.c.id.desc()).limit(limit)
    if project_id is not None:
        wanted = wanted.where(s.c.project_id == project_id)
    if before is not None:
        wanted = wanted.where(s.c.id < before)
    if state is not None:
        wanted = wanted.where(s.c.state == state)
    if not archived:
        wanted = wanted.where(s.c.archived.is_(False))
    return values(conn, Study, wanted)


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
    override: Mapping[str, Any] | None
    counts: Mapping[str, int]

    @property
    def blocks(self) -> bool:
        """Whether its result keeps the study from going on; see `courses.blocks`."""
        return bool((self.result or {}).get("blocks")) and self.override is None


def stages(conn: Connection, study_id: int) -> list[StageRow]:
    """A study's stages in order."""
    t, g = tables.trials, tables.stages
    counts: dict[int, dict[str, int]] = {}
    counted = select(t.c.stage_id, t.c.state, func.count().label("n")).where(t.c.study_id == study_id)
    for row in conn.execute(counted.group_by(t.c.stage_id, t.c.state)):
        counts.setdefault(row.stage_id, {})[row.state] = row.n
    wanted = select(*columns(StageRow, g)).where(g.c.study_id == study_id).order_by(g.c.position)
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
    wanted = select(*columns(Demand, s)).where(s.c.state == "active", s.c.waiting > 0)
    return values(conn, Demand, wanted.order_by(s.c.id))


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
    wanted = select(*columns(Study, s)).where(s.c.state.in_(("active", "paused"))).order_by(s.c.id)
    return [
        PlannedStudy(y.id, y.spec, y.event_n, _slots_for(y, live).count) for y in values(conn, Study, wanted)
    ]


@dataclass(frozen=True, slots=True)
class Slots:
    """Live slots that could run a study's trials at once, and the devices of one, on average."""

    count: int
    devices: float


def slots_for(conn: Connection, study: Study) -> Slots:
    return _slots_for(study, _live_workers(conn))


def _live_workers(conn: Connection) -> Sequence[Row[*tuple[Any, ...]]]:
    w = tables.workers
    since_us = instance(conn).last_tick_us - LIVE_US
    wanted = select(w.c.project_id, w.c.tasks, w.c.slots)
    return conn.execute(wanted.where(w.c.draining.is_(False), w.c.last_seen_us >= since_us)).all()


def _slots_for(study: Study, live: Iterable[Any]) -> Slots:
    devices = [
        len(slot["devices"])
        for w in live
        if w.project_id == study.project_id
        and study.task in w.tasks
        and study.task_digest in (None, w.tasks[study.task])
        for slot in w.slots
    ]
    most = len(devices) if study.max_concurrent is None else min(len(devices), study.max_concurrent)
    return Slots(most, sum(devices) / len(devices) if devices else 1.0)


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
    wanted = select(*columns(Worker, w)).order_by(w.c.name, w.c.id)
    if project_id is not None:
        wanted = wanted.where(w.c.project_id == project_id)
    return [
        Worker(**row._mapping, live=row.last_seen_us >= since_us, running=running.get(row.id, 0))
        for row in conn.execute(wanted)
    ]
