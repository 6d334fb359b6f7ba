"""What is kept, and for how long: snapshots, stored bytes, answers to Idempotency-Keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, and_, delete, exists, func, or_, select

from tunesmith_service.bulk import Change
from tunesmith_service.clock import SECOND
from tunesmith_service.commands import ForgetBlobs
from tunesmith_service.db import batch, rows
from tunesmith_service.tables import (
    artifacts,
    attempts,
    blobs,
    idempotency,
    logs,
    members,
    snapshots,
    stages,
    studies,
    trials,
)
from tunesmith_service.tx import Happened, Tx, lock, record

LIVE = ("waiting", "running")

ANSWERS_KEPT_US = 7 * 24 * 3600 * SECOND
"""How long a repeated Idempotency-Key gets its stored answer, and a late word of a worker's earlier start is
known for one."""


def apply_forget_blobs(tx: Tx, commands: Sequence[ForgetBlobs], now_us: int) -> list[list[str]]:
    """Forget snapshots committed before `older_than_us` unless one of these needs them: the newest of
    a live trial, what a waiting or running trial starts or resumes from, the best of a study, and what
    a stage that is still to end may go on from. The log says so: no stage shall plan to start from
    bytes that are gone. Old answers to Idempotency-Keys go too. Returns the
    hashes that no row names any more."""
    before_us = min(c.older_than_us for c in commands)
    concerned = _studies_of_old(tx, before_us)
    lock(tx, concerned)
    # Read under the locks: another server may have forgotten some of them while we waited.
    old = [row for row in _old(tx, before_us) if row.study_id in concerned]
    kept = _newest_of_live(tx) | _named(tx) | _best(tx, {row.study_id for row in old}) | _to_go_on_from(tx)
    gone = [row for row in old if row.id not in kept]
    forgotten = {"forgotten_us": now_us}
    tx.update(snapshots, [Change({"id": row.id, "forgotten_us": None}, forgotten) for row in gone])
    left = _steps_left(tx, {row.trial_id for row in gone})
    lost = {(row.trial_id, row.step): row for row in gone if (row.trial_id, row.step) not in left}
    record(tx, [_forgotten(row) for row in lost.values()], now_us)
    tx.execute(delete(idempotency).where(idempotency.c.created_us < now_us - ANSWERS_KEPT_US))
    unnamed = _drop_unnamed(tx, before_us)
    return [unnamed] * len(commands)


def _is_old(before_us: int) -> ColumnElement[bool]:
    return and_(snapshots.c.forgotten_us.is_(None), snapshots.c.committed_us < before_us)


def _studies_of_old(tx: Tx, before_us: int) -> set[int]:
    wanted = select(trials.c.study_id).distinct().join(snapshots, snapshots.c.trial_id == trials.c.id)
    return set(tx.execute(wanted.where(_is_old(before_us))).scalars())


def _old(tx: Tx, before_us: int) -> Sequence[Row[Any]]:
    return tx.execute(
        select(
            *(snapshots.c[name] for name in ("id", "trial_id", "step")),
            trials.c.study_id,
            trials.c.number,
            stages.c.name.label("stage"),
        )
        .join(trials, trials.c.id == snapshots.c.trial_id)
        .join(stages, stages.c.id == trials.c.stage_id)
        .where(_is_old(before_us))
        .order_by(snapshots.c.id)
    ).all()


def _steps_left(tx: Tx, trial_ids: set[int]) -> set[tuple[int, int]]:
    """(trial id, step) of these trials' snapshots that still have their bytes: two attempts may have
    come to the same step."""
    b = batch(tx.dialect, id=BigInteger)
    wanted = select(snapshots.c.trial_id, snapshots.c.step).where(
        snapshots.c.trial_id.in_(select(b.c.id)), snapshots.c.forgotten_us.is_(None)
    )
    asked = {"batch": rows({"id": i} for i in sorted(trial_ids))}
    return {(row.trial_id, row.step) for row in tx.execute(wanted, asked)}


def _forgotten(row: Row[Any]) -> Happened:
    return Happened(
        study_id=row.study_id,
        kind="forgotten",
        actor="sweeper",
        data={"step": row.step},
        trial_id=row.trial_id,
        trial_number=row.number,
        stage=row.stage,
    )


def _newest_of_live(tx: Tx) -> set[int]:
    newest = (
        select(func.max(snapshots.c.id))
        .join(trials, trials.c.id == snapshots.c.trial_id)
        .where(trials.c.state.in_(LIVE), snapshots.c.forgotten_us.is_(None))
        .group_by(snapshots.c.trial_id)
    )
    return set(tx.execute(newest).scalars())


def _named(tx: Tx) -> set[int]:
    """What live trials start from or evaluate, and what running attempts have resumed from."""
    starts = select(trials.c.start_snapshot_id).where(trials.c.state.in_(LIVE))
    evaluated = (
        select(members.c.snapshot_id)
        .join(trials, trials.c.id == members.c.trial_id)
        .where(trials.c.state.in_(LIVE))
    )
    resumed = select(attempts.c.resume_snapshot_id).where(attempts.c.ended_us.is_(None))
    named = (tx.execute(wanted).scalars() for wanted in (starts, evaluated, resumed))
    return {i for ids in named for i in ids if i is not None}


def _best(tx: Tx, study_ids: set[int]) -> set[int]:
    """The newest snapshot of each of a study's `keep_best` best trials that has one."""
    specs = tx.execute(select(studies.c.id, studies.c.spec).where(studies.c.id.in_(sorted(study_ids))))
    how = {row.id: (row.spec.get("keep_best", 3), row.spec["objective"]["direction"]) for row in specs}
    newest = (
        select(
            trials.c.study_id, trials.c.number, trials.c.value, func.max(snapshots.c.id).label("snapshot_id")
        )
        .join(trials, trials.c.id == snapshots.c.trial_id)
        .where(
            trials.c.study_id.in_(sorted(study_ids)),
            trials.c.value.is_not(None),
            snapshots.c.forgotten_us.is_(None),
        )
        .group_by(trials.c.study_id, trials.c.number, trials.c.value)
    )
    ranked: defaultdict[int, list[tuple[float, int, int]]] = defaultdict(list)
    for row in tx.execute(newest):
        sign = 1 if how[row.study_id][1] == "minimize" else -1
        ranked[row.study_id].append((sign * row.value, row.number, row.snapshot_id))
    return {snapshot for study, found in ranked.items() for _, _, snapshot in sorted(found)[: how[study][0]]}


def _to_go_on_from(tx: Tx) -> set[int]:
    """Snapshots of trials that were told to keep theirs, while a stage of the study is still to end."""
    to_end = exists().where(stages.c.study_id == trials.c.study_id, stages.c.state.in_(("pending", "active")))
    wanted = (
        select(snapshots.c.id)
        .join(trials, trials.c.id == snapshots.c.trial_id)
        .where(snapshots.c.forgotten_us.is_(None), trials.c.work["keep_snapshot"].as_boolean(), to_end)
    )
    return set(tx.execute(wanted).scalars())


def named_by_rows() -> Any:
    """Whether a row other than its own names a blob."""
    return or_(
        exists().where(snapshots.c.sha256 == blobs.c.sha256, snapshots.c.forgotten_us.is_(None)),
        exists().where(logs.c.sha256 == blobs.c.sha256),
        exists().where(artifacts.c.sha256 == blobs.c.sha256),
    )


def _drop_unnamed(tx: Tx, before_us: int) -> list[str]:
    unnamed = delete(blobs).where(~named_by_rows(), blobs.c.created_us < before_us).returning(blobs.c.sha256)
    return sorted(tx.execute(unnamed).scalars())
