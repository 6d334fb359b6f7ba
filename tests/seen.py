"""What is known of a run: what its clients saw, and every row that its database holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from history import Call
from sqlalchemy import Engine, Row, Select, Table, select
from tunesmith_service import event_log, tables
from tunesmith_service.clock import SECOND
from tunesmith_studies.log import Entry

READ = (
    "instance", "studies", "stages", "trials", "attempts", "events", "reports", "snapshots", "logs",
    "artifacts", "blobs", "workers", "audit", "audit_chain",
)  # fmt: skip

Rows = Mapping[str, Sequence[Row[Any]]]


@dataclass(frozen=True)
class Seen:
    """All that is known of a run.

    Attributes:
        rows: every row of the tables in `READ`, by table.
        logs: study id → its log.
        calls: what clients saw, in the order in which calls began.
        now_us: the service's time of reading, in µs; 0: leases that should have expired are not looked for.
        settled: faults have stopped for long enough, so everything must have come to its end.
        ttl_us, tick_us: how long leases live, how often they are swept.
        downs: when no server ran, as (from, to) in µs of the service's clock.
        lost: the (from, to) of the calls' clock whose acknowledged writes a restored backup has forgotten.
        read_blob: the bytes of a hash, or None if they are not there; None: bytes are not looked at.
        judge_decisions: whether all that was proposed is a planner's word.
    """

    rows: Rows
    logs: Mapping[int, Sequence[Entry]]
    calls: Sequence[Call] = ()
    now_us: int = 0
    settled: bool = False
    ttl_us: int = 30 * SECOND
    tick_us: int = 2 * SECOND
    downs: Sequence[tuple[int, int]] = ()
    lost: Sequence[tuple[float, float]] = ()
    read_blob: Callable[[str], bytes | None] | None = None
    judge_decisions: bool = True

    def trial_rows(self, table: str) -> dict[int, list[Row[Any]]]:
        found: defaultdict[int, list[Row[Any]]] = defaultdict(list)
        for row in self.rows[table]:
            found[row.trial_id].append(row)
        return found

    def acknowledged(self, what: str | None = None) -> Iterator[Call]:
        """Writes (all, or those of a kind) with a 2xx that the database must still know."""
        for call in self.calls:
            is_lost = any(a < call.end and call.begin < b for a, b in self.lost)
            if call.ok and what in (None, call.what) and not is_lost:
                yield call


def look(engine: Engine, studies: Set[int] | None = None, **known: Any) -> Seen:
    """What the database says now, of all or of some studies; `known` are other attributes of `Seen`."""
    with engine.connect() as conn:
        rows = {name: conn.execute(_of(tables.metadata.tables[name], studies)).all() for name in READ}
        logs = {s.id: event_log.entries_since(conn, s.id, 0) for s in rows["studies"]}
    return Seen(rows, logs, **known)


def _of(table: Table, studies: Set[int] | None) -> Select[Any]:
    wanted = select(table)
    if studies is None:
        return wanted
    if table is tables.studies:
        return wanted.where(table.c.id.in_(studies))
    if "study_id" in table.c:
        return wanted.where(table.c.study_id.in_(studies))
    if "trial_id" in table.c:
        theirs = select(tables.trials.c.id).where(tables.trials.c.study_id.in_(studies))
        return wanted.where(table.c.trial_id.in_(theirs))
    return wanted
