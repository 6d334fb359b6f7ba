"""Looks whether a database, and the bytes beside it, are what the service promises they are. Reads alone.

Constraints and triggers hold most of it at each write. This looks again, for what they cannot see: a
disk that returns other bytes than it was given, rows that somebody changed by hand, a fault of ours.

| | what must hold |
|---|---|
| I1 | a trial's attempts are 1 to n; the open one is its lease, and only a trial that runs has one |
| I3 | a trial that is over has one event that ended it, and nothing of its training after that |
| I4 | the bytes that rows name are there and hash to their names; reports are 1 to n, unchanged |
| I7 | a study's trials and events are numbered without gaps; its counters are what is counted |
| I11 | the audit log's entries hang together, from the last that was removed to the head |
| I9 | a snapshot's bytes are there and hash to its name; an attempt goes on from the step that it says |
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Text, and_, case, cast, func, or_, select, text, union
from sqlalchemy.exc import DBAPIError

from tunesmith_service import audit_chain, audit_store
from tunesmith_service.db_trouble import trouble_of
from tunesmith_service.moves import FINAL
from tunesmith_service.stores import Store
from tunesmith_service.tables import (
    artifacts,
    attempts,
    blobs,
    events,
    logs,
    reports,
    snapshots,
    studies,
    trials,
)

MOST = 20
"""Of what one question finds, so many are named."""

NO_ROW = "no row of the table blobs has it"

TRAINING = ("moved", "snapshot", "test_read")


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that must not be: which invariant, and a sentence with the row and its numbers."""

    invariant: str
    said: str


def examine(engine: Engine, bytes_in: Store | None) -> list[Broken]:
    """All that is found wrong, by invariant. A service may go on beside it: what is read is one state.

    Args:
        bytes_in: where the bytes are; None: they are not looked at.
    Raises: DBAPIError if the database does not answer.
    """
    level = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    found: list[Broken] = []
    named: Mapping[str, tuple[str, int | None]] = {}
    try:
        with engine.connect().execution_options(**level) as conn:
            if level:
                conn.execute(text("SET LOCAL statement_timeout = 0"))
            found += _file(conn)
            if found:  # what a damaged file says further on may be anything
                return found
            for look in _LOOKS:
                found += look(conn)
            named = _named(conn)
    except (DBAPIError, sqlite3.DatabaseError, ValueError) as e:
        return [*found, _unreadable(e, engine)]
    if bytes_in is not None:  # the longest part, which needs no transaction: bytes never change
        found += _bytes(named, bytes_in)
    return sorted(found, key=lambda b: b.invariant)


# --- the database itself --------------------------------------------------------------------------


def _file(conn: Connection) -> Iterator[Broken]:
    if conn.dialect.name != "sqlite":
        return
    for (said,) in conn.exec_driver_sql(f"PRAGMA quick_check({MOST})"):
        if said != "ok":
            yield Broken("file", f"SQLite finds its file damaged: {' '.join(said.split())}")


def _unreadable(error: Exception, engine: Engine) -> Broken:
    """Raises: `error`, if what it tells of is no damage."""
    if isinstance(error, ValueError):  # of JSON
        return Broken("file", f"a row holds what nobody has written: {error}")
    trouble = trouble_of(error, engine.url)
    if trouble is None or trouble.kind != "damage":
        raise error
    return Broken("file", trouble.said)


def _references(conn: Connection) -> Iterator[Broken]:
    if conn.dialect.name != "sqlite":
        return
    for table, rowid, parent, _ in conn.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(MOST):
        yield Broken("file", f"row {rowid} of {table} names a row of {parent} that is not there")


# --- I1 -------------------------------------------------------------------------------------------


def _attempts(conn: Connection) -> Iterator[Broken]:
    a, t = attempts.c, trials.c
    counted = (
        select(a.trial_id, func.count().label("n"), func.max(a.attempt).label("last"))
        .group_by(a.trial_id)
        .subquery()
    )
    n, last = func.coalesce(counted.c.n, 0), func.coalesce(counted.c.last, 0)
    wanted = (
        select(t.id, t.attempt, n.label("n"), last.label("last"))
        .outerjoin(counted, counted.c.trial_id == t.id)
        .where(or_(n != last, last != t.attempt))
    )
    for row in conn.execute(wanted.limit(MOST)):
        yield Broken(
            "I1",
            f"trial id {row.id} has had {row.attempt} attempts; there are {row.n}, the last is {row.last}",
        )


def _leases(conn: Connection) -> Iterator[Broken]:
    a, t = attempts.c, trials.c
    newest = and_(a.trial_id == t.id, a.attempt == t.attempt)
    same = and_(
        a.ended_us.is_(None), a.lease_hash == t.lease_hash, a.incarnation == t.incarnation,
        a.slot_id == t.slot_id,
    )  # fmt: skip
    held = func.coalesce(case((same, 1), else_=0), 0)
    lone = select(t.id, t.attempt).outerjoin(attempts, newest).where(t.state == "running", held == 0)
    for row in conn.execute(lone.limit(MOST)):
        yield Broken("I1", f"trial id {row.id} runs under a lease that is not its attempt {row.attempt}")
    current = and_(t.state == "running", t.attempt == a.attempt)
    left = (
        select(a.trial_id, a.attempt).join(trials, t.id == a.trial_id).where(a.ended_us.is_(None), ~current)
    )
    for row in conn.execute(left.limit(MOST)):
        yield Broken("I1", f"attempt {row.attempt} of trial id {row.trial_id} is open, and it holds no lease")


# --- I3 -------------------------------------------------------------------------------------------


def _ends(conn: Connection) -> Iterator[Broken]:
    e, t = events.c, trials.c
    ending = and_(e.kind == "moved", e.data["to"].as_string().in_(FINAL))
    ends = (
        select(e.trial_id, func.count().label("n"), func.max(e.n).label("at"))
        .where(ending)
        .group_by(e.trial_id)
        .subquery()
    )
    n = func.coalesce(ends.c.n, 0)
    wrong = or_(and_(t.state.in_(FINAL), n != 1), and_(t.state.not_in(FINAL), n != 0))
    wanted = select(t.id, t.state, n.label("n")).outerjoin(ends, ends.c.trial_id == t.id).where(wrong)
    for row in conn.execute(wanted.limit(MOST)):
        yield Broken("I3", f"trial id {row.id} is {row.state}, and {row.n} events ended it")
    after = select(e.trial_id, e.n, e.kind).join(ends, ends.c.trial_id == e.trial_id)
    for row in conn.execute(after.where(e.kind.in_(TRAINING), e.n > ends.c.at).limit(MOST)):
        yield Broken("I3", f"trial id {row.trial_id} was over before event {row.n} ({row.kind})")
    r = reports.c
    late = select(r.trial_id, r.n).join(ends, ends.c.trial_id == r.trial_id).where(r.n > ends.c.at)
    for report in conn.execute(late.limit(MOST)):
        yield Broken("I3", f"trial id {report.trial_id} was over before its report of event {report.n}")


# --- I4 -------------------------------------------------------------------------------------------


def _reports(conn: Connection) -> Iterator[Broken]:
    r = reports.c
    n, last = func.count(), func.max(r.seq)
    gaps = select(r.trial_id, r.attempt, n.label("n"), last.label("last")).group_by(r.trial_id, r.attempt)
    for row in conn.execute(gaps.having(n != last).limit(MOST)):
        at = f"attempt {row.attempt} of trial id {row.trial_id}"
        yield Broken("I4", f"{at} has {row.n} reports, numbered up to {row.last}")
    written = select(r.trial_id, r.attempt, r.seq, r.digest, cast(reports.c.points, Text).label("points"))
    changed = (
        row
        for row in conn.execution_options(yield_per=1000).execute(written)
        if hashlib.sha256(row.points.encode()).hexdigest() != row.digest
    )
    for row, _ in zip(changed, range(MOST), strict=False):
        at = f"report {row.seq} of attempt {row.attempt} of trial id {row.trial_id}"
        yield Broken("I4", f"{at} holds other points than were acknowledged")


# --- I7 -------------------------------------------------------------------------------------------


def _numbers(conn: Connection) -> Iterator[Broken]:
    s, t = studies.c, trials.c
    counted = select(
        t.study_id,
        func.count().label("n"),
        func.max(t.number).label("last"),
        func.sum(case((t.state == "running", 1), else_=0)).label("running"),
        func.sum(case((t.state == "waiting", 1), else_=0)).label("waiting"),
    ).group_by(t.study_id)
    found = counted.subquery()
    n, last = func.coalesce(found.c.n, 0), func.coalesce(found.c.last, -1)
    running, waiting = func.coalesce(found.c.running, 0), func.coalesce(found.c.waiting, 0)
    columns = select(s.id, s.trial_n, s.running, s.waiting, s.finished, n, last, running, waiting)
    is_right = and_(
        s.trial_n == n, last == n - 1, s.running == running, s.waiting == waiting,
        s.finished == n - running - waiting,
    )  # fmt: skip
    wanted = columns.outerjoin(found, found.c.study_id == s.id).where(~is_right)
    for row in conn.execute(wanted.limit(MOST)):
        study, trial_n, said_running, said_waiting, said_finished, n_, last_, running_, waiting_ = row
        said = (
            f"study id {study} counts {trial_n} trials, {said_running} running, {said_waiting} waiting, "
            f"{said_finished} finished; there are {n_} numbered up to {last_}, {running_} running, "
            f"{waiting_} waiting, {n_ - running_ - waiting_} finished"
        )
        yield Broken("I7", said)


def _log(conn: Connection) -> Iterator[Broken]:
    """Every number from 1 to `event_n` is an event's or a report's, and of one alone."""
    s, e, r = studies.c, events.c, reports.c
    both = union(select(e.study_id, e.n), select(r.study_id, r.n)).subquery()
    different = (
        select(both.c.study_id, func.count().label("n"), func.max(both.c.n).label("last"))
        .group_by(both.c.study_id)
        .subquery()
    )
    told = select(e.study_id, func.count().label("n")).group_by(e.study_id).subquery()
    reported = select(r.study_id, func.count().label("n")).group_by(r.study_id).subquery()
    n, last = func.coalesce(different.c.n, 0), func.coalesce(different.c.last, 0)
    rows = func.coalesce(told.c.n, 0) + func.coalesce(reported.c.n, 0)
    wanted = (
        select(s.id, s.event_n, n.label("n"), last.label("last"), rows.label("rows"))
        .outerjoin(different, different.c.study_id == s.id)
        .outerjoin(told, told.c.study_id == s.id)
        .outerjoin(reported, reported.c.study_id == s.id)
        .where(or_(n != s.event_n, last != s.event_n, rows != s.event_n))
    )
    for row in conn.execute(wanted.limit(MOST)):
        said = f"study id {row.id} has given {row.event_n} event numbers; its log has {row.rows} entries "
        yield Broken("I7", said + f"with {row.n} numbers up to {row.last}")


# --- I9 -------------------------------------------------------------------------------------------


def _resumed(conn: Connection) -> Iterator[Broken]:
    a, s = attempts.c, snapshots.c
    wanted = (
        select(a.trial_id, a.attempt, a.resume_step, s.step)
        .outerjoin(snapshots, s.id == a.resume_snapshot_id)
        .where(func.coalesce(s.step, 0) != a.resume_step)
    )
    for row in conn.execute(wanted.limit(MOST)):
        at = f"attempt {row.attempt} of trial id {row.trial_id}"
        yield Broken("I9", f"{at} went on from step {row.resume_step}, its snapshot is of step {row.step}")


# --- I11 ------------------------------------------------------------------------------------------


def _audit_log(conn: Connection) -> Iterator[Broken]:
    ends = audit_store.ends(conn)
    if broken := audit_chain.first_broken(_entries(conn, ends), ends.anchor, ends.head):
        yield Broken("I11", f"entry {broken.n} of the audit log {broken.why}")


def _entries(conn: Connection, ends: audit_store.Ends) -> Iterator[audit_chain.Entry]:
    at = ends.anchor.n
    while found := audit_store.page(conn, None, beside=at, newest_first=False, limit=1000):
        yield from (entry for entry in found if entry.n <= ends.head.n)
        at = found[-1].n


_LOOKS: tuple[Callable[[Connection], Iterator[Broken]], ...] = (
    _references, _attempts, _leases, _ends, _reports, _numbers, _log, _resumed, _audit_log,
)  # fmt: skip

# --- bytes: I4 and I9 -----------------------------------------------------------------------------


def _named(conn: Connection) -> dict[str, tuple[str, int | None]]:
    """What rows name: hash → the invariant that asks for the bytes, and their size."""
    s = snapshots.c
    kept = conn.execute(select(s.sha256).where(s.forgotten_us.is_(None))).scalars()
    others = conn.execute(union(select(logs.c.sha256), select(artifacts.c.sha256))).scalars()
    asked = dict.fromkeys(others, "I4") | dict.fromkeys(kept, "I9")
    sizes = {row.sha256: row.size for row in conn.execute(select(blobs.c.sha256, blobs.c.size))}
    return {sha256: (invariant, sizes.get(sha256)) for sha256, invariant in sorted(asked.items())}


def _bytes(named: Mapping[str, tuple[str, int | None]], bytes_in: Store) -> list[Broken]:
    """Every blob that a row names: what the store finds wrong with it."""
    wrong = dict.fromkeys((sha256 for sha256, (_, size) in named.items() if size is None), NO_ROW)
    wrong |= dict(bytes_in.faults({s: size for s, (_, size) in named.items() if size is not None}))
    return [Broken(named[s][0], f"blob {s}: {said}") for s, said in sorted(wrong.items())][:MOST]
