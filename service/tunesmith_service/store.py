"""The reads: instance, tokens, studies, stages, workers, and what is to be planned.

Each is a function of a connection and returns frozen values, so nothing is read behind a caller's
back. `trial_store` reads trials, `event_log` the log; `overviews` has what screens need beside these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Text, and_, bindparam, case, cast, func, or_, select
from tunesmith_studies.resources import gpus_of

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


_INSTANCE = select(*columns(Instance, tables.instance))


def instance(conn: Connection) -> Instance:
    return values(conn, Instance, _INSTANCE)[0]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A row of `tokens`."""

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


_TOKEN = select(*columns(TokenRow, tables.tokens)).where(tables.tokens.c.key_id == bindparam("key_id"))


def token_by_key(conn: Connection, key_id: str) -> TokenRow | None:
    return next(iter(values(conn, TokenRow, _TOKEN, {"key_id": key_id})), None)


def tokens(conn: Connection, project_id: int | None) -> list[TokenRow]:
    """A project's tokens, oldest first; all there are if None."""
    wanted = select(*columns(TokenRow, tables.tokens)).order_by(tables.tokens.c.id)
    if project_id is not None:
        wanted = wanted.where(tables.tokens.c.project_id == project_id)
    return values(conn, TokenRow, wanted)


def live_tokens(conn: Connection, now_us: int) -> dict[str, bytes]:
    """Hash of the secret by key id, of all tokens that work."""
    t = tables.tokens
    works = (t.c.revoked_us.is_(None), or_(t.c.expires_us.is_(None), t.c.expires_us > now_us))
    return {
        row.key_id: bytes(row.secret_hash)
        for row in conn.execute(select(t.c.key_id, t.c.secret_hash).where(*works))
    }


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
    created_by: str | None
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


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    version: int  # goes up with each change


def note(conn: Connection, study_id: int) -> Note:
    """What people wrote about a study; empty if there is no such study."""
    s = tables.studies
    row = conn.execute(select(s.c.note, s.c.note_version).where(s.c.id == study_id)).one_or_none()
    return Note(row.note, row.note_version) if row else Note("", 0)


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


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """Trials by what they are up to, over all studies; `claimable` are those waiting that a slot could be
    given now, but for backoffs and drafts."""

    waiting: int
    claimable: int
    running: int


def trial_counts(conn: Connection) -> TrialCounts:
    """From the studies' own counters: as many rows are read as there are studies with trials to end."""
    s = tables.studies
    room = s.c.max_concurrent - s.c.running
    open_ = case((room < s.c.waiting, room), else_=s.c.waiting)
    claimable = case((s.c.state == "active", open_), else_=0)
    wanted = select(*(func.coalesce(func.sum(n), 0) for n in (s.c.waiting, claimable, s.c.running)))
    row = conn.execute(wanted.where(or_(s.c.waiting > 0, s.c.running > 0))).one()
    return TrialCounts(*map(int, row))


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


@dataclass(frozen=True, slots=True)
class SlotKind:
    """Slots of live workers that are alike; `devices` is how many each of them has."""

    project_id: int
    tasks: Mapping[str, str]
    devices: int
    count: int


def live_slots(conn: Connection) -> list[SlotKind]:
    """Counted by the database: there may be thousands."""
    w, s = tables.workers, tables.slots
    since_us = instance(conn).last_tick_us - LIVE_US
    takes = and_(w.c.draining.is_(False), func.coalesce(w.c.aside_until_us, 0) <= since_us + LIVE_US)
    alike = (
        w.c.project_id,
        cast(w.c.tasks, Text).label("tasks"),
        func.json_array_length(s.c.devices).label("devices"),
    )
    wanted = select(*alike, func.count().label("slots")).join(s, s.c.worker_id == w.c.id)
    found = conn.execute(wanted.where(takes, w.c.last_seen_us >= since_us).group_by(*alike))
    return [SlotKind(row.project_id, json.loads(row.tasks), row.devices, row.slots) for row in found]


_PLANNED = (
    select(*columns(Study, tables.studies))
    .where(tables.studies.c.state.in_(("active", "paused")))
    .order_by(tables.studies.c.id)
)


def planned_studies(conn: Connection, live: Sequence[SlotKind]) -> list[PlannedStudy]:
    """Active studies, and paused ones too: what runs there may still be pruned."""
    return [
        PlannedStudy(y.id, y.spec, y.event_n, _slots_for(y, live).count)
        for y in values(conn, Study, _PLANNED)
    ]


@dataclass(frozen=True, slots=True)
class Slots:
    """Live slots that could run a study's trials at once, and the devices of one, on average."""

    count: int
    devices: float


def slots_for(conn: Connection, study: Study) -> Slots:
    return _slots_for(study, live_slots(conn))


def slots_of(conn: Connection, studies: Iterable[Study]) -> dict[int, Slots]:
    """By study; each as if it were alone."""
    live = live_slots(conn)
    return {study.id: _slots_for(study, live) for study in studies}


def _slots_for(study: Study, live: Iterable[SlotKind]) -> Slots:
    suited = [
        kind
        for kind in live
        if kind.project_id == study.project_id
        and study.task in kind.tasks
        and study.task_digest in (None, kind.tasks[study.task])
        and gpus_of(study.spec) <= kind.devices
    ]
    count = sum(kind.count for kind in suited)
    devices = sum(kind.count * kind.devices for kind in suited)
    most = count if study.max_concurrent is None else min(count, study.max_concurrent)
    return Slots(most, devices / count if count else 1.0)


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
    aside_until_us: int | None  # None, or later than now: it broke one trial after another


def workers(conn: Connection, project_id: int | None) -> list[Worker]:
    """A project's workers by name; all there are if None."""
    w, t = tables.workers, tables.trials
    now_us = instance(conn).last_tick_us
    counted = select(t.c.worker_id, func.count().label("n")).where(t.c.state == "running")
    running = {row.worker_id: row.n for row in conn.execute(counted.group_by(t.c.worker_id))}
    wanted = select(*columns(Worker, w)).order_by(w.c.name, w.c.id)
    if project_id is not None:
        wanted = wanted.where(w.c.project_id == project_id)
    return [_worker(row, running.get(row.id, 0), now_us) for row in conn.execute(wanted)]


def _worker(row: Row[*tuple[Any, ...]], running: int, now_us: int) -> Worker:
    until_us = row.aside_until_us if (row.aside_until_us or 0) > now_us else None
    live = row.last_seen_us >= now_us - LIVE_US
    return Worker(**{**row._mapping, "aside_until_us": until_us}, live=live, running=running)
