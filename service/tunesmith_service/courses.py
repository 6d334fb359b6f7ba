"""The course of a study: stages that begin and end one after another, and the study's own end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select, update

from tunesmith_service import moves
from tunesmith_service.tables import stages, studies, trials
from tunesmith_service.tx import Happened, Tx, lock, record

OPEN = ("active", "paused")


def study_row(tx: Tx, study_id: int) -> Row[Any] | None:
    """A study's row, locked."""
    lock(tx, [study_id])
    return tx.execute(select(studies).where(studies.c.id == study_id)).one_or_none()


def stage_row(tx: Tx, study_id: int, name: str) -> Row[Any] | None:
    return tx.execute(
        select(stages).where(stages.c.study_id == study_id, stages.c.name == name)
    ).one_or_none()


def move_study(
    tx: Tx, study_id: int, state: str, actor: str, now_us: int, *, reason: str | None = None
) -> None:
    ended = now_us if state in ("complete", "stopped") else None
    tx.execute(
        update(studies).where(studies.c.id == study_id).values(state=state, reason=reason, ended_us=ended)
    )
    record(tx, [Happened(study_id, "study", actor, {"state": state, "reason": reason})], now_us)


def move_stage(
    tx: Tx,
    stage: Row[Any],
    state: str,
    actor: str,
    now_us: int,
    *,
    reason: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> None:
    at = {"activated_us": now_us} if state == "active" else {"ended_us": now_us}
    tx.execute(
        update(stages).where(stages.c.id == stage.id).values(state=state, reason=reason, result=result, **at)
    )
    data = {"state": state, "reason": reason, "result": result}
    record(tx, [Happened(stage.study_id, "stage", actor, data, stage=stage.name)], now_us)


def end_stage(
    tx: Tx,
    stage: Row[Any],
    state: str,
    actor: str,
    now_us: int,
    *,
    reason: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> None:
    """End an active or pending stage, cancel what waits in it, and let the study go on."""
    _cancel_waiting(tx, stage, actor, now_us)
    move_stage(tx, stage, state, actor, now_us, reason=reason, result=result)
    go_on(tx, stage.study_id, actor, now_us)


def _cancel_waiting(tx: Tx, stage: Row[Any], actor: str, now_us: int) -> None:
    waiting = tx.execute(
        moves.trial_rows().where(trials.c.stage_id == stage.id, trials.c.state == "waiting")
    ).all()
    moves.change(tx, [moves.cancelled(t, "stage_ended", actor) for t in waiting], now_us)


def go_on(tx: Tx, study_id: int, actor: str, now_us: int) -> None:
    """Activate the next stage if none is active; after the last the study is complete.

    A pending stage whose named source left no result cannot run: it fails with that reason. Behind a
    stage that blocks nothing begins: the study is paused.
    """
    all_ = tx.execute(select(stages).where(stages.c.study_id == study_id).order_by(stages.c.position)).all()
    if any(s.state == "active" for s in all_):
        return
    if blocking := next((s for s in all_ if blocks(s)), None):
        _pause_behind(tx, blocking, actor, now_us)
        return
    by_name = {s.name: s for s in all_}
    for stage in all_:
        if stage.state != "pending":
            continue
        reason = _why_not(stage, by_name)
        if reason is None:
            move_stage(tx, stage, "active", actor, now_us)
            return
        _cancel_waiting(tx, stage, actor, now_us)  # people may queue trials ahead of a stage's turn
        move_stage(tx, stage, "failed", actor, now_us, reason=reason)
    study = tx.execute(select(studies.c.state).where(studies.c.id == study_id)).one()
    if study.state in OPEN:
        move_study(tx, study_id, "complete", actor, now_us)


def blocks(stage: Row[Any]) -> bool:
    """Whether this stage's result keeps its study from going on; no longer once somebody overrode it."""
    return bool((stage.result or {}).get("blocks")) and stage.override is None


def blocking_stage(tx: Tx, study_id: int) -> Row[Any] | None:
    failed = select(stages).where(stages.c.study_id == study_id, stages.c.state == "failed")
    return next((s for s in tx.execute(failed.order_by(stages.c.position)) if blocks(s)), None)


def _pause_behind(tx: Tx, stage: Row[Any], actor: str, now_us: int) -> None:
    reason = f"Stage {stage.name} failed: {stage.reason}"
    study = tx.execute(select(studies).where(studies.c.id == stage.study_id)).one()
    if study.state in OPEN and (study.state, study.reason) != ("paused", reason):
        move_study(tx, study.id, "paused", actor, now_us, reason=reason)


def _why_not(stage: Row[Any], by_name: Mapping[str, Row[Any]]) -> str | None:
    """What keeps a stage from running once its turn has come."""
    name = stage.spec.get("source")
    if name is None:
        return None
    source = by_name.get(name)
    if source is None or source.position >= stage.position:
        return f"Its source {name} is no earlier stage of this study."
    if source.state != "done" or not source.result["ranking"]:
        why = source.reason or (source.result or {}).get("why") or "it ranked nothing"
        return f"Its source {name} is {source.state} and left no ranking: {why}"
    return None


def stop_study(tx: Tx, study: Row[Any], actor: str, now_us: int, *, reason: str, cause: str) -> None:
    """T13, T14: cancel what waits or runs, skip the stages that are left, and end as stopped."""
    live = tx.execute(
        moves.trial_rows().where(trials.c.study_id == study.id, trials.c.state.in_(("waiting", "running")))
    ).all()
    moves.change(tx, [moves.cancelled(t, cause, actor) for t in live], now_us)
    for stage in _unfinished(tx, study.id):
        move_stage(tx, stage, "skipped", actor, now_us, reason=f"The study was stopped: {reason}")
    move_study(tx, study.id, "stopped", actor, now_us, reason=reason)


def _unfinished(tx: Tx, study_id: int) -> Sequence[Row[Any]]:
    return tx.execute(
        select(stages)
        .where(stages.c.study_id == study_id, stages.c.state.in_(("pending", "active")))
        .order_by(stages.c.position)
    ).all()
