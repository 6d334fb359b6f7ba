"""What the holder of a lease may write: renew, finish, release. `reporting` has its reports.

Every handler asks `fence.standings` first, and its statements carry the fence once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Executable, Row, String, bindparam, case, select, update
from tunesmith_studies.curves import objective_value
from tunesmith_studies.study import Objective
from tunesmith_studies.trial import Point

from tunesmith_service import faulty, moves, reading
from tunesmith_service.commands import Ended, Finish, Kept, Lease, Release, Renew
from tunesmith_service.db import batch, dumps, ids, rows
from tunesmith_service.errors import AlreadyFinal, Refused
from tunesmith_service.fence import Held, Over, Standing, standings
from tunesmith_service.moves import Move
from tunesmith_service.tables import studies, trials, workers
from tunesmith_service.tx import Tx

SEEN_EVERY_US = 5_000_000
"""A worker's `last_seen_us` is written no more often than this."""


# --- renew ----------------------------------------------------------------------------------------


def apply_renew(tx: Tx, commands: Sequence[Renew], now_us: int) -> list[Kept | Refused]:
    """One statement keeps all that are current; only the others are looked up."""
    leases = list(dict.fromkeys(c.lease for c in commands))
    asked = {"until": now_us + tx.ttl_us, "batch": rows(_fence(x) for x in leases)}
    kept = tx.execute(_renewal(tx.dialect), asked).all()
    seen(tx, [row.worker_id for row in kept], now_us)
    held = {(row.id, row.incarnation, row.attempt, row.lease_hash) for row in kept}
    gone = [x for x in leases if tuple(_fence(x).values()) not in held]
    why = standings(tx, gone) if gone else {}
    return [_refusal(why[c.lease]) if c.lease in why else Kept() for c in commands]


@cache
def _renewal(dialect: str) -> Executable:
    b = batch(dialect, trial_id=BigInteger, incarnation=BigInteger, attempt=BigInteger, lease_hash=String)
    until = bindparam("until", type_=BigInteger)
    later = case((trials.c.lease_expires_us > until, trials.c.lease_expires_us), else_=until)
    return (
        update(trials)
        .where(
            trials.c.id == b.c.trial_id,
            trials.c.incarnation == b.c.incarnation,
            trials.c.attempt == b.c.attempt,
            trials.c.lease_hash == b.c.lease_hash,  # so it runs; saying that too has all that run read
        )
        .values(lease_expires_us=later)
        .returning(
            trials.c.id, trials.c.incarnation, trials.c.attempt, trials.c.lease_hash, trials.c.worker_id
        )
    )


def _fence(lease: Lease) -> dict[str, Any]:
    return {
        "trial_id": lease.trial_id,
        "incarnation": lease.incarnation,
        "attempt": lease.attempt,
        "lease_hash": lease.secret_hash.hex(),
    }


def _refusal(standing: Standing) -> Refused:
    assert not isinstance(standing, Held)
    return standing.refusal


def seen(tx: Tx, worker_ids: Sequence[str], now_us: int) -> None:
    """Note that these workers are alive."""
    asked = {"batch": rows({"id": i} for i in sorted(set(worker_ids)))}
    tx.execute(_seen(tx.dialect), asked | {"now_us": now_us, "late_us": now_us - SEEN_EVERY_US})


@cache
def _seen(dialect: str) -> Executable:
    late = workers.c.last_seen_us < bindparam("late_us", type_=BigInteger)
    of_them = workers.c.id.in_(ids(dialect, String))
    return update(workers).where(of_them, late).values(last_seen_us=bindparam("now_us", type_=BigInteger))


# --- finish and release ---------------------------------------------------------------------------


def apply_finish(tx: Tx, commands: Sequence[Finish], now_us: int) -> list[Ended | Refused]:
    """First wins; the objective is worked out here, from the points of the current curve."""
    leases = list(dict.fromkeys(c.lease for c in commands))
    where = standings(tx, leases)
    forgiven = faulty.judge(tx, _broken_early(commands, where, now_us), now_us)
    if forgiven:
        where = standings(tx, leases)
    held = [s.trial for s in where.values() if isinstance(s, Held)]
    specs = _specs(tx, held)
    complete = {c.lease.trial_id for c in commands if c.state == "complete"}
    curves = reading.curves(tx.conn, [t.id for t in held if t.id in complete])
    ends: dict[Lease, Move] = {}
    outcomes = []
    for c in commands:
        standing = where[c.lease]
        if isinstance(standing, Held) and c.lease not in ends:
            curve = curves.get(standing.trial.id, [])
            spec, free = specs[standing.trial.study_id], standing.trial.id in forgiven
            ends[c.lease] = _ending(c, standing.trial, curve, spec, now_us, free=free)
        outcomes.append(_answer(c.lease, standing, said(c), ends))
    moves.change(tx, list(ends.values()), now_us)
    return outcomes


def _broken_early(commands: Sequence[Finish], where: Mapping[Lease, Standing], now_us: int) -> list[Row[Any]]:
    """The trials that a fault of their machine ends soon after their claim; the first word of each counts."""
    first: dict[Lease, Finish] = {}
    for c in commands:
        first.setdefault(c.lease, c)
    found = [(c, where[lease]) for lease, c in first.items()]
    return [s.trial for c, s in found if isinstance(s, Held) and _is_early_fault(c, s.trial, now_us)]


def _is_early_fault(c: Finish, trial: Row[Any], now_us: int) -> bool:
    return c.state == "failed" and c.retryable and faulty.is_early(trial, now_us)


def apply_release(tx: Tx, commands: Sequence[Release], now_us: int) -> list[Ended | Refused]:
    """T10: handed back at no cost, to be claimed again at once."""
    where = standings(tx, list(dict.fromkeys(c.lease for c in commands)))
    ends: dict[Lease, Move] = {}
    outcomes = []
    for c in commands:
        standing = where[c.lease]
        if isinstance(standing, Held) and c.lease not in ends:
            ends[c.lease] = _release(c, standing.trial)
        outcomes.append(_answer(c.lease, standing, said(c), ends))
    moves.change(tx, list(ends.values()), now_us)
    return outcomes


def said(c: Finish | Release) -> str:
    """Digest of what a lease's holder said at its end, so that a repeated call is known."""
    words: list[Any] = (
        ["finish", c.state, c.stop_reason, c.error, c.retryable]
        if isinstance(c, Finish)
        else ["release", c.cause]
    )
    return hashlib.sha256(dumps(words).encode()).hexdigest()


def _answer(lease: Lease, standing: Standing, digest: str, ends: Mapping[Lease, Move]) -> Ended | Refused:
    """What the end of a lease is told: its outcome, again if it is said again, else a refusal."""
    if isinstance(standing, Held):
        first = ends[lease]
        if first.said == digest:
            return Ended(**first.outcome)  # type: ignore[arg-type]
        return AlreadyFinal(f"Trial {standing.trial.number} has just ended otherwise.", outcome=first.outcome)
    if isinstance(standing, Over) and standing.said == digest:
        return Ended(**standing.outcome)
    return standing.refusal


def _specs(tx: Tx, held: Sequence[Row[Any]]) -> dict[int, Mapping[str, Any]]:
    asked = {"batch": rows({"id": i} for i in sorted({t.study_id for t in held}))}
    return {row.id: row.spec for row in tx.execute(_studies(tx.dialect), asked)}


@cache
def _studies(dialect: str) -> Executable:
    return select(studies.c.id, studies.c.spec).where(studies.c.id.in_(ids(dialect)))


def _actor(trial: Row[Any]) -> str:
    return f"worker {trial.worker_id}"


def _release(c: Release, trial: Row[Any]) -> Move:
    preemptions = trial.preemptions + 1
    counts = {"preemptions": preemptions, "not_before_us": 0}
    if preemptions > moves.MAX_PREEMPTIONS:
        error = _error(
            "preempted", f"It was handed back {preemptions} times; run it where it is left to finish."
        )
        return Move(
            trial, "failed", "release", _actor(trial), "error", error=error, counts=counts, said=said(c)
        )
    return Move(
        trial, "waiting", "release", _actor(trial), counts=counts, said=said(c), extra={"why": c.cause}
    )


def _ending(
    c: Finish, trial: Row[Any], curve: Sequence[Point], spec: Mapping[str, Any], now_us: int, *, free: bool
) -> Move:
    """T4, T5b, T11 or T12, as the worker's word and the reports say; `free`: a failure costs no retry."""
    if c.state == "complete":
        return _complete(c, trial, curve, Objective.model_validate(spec["objective"]))
    if c.state == "failed":
        return _failed(c, trial, spec.get("retries", 2), now_us, free=free)
    return Move(trial, "pruned", "finish", _actor(trial), c.stop_reason, error=c.error, said=said(c))


def _complete(c: Finish, trial: Row[Any], curve: Sequence[Point], objective: Objective) -> Move:
    if trial.kind != "train":  # it measured: what it reported is for its stage, and has no objective
        return Move(trial, "complete", "finish", _actor(trial), c.stop_reason, said=said(c))
    value = objective_value(curve, objective)
    if value is not None:
        return Move(trial, "complete", "finish", _actor(trial), c.stop_reason, value=value, said=said(c))
    if any(objective.metric in point.metrics for point in curve):
        return Move(trial, "pruned", "finish", _actor(trial), "diverged", said=said(c))
    reported = sorted({name for point in curve for name in point.metrics})
    error = _error(
        "objective_missing",
        f"The study's objective is {objective.metric}, which this trial never reported; it reported "
        f"{', '.join(reported[:20]) or 'nothing'}. Report it, or let the study's objective name another.",
    )
    return Move(trial, "failed", "finish", _actor(trial), "error", error=error, said=said(c))


def _failed(c: Finish, trial: Row[Any], retries: int, now_us: int, *, free: bool) -> Move:
    early, actor = _is_early_fault(c, trial, now_us), _actor(trial)
    failures = trial.failures + (not free)
    if free or (c.retryable and failures <= retries):
        counts = {"failures": failures, "not_before_us": 0 if free else now_us + moves.backoff_us(failures)}
        return Move(
            trial, "waiting", "retry", actor, error=c.error, counts=counts, said=said(c), early_fault=early
        )
    error = c.error or _error("unknown", "The worker gave no reason; look at the trial's log.")
    counts = {"failures": failures}
    return Move(
        trial, "failed", "finish", actor, "error", error=error, counts=counts, said=said(c), early_fault=early
    )


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"kind": kind, "message": message, "traceback": ""}
