"""What a soak came to, as numbers, JSON and a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from history import Call
from invariants import Seen, look, nothing_acknowledged_is_lost, violations
from tunesmith_service.blobs import BlobStore
from tunesmith_service.clock import SECOND
from tunesmith_service.integrity import examine

from soak.faults import Span
from soak.requeues import of_the_living, requeued
from soak.running import finished_twice, limited
from soak.zombies import committed_us, zombies

if TYPE_CHECKING:
    from soak.chaos import Stage

OF_THE_MACHINE = ("worker_lost",)
"""Kinds of failures that faults of ours bring about."""

OUTAGE_SECONDS = 10.0
"""What the service takes for an outage on PostgreSQL, where others may have swept meanwhile."""

READY_GOAL, RECOVERY_GOAL = 5.0, 5.0
TICKS = 2
"""A trial is back in the queue so many ticks after its lease's expiry at the latest."""


@dataclass(frozen=True)
class Summary:
    """Times in seconds, None where there was nothing to measure; memory in MiB.

    Attributes:
        seeded: finished trials that the database began with; they are no part of any other number.
        counts: faults by kind, what the proxy did, answers from 429 on.
        zombie_writes: tried under a lease that was over, by whom; see `soak.zombies`.
        acknowledged: writes that light workers noted as acknowledged.
        lost: acknowledged writes, by the workers' notes or the proxy's, that are not there exactly once.
        finished_twice: trials that came to an end more than once.
        limited: of each study with `max_concurrent`, how many ran at once; see `soak.running.Limited`.
        violations: a sentence for each violation of I1 to I12.
        requeue_after_sign: longest time from a holder's last word to the requeue, no outage meanwhile.
        requeue_after_expiry: longest time after the expiry as outages had moved it.
        taken_alive: leases taken back although their worker lived.
        ready: longest time from a start to ready, and how many starts.
        recovery: longest time from the database's return to ready.
        memory: highest of the server, and first and last of the process that lived longest.
        settled: from the last fault until all studies had ended.
    """

    database: str
    minutes: float
    seeded: int
    workers: int
    servers: int
    ttl_seconds: float
    tick_seconds: float
    trials_done: int
    attempts: int
    requests: int
    counts: dict[str, int]
    zombie_writes: dict[str, int]
    zombie_writes_refused: int
    zombie_writes_accepted: int
    acknowledged: int
    lost: int
    finished_twice: int
    limited: list[dict[str, Any]]
    violations: list[str]
    expired: int
    requeue_after_sign: float | None
    requeue_after_expiry: float | None
    taken_alive: list[str]
    ready: float | None
    starts: int
    recovery: float | None
    memory: dict[str, float]
    settled: float | None

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @property
    def missed(self) -> list[str]:
        """Goals for times that were missed, beside what must never happen."""
        late = TICKS * self.tick_seconds
        goals: tuple[tuple[str, float | None, float], ...] = (
            ("requeue after the last word", self.requeue_after_sign, self.ttl_seconds + late),
            ("requeue after the expiry", self.requeue_after_expiry, late),
            ("ready", self.ready, READY_GOAL),
            ("ready after the database's return", self.recovery, RECOVERY_GOAL),
            ("leases taken back although their worker lived", len(self.taken_alive), 0),
        )
        missed = [(what, got, most) for what, got, most in goals if got is not None and got > most]
        return [f"{what}: {got:g}, the goal is at most {most:g}" for what, got, most in missed]


def summarise(stage: Stage, noted: Sequence[Call]) -> Summary:
    """Read the database, ask every invariant.

    Args:
        noted: what the light workers wrote down.
    """
    plan, faults, services = stage.plan, stage.faults, stage.services
    blobs = services[0].home / "blobs"
    seen = look(
        stage.engine,
        stage.studies.ids(),
        calls=stage.proxy.history.calls,
        settled=True,
        ttl_us=round(plan.ttl_seconds * SECOND),
        tick_us=round(plan.sweep_seconds * SECOND),
        downs=_forgiven(faults.outages, is_sqlite=plan.database == "sqlite", servers=plan.servers),
        read_blob=_reader(blobs),
    )
    journals = replace(seen, calls=noted)
    lost = [f"I4: {told}" for told in nothing_acknowledged_is_lost(journals)]
    told = violations(seen) + [f"{t} (by its own notes)" for t in lost]
    told += [f"{b.invariant}: {b.said} (doctor)" for b in examine(stage.engine, BlobStore(blobs))]
    told += _failed(seen)
    twice = list(finished_twice(replace(seen, calls=[*seen.calls, *noted])))
    told += [f"I3: {t}" for t in twice]
    within = limited(seen, stage.running)
    told += [f"I7: {one}" for one in within if one["polled"] > one["most"]]
    told += [f"a worker ended: {stage.crowd.complaints}"] if stage.crowd.complaints else []
    dead = zombies(seen, committed_us(stage.engine) if plan.servers > 1 else None)
    gone = requeued(seen, stage.expiries.last_us, faults.outages)
    late = [one.after_expiry_seconds for one in gone if one.after_expiry_seconds is not None]
    return Summary(
        database=plan.database,
        minutes=round(stage.seconds / 60, 1),
        seeded=plan.seeded,
        workers=plan.workers,
        servers=plan.servers,
        ttl_seconds=plan.ttl_seconds,
        tick_seconds=plan.sweep_seconds,
        trials_done=sum(t.state not in ("waiting", "running") for t in seen.rows["trials"]),
        attempts=len(seen.rows["attempts"]),
        requests=len(seen.calls),
        counts=dict(faults.counts + stage.proxy.counts + stage.studies.counts + _answers(seen)),
        zombie_writes=dict(dead.tried),
        zombie_writes_refused=dead.refused,
        zombie_writes_accepted=len(dead.accepted),
        acknowledged=sum(c.ok and c.method != "GET" for c in noted),
        lost=len({t.removesuffix(" (by its own notes)") for t in told if t.startswith("I4")}),
        finished_twice=len(twice),
        limited=within,
        violations=told + [f"I2: {t}" for t in dead.accepted],
        expired=len(gone),
        requeue_after_sign=_longest([one.after_sign_seconds for one in gone if one.is_quiet]),
        requeue_after_expiry=_longest(late),
        taken_alive=of_the_living(seen, noted, faults.harmed),
        ready=_longest([s for service in services for s in service.ready_seconds[1:]]),
        starts=sum(len(service.ready_seconds) - 1 for service in services),
        recovery=_longest(faults.recovery_seconds),
        memory=_memory([life for service in services for life in service.memory]),
        settled=None if stage.settled_seconds is None else round(stage.settled_seconds, 1),
    )


def _forgiven(outages: Sequence[Span], *, is_sqlite: bool, servers: int) -> list[tuple[int, int]]:
    """Outages that surely move expiries, and as long as they surely do: on SQLite each death of the service,
    else those of some length, and of several servers those of the database alone."""
    starts = ("service killed", "service restarted")
    return [
        (s.begin_us, s.back_us)
        for s in outages
        if (s.seconds_away > OUTAGE_SECONDS and (servers == 1 or s.what.startswith("database")))
        or (is_sqlite and s.what in starts)
    ]


def _reader(blobs: Path) -> Callable[[str], bytes | None]:
    def read(sha256: str) -> bytes | None:
        path = blobs / sha256[:2] / sha256
        return path.read_bytes() if path.exists() else None

    return read


def _failed(seen: Seen) -> Iterator[str]:
    """Trials that failed for no fault of ours: what is trained here has none of its own."""
    for trial in seen.rows["trials"]:
        if trial.state == "failed" and trial.error["kind"] not in OF_THE_MACHINE:
            yield f"trial id {trial.id} failed: {trial.error}"


def _answers(seen: Seen) -> Counter[str]:
    return Counter(f"answered {c.status}" for c in seen.calls if c.status is not None and c.status >= 429)


def _longest(seconds: Sequence[float]) -> float | None:
    return round(max(seconds), 1) if seconds else None


def _memory(of_processes: Sequence[Sequence[tuple[float, int]]]) -> dict[str, float]:
    """Of the server's processes; the first and last of the longest life, without its first minute."""
    longest = max(of_processes, key=lambda samples: samples[-1][0] if samples else 0.0, default=[])
    settled = [m for m in longest if m[0] >= 60.0] or list(longest)
    highest = max((m for samples in of_processes for _, m in samples), default=0)
    found: dict[str, Any] = {"highest": highest / 2**20}
    if settled:
        found |= {"first": settled[0][1] / 2**20, "last": settled[-1][1] / 2**20}
        found["minutes between"] = (settled[-1][0] - settled[0][0]) / 60
    return {name: round(value, 1) for name, value in found.items()}
