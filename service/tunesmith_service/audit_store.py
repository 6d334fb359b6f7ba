"""The reads of the audit log."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from tunesmith_service.audit_chain import Entry, Link
from tunesmith_service.db import columns, values
from tunesmith_service.tables import audit, audit_chain


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the chain begins and ends: `anchor` is the last entry that was removed, `head` the newest."""

    anchor: Link
    head: Link


def ends(conn: Connection) -> Ends:
    row = conn.execute(select(audit_chain)).one()
    return Ends(Link(row.anchor_n, row.anchor_hash), Link(row.head_n, row.head_hash))


def page(
    conn: Connection,
    project_id: int | None,
    *,
    action: str | None = None,
    beside: int | None = None,
    newest_first: bool = True,
    limit: int = 100,
) -> list[Entry]:
    """Entries about a project, of all projects and the instance for None.

    Args:
        action: of this kind alone; `study` means all that begin with `study.`.
        beside: the entry from which on they are wanted, itself excluded.
    """
    n = audit.c.n
    wanted = select(*columns(Entry, audit)).order_by(n.desc() if newest_first else n).limit(limit)
    if project_id is not None:
        wanted = wanted.where(audit.c.project_id == project_id)
    if action is not None:
        named = audit.c.action == action
        wanted = wanted.where(named | audit.c.action.startswith(f"{action}.", autoescape=True))
    if beside is not None:
        wanted = wanted.where(n < beside if newest_first else n > beside)
    return values(conn, Entry, wanted)
