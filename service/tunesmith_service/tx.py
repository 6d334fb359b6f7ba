"""One transaction that writes: its connection, the studies it changes, and their numbered events.

Whoever changes a study's trials or log holds the study's row first (`lock`): on PostgreSQL that
orders the servers, on SQLite BEGIN IMMEDIATE has done so already. Event numbers and counters are
given in the same UPDATE (`count`), so a reader who has seen number n will never find a smaller one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, CursorResult, Executable, Table, select, update
from tunesmith_studies.log import EntryKind

from tunesmith_service import bulk
from tunesmith_service.bounds import Bounds
from tunesmith_service.bulk import Change
from tunesmith_service.clock import SECOND
from tunesmith_service.db import batch, rows
from tunesmith_service.tables import events, studies

TTL_US = 30 * SECOND


@dataclass(frozen=True, slots=True)
class Tx:
    """What handlers write through.

    Attributes:
        ttl_us: how long a lease lives after each renewal.
        changed: collects the studies whose log grew.
        bounds: what rows may hold.
        moved: counts the trials that stopped running, by cause and new state.
    """

    conn: Connection
    ttl_us: int = TTL_US
    bounds: Bounds = field(default_factory=Bounds)
    moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: set[int] = field(default_factory=set)

    def execute(self, statement: Executable, values: Any = None) -> CursorResult[Any]:
        return self.conn.execute(statement, values)

    @property
    def dialect(self) -> str:
        return self.conn.dialect.name

    def insert(self, table: Table, new: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows that all name the same columns."""
        bulk.insert(self.conn, table, new)

    def update(self, table: Table, changes: Sequence[Change]) -> None:
        """Change exactly one row for each of `changes`, which all name the same columns.

        Raises: RuntimeError if a row was not as it had to be. Rows are read under the study's lock
            first, so that is a fault of ours, and the batch is rolled back.
        """
        done = bulk.update(self.conn, table, changes)
        if done != len(changes):
            raise RuntimeError(f"a guarded update changed {done} of {len(changes)} rows of {table.name}")


@dataclass(slots=True)
class Counts:
    """What a transaction adds to a study's counters."""

    events: int = 0
    trials: int = 0
    hand: int = 0
    waiting: int = 0
    running: int = 0
    finished: int = 0
    gpu_us: int = 0


@dataclass(frozen=True, slots=True)
class Happened:
    """An event before it has its number; see `tunesmith_studies.log` for `data`."""

    study_id: int
    kind: EntryKind
    actor: str
    data: Mapping[str, Any]
    trial_id: int | None = None
    trial_number: int | None = None
    stage: str | None = None
    cause: str | None = None


def lock(tx: Tx, study_ids: Iterable[int]) -> None:
    """Hold these studies' rows until the end of the transaction, in order of id."""
    if tx.conn.dialect.name == "sqlite":
        return
    wanted = select(studies.c.id).where(studies.c.id.in_(sorted(set(study_ids))))
    tx.execute(wanted.order_by(studies.c.id).with_for_update())


def count(tx: Tx, added: Mapping[int, Counts]) -> dict[int, int]:
    """Add to studies' counters. Returns the first of each study's new event numbers."""
    if not added:
        return {}
    asked = [{"id": i} | {f: getattr(c, f) for f in _COUNTED} for i, c in sorted(added.items())]
    counted = tx.execute(_counting(tx.dialect), {"batch": rows(asked)})
    newest = {row.id: row.event_n for row in counted}
    tx.changed.update(newest)
    return {i: newest[i] - c.events + 1 for i, c in added.items()}


_COUNTED = ("events", "trials", "hand", "waiting", "running", "finished", "gpu_us")


@cache
def _counting(dialect: str) -> Executable:
    b = batch(dialect, id=BigInteger, **dict.fromkeys(_COUNTED, BigInteger))
    return (
        update(studies)
        .where(studies.c.id == b.c.id)
        .values(
            event_n=studies.c.event_n + b.c.events,
            trial_n=studies.c.trial_n + b.c.trials,
            hand_n=studies.c.hand_n + b.c.hand,
            waiting=studies.c.waiting + b.c.waiting,
            running=studies.c.running + b.c.running,
            finished=studies.c.finished + b.c.finished,
            gpu_us=studies.c.gpu_us + b.c.gpu_us,
        )
        .returning(studies.c.id, studies.c.event_n)
    )


def record(
    tx: Tx, happened: Sequence[Happened], now_us: int, counts: Mapping[int, Counts] | None = None
) -> list[int]:
    """Write events, numbered in this order, and add `counts` in the same statement. Returns the
    numbers, one for each event."""
    added: defaultdict[int, Counts] = defaultdict(Counts, counts or {})
    for h in happened:
        added[h.study_id].events += 1
    following = count(tx, added)
    numbers = []
    for h in happened:
        numbers.append(following[h.study_id])
        following[h.study_id] += 1
    tx.insert(events, [_row(h, n, now_us) for h, n in zip(happened, numbers, strict=True)])
    return numbers


def _row(h: Happened, n: int, now_us: int) -> dict[str, Any]:
    return {
        "study_id": h.study_id,
        "n": n,
        "kind": h.kind,
        "trial_id": h.trial_id,
        "trial_number": h.trial_number,
        "stage": h.stage,
        "at_us": now_us,
        "actor": h.actor,
        "cause": h.cause,
        "data": dict(h.data),
    }


def add_count(counts: defaultdict[int, Counts], study_id: int, **added: int) -> None:
    for name, n in added.items():
        setattr(counts[study_id], name, getattr(counts[study_id], name) + n)
