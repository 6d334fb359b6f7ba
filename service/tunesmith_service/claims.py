"""Giving each free slot the trial that is due."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    Row,
    String,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    not_,
    select,
)
from tunesmith_studies.resources import gpus_of

from tunesmith_service import resume
from tunesmith_service.bulk import Change
from tunesmith_service.commands import Claim, Granted, Nothing
from tunesmith_service.db import ids, rows
from tunesmith_service.errors import ClaimStale, Conflict, NotFound, Refused
from tunesmith_service.leases import seen
from tunesmith_service.registration import hand_back
from tunesmith_service.tables import attempts, instance, slots, stages, studies, trials, workers
from tunesmith_service.tx import Counts, Happened, Tx, add_count, record

ENDED = ("complete", "stopped")  # of studies
FEW = 100
"""Waiting trials of a study that are looked at together with those of others."""


@dataclass(slots=True)
class _Due:
    """A study with waiting trials, while a batch's claims are served from it."""

    study: Row[Any]
    running: int
    fresh: list[Row[Any]] = field(default_factory=list)
    stale: list[Row[Any]] = field(default_factory=list)
    digest: str | None = None
    gpus: int = 1

    @property
    def has_room(self) -> bool:
        limit = self.study.max_concurrent
        return bool(self.fresh or self.stale) and (limit is None or self.running < limit)

    def urgency(self, claim: Claim) -> tuple[int, bool, int, int]:
        """The least is served first. Nobody waits for a redraw while an equal has something to give."""
        must_wait = not self.fresh and not claim.accept_stale
        return -self.study.priority, must_wait, self.running, self.study.id

    def suits(self, claim: Claim, tasks: Mapping[str, str], devices: int) -> bool:
        if self.study.project_id != claim.project_id:
            return False
        if claim.study is not None:
            return bool(self.study.name == claim.study)
        served = tasks.get(self.study.task)
        return served is not None and self.digest in (None, served) and self.gpus <= devices


@dataclass(frozen=True, slots=True)
class _Given:
    claim: Claim
    study: Row[Any]
    trial: Row[Any]
    devices: int
    digest: str | None


def apply_claim(tx: Tx, commands: Sequence[Claim], now_us: int) -> list[Granted | Nothing | Refused]:
    """First come, first served; for each the most urgent study that its worker can serve.

    Between studies: priority, then who has a trial that this claim accepts, who runs fewest, age.
    Within one: stage, by hand first, then in planned order, fresh drafts before stale ones.
    """
    served = _Serving(tx, commands, now_us)
    outcomes = [served.serve(c) for c in commands]
    granted = served.write()
    return [granted[o.claim.claim_id] if isinstance(o, _Given) else o for o in outcomes]


class _Serving:
    """One batch of claims."""

    def __init__(self, tx: Tx, commands: Sequence[Claim], now_us: int) -> None:
        self.tx = tx
        self.now_us = now_us
        self.incarnation: int = tx.execute(_INCARNATION).scalar_one()
        self.workers, self.slots = self._machines(commands)
        self._lock_slots(commands)
        self.held = self._held(commands)
        self._free_restarted(commands)
        self.replays = self._replays(commands)
        self.busy = {slot: row.lease_expires_us for slot, row in self.held.items()}
        self.due = self._due_studies(commands)
        self.retry_at: dict[int, int] | None = None
        self.given: dict[str, _Given] = {}

    # --- reading ----------------------------------------------------------------------------------

    def _machines(self, commands: Sequence[Claim]) -> tuple[dict[str, Row[Any]], dict[str, Row[Any]]]:
        named = {"batch": rows({"id": i} for i in sorted({c.worker_id for c in commands}))}
        known = self.tx.execute(_workers(self.tx.dialect), named).all()
        theirs = self.tx.execute(_slots(self.tx.dialect), named).all()
        seen(self.tx, [w.id for w in known], self.now_us)
        return {w.id: w for w in known}, {s.id: s for s in theirs}

    def _lock_slots(self, commands: Sequence[Claim]) -> None:
        """One slot may claim by two servers at once, where an answer was late. SQLite has one writer."""
        if self.tx.dialect == "postgresql":
            named = {"batch": rows({"id": i} for i in sorted({c.slot_id for c in commands}))}
            self.tx.execute(_slots_alone(self.tx.dialect), named)

    def _free_restarted(self, commands: Sequence[Claim]) -> None:
        """What slots still hold under an earlier boot of theirs goes back."""
        boots = {c.slot_id: c.boot_id for c in commands if self._known(c) is None}
        held = self.held.values()
        old = [row.id for row in held if row.slot_id in boots and row.boot_id != boots[row.slot_id]]
        if old:
            hand_back(self.tx, trials.c.id.in_(old), self.now_us)
            self.held = self._held(commands)

    def _known(self, c: Claim) -> Refused | None:
        worker, slot = self.workers.get(c.worker_id), self.slots.get(c.slot_id)
        if (
            worker is None
            or worker.project_id != c.project_id
            or slot is None
            or slot.worker_id != c.worker_id
        ):
            return NotFound(
                f"Slot {c.slot_id} of worker {c.worker_id} is not registered here; register it first."
            )
        if worker.boot_id != c.boot_id:
            return Conflict(
                f"Worker {worker.name} has started anew since this claim was made; register again."
            )
        return None

    def _replays(self, commands: Sequence[Claim]) -> dict[str, Row[Any]]:
        named = {"batch": rows({"id": c.claim_id} for c in commands)}
        return {row.claim_id: row for row in self.tx.execute(_claims(self.tx.dialect), named)}

    def _held(self, commands: Sequence[Claim]) -> dict[str, Row[Any]]:
        """slot → the trial that runs there."""
        named = {"batch": rows({"id": c.slot_id} for c in commands)}
        return {row.slot_id: row for row in self.tx.execute(_running(self.tx.dialect), named)}

    def _due_studies(self, commands: Sequence[Claim]) -> list[_Due]:
        named = {"batch": rows({"id": i} for i in sorted({c.project_id for c in commands}))}
        wanted = self.tx.execute(_open_studies(self.tx.dialect), named)
        due = {s.id: _Due(s, s.running, digest=s.task_digest, gpus=gpus_of(s.spec)) for s in wanted}
        for trial in self._due_trials(due, len(commands)):
            stale = trial.draft and trial.planned_at < trial.last_end_n
            (due[trial.study_id].stale if stale else due[trial.study_id].fresh).append(trial)
        return list(due.values())

    def _due_trials(self, due: Mapping[int, _Due], most: int) -> list[Row[Any]]:
        """The first `most` trials of each study, fresh ones, and stale ones if those are fewer."""
        small = [i for i, d in due.items() if d.study.waiting <= FEW]
        asked = {"batch": rows({"id": i} for i in small), "now_us": self.now_us, "most": most}
        found = list(self.tx.execute(_first_of_each(self.tx.dialect), asked)) if small else []
        for study_id in due.keys() - small:
            found += self._first_of(study_id, most)
        return found

    def _first_of(self, study_id: int, most: int) -> list[Row[Any]]:
        """The same of one study: its stages' trials lie in order in an index."""
        found: list[Row[Any]] = []
        stages_ = self.tx.execute(_STAGES, {"study_id": study_id}).scalars().all()
        for stale, stage_id, hand in product((False, True), stages_, (True, False)):
            if len(found) < most:
                asked = {"stage_id": stage_id, "hand": hand, "now_us": self.now_us, "most": most - len(found)}
                found += self.tx.execute(_FIRST[stale], asked)
        return found

    # --- choosing ---------------------------------------------------------------------------------

    def serve(self, c: Claim) -> _Given | Granted | Nothing | Refused:
        if c.claim_id in self.replays:
            return self._replay(c, self.replays[c.claim_id])
        if c.claim_id in self.given:
            return self._same(c, self.given[c.claim_id])
        return self._known(c) or self._choose(c)

    def _choose(self, c: Claim) -> _Given | Nothing | Refused:
        worker = self.workers[c.worker_id]
        if worker.draining:
            return Nothing(draining=True)
        if (worker.aside_until_us or 0) > self.now_us:
            return Nothing(retry_at_us=worker.aside_until_us)
        if c.slot_id in self.busy:
            return Nothing(retry_at_us=self.busy[c.slot_id])
        devices = len(self.slots[c.slot_id].devices)
        suited = [d for d in self.due if d.has_room and d.suits(c, worker.tasks, devices)]
        if not suited:
            return self._named(c) or Nothing(retry_at_us=self._retry_at(c))
        return self._give(c, min(suited, key=lambda d: d.urgency(c)))

    def _give(self, c: Claim, due: _Due) -> _Given | Nothing:
        if not due.fresh and not c.accept_stale:
            wait = due.study.spec.get("fresh_wait_seconds", 0.25)
            return Nothing(stale=True, fresh_wait_us=round(min(wait, 1e9) * 1_000_000))
        trial = (due.fresh or due.stale).pop(0)
        due.running += 1
        if c.study is None:
            due.digest = self.workers[c.worker_id].tasks[due.study.task]
        given = _Given(c, due.study, trial, len(self.slots[c.slot_id].devices), due.digest)
        self.given[c.claim_id] = given
        self.busy[c.slot_id] = self.now_us + self.tx.ttl_us
        return given

    def _named(self, c: Claim) -> Nothing | Refused | None:
        """What to say of a study that was named and gives no trial for good."""
        if c.study is None:
            return None
        wanted = select(studies.c.state).where(
            studies.c.project_id == c.project_id, studies.c.name == c.study
        )
        state = self.tx.execute(wanted).scalar_one_or_none()
        if state is None:
            return NotFound(f"There is no study {c.study} here; a claim names one of its token's project.")
        return Nothing(ended=True) if state in ENDED else None

    def _same(self, c: Claim, given: _Given) -> _Given | Refused:
        return given if c.secret_hash == given.claim.secret_hash else _reused(c)

    def _replay(self, c: Claim, attempt: Row[Any]) -> Granted | Refused:
        if attempt.slot_id != c.slot_id or attempt.lease_hash != c.secret_hash.hex():
            return _reused(c)
        if attempt.ended_us is not None:
            return ClaimStale(
                f"The lease of claim {c.claim_id} has ended ({attempt.ending}); claim with a new id."
            )
        work = resume.order_of_attempt(self.tx.conn, attempt.trial_id, attempt.resume_snapshot_id)
        return Granted(attempt.trial_id, attempt.incarnation, attempt.attempt, work)

    def _retry_at(self, c: Claim) -> int | None:
        """When the next backoff of this claim's project ends."""
        if self.retry_at is None:
            pending = self.tx.execute(_PENDING, {"now_us": self.now_us})
            self.retry_at = {row.project_id: row.at_us for row in pending}
        return self.retry_at.get(c.project_id)

    # --- writing ----------------------------------------------------------------------------------

    def write(self) -> dict[str, Granted]:
        given = list(self.given.values())
        if not given:
            return {}
        starts = resume.starting_points(self.tx.conn, [g.trial for g in given])
        evaluated = resume.evaluated(self.tx.conn, [g.trial for g in given])
        self.tx.update(trials, [self._claimed(g, starts) for g in given])
        self.tx.insert(attempts, [_attempt(g, starts, self.incarnation, self.now_us) for g in given])
        digests = {g.study.id: g.digest for g in given if g.study.task_digest is None and g.digest}
        self.tx.update(studies, [Change({"id": i}, {"task_digest": d}) for i, d in digests.items()])
        counts: defaultdict[int, Counts] = defaultdict(Counts)
        for g in given:
            add_count(counts, g.study.id, waiting=-1, running=1)
        record(self.tx, [_event(g, starts, self.incarnation) for g in given], self.now_us, counts)
        return {
            g.claim.claim_id: self._granted(g, starts.get(g.trial.id), evaluated.get(g.trial.id, ()))
            for g in given
        }

    def _claimed(self, g: _Given, starts: Mapping[int, Row[Any]]) -> Change:
        step = _step(g, starts)
        becomes = {
            "state": "running",
            "attempt": g.trial.attempt + 1,
            "draft": False,  # what has run is a trial for good: redrawing it would mix two curves
            "report_seq": 0,
            "started_us": self.now_us if g.trial.started_us is None else g.trial.started_us,
            "incarnation": self.incarnation,
            "lease_hash": g.claim.secret_hash.hex(),
            "lease_expires_us": self.now_us + self.tx.ttl_us,
            "claim_id": g.claim.claim_id,
            "worker_id": g.claim.worker_id,
            "slot_id": g.claim.slot_id,
            "boot_id": g.claim.boot_id,
            "step": step,
            "furthest": max(step, g.trial.furthest),
        }
        return Change({"id": g.trial.id, "state": "waiting", "attempt": g.trial.attempt}, becomes)

    def _granted(self, g: _Given, start: Row[Any] | None, evaluated: Sequence[Row[Any]]) -> Granted:
        work = resume.order(g.study.spec, g.trial, start, evaluated)
        return Granted(g.trial.id, self.incarnation, g.trial.attempt + 1, work)


# --- statements -----------------------------------------------------------------------------------

_INCARNATION = select(instance.c.incarnation)
_NOW_US = bindparam("now_us", type_=BigInteger)
_MOST = bindparam("most", type_=BigInteger)
_DUE = (
    trials.c.state == literal_column("'waiting'"),  # not as a parameter: the indexes are of these trials
    trials.c.not_before_us <= _NOW_US,
)
_PLACE = (trials.c.hand.desc(), trials.c.ordinal, trials.c.number)
_IS_STALE = and_(trials.c.draft, trials.c.planned_at < stages.c.last_end_n)
_CLAIMED = (
    "id", "study_id", "number", "state", "attempt", "params", "work", "start_snapshot_id", "draft",
    "planned_at", "started_us", "furthest",
)  # fmt: skip
_GIVEN = select(
    *(trials.c[name] for name in _CLAIMED), stages.c.name.label("stage"), stages.c.last_end_n
).join(stages, stages.c.id == trials.c.stage_id)
_STAGES = select(stages.c.id).where(stages.c.study_id == bindparam("study_id")).order_by(stages.c.position)
_OF_STAGE = _GIVEN.where(
    trials.c.stage_id == bindparam("stage_id"), trials.c.hand == bindparam("hand"), *_DUE
)
_FIRST = [
    _OF_STAGE.where(which).order_by(trials.c.ordinal, trials.c.number).limit(_MOST)
    for which in (not_(_IS_STALE), _IS_STALE)
]
_PENDING = (
    select(studies.c.project_id, func.min(trials.c.not_before_us).label("at_us"))
    .join(studies, studies.c.id == trials.c.study_id)
    .where(trials.c.state == "waiting", trials.c.not_before_us > _NOW_US, studies.c.state == "active")
    .group_by(studies.c.project_id)
)


@cache
def _workers(dialect: str) -> Executable:
    return select(workers).where(workers.c.id.in_(ids(dialect, String)))


@cache
def _slots(dialect: str) -> Executable:
    return select(slots).where(slots.c.worker_id.in_(ids(dialect, String)))


@cache
def _slots_alone(dialect: str) -> Executable:
    """Locked against other claims; whoever only refers to them does not wait."""
    theirs = select(slots.c.id).where(slots.c.id.in_(ids(dialect, String)))
    return theirs.order_by(slots.c.id).with_for_update(key_share=True)


@cache
def _claims(dialect: str) -> Executable:
    return select(attempts).where(attempts.c.claim_id.in_(ids(dialect, String)))


@cache
def _running(dialect: str) -> Executable:
    names = ("id", "slot_id", "boot_id", "lease_expires_us")
    running = trials.c.state == literal_column("'running'")
    return select(*(trials.c[name] for name in names)).where(
        running, trials.c.slot_id.in_(ids(dialect, String))
    )


@cache
def _open_studies(dialect: str) -> Executable:
    theirs = studies.c.project_id.in_(ids(dialect))
    wanted = select(studies).where(theirs, studies.c.state == "active", studies.c.waiting > 0)
    return wanted.order_by(
        studies.c.id
    ).with_for_update()  # SQLite, which has no locks of rows, leaves it out


@cache
def _first_of_each(dialect: str) -> Executable:
    stale = case((_IS_STALE, 1), else_=0)
    by = (trials.c.study_id, stale)
    order = (stages.c.position, *_PLACE)
    place = func.row_number().over(partition_by=by, order_by=order).label("place")
    ranked = (
        select(trials.c.id, place)
        .join(stages, stages.c.id == trials.c.stage_id)
        .where(trials.c.study_id.in_(ids(dialect)), *_DUE)
        .subquery()
    )
    first = select(ranked.c.id).where(ranked.c.place <= _MOST)
    return _GIVEN.where(trials.c.id.in_(first)).order_by(*order)


# --- rows -----------------------------------------------------------------------------------------


def _reused(c: Claim) -> Conflict:
    return Conflict(
        f"Claim id {c.claim_id} was used by another slot or with another secret; use a random id each time."
    )


def _step(g: _Given, starts: Mapping[int, Row[Any]]) -> int:
    return starts[g.trial.id].step if g.trial.id in starts else 0


def _attempt(g: _Given, starts: Mapping[int, Row[Any]], incarnation: int, now_us: int) -> dict[str, Any]:
    return {
        "trial_id": g.trial.id,
        "attempt": g.trial.attempt + 1,
        "incarnation": incarnation,
        "lease_hash": g.claim.secret_hash.hex(),
        "worker_id": g.claim.worker_id,
        "slot_id": g.claim.slot_id,
        "devices": g.devices,
        "claim_id": g.claim.claim_id,
        "claimed_us": now_us,
        "resume_step": _step(g, starts),
        "resume_snapshot_id": starts[g.trial.id].id if g.trial.id in starts else None,
    }


def _event(g: _Given, starts: Mapping[int, Row[Any]], incarnation: int) -> Happened:
    data = {
        "from": "waiting",
        "to": "running",
        "attempt": g.trial.attempt + 1,
        "incarnation": incarnation,
        "cause": "claim",
        "stop_reason": None,
        "value": None,
        "resume_step": _step(g, starts),
    }
    return Happened(
        study_id=g.study.id,
        kind="moved",
        actor=f"worker {g.claim.worker_id}",
        cause="claim",
        data=data,
        trial_id=g.trial.id,
        trial_number=g.trial.number,
        stage=g.trial.stage,
    )
