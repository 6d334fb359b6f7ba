"""Makes studies, workers and trials for tests, through the commands that the service itself uses.

>>> study = bench.study()
>>> trial = bench.trial(study)
>>> grant = bench.claim()
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from sqlalchemy import Engine, Select, bindparam, select
from tunesmith_service import batches, errors, tables, wire
from tunesmith_service import commands as c
from tunesmith_service.clock import SECOND, ManualClock
from tunesmith_service.moves import MAX_BACKOFF_US
from tunesmith_service.tx import TTL_US

T0 = ManualClock().now_us()
TTL = TTL_US
ONE_US = 1
BACKOFF = MAX_BACKOFF_US
TASK = "digits"
DIGEST = "d1" * 32
PROJECT = 1
_EVENT_N = select(tables.studies.c.event_n).where(tables.studies.c.id == bindparam("study"))
WORK = {"epochs": 3, "seed": 7, "data_fraction": 1.0, "stop_at_plateau": False, "keep_snapshot": False}

_ids = count(1)


def restart_ids() -> None:
    """From here on the ids are those of a new run: for tests that build one world twice."""
    global _ids  # noqa: PLW0603
    _ids = count(1)


def hex128() -> str:
    """A new id of 32 hexadecimal digits, the same in every run."""
    return f"{next(_ids):032x}"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def spec(name: str = "study", **changed: Any) -> dict[str, Any]:
    """A study as JSON, with one random stage unless `stages` says otherwise."""
    return {
        "name": name,
        "task": TASK,
        "objective": {"metric": "val/loss", "direction": "minimize", "reduce": "last", "k": 3},
        "space": {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}},
        "fixed": {},
        "stages": [stage()],
        "limits": {},
        "priority": 0,
        "seed": 0,
        "retries": 2,
        "keep_best": 3,
        "snapshot_every_seconds": 600,
        "fresh_wait_seconds": 0.25,
        **changed,
    }


def stage(name: str = "random", **changed: Any) -> dict[str, Any]:
    return {"kind": "random", "name": name, "epochs": 3, "trials": 10, **changed}


@dataclass(frozen=True)
class Slot:
    """A registered slot of a worker."""

    worker_id: str
    boot_id: str
    slot_id: str
    starts: int


@dataclass(frozen=True)
class Grant:
    """A claim that was granted, with the slot that holds it."""

    trial_id: int
    lease: c.Lease
    claim: c.Claim
    work: Mapping[str, Any]

    @property
    def attempt(self) -> int:
        return self.lease.attempt

    @property
    def number(self) -> int:
        return int(self.work["number"])


@dataclass
class Bench:
    """A database, a clock turned by hand, and commands applied by the writer's own code."""

    engine: Engine
    clock: ManualClock = field(default_factory=ManualClock)
    token_id: int = 0
    _slots: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = self.rows(select(tables.tokens.c.id).where(tables.tokens.c.key_id == "workers"))
        if known:
            self.token_id = known[0].id
        else:
            made = c.CreateToken(PROJECT, "workers", "worker", "workers", b"\1" * 32, None, "test")
            self.token_id = self.do(made)

    # --- commands ---------------------------------------------------------------------------------

    def batch(self, *commands: c.Command) -> list[Any]:
        """Apply commands that arrive together. Refusals come back as values, faults are raised."""
        done = batches.commit(self.engine, commands, self.clock.now_us())
        for outcome in done.outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, errors.Refused):
                raise outcome
        return done.outcomes

    def do(self, command: c.Command) -> Any:
        return self.batch(command)[0]

    def study(self, name: str = "study", **changed: Any) -> int:
        """A study id."""
        made = self.do(c.CreateStudy(PROJECT, spec(name, **changed), "test"))
        assert isinstance(made, int), made
        return made

    def propose(self, study: int, key: str, **changed: Any) -> Any:
        asked = c.Propose(
            study_id=study,
            stage="random",
            key=key,
            ordinal=0,
            params={"lr": 0.1},
            work=WORK,
            start=None,
            sampler_state={},
            planned_at=self.event_n(study),
            draft=False,
        )
        return self.do(replace(asked, **changed))

    def trial(self, study: int, **changed: Any) -> int:
        """A waiting trial's number."""
        number = self.propose(study, changed.pop("key", f"k{next(_ids)}"), **changed)
        assert isinstance(number, int), number
        return number

    def register(
        self, slots: int = 1, *, tasks: Mapping[str, str] | None = None, worker_id: str = "",
        boot_id: str = "", starts: int = 0, slot_ids: Sequence[str] = (), devices: Sequence[str] = ("cpu",),
    ) -> list[Slot]:  # fmt: skip
        """A worker that has started, later than any before; its slots."""
        worker_id, boot_id, starts = worker_id or hex128(), boot_id or hex128(), starts or next(_ids)
        ids = list(slot_ids) or [hex128() for _ in range(slots)]
        body = wire.Register(
            worker_id=worker_id,
            boot_id=boot_id,
            starts=starts,
            name="worker",
            version="1",
            tasks=dict(tasks or {TASK: DIGEST}),
            slots=[wire.Slot(slot_id=i, devices=list(devices)) for i in ids],
        )
        refused = self.do(c.Register(PROJECT, self.token_id, body))
        assert refused is None, refused
        return [Slot(worker_id, boot_id, i, starts) for i in ids]

    def ask(self, slot: Slot, **changed: Any) -> c.Claim:
        """A claim with an id and secret of its own."""
        secret = hashlib.sha256(f"secret {next(_ids)}".encode()).digest()
        claim = c.Claim(PROJECT, self.token_id, hex128(), slot.worker_id, slot.boot_id, slot.slot_id, secret)
        return replace(claim, **changed)

    def granted(self, claim: c.Claim, outcome: Any) -> Grant:
        assert isinstance(outcome, c.Granted), outcome
        lease = c.Lease(outcome.trial_id, outcome.incarnation, outcome.attempt, claim.secret_hash)
        return Grant(outcome.trial_id, lease, claim, outcome.work)

    def claim(self, slot: Slot | None = None, **changed: Any) -> Grant:
        """What a slot is granted; of a new worker if none is named."""
        claim = self.ask(slot or self.register()[0], **changed)
        return self.granted(claim, self.do(claim))

    def report(self, grant: Grant, seq: int, *losses: float, step: int | None = None) -> Any:
        """Report `seq` with a point for each loss, from `step` (default: seq) on."""
        return self.do(report(grant, seq, *losses, step=step))

    def snapshot(self, grant: Grant, step: int, text: str = "") -> Any:
        digest = sha256(text or f"{grant.trial_id}/{grant.attempt}/{step}")
        return self.do(c.CommitSnapshot(grant.lease, step, digest, 100))

    def finish(self, grant: Grant, state: str = "complete", stop_reason: str = "budget", **more: Any) -> Any:
        return self.do(c.Finish(grant.lease, state, stop_reason, **more))

    def sweep(self) -> tuple[int, ...]:
        swept = self.do(c.Sweep())
        assert isinstance(swept, c.Swept), swept
        return swept.expired

    def expire(self) -> tuple[int, ...]:
        """Let every lease run out and every backoff end."""
        self.clock.advance(TTL + ONE_US)
        expired = self.sweep()
        self.clock.advance(BACKOFF)
        return expired

    # --- reads ------------------------------------------------------------------------------------

    def rows(self, statement: Select[Any]) -> list[Any]:
        with self.engine.connect() as conn:
            return list(conn.execute(statement))

    def row(self, study: int, number: int) -> Any:
        t = tables.trials
        return self.rows(select(t).where(t.c.study_id == study, t.c.number == number))[0]

    def study_row(self, study: int) -> Any:
        return self.rows(select(tables.studies).where(tables.studies.c.id == study))[0]

    def stage_row(self, study: int, name: str) -> Any:
        g = tables.stages
        return self.rows(select(g).where(g.c.study_id == study, g.c.name == name))[0]

    def event_n(self, study: int) -> int:
        with self.engine.connect() as conn:
            return int(conn.execute(_EVENT_N, {"study": study}).scalar_one())

    def seconds(self, n: float) -> None:
        self.clock.advance(round(n * SECOND))


def report(grant: Grant, seq: int, *losses: float, step: int | None = None) -> c.Report:
    first = seq if step is None else step
    points = tuple((first + i, {"val/loss": loss}) for i, loss in enumerate(losses or (0.5,)))
    return c.Report(grant.lease, seq, points)


def brought(number: int, *losses: float, **changed: Any) -> dict[str, Any]:
    """A trial that was run elsewhere, as `ImportTrials` takes it: complete, with a point for each loss."""
    points = [{"step": i, "metrics": {"val/loss": loss}} for i, loss in enumerate(losses or (0.5, 0.25))]
    return {
        "number": number,
        "state": "complete",
        "stop_reason": "budget",
        "value": points[-1]["metrics"]["val/loss"],
        "params": {"lr": 0.1},
        "points": points,
        "attributes": {"who": "ann"},
        "error": None,
        "started_us": T0 - 2 * SECOND,
        "ended_us": T0 - SECOND,
        **changed,
    }
