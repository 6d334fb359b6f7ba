"""Workers that start: who they are, what they serve, and that what their slots ran before is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, delete, insert, literal_column, select, update

from tunesmith_service import moves, wire
from tunesmith_service.commands import Register
from tunesmith_service.errors import Conflict, Refused, Superseded
from tunesmith_service.tables import slots, trials, workers
from tunesmith_service.tx import Tx, lock


def apply_register(tx: Tx, commands: Sequence[Register], now_us: int) -> list[Refused | None]:
    """Rare, so one at a time. The last start of a worker is the one that counts, whatever order their words
    come in: a registration of an earlier one, late or again, changes nothing."""
    return [_register(tx, c, now_us) for c in commands]


def _register(tx: Tx, c: Register, now_us: int) -> Refused | None:
    asked = select(workers).where(workers.c.id == c.body.worker_id)
    # Locked as by the update to come: a start that another server is writing down is seen before this one.
    known = tx.execute(asked.with_for_update(key_share=True)).one_or_none()
    if refused := _refusal(tx, c, known):
        return refused
    _enter(tx, c, known, now_us)
    earlier = and_(trials.c.worker_id == c.body.worker_id, trials.c.boot_id != c.body.boot_id)
    hand_back(tx, earlier, now_us)
    return None


def _refusal(tx: Tx, c: Register, known: Row[Any] | None) -> Refused | None:
    body = c.body
    if known is not None and known.project_id != c.project_id:
        return Conflict(
            f"Worker id {body.worker_id} belongs to another project; give it another state directory."
        )
    if known is not None and _comes_late(body, known):
        return Superseded(
            f"Worker {body.name} has started {known.starts} times, this was start {body.starts}; "
            "if it is to count, register with a higher number and a new boot id.",
            outcome={"starts": known.starts},
        )
    slot_ids = [s.slot_id for s in body.slots]
    foreign = tx.execute(
        select(slots).where(slots.c.id.in_(slot_ids), slots.c.worker_id != body.worker_id)
    ).first()
    if foreign is not None:
        return Conflict(
            f"Slot {foreign.id} belongs to worker {foreign.worker_id}; two workers share a state directory."
        )
    return None


def _comes_late(body: wire.Register, known: Row[Any]) -> bool:
    if body.starts == known.starts:
        return bool(body.boot_id != known.boot_id)
    return bool(body.starts < known.starts)


def _enter(tx: Tx, c: Register, known: Row[Any] | None, now_us: int) -> None:
    body = c.body
    values = {
        "project_id": c.project_id,
        "token_id": c.token_id,
        "name": body.name,
        "boot_id": body.boot_id,
        "starts": body.starts,
        "version": body.version,
        "tasks": dict(body.tasks),
        "slots": [s.model_dump() for s in body.slots],
        "last_seen_us": now_us,
    }
    if known is None:
        tx.execute(insert(workers).values(id=body.worker_id, first_seen_us=now_us, **values))
    else:
        tx.execute(update(workers).where(workers.c.id == body.worker_id).values(**values))
    tx.execute(delete(slots).where(slots.c.worker_id == body.worker_id))
    new = [{"id": s.slot_id, "worker_id": body.worker_id, "devices": list(s.devices)} for s in body.slots]
    tx.execute(insert(slots), new)


def hand_back(tx: Tx, which: Any, now_us: int) -> None:
    """T9 without the wait: these trials' supervisors are gone, since their slots have started anew."""
    running = and_(trials.c.state == literal_column("'running'"), which)  # as the index of these says it
    found = tx.execute(select(trials.c.study_id, trials.c.id).where(running)).all()
    if not found:
        return
    lock(tx, [row.study_id for row in found])
    gone = tx.execute(moves.trial_rows().where(trials.c.id.in_([row.id for row in found]), running)).all()
    moves.change(tx, [moves.lost(t, "reboot", f"worker {t.worker_id}", now_us) for t in gone], now_us)
