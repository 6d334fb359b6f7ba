"""Which slot ran what, and when: one lane a slot, one bar an attempt, and the gaps between them.

    {"from": 1795000000.0, "to": 1795021600.0, "lanes": ["gpu-a cuda:0"],
     "lane": [0], "start": […], "end": [null], "state": ["running"], "number": [41], "attempt": [1],
     "study": [3], "name": ["cifar"], "idle": [0.25], "shown": 1, "total": 1}

Times are seconds since 1970; `end` is null of what runs. `idle` is each lane's share of the
time without a trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from tunesmith_service import fleet, store
from tunesmith_service.charts.asked import Asked
from tunesmith_service.clock import SECOND

HOURS = 6
LEAST_US = 600 * SECOND
MOST_LANES = 60

_STATES = {
    "retry": "failed",
    "verdict": "pruned",
    "expired": "lost",
    "reboot": "lost",
    "preempted": "handed back",
    "shutdown": "handed back",
}


def view(asked: Asked) -> dict[str, Any]:
    """A study's newest attempts, from the first of them to now, or to the last one's end."""
    study, points = asked.study, asked.query.points
    rows = fleet.attempts_of_study(asked.conn, study.id, max(study.trial_n - points, 0), limit=points)
    rows = [r for r in rows if r.number >= len(asked.keep) or asked.keep[r.number]]
    now_us = store.instance(asked.conn).last_tick_us
    ends = [r.ended_us for r in rows]
    end_us = now_us if not ends or None in ends else max(ends)
    start_us = min((r.claimed_us for r in rows), default=end_us)
    return _view(rows, store.workers(asked.conn, study.project_id), start_us, end_us, every=False)


def of_fleet(conn: Connection, project_id: int | None) -> dict[str, Any]:
    """The last hours of all slots that are here or were; less where nothing ran before."""
    now_us = store.instance(conn).last_tick_us
    since_us = now_us - HOURS * 3600 * SECOND
    rows = fleet.attempts_since(conn, project_id, since_us)
    first_us = min((r.claimed_us for r in rows), default=since_us)
    from_us = max(since_us, min(first_us, now_us - LEAST_US))
    return _view(rows, store.workers(conn, project_id), from_us, now_us, every=True)


def state(row: Row[Any]) -> str:
    """How an attempt ended, in a word; lost is never failed."""
    if row.ending is None:
        return "running"
    ended = str((row.outcome or {}).get("state", ""))
    return _STATES.get(row.ending) or (ended if ended not in ("", "waiting") else row.ending)


def _view(
    rows: Sequence[Row[Any]], workers: Sequence[store.Worker], from_us: int, to_us: int, *, every: bool
) -> dict[str, Any]:
    used = {r.slot_id for r in rows}
    slots = [
        (s["slot_id"], f"{w.name} {', '.join(s['devices'])}", max(w.first_seen_us, from_us))
        for w in workers
        for s in w.slots
        if s["slot_id"] in used or (every and w.live)
    ]
    named = {slot for slot, _, _ in slots}
    slots += [(slot, f"slot {slot[:8]}", from_us) for slot in sorted(used - named)]
    slots = slots[:MOST_LANES]
    lane = {slot: i for i, (slot, _, _) in enumerate(slots)}
    shown = [r for r in rows if r.slot_id in lane]
    return {
        "from": from_us / 1e6,
        "to": to_us / 1e6,
        "lanes": [name for _, name, _ in slots],
        "lane": [lane[r.slot_id] for r in shown],
        "start": [max(r.claimed_us, from_us) / 1e6 for r in shown],
        "end": [None if r.ended_us is None else r.ended_us / 1e6 for r in shown],
        "state": [state(r) for r in shown],
        "number": [r.number for r in shown],
        "attempt": [r.attempt for r in shown],
        "study": [r.study_id for r in shown],
        "name": [r.study for r in shown],
        "idle": [_idle([r for r in shown if r.slot_id == slot], since, to_us) for slot, _, since in slots],
        "shown": len(shown),
        "total": len(rows),
    }


def _idle(rows: Sequence[Row[Any]], from_us: int, to_us: int) -> float | None:
    """The share of a slot's time in which it had no trial; a slot has one at a time."""
    span = to_us - from_us
    if span <= 0:
        return None
    busy: int = sum(max(min(r.ended_us or to_us, to_us) - max(r.claimed_us, from_us), 0) for r in rows)
    return float(round(max(1 - busy / span, 0.0), 4))
