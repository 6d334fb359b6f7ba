"""One batch of commands, one transaction. `writer` calls it from its thread; tests call it directly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tunesmith_service import (
    access,
    admission,
    again,
    audit,
    claims,
    db,
    imports,
    keeping,
    leases,
    notices,
    notifying,
    people,
    plans,
    registration,
    reporting,
    retention,
    sweeps,
    uploads,
    wishes,
)
from tunesmith_service import commands as c
from tunesmith_service.bounds import Bounds
from tunesmith_service.brought import Brought
from tunesmith_service.commands import Command
from tunesmith_service.db import writing
from tunesmith_service.errors import Unavailable
from tunesmith_service.origin import Audited
from tunesmith_service.tx import TTL_US, Tx

log = structlog.get_logger(__name__)

Handler = Callable[[Tx, Sequence[Any], int], Sequence[Any]]

HANDLERS: dict[type[Any], Handler] = {
    # What people set up comes first, so that the rest of the batch sees it.
    admission.CreateToken: access.apply_create_token,
    admission.RevokeToken: access.apply_revoke_token,
    admission.TouchTokens: access.apply_touch_tokens,
    admission.CreateLoginCode: access.apply_create_login_code,
    admission.RedeemLoginCode: access.apply_redeem_login_code,
    admission.TouchSessions: access.apply_touch_sessions,
    admission.EndSession: access.apply_end_session,
    admission.EndSessions: access.apply_end_sessions,
    admission.NoteRefusal: access.apply_note_refusal,
    c.DrainWorker: people.apply_drain_worker,
    c.CreateStudy: people.apply_create_study,
    c.Register: registration.apply_register,
    # Then what a lease's holder says, its ends last: a report beside a finish is still in time.
    c.Grace: sweeps.apply_grace,
    c.Renew: leases.apply_renew,
    c.Report: reporting.apply_report,
    c.CommitSnapshot: uploads.apply_snapshot,
    c.AppendLog: uploads.apply_log,
    c.CommitArtifact: uploads.apply_artifact,
    c.Finish: leases.apply_finish,
    c.Release: leases.apply_release,
    # A verdict or a wish loses to the worker's own finish.
    c.Prune: plans.apply_prune,
    c.CancelTrial: people.apply_cancel_trial,
    wishes.PruneNow: again.apply_prune_now,
    c.Sweep: sweeps.apply_sweep,
    # Proposals before the end of their stage, and claims last: they find all that has become free.
    c.Enqueue: people.apply_enqueue,
    wishes.Retry: again.apply_retry,
    wishes.ImportTrials: imports.apply_import_trials,
    c.Propose: plans.apply_propose,
    c.Redraw: plans.apply_redraw,
    c.EndStage: plans.apply_end_stage,
    c.FailStage: plans.apply_fail_stage,
    c.AddStage: people.apply_add_stage,
    c.SkipStage: people.apply_skip_stage,
    c.OverrideStage: people.apply_override_stage,
    c.MoveStudy: people.apply_move_study,
    wishes.PutAway: keeping.apply_put_away,
    wishes.WriteNote: keeping.apply_write_note,
    wishes.TagTrials: keeping.apply_tag_trials,
    wishes.DeleteStudy: keeping.apply_delete_study,
    c.Claim: claims.apply_claim,
    c.ForgetBlobs: retention.apply_forget_blobs,
    admission.TrimAudit: audit.apply_trim,
    # What is told of it comes last of all.
    notices.AddTarget: notifying.apply_add_target,
    notices.RemoveTarget: notifying.apply_remove_target,
    notices.QueueNotices: notifying.apply_queue_notices,
    notices.QueueTest: notifying.apply_queue_test,
    notices.TakeNotices: notifying.apply_take_notices,
    notices.EndNotice: notifying.apply_end_notice,
}
"""Each kind's handler, in the order in which a batch applies them."""

_ORDER = {kind: i for i, kind in enumerate(HANDLERS)}
_RETRIED = ("40P01", "40001")  # deadlock, serialisation
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of commands: an outcome or an exception for each, the studies that changed, and how many
    trials stopped running, by cause and new state.

    `found_no_room`: nothing was written, for the database's disk is full.
    """

    outcomes: list[Any]
    changed: set[int] = field(default_factory=set)
    moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    found_no_room: bool = False


def commit(
    engine: Engine,
    commands: Sequence[Command],
    now_us: int,
    ttl_us: int = TTL_US,
    bounds: Bounds | None = None,
) -> Batch:
    """Apply commands together and commit. Never raises for a command's own fault.

    If a handler raises, the transaction is rolled back and each command gets one of its own, so a
    broken one breaks no other. When the database is away or COMMIT fails, all get Unavailable:
    what was asked may or may not have happened, and asking again is safe.
    """
    bounds = bounds or Bounds()
    try:
        return _retrying(engine, commands, now_us, ttl_us, bounds)
    except _CannotReachError as e:
        log.warning("batch.unavailable", commands=len(commands), error=str(e.__cause__))
        full = db.is_full(e.__cause__)
        why = "has no room left" if full else "does not answer"
        told = Unavailable(f"The database {why}; nothing is lost, send the same request again.")
        return Batch([told] * len(commands), found_no_room=full)
    except Exception as e:
        if len(commands) == 1 and _is_crowded(e):
            log.warning("batch.crowded", kind=type(commands[0]).__name__, error=str(e))
            return Batch([Unavailable("Too many writes at once; nothing was written, send it again.")])
        if len(commands) == 1:
            log.exception("command.failed", kind=type(commands[0]).__name__)
            return Batch([e])
    log.warning("batch.split", commands=len(commands))
    one_by_one = [(i, commit(engine, [commands[i]], now_us, ttl_us, bounds)) for i in _ordered(commands)]
    outcomes: list[Any] = [None] * len(commands)
    for i, alone in one_by_one:
        outcomes[i] = alone.outcomes[0]
    moved: Counter[tuple[str, str]] = Counter()
    for _, alone in one_by_one:
        moved.update(alone.moved)
    return Batch(outcomes, set().union(*(alone.changed for _, alone in one_by_one)), moved)


class _CannotReachError(Exception):
    """The database is away, or said no to COMMIT."""


def _retrying(engine: Engine, commands: Sequence[Command], now_us: int, ttl_us: int, bounds: Bounds) -> Batch:
    for _ in range(_TRIES - 1):
        try:
            return _once(engine, commands, now_us, ttl_us, bounds)
        except DBAPIError as e:
            if not _is_crowded(e):
                raise
            log.info("batch.again", sqlstate=e.orig.sqlstate)  # type: ignore[union-attr]
    return _once(engine, commands, now_us, ttl_us, bounds)


def _is_crowded(error: Exception) -> bool:
    """Whether the database asks for the same transaction again."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRIED


def _once(engine: Engine, commands: Sequence[Command], now_us: int, ttl_us: int, bounds: Bounds) -> Batch:
    try:
        conn = writing(engine).connect()
    except (OperationalError, InterfaceError, PoolTimeout) as e:
        raise _CannotReachError from e
    with conn:
        try:
            transaction = conn.begin()
        except DBAPIError as e:
            raise _CannotReachError from e
        try:
            batch = _apply(conn, commands, now_us, ttl_us, bounds)
        except DBAPIError as e:
            _roll_back(conn)
            if _is_crowded(e) or not db.is_away(e):
                raise
            raise _CannotReachError from e
        except BaseException:
            _roll_back(conn)
            raise
        try:
            transaction.commit()
        except Exception as e:
            _roll_back(conn)
            raise _CannotReachError from e
        return batch


def _roll_back(conn: Connection) -> None:
    """Also on a connection that is lost: then there is nothing left to roll back."""
    try:
        conn.rollback()
    except Exception as e:
        log.warning("batch.rollback_failed", error=str(e))
        conn.invalidate()


def _apply(conn: Connection, commands: Sequence[Command], now_us: int, ttl_us: int, bounds: Bounds) -> Batch:
    tx = Tx(conn, ttl_us, bounds)
    brought = Brought(commands)
    commands = brought.commands
    outcomes: list[Any] = [None] * len(commands)
    deeds: list[audit.Deed] = []
    for kind, places in groupby(_ordered(commands), key=lambda i: type(commands[i])):
        same = [i for i in places if outcomes[i] is None]
        if not same:
            continue
        theirs: list[Any] = [commands[i] for i in same]
        answers: Sequence[Any]
        if issubclass(kind, Audited):
            answers, done = audit.witness(tx, HANDLERS[kind], theirs, now_us)
            deeds += done
        else:
            answers = HANDLERS[kind](tx, theirs, now_us)
        for i, answer in zip(same, answers, strict=True):
            outcomes[i] = answer
        brought.settle(kind, outcomes)
    audit.append(tx, deeds, now_us)
    return Batch(brought.answers(outcomes), tx.changed, tx.moved)


def _ordered(commands: Sequence[Command]) -> list[int]:
    """Places in order of (kind, study, trial, arrival); claims in order of arrival alone."""
    return sorted(range(len(commands)), key=lambda i: (*_rank(commands[i]), i))


def _rank(command: Command) -> tuple[int, int, int]:
    lease = getattr(command, "lease", None)
    trial = lease.trial_id if lease is not None else getattr(command, "trial", 0)
    return _ORDER[type(command)], getattr(command, "study_id", 0), trial
