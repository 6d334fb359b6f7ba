"""The fence: which of a batch's leases still hold their trials, and what to tell the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Executable, FromClause, Row, Select, and_, select

from tunesmith_service.commands import Lease
from tunesmith_service.db import batch, rows
from tunesmith_service.errors import AlreadyFinal, Conflict, LeaseLost
from tunesmith_service.moves import FINAL, trial_rows
from tunesmith_service.tables import attempts, studies, trials
from tunesmith_service.tx import Tx


def holder(trial: Row[Any]) -> dict[str, Any]:
    """The fence once more, for an update of a trial whose lease is `Held`: what its row must be."""
    return {"id": trial.id, "attempt": trial.attempt, "lease_hash": trial.lease_hash, "state": "running"}


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


@cache
def trials_of(dialect: str) -> Select[Any]:
    """The trials of a batch of leases, as `moves` needs them."""
    return trial_rows().where(trials.c.id.in_(select(_leases(dialect).c.trial_id)))


def standings(
    tx: Tx, leases: Sequence[Lease], rows_of: Callable[[str], Select[Any]] = trials_of
) -> dict[Lease, Standing]:
    """Where each lease stands, with the studies of their trials locked.

    Args:
        rows_of: gives the statement that reads the trials: `trials_of`, or one with more columns.
    """
    named = {"batch": rows({"trial_id": x.trial_id, "attempt": x.attempt} for x in leases)}
    if tx.dialect != "sqlite":
        tx.execute(_locked(tx.dialect), named)
    found = {row.id: row for row in tx.execute(rows_of(tx.dialect), named)}
    held: dict[Lease, Standing] = {
        x: Held(found[x.trial_id]) for x in leases if _is_held(x, found.get(x.trial_id))
    }
    others = [x for x in leases if x not in held]
    tried = {"batch": rows({"trial_id": x.trial_id, "attempt": x.attempt} for x in others)}
    known = {(r.trial_id, r.attempt): r for r in tx.execute(_attempts(tx.dialect), tried)} if others else {}
    return held | {x: _standing(x, found.get(x.trial_id), known.get((x.trial_id, x.attempt))) for x in others}


def _is_held(lease: Lease, trial: Row[Any] | None) -> bool:
    """Whether it is the trial's own now; a trial that runs has its lease in its row."""
    return (
        trial is not None
        and trial.state == "running"
        and (trial.attempt, trial.incarnation) == (lease.attempt, lease.incarnation)
        and trial.lease_hash == lease.secret_hash.hex()
    )


@cache
def _locked(dialect: str) -> Executable:
    theirs = select(trials.c.study_id).where(trials.c.id.in_(select(_leases(dialect).c.trial_id)))
    return select(studies.c.id).where(studies.c.id.in_(theirs)).order_by(studies.c.id).with_for_update()


@cache
def _attempts(dialect: str) -> Executable:
    b = _leases(dialect)
    same = and_(attempts.c.trial_id == b.c.trial_id, attempts.c.attempt == b.c.attempt)
    told = ("trial_id", "attempt", "incarnation", "lease_hash", "said", "outcome")
    return select(*(attempts.c[name] for name in told)).join(b, same)


def _leases(dialect: str) -> FromClause:
    return batch(dialect, trial_id=BigInteger, attempt=BigInteger)


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
