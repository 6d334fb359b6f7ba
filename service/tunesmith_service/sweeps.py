"""What time alone brings about: leases that run out, limits that are reached, grace after our outages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, and_, bindparam, case, func, or_, select, update

from tunesmith_service import moves
from tunesmith_service.commands import Grace, Sweep, Swept
from tunesmith_service.courses import OPEN, stop_study, study_row
from tunesmith_service.tables import attempts, instance, studies, trials
from tunesmith_service.tx import Tx, lock

_NOW_US = bindparam("now_us", type_=BigInteger)
_NEWEST = case((instance.c.last_tick_us > _NOW_US, instance.c.last_tick_us), else_=_NOW_US)
_TICK = update(instance).values(last_tick_us=_NEWEST, clock_floor_us=_NEWEST)
_RUN_OUT = and_(trials.c.state == "running", trials.c.lease_expires_us < _NOW_US)
_RUN_OUT_TRIALS = select(trials.c.study_id, trials.c.id).where(_RUN_OUT)
_ENDED_WITH_WAITING = select(studies.c.id).where(studies.c.waiting > 0, studies.c.state.not_in(OPEN))
_USED = (
    select(func.coalesce(func.sum((_NOW_US - attempts.c.claimed_us) * attempts.c.devices), 0))
    .join(trials, and_(trials.c.id == attempts.c.trial_id, trials.c.attempt == attempts.c.attempt))
    .where(trials.c.study_id == studies.c.id, trials.c.state == "running")
    .scalar_subquery()
)
_LIMITED = (
    select(
        studies.c.id,
        studies.c.deadline_us,
        studies.c.max_gpu_us,
        (studies.c.gpu_us + _USED).label("spent_us"),
    )
    .where(
        studies.c.state.in_(OPEN), or_(studies.c.deadline_us.is_not(None), studies.c.max_gpu_us.is_not(None))
    )
    .order_by(studies.c.id)
)


def apply_sweep(tx: Tx, commands: Sequence[Sweep], now_us: int) -> list[Swept]:
    """T9 for every lease that has run out; what waits where nothing is handed out any more; deadlines
    and GPU-hours; the tick itself."""
    named = {c.only for c in commands if c.only is not None}
    if len(named) == len(commands):
        expired = _expire(tx, now_us, trials.c.id.in_(sorted(named)))
        _tick(tx, now_us)
        return [Swept(expired=expired)] * len(commands)
    expired = _expire(tx, now_us)
    _cancel_left_behind(tx, now_us)
    for study, reason in _over_limits(tx, now_us):
        held = study_row(tx, study.id)
        if held is not None and held.state in OPEN:
            stop_study(tx, held, "sweeper", now_us, reason=reason, cause="limit")
    _tick(tx, now_us)
    return [Swept(expired=expired)] * len(commands)


def _tick(tx: Tx, now_us: int) -> None:
    """Never back, although servers on one PostgreSQL differ by a little."""
    tx.execute(_TICK, {"now_us": now_us})


def _expire(tx: Tx, now_us: int, *which: ColumnElement[bool]) -> tuple[int, ...]:
    found = tx.execute(_RUN_OUT_TRIALS.where(*which), {"now_us": now_us}).all()
    if not found:
        return ()
    lock(tx, [row.study_id for row in found])
    ids = [row.id for row in found]
    theirs = moves.trial_rows().where(trials.c.id.in_(ids), _RUN_OUT)
    gone = tx.execute(theirs, {"now_us": now_us}).all()
    moves.change(tx, [moves.lost(t, "expired", "sweeper", now_us) for t in gone], now_us)
    return tuple(t.id for t in gone)


def _cancel_left_behind(tx: Tx, now_us: int) -> None:
    """Trials that a skipped stage let run on and that came back after their study had ended."""
    found = tx.execute(_ENDED_WITH_WAITING).scalars().all()
    if not found:
        return
    lock(tx, found)
    waiting = moves.trial_rows().where(
        trials.c.state == "waiting", trials.c.study_id.in_(_ENDED_WITH_WAITING)
    )
    left = tx.execute(waiting).all()
    moves.change(tx, [moves.cancelled(t, "study_ended", "sweeper") for t in left], now_us)


def _over_limits(tx: Tx, now_us: int) -> list[tuple[Row[Any], str]]:
    """Studies to stop, with the reason. What running attempts have used so far counts."""
    found = []
    for row in tx.execute(_LIMITED, {"now_us": now_us}):
        if row.deadline_us is not None and now_us >= row.deadline_us:
            found.append((row, "its deadline has passed"))
        elif row.max_gpu_us is not None and row.spent_us >= row.max_gpu_us:
            hours = row.max_gpu_us / 3_600_000_000
            found.append((row, f"its {hours:g} GPU-hours are used up"))
    return found


def apply_grace(tx: Tx, commands: Sequence[Grace], now_us: int) -> list[int]:
    """Give every running lease the time that we were away."""
    outage_us = max(c.outage_us for c in commands)
    moved = tx.execute(
        update(trials)
        .where(trials.c.state == "running")
        .values(lease_expires_us=trials.c.lease_expires_us + outage_us)
    )
    _tick(tx, now_us)
    return [moved.rowcount] * len(commands)
