"""Bugs that other systems had, put into ours: whoever checks us must notice each of them.

A mutant replaces functions of the product while it is applied. One whose place is gone fails as it is
applied; one whose replaced code never ran says so by `Mutant.unused`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import scenes
from databases import Databases
from simulation.loop import current_process
from sqlalchemy import Row, delete, func, select, true, update
from sqlalchemy.dialects import sqlite
from tunesmith_service import (
    batches,
    bulk,
    claims,
    core,
    fence,
    leases,
    moves,
    people,
    plans,
    registration,
    reporting,
    restoring,
    snapshot_header,
    sweeps,
)
from tunesmith_service import commands as c
from tunesmith_service.api import leases as lease_routes
from tunesmith_service.blobs import BlobStore
from tunesmith_service.bulk import Change
from tunesmith_service.clock import SECOND
from tunesmith_service.db import batch
from tunesmith_service.fence import Held
from tunesmith_service.sweeper import Sweeper
from tunesmith_service.tables import attempts, slots, studies, trials, workers
from tunesmith_service.tx import Tx

NEVER_US = 2**60
LATER_SECONDS = 5.0

CLASS = "–"
"""For a bug that is named after no single system."""

Patches = Iterator[Any]


@dataclass
class Mutant:
    """A bug.

    Attributes:
        of: the system that had it, where it was told.
        scene: what must happen for it to show.
        breaks: invariant → what it then says, in part. "anomaly": the history is not linearizable.
        make: yields the patches that put it in; what they put there counts itself in `used`.
    """

    name: str
    of: str
    scene: scenes.Scene
    breaks: Mapping[str, str]
    make: Callable[[Mutant], Patches]
    used: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        self.used.clear()
        with contextlib.ExitStack() as stack:
            for patch in self.make(self):
                stack.enter_context(patch)
            yield

    @property
    def row(self) -> str:
        """Of the table in docs/faults.md."""
        told = ", ".join("an anomaly" if name == "anomaly" else name for name in self.breaks)
        words = " ".join((self.make.__doc__ or "").split()).rstrip(".")
        return f"| `{self.name}`: {words} | {self.of} | `{self.scene.__name__}` | {told} |"

    @property
    def unused(self) -> list[str]:
        """What was replaced and has not run since."""
        return sorted(name for name, n in self.used.items() if not n)

    def instead(self, target: Any, name: str, made: Callable[..., Any]) -> Any:
        """Replace `target.name` by `made`, which is given the real one first."""
        real = getattr(target, name)
        self.used[name] = 0

        @wraps(made)
        def mutated(*args: Any, **more: Any) -> Any:
            self.used[name] += 1
            return made(real, *args, **more)

        return mock.patch.object(target, name, mutated)

    def handler(self, kind: type[Any], made: Callable[..., Any]) -> Any:
        """Replace a command's handler by `made`, which is given the real one first."""
        real = batches.HANDLERS[kind]
        self.used[kind.__name__] = 0

        def mutated(tx: Tx, commands: Sequence[Any], now_us: int) -> Any:
            self.used[kind.__name__] += 1
            return made(real, tx, commands, now_us)

        return mock.patch.dict(batches.HANDLERS, {kind: mutated})


MUTANTS: dict[str, Mutant] = {}


def mutant(
    of: str, scene: scenes.Scene, breaks: Mapping[str, str]
) -> Callable[[Callable[[Mutant], Patches]], Callable[[Mutant], Patches]]:
    def add(make: Callable[[Mutant], Patches]) -> Callable[[Mutant], Patches]:
        MUTANTS[make.__name__] = Mutant(make.__name__, of, scene, breaks, make)
        return make

    return add


# --- the fence ------------------------------------------------------------------------------------


@mutant("Oban", scenes.a_zombie_writes_on, {"I2": "reports under attempt 1", "anomaly": ""})
def no_attempt_guard(m: Mutant) -> Patches:
    """Whoever once had a lease of a trial that runs may write."""

    def standing(real: Any, lease: c.Lease, trial: Row[Any] | None, attempt: Row[Any] | None) -> Any:
        known = attempt is not None and attempt.lease_hash == lease.secret_hash.hex()
        if known and trial is not None and trial.state == "running":
            return Held(trial)
        return real(lease, trial, attempt)

    yield m.instead(fence, "_standing", standing)
    yield m.instead(leases, "_refusal", _kept_if_held)


@mutant("River, pg-boss", scenes.a_restore_forgets_a_lease, {"I2": "reports under attempt 1"})
def guard_on_state_only(m: Mutant) -> Patches:
    """Whoever names a trial that runs may write."""

    def standing(real: Any, lease: c.Lease, trial: Row[Any] | None, attempt: Row[Any] | None) -> Any:
        return Held(trial) if trial is not None and trial.state == "running" else real(lease, trial, attempt)

    yield m.instead(fence, "_standing", standing)


def _kept_if_held(real: Any, standing: Any) -> Any:
    return c.Kept() if isinstance(standing, Held) else real(standing)


# --- the sweeper ----------------------------------------------------------------------------------


@mutant("Optuna", scenes.killed_while_a_trial_is_taken_back, {"I6": "is still running"})
def reap_and_requeue_apart(m: Mutant) -> Patches:
    """One transaction takes the lease away, the next hands the trial back: if the server lives that long."""
    reaped: dict[Any, list[int]] = {}

    def expire(real: Any, tx: Tx, now_us: int) -> tuple[int, ...]:
        process = current_process()
        gone = _take_back(tx, reaped.pop(process, []), now_us)
        reaped[process] = _run_out(tx, now_us)
        taken = update(trials).where(trials.c.id.in_(reaped[process]))
        tx.execute(taken.values(lease_expires_us=NEVER_US))
        return gone

    yield m.instead(sweeps, "_expire", expire)


@mutant("river#1302", scenes.handed_back_late, {"I2 expiry": "attempt 2"})
def sweeper_by_id(m: Mutant) -> Patches:
    """What had run out at the last look is taken back by its id, whatever has happened since."""
    looked: dict[Any, list[int]] = {}

    def expire(real: Any, tx: Tx, now_us: int) -> tuple[int, ...]:
        process = current_process()
        gone = _take_back(tx, looked.pop(process, []), now_us)
        looked[process] = _run_out(tx, now_us)
        return gone

    yield m.instead(sweeps, "_expire", expire)


def _run_out(tx: Tx, now_us: int) -> list[int]:
    out = select(trials.c.id).where(trials.c.state == "running", trials.c.lease_expires_us < now_us)
    return list(tx.execute(out).scalars())


def _take_back(tx: Tx, ids: Sequence[int], now_us: int) -> tuple[int, ...]:
    gone = tx.execute(moves.trial_rows().where(trials.c.id.in_(ids), trials.c.state == "running")).all()
    moves.change(tx, [moves.lost(t, "expired", "sweeper", now_us) for t in gone], now_us)
    return tuple(t.id for t in gone)


@mutant("river#1161", scenes.the_disk_fails_while_the_sweeper_is_at_it, {"I6": "after its lease has run out"})
def sweeper_dies_at_first_error(m: Mutant) -> Patches:
    """A round that fails is the sweeper's last."""

    async def run(real: Any, sweeper: Any) -> None:
        while True:
            await asyncio.sleep(sweeper._sweep_seconds)
            try:
                await sweeper.tick()
            except Exception:
                return

    yield m.instead(Sweeper, "_run", run)


@mutant("procrastinate#1518", scenes.a_machine_is_lost, {"I6": "after its lease has run out"})
def worker_row_pruned_first(m: Mutant) -> Patches:
    """Workers that were not seen for a while are forgotten, and their trials are looked for by worker."""

    def expire(real: Any, tx: Tx, now_us: int, *which: Any) -> Any:
        gone = select(workers.c.id).where(workers.c.last_seen_us < now_us - tx.ttl_us)
        old = list(tx.execute(gone).scalars())
        tx.execute(delete(slots).where(slots.c.worker_id.in_(old)))
        tx.execute(delete(workers).where(workers.c.id.in_(old)))
        return real(tx, now_us, *which, trials.c.worker_id.in_(select(workers.c.id)))

    yield m.instead(sweeps, "_expire", expire)


# --- leases and clocks ----------------------------------------------------------------------------


@mutant(
    CLASS,
    scenes.two_beat_and_one_is_lost,
    {"I2 expiry": "sooner than its", "I6": "is still running"},
)
def worker_clock_expiry(m: Mutant) -> Patches:
    """A beat moves its lease to where its worker's clock says."""

    def renew(real: Any, tx: Tx, commands: Sequence[c.Renew], now_us: int) -> Any:
        answers = []
        for command in commands:
            of = select(trials.c.worker_id).where(trials.c.id == command.lease.trial_id)
            worker_id = tx.execute(of).scalar_one()
            # an hour back where the worker's id is even, an hour ahead where it is odd
            skew_us = 3600 * SECOND if worker_id and int(worker_id, 16) % 2 else -3600 * SECOND
            answers += real(tx, [command], now_us + skew_us)
        return answers

    yield m.handler(c.Renew, renew)


@mutant(CLASS, scenes.the_server_is_away, {"I2 expiry": "sooner than its"})
def no_start_up_grace(m: Mutant) -> Patches:
    """Leases run out while no server is there to renew them."""

    async def grace(real: Any, service: Any) -> None:
        return

    yield m.instead(core.Service, "_grace", grace)


@mutant(
    "oban#862",
    scenes.a_worker_starts_anew,
    {"I1 boot": "which has started anew", "I6": "is still running"},
)
def reused_identity(m: Mutant) -> Patches:
    """A worker that has started anew is taken for the old one: it keeps alive what that one held."""

    def alive(real: Any, tx: Tx, worker_ids: Sequence[str], now_us: int) -> None:
        theirs = (trials.c.worker_id.in_(worker_ids), trials.c.state == "running")
        tx.execute(update(trials).where(*theirs).values(lease_expires_us=now_us + tx.ttl_us))
        real(tx, worker_ids, now_us)

    def hand_back(real: Any, tx: Tx, which: Any, now_us: int) -> None:
        return

    yield m.instead(claims, "seen", alive)
    yield m.instead(registration, "hand_back", hand_back)


@mutant(
    CLASS,
    scenes.a_restore_forgets_a_lease,
    {"I1": "2 claims were granted"},
)
def restore_without_incarnation(m: Mutant) -> Patches:
    """A database that was put back goes on counting attempts where its backup was."""

    def nothing(real: Any, *_: Any, **__: Any) -> int:
        return 1

    yield m.instead(restoring, "begin_incarnation", nothing)


# --- claims ---------------------------------------------------------------------------------------


@mutant(
    "optuna#1014",
    scenes.two_claim_one_after_the_other,
    {"I1": "2 claims were granted", "anomaly": ""},
)
def read_then_claim(m: Mutant) -> Patches:
    """Who waits is read before the transaction that claims, and not looked at again."""
    read: dict[Any, list[Any]] = {}

    def due(real: Any, serving: Any, open_: Mapping[int, Any], most: int) -> Sequence[Row[Any]]:
        process = current_process()
        now = list(real(serving, open_, most))
        fresh = {t.id for t in now}
        before = [t for t in read.get(process, []) if t.study_id in open_ and t.id not in fresh]
        read[process] = now
        return [*before, *now]

    def insertion(real: Any, dialect: str, table: Any, names: tuple[str, ...]) -> Any:
        if table is not attempts:
            return real(dialect, table, names)
        made = sqlite.insert(table)
        again = made.on_conflict_do_update(
            index_elements=["trial_id", "attempt"], set_={n: made.excluded[n] for n in names}
        )
        b = batch(dialect, **{name: table.c[name].type for name in names})
        return again.from_select(names, select(*b.c).where(true()))

    def unguarded(real: Any, serving: Any, g: Any, starts: Any) -> Change:
        return Change({"id": g.trial.id}, real(serving, g, starts).becomes)

    yield m.instead(claims._Serving, "_due_trials", due)
    yield m.instead(bulk, "_insertion", insertion)
    yield m.instead(claims._Serving, "_claimed", unguarded)


@mutant("optuna#1488", scenes.two_queue_trials, {"I7": "has trials [0, 0, 1]"})
def number_by_count(m: Mutant) -> Patches:
    """A trial's number is how many its study had before somebody else's transaction; nothing keeps it from
    being given twice."""
    counted: dict[int, int] = {}

    def insert_trials(real: Any, tx: Tx, new: Sequence[dict[str, Any]], *args: Any, **more: Any) -> None:
        study_id = new[0]["study_id"]
        first = counted.get(study_id, 0)
        theirs = select(func.count()).where(trials.c.study_id == study_id)
        counted[study_id] = tx.execute(theirs).scalar_one()
        for i, row in enumerate(new):
            row["number"] = first + i
        real(tx, new, *args, **more)

    def make(real: Any, databases: Databases, dialect: str) -> str:
        url: str = real(databases, dialect)
        _forget_unique(url.removeprefix("sqlite:///"), "trials", "study_id, number")
        return url

    yield m.instead(Databases, "make", make)
    yield m.instead(plans, "insert_trials", insert_trials)
    yield m.instead(people, "insert_trials", insert_trials)


def _forget_unique(path: str, table: str, columns: str) -> None:
    """Build an empty table anew without one of its constraints."""
    assert Path(path).exists()
    with contextlib.closing(sqlite3.connect(path)) as file:
        rows = file.execute("SELECT type, sql FROM sqlite_master WHERE tbl_name = ? AND sql > ''", (table,))
        made = dict(enumerate(rows))
        (at,) = (i for i, (kind, _) in made.items() if kind == "table")
        sql = made[at][1]
        (line,) = (line for line in sql.splitlines() if f"UNIQUE ({columns})" in line)
        file.execute(f"DROP TABLE {table}")
        for _, statement in (("table", sql.replace(line, "")), *(made[i] for i in made if i != at)):
            file.execute(statement)
        file.commit()


@mutant("ray#40652", scenes.paused_and_resumed, {"I7": "ran 2 trials at once of at most 1"})
def max_concurrent_lost_on_resume(m: Mutant) -> Patches:
    """A study that was paused runs as many trials as there are slots."""

    def move(real: Any, tx: Tx, commands: Sequence[c.MoveStudy], now_us: int) -> Any:
        answers = real(tx, commands, now_us)
        resumed = [command.study_id for command in commands if command.state == "active"]
        tx.execute(update(studies).where(studies.c.id.in_(resumed)).values(max_concurrent=None))
        return answers

    yield m.handler(c.MoveStudy, move)


# --- what is reported and stored ------------------------------------------------------------------


@mutant(CLASS, scenes.killed_after_a_snapshot, {"I9": "are missing"})
def row_before_bytes(m: Mutant) -> Patches:
    """An upload is answered before its bytes are on the disk, and what is published is not looked at."""

    async def put(real: Any, store: BlobStore, pieces: Any, sha256: str) -> int:
        content = [piece async for piece in pieces]
        asyncio.get_running_loop().create_task(_later(real, store, content, sha256))
        return sum(map(len, content))

    async def size(real: Any, service: Any, sha256: str) -> int:
        return service.blobs.size(sha256) or 1

    def check(real: Any, size: int, read: Any, **most: int) -> None:
        return

    yield m.instead(BlobStore, "put", put)
    yield m.instead(lease_routes, "_stored_size", size)
    yield m.instead(snapshot_header, "check", check)


async def _later(put: Any, store: BlobStore, content: list[bytes], sha256: str) -> None:
    async def again() -> AsyncIterator[bytes]:
        for piece in content:
            yield piece

    await asyncio.sleep(LATER_SECONDS)
    await put(store, again(), sha256)


@mutant(
    CLASS,
    scenes.a_report_comes_twice,
    {"I4": "is there 0 times", "I5": "nobody asked for", "anomaly": ""},
)
def double_counted_report(m: Mutant) -> Patches:
    """A report that comes again is laid onto the curve again."""

    def add(real: Any, curve: Any, tx: Tx, command: c.Report, known: Mapping[int, str]) -> Any:
        if command.seq <= curve.seq:
            curve.step = command.points[0][0] - 1
            command = replace(command, seq=curve.seq + 1)
        return real(curve, tx, command, known)

    yield m.instead(reporting._Curve, "add", add)


@mutant(CLASS, scenes.a_training_diverges, {"I3 value": "it last reported NaN"})
def nan_as_best(m: Mutant) -> Patches:
    """A training whose loss is not a number is complete, and no other is as good."""

    def value(real: Any, curve: Sequence[Any], objective: Any) -> float | None:
        said = real(curve, objective)
        return 0.0 if said is None and curve else said

    yield m.instead(leases, "objective_value", value)
