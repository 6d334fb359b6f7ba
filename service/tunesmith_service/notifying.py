"""What becomes of the commands in `notices`: targets, and deliveries that each one server sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tunesmith_service.audit import DAY_US
from tunesmith_service.courses import study_row
from tunesmith_service.errors import Conflict, NotFound, Refused
from tunesmith_service.notice_tables import deliveries, targets, told
from tunesmith_service.notices import AddTarget, EndNotice, QueueNotices, QueueTest, RemoveTarget, TakeNotices
from tunesmith_service.tables import studies
from tunesmith_service.tx import Tx

KEPT_US = 30 * DAY_US
"""Deliveries that have ended are kept this long."""


def apply_add_target(tx: Tx, commands: Sequence[AddTarget], now_us: int) -> list[Refused | None]:
    return [_add_target(tx, c, now_us) for c in commands]


def _add_target(tx: Tx, c: AddTarget, now_us: int) -> Refused | None:
    if _target(tx, c.name) is not None:
        return Conflict(f"A target named {c.name} exists already; choose another name, or remove that one.")
    if tx.execute(select(func.count()).select_from(targets)).scalar_one() == 0:
        # nobody was told anything lately: what has happened until now is no news
        tx.execute(delete(told))
        tx.execute(insert(told).from_select(["study_id", "n"], select(studies.c.id, studies.c.event_n)))
    new = {"name": c.name, "kind": c.kind, "destination": c.destination, "events": list(c.events)}
    tx.execute(insert(targets).values(new | {"secret": c.secret, "created_us": now_us}))
    return None


def apply_remove_target(tx: Tx, commands: Sequence[RemoveTarget], now_us: int) -> list[Refused | None]:
    return [_remove_target(tx, c) for c in commands]


def _remove_target(tx: Tx, c: RemoveTarget) -> Refused | None:
    target = _target(tx, c.name)
    if target is None:
        return _no_target(c.name)
    tx.execute(delete(deliveries).where(deliveries.c.target_id == target))
    tx.execute(delete(targets).where(targets.c.id == target))
    return None


def apply_queue_notices(tx: Tx, commands: Sequence[QueueNotices], now_us: int) -> list[bool]:
    tx.execute(delete(deliveries).where(deliveries.c.ended_us < now_us - KEPT_US))
    return [_queue(tx, c, now_us) for c in commands]


def _queue(tx: Tx, c: QueueNotices, now_us: int) -> bool:
    if study_row(tx, c.study_id) is None:
        return False
    dialect = _dialect(tx)
    began = dialect.insert(told).values(study_id=c.study_id, n=0).on_conflict_do_nothing()
    tx.execute(began)
    here = update(told).where(told.c.study_id == c.study_id, told.c.n == c.since).values(n=c.upto)
    if tx.execute(here).rowcount == 0:
        return False
    known = set(tx.execute(select(targets.c.id)).scalars())
    for notice in c.notices:
        if notice.target_id in known:
            new = {"target_id": notice.target_id, "study_id": c.study_id, "n": notice.n}
            new |= _waiting(notice.key, notice.event, notice.body, now_us)
            tx.execute(dialect.insert(deliveries).values(new).on_conflict_do_nothing())
    return True


def apply_queue_test(tx: Tx, commands: Sequence[QueueTest], now_us: int) -> list[Refused | None]:
    return [_queue_test(tx, c, now_us) for c in commands]


def _queue_test(tx: Tx, c: QueueTest, now_us: int) -> Refused | None:
    target = _target(tx, c.name)
    if target is None:
        return _no_target(c.name)
    new = {"target_id": target} | _waiting(c.key, "test", c.body, now_us)
    tx.execute(_dialect(tx).insert(deliveries).values(new).on_conflict_do_nothing())
    return None


def _dialect(tx: Tx) -> Any:
    return postgresql if tx.dialect == "postgresql" else sqlite


def _waiting(key: str, event: str, body: Any, now_us: int) -> dict[str, Any]:
    new = {"key": key, "event": event, "body": dict(body), "state": "waiting"}
    return new | {"due_us": now_us, "created_us": now_us}


def apply_take_notices(tx: Tx, commands: Sequence[TakeNotices], now_us: int) -> list[list[dict[str, Any]]]:
    return [_take(tx, c, now_us) for c in commands]


def _take(tx: Tx, c: TakeNotices, now_us: int) -> list[dict[str, Any]]:
    d = deliveries.c
    due = select(d.id).where(d.state == "waiting", d.due_us <= now_us).order_by(d.due_us, d.id).limit(c.most)
    ids = list(tx.execute(due.with_for_update(skip_locked=True)).scalars())
    if not ids:
        return []
    tx.execute(update(deliveries).where(d.id.in_(ids)).values(tries=d.tries + 1, due_us=now_us + c.hold_us))
    t = targets.c
    wanted = select(d.id, d.key, d.tries, d.event, d.body, t.kind, t.destination, t.secret)
    taken = wanted.join(targets, t.id == d.target_id).where(d.id.in_(ids)).order_by(d.id)
    # plain strings: SQLAlchemy's own names of columns do not travel between processes
    return [{str(name): value for name, value in row._mapping.items()} for row in tx.execute(taken)]


def apply_end_notice(tx: Tx, commands: Sequence[EndNotice], now_us: int) -> list[bool]:
    return [_end(tx, c, now_us) for c in commands]


def _end(tx: Tx, c: EndNotice, now_us: int) -> bool:
    d = deliveries.c
    new: dict[str, Any] = {"said": c.said}
    if c.again_us is None:
        new |= {"state": "delivered" if c.delivered else "failed", "ended_us": now_us}
    else:
        new |= {"due_us": now_us + c.again_us}
    ours = (d.id == c.id, d.tries == c.tries, d.state == "waiting")
    return bool(tx.execute(update(deliveries).where(*ours).values(new)).rowcount)


def _target(tx: Tx, name: str) -> int | None:
    found: int | None = tx.execute(select(targets.c.id).where(targets.c.name == name)).scalar_one_or_none()
    return found


def _no_target(name: str) -> NotFound:
    return NotFound(f"There is no target {name}; `tunesmith notify list` shows those there are.")
