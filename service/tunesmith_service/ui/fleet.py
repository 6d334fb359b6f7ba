"""What the page of workers shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row
from tunesmith_studies.trial import Work

from tunesmith_service import fleet, store
from tunesmith_service.charts import timeline
from tunesmith_service.clock import SECOND
from tunesmith_service.security import Role, Who

HOUR_US = 3600 * SECOND
MOST_WORKERS = 200


@dataclass(frozen=True, slots=True)
class Held:
    """A trial that a slot trains."""

    study: int
    name: str
    number: int
    progress: float | None  # per cent
    done: str
    lease_us: int


@dataclass(frozen=True, slots=True)
class WorkerView:
    row: store.Worker
    state: Literal["online", "draining", "set aside", "away"]
    slots: list[tuple[str, Held | None]]
    silent_us: int
    aside_us: int | None  # how much longer it gets no trial
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class FleetView:
    workers: list[WorkerView]
    counts: Counter[str]
    slots: int
    queue: int
    throughput: int  # trials that ended in the last hour
    idle: float | None  # share of the live slots' last hour
    more: int
    may_drain: bool


def screen(conn: Connection, who: Who) -> FleetView:
    """The fleet of a person's project; of all projects for an operator."""
    now_us = store.instance(conn).last_tick_us
    rows = sorted(store.workers(conn, who.project_id), key=lambda w: (not w.live, w.name, w.id))
    recent = fleet.attempts_since(conn, who.project_id, now_us - timeline.HOURS * HOUR_US)
    held = {r.slot_id: _held(r, now_us) for r in fleet.running(conn, who.project_id)}
    said = [(r.worker_id, timeline.state(r), r.ended_us) for r in recent]
    ended = Counter((worker, state) for worker, state, _ in said)
    shown = [_worker(w, held, ended, now_us) for w in rows[:MOST_WORKERS]]
    last_hour = now_us - HOUR_US
    return FleetView(
        workers=shown,
        counts=Counter(w.state for w in shown),
        slots=sum(len(w.row.slots) for w in shown if w.row.live),
        queue=fleet.queued(conn, who.project_id),
        throughput=sum(
            1 for _, state, at in said if at and at >= last_hour and state in ("complete", "pruned", "failed")
        ),
        idle=_idle(rows, recent, last_hour, now_us),
        more=max(len(rows) - MOST_WORKERS, 0),
        may_drain=who.may(Role.ADMIN),
    )


def _worker(
    w: store.Worker, held: dict[str, Held], ended: Counter[tuple[str, str]], now_us: int
) -> WorkerView:
    return WorkerView(
        row=w,
        state=_state(w),
        slots=[(", ".join(s["devices"]), held.get(s["slot_id"])) for s in w.slots],
        silent_us=max(now_us - w.last_seen_us, 0),
        aside_us=w.aside_until_us - now_us if w.aside_until_us else None,
        done=ended[w.id, "complete"] + ended[w.id, "pruned"],
        failed=ended[w.id, "failed"],
    )


def _state(w: store.Worker) -> Literal["online", "draining", "set aside", "away"]:
    if not w.live:
        return "away"
    if w.draining:
        return "draining"
    return "set aside" if w.aside_until_us else "online"


def _held(row: Row[Any], now_us: int) -> Held:
    work = Work.from_json(row.work)
    total = work.epochs if work.unit == "epoch" else None
    return Held(
        study=row.study_id,
        name=row.study,
        number=row.number,
        progress=min(100 * row.step / total, 100.0) if total else None,
        done=f"{row.step}/{total}" if total else f"{work.unit} {row.step}",
        lease_us=max(row.lease_expires_us - now_us, 0),
    )


def _idle(
    rows: Sequence[store.Worker], recent: Sequence[Row[Any]], since_us: int, now_us: int
) -> float | None:
    """Of all the time that live slots were here in the last hour, the share without a trial."""
    live = {w.id: max(w.first_seen_us, since_us) for w in rows if w.live}
    span = sum((now_us - live[w.id]) * len(w.slots) for w in rows if w.live)
    busy = sum(
        max(min(r.ended_us or now_us, now_us) - max(r.claimed_us, live[r.worker_id]), 0)
        for r in recent
        if r.worker_id in live
    )
    return max(1 - busy / span, 0.0) if span > 0 else None
