"""The fence: which of a batch's leases still hold their trials, and what to tell the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Row, and_, bindparam, select

from tunesmith_service.commands import Lease
from tunesmith_service.db import batch, rows
from tunesmith_service.errors import AlreadyFinal, Conflict, LeaseLost
from tunesmith_service.moves import FINAL, trial_rows
from tunesmith_service.tables import attempts, trials
from tunesmith_service.tx import Tx, lock

HOLDS = (
    trials.c.id == bindparam("b_id"),
    trials.c.attempt == bindparam("b_attempt"),
    trials.c.lease_hash == bindparam("b_lease_hash"),
    trials.c.state == "running",
)
"""The fence once more, in the WHERE of an UPDATE of each of many trials; see `holder`."""


def holder(trial: Row[Any]) -> dict[str, Any]:
    """What `HOLDS` is asked with for a trial whose lease is `Held`."""
    return {"b_id": trial.id, "b_attempt": trial.attempt, "b_lease_hash": trial.lease_hash}


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that is its trial's own now."""

    trial: Row[Any]


@dataclass(frozen=True, slots=True)
class Over:
    """A lease that once was good and has ended.

    Attributes:
        refusal: what its writes are told.
        said: digest of the finish or release that ended it, or None if something else did.
        outcome: {state, stop_reason} that this was answered.
    """

    refusal: Conflict
    said: str | None
    outcome: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Never:
    """A lease that this database never gave."""

    refusal: Conflict


Standing = Held | Over | Never


def standings(tx: Tx, leases: Sequence[Lease]) -> dict[Lease, Standing]:
    """Where each lease stands, with the studies of their trials locked."""
    named = {"batch": rows({"trial_id": x.trial_id, "attempt": x.attempt} for x in leases)}
    b = batch(tx.conn, trial_id=BigInteger, attempt=BigInteger)
    if tx.conn.dialect.name != "sqlite":
        held = select(trials.c.study_id).distinct().where(trials.c.id.in_(select(b.c.trial_id)))
        lock(tx, tx.execute(held, named).scalars())
    found = {
        row.id: row for row in tx.execute(trial_rows().where(trials.c.id.in_(select(b.c.trial_id))), named)
    }
    tried = select(
        attempts.c.trial_id,
        attempts.c.attempt,
        attempts.c.incarnation,
        attempts.c.lease_hash,
        attempts.c.said,
        attempts.c.outcome,
    ).join(b, and_(attempts.c.trial_id == b.c.trial_id, attempts.c.attempt == b.c.attempt))
    known = {(row.trial_id, row.attempt): row for row in tx.execute(tried, named)}
    return {x: _standing(x, found.get(x.trial_id), known.get((x.trial_id, x.attempt))) for x in leases}


def _standing(lease: Lease, trial: Row[Any] | None, attempt: Row[Any] | None) -> Standing:
    ours = (
        trial is not None
        and attempt is not None
        and attempt.incarnation == lease.incarnation
        and attempt.lease_hash == lease.secret_hash.hex()
    )
    if not ours or trial is None or attempt is None:
        return Never(
            LeaseLost(f"Lease {lease.attempt} of trial id {lease.trial_id} is not known here; claim again.")
        )
    current = trial.attempt == lease.attempt
    if current and trial.state == "running":
        return Held(trial)
    if current and trial.state in FINAL:
        outcome = {"state": trial.state, "stop_reason": trial.stop_reason}
        told = f"Trial {trial.number} has ended as {trial.state} ({trial.stop_reason}); stop working on it."
        return Over(AlreadyFinal(told, outcome=outcome), attempt.said, attempt.outcome)
    told = f"Attempt {lease.attempt} of trial {trial.number} has ended; stop working on it."
    return Over(LeaseLost(told), attempt.said, attempt.outcome)
