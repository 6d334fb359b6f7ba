"""Writes the audit log: each action of `audit_actions` in the transaction that does it, and the log's end
after its time. See `audit_chain` for how entries hang together, `audit_store` for the reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from tunesmith_service.admission import TrimAudit
from tunesmith_service.audit_actions import ACTIONS, Action, Seen
from tunesmith_service.audit_chain import Entry, Link, digest
from tunesmith_service.clock import SECOND
from tunesmith_service.errors import Refused
from tunesmith_service.origin import Audited
from tunesmith_service.tables import audit, audit_chain
from tunesmith_service.tx import Tx

SERVICE = "service"
"""The actor of what nobody asked for."""

DAY_US = 86_400 * SECOND
MOST_TRIMMED = 10_000
MOST_LOOKED_AT = 1000
"""Entries among which a like one is looked for."""

Handler = Callable[[Tx, Sequence[Any], int], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Deed:
    """A command that changed something, with how that stood before and after."""

    command: Audited
    outcome: Any
    before: Seen
    after: Seen


def witness(
    tx: Tx, handler: Handler, commands: Sequence[Audited], now_us: int
) -> tuple[list[Any], list[Deed]]:
    """Apply commands of one kind, each by itself. Returns their outcomes, and a deed for each that was not
    refused and changed something: what is asked for twice is written down once."""
    outcomes, deeds = [], []
    for command in commands:
        action = ACTIONS[type(command)]
        look = action.look
        before = look(tx, command)
        (outcome,) = handler(tx, [command], now_us)
        outcomes.append(outcome)
        if not isinstance(outcome, Refused):
            after = look(tx, command)
            if after.value != before.value or _is_due(tx, action, command, after, now_us):
                deeds.append(Deed(command, outcome, before, after))
    return outcomes, deeds


def _is_due(tx: Tx, action: Action, command: Audited, seen: Seen, now_us: int) -> bool:
    """Whether an action that changes nothing is worth an entry: none of the newest is about the same."""
    if action.every_us is None:
        return False
    newest = tx.execute(select(audit_chain.c.head_n)).scalar_one()
    same = (audit.c.action == action.named(command), audit.c.subject == seen.subject)
    lately = (audit.c.n > newest - MOST_LOOKED_AT, audit.c.at_us > now_us - action.every_us)
    return tx.execute(select(audit.c.n).where(*lately, *same).limit(1)).first() is None


def append(tx: Tx, deeds: Sequence[Deed], now_us: int) -> None:
    """Write entries at the chain's end. The last thing in a transaction: from here on other servers wait."""
    if not deeds:
        return
    chain = tx.execute(select(audit_chain).with_for_update()).one()
    n, last = chain.head_n, chain.head_hash
    rows = []
    for deed in deeds:
        n += 1
        row = asdict(_entry(deed, n, last, now_us))
        last = row["hash"]
        rows.append(row)
    tx.execute(insert(audit), rows)
    tx.execute(update(audit_chain).values(head_n=n, head_hash=last))


def _entry(deed: Deed, n: int, previous: str, now_us: int) -> Entry:
    command, action = deed.command, ACTIONS[type(deed.command)]
    seen = deed.before if deed.after.value is None else deed.after
    origin = command.origin
    actor = (origin.actor if origin else "") or getattr(command, "actor", "") or seen.actor or SERVICE
    key_id = (origin.key_id if origin else "") or (seen.key_id if actor == seen.actor else "")
    written: dict[str, Any] = {
        "n": n,
        "at_us": now_us,
        "action": action.named(command),
        "actor": actor,
        "key_id": key_id,
        "address": origin.address if origin else "",
        "request_id": origin.request_id if origin else "",
        "project_id": seen.project_id,
        "subject": seen.subject,
        "detail": dict(action.tell(command, deed.outcome)),
        "before": _digest(deed.before),
        "after": _digest(deed.after),
        "previous": previous,
    }
    return Entry(**written, hash=digest(written))


def _digest(seen: Seen) -> str | None:
    return None if seen.value is None else digest(seen.value)


# --- its end --------------------------------------------------------------------------------------


def apply_trim(tx: Tx, commands: Sequence[TrimAudit], now_us: int) -> list[Link]:
    """What is too old goes, once there is a day's worth of it; the hash of the last that went stays, so that
    the rest can be verified. Outcome: that last one, by number and hash."""
    older_than_us = min(c.older_than_us for c in commands)
    chain = tx.execute(select(audit_chain).with_for_update()).one()
    anchor = Link(chain.anchor_n, chain.anchor_hash)
    wanted = select(audit.c.n, audit.c.at_us, audit.c.hash).order_by(audit.c.n).limit(MOST_TRIMMED)
    oldest: Sequence[Row[Any]] = tx.execute(wanted).all()
    gone = list(takewhile(lambda row: row.at_us < older_than_us, oldest))
    if gone and gone[0].at_us < older_than_us - DAY_US:
        anchor = Link(gone[-1].n, gone[-1].hash)
        tx.execute(update(audit_chain).values(anchor_n=anchor.n, anchor_hash=anchor.hash))
        tx.execute(delete(audit).where(audit.c.n <= anchor.n))
    return [anchor] * len(commands)
