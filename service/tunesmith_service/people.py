"""What people ask for: studies, stages, trials by hand, cancelling, draining a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from tunesmith_service import faulty, moves, once
from tunesmith_service.commands import (
    AddStage,
    CancelTrial,
    CreateStudy,
    DrainWorker,
    Ended,
    Enqueue,
    MoveStudy,
    OverrideStage,
    SkipStage,
)
from tunesmith_service.courses import (
    OPEN,
    blocking_stage,
    blocks,
    end_stage,
    go_on,
    move_study,
    stage_row,
    stop_study,
    study_row,
)
from tunesmith_service.errors import Conflict, NotFound, Refused, Unprocessable
from tunesmith_service.plans import insert_trials
from tunesmith_service.tables import projects, stages, studies, trials, workers
from tunesmith_service.tx import Counts, Happened, Tx, count, record

MOST_ENQUEUED = 1000

# --- studies --------------------------------------------------------------------------------------


def apply_create_study(tx: Tx, commands: Sequence[CreateStudy], now_us: int) -> list[int | Refused]:
    return [_create_study(tx, c, now_us) for c in commands]


def _create_study(tx: Tx, c: CreateStudy, now_us: int) -> int | Refused:
    stored = once.stored(tx, c.idempotency)
    if stored is not None:
        return stored
    # the project's row orders servers that create a study of one name at the same moment
    tx.execute(select(projects.c.id).where(projects.c.id == c.project_id).with_for_update())
    name = c.spec["name"]
    same = select(studies.c.id).where(studies.c.project_id == c.project_id, studies.c.name == name)
    if tx.execute(same).first() is not None:
        return Conflict(f"A study named {name} exists already; choose another name, such as {name}-2.")
    named = [_stage_name(s) for s in c.spec["stages"]]
    for twice in sorted({n for n in named if named.count(n) > 1}):
        return Unprocessable(f"Two stages are named {twice}; give each stage a name of its own.")
    study_id = tx.execute(insert(studies).values(_study_row(c, now_us)).returning(studies.c.id)).scalar_one()
    tx.execute(insert(stages), [_new_stage(study_id, i, s) for i, s in enumerate(c.spec["stages"])])
    began: dict[str, Any] = {"state": "active", "reason": None}
    if c.cloned_from is not None:
        began["cloned_from"] = c.cloned_from
    record(tx, [Happened(study_id, "study", c.actor, began)], now_us)
    go_on(tx, study_id, c.actor, now_us)
    once.store(tx, c.idempotency, study_id, now_us)
    return int(study_id)


def _study_row(c: CreateStudy, now_us: int) -> dict[str, Any]:
    limits: Mapping[str, Any] = c.spec.get("limits") or {}
    hours = limits.get("max_gpu_hours")
    return {
        "project_id": c.project_id,
        "name": c.spec["name"],
        "state": "active",
        "spec": dict(c.spec),
        "task": c.spec["task"],
        "priority": c.spec.get("priority", 0),
        "max_concurrent": limits.get("max_concurrent"),
        "max_trials": limits.get("max_trials"),
        "max_gpu_us": round(hours * 3_600_000_000) if hours is not None else None,
        "deadline_us": _instant_us(limits.get("deadline")),
        "created_us": now_us,
        "created_by": c.actor,
    }


def _instant_us(written: str | None) -> int | None:
    """Microseconds of an ISO date and time, in UTC if it names no zone."""
    if written is None:
        return None
    at = datetime.fromisoformat(written)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def _stage_name(spec: Mapping[str, Any]) -> str:
    return str(spec.get("name") or spec["kind"])


def _new_stage(study_id: int, position: int, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "study_id": study_id,
        "position": position,
        "name": _stage_name(spec),
        "kind": spec["kind"],
        "spec": dict(spec),
        "state": "pending",
    }


def apply_add_stage(tx: Tx, commands: Sequence[AddStage], now_us: int) -> list[Refused | None]:
    return [_add_stage(tx, c, now_us) for c in commands]


def _add_stage(tx: Tx, c: AddStage, now_us: int) -> Refused | None:
    study = study_row(tx, c.study_id)
    if study is None:
        return NotFound(f"There is no study {c.study_id}.")
    if study.state == "stopped":
        return Conflict(
            f"Study {study.name} was stopped ({study.reason}) and takes no stage. A clone of it does: "
            f"`tunesmith study clone {study.name} NAME`."
        )
    name = _stage_name(c.stage)
    if stage_row(tx, c.study_id, name) is not None:
        return Conflict(
            f"Study {study.name} has a stage named {name} already; give the new one another name."
        )
    last = tx.execute(select(func.max(stages.c.position)).where(stages.c.study_id == c.study_id)).scalar_one()
    tx.execute(insert(stages).values(_new_stage(c.study_id, last + 1, c.stage)))
    data = {"state": "pending", "reason": None, "result": None, "spec": dict(c.stage)}
    record(tx, [Happened(c.study_id, "stage", c.actor, data, stage=name)], now_us)
    if study.state == "complete":
        move_study(tx, c.study_id, "active", c.actor, now_us, reason=f"stage {name} was added")
    go_on(tx, c.study_id, c.actor, now_us)
    return None


def apply_skip_stage(tx: Tx, commands: Sequence[SkipStage], now_us: int) -> list[Refused | None]:
    return [_skip_stage(tx, c, now_us) for c in commands]


def _skip_stage(tx: Tx, c: SkipStage, now_us: int) -> Refused | None:
    study_row(tx, c.study_id)
    stage = stage_row(tx, c.study_id, c.stage)
    if stage is None:
        return _no_stage(tx, c.study_id, c.stage)
    if stage.state == "skipped":
        return None
    if stage.state not in ("pending", "active"):
        return Conflict(
            f"Stage {c.stage} is {stage.state} already; only a pending or active stage can be skipped."
        )
    end_stage(tx, stage, "skipped", c.actor, now_us, reason=c.reason)
    return None


def apply_override_stage(tx: Tx, commands: Sequence[OverrideStage], now_us: int) -> list[Refused | None]:
    return [_override_stage(tx, c, now_us) for c in commands]


def _override_stage(tx: Tx, c: OverrideStage, now_us: int) -> Refused | None:
    study = study_row(tx, c.study_id)
    stage = stage_row(tx, c.study_id, c.stage)
    if study is None or stage is None:
        return _no_stage(tx, c.study_id, c.stage)
    if stage.override is not None:
        by = stage.override
        same = by["reason"] == c.reason
        return None if same else Conflict(f"{by['actor']} has overridden {c.stage} already: {by['reason']}")
    if stage.state != "failed" or not blocks(stage):
        return Conflict(
            f"Stage {c.stage} is {stage.state} and blocks nothing; only a failed check that keeps its study "
            "from going on is overridden."
        )
    if study.state not in OPEN:
        return Conflict(f"Study {study.name} has ended as {study.state}; create a new study to go on.")
    override = {"reason": c.reason, "actor": c.actor, "at_us": now_us}
    tx.execute(update(stages).where(stages.c.id == stage.id).values(override=override))
    data = {"state": "failed", "reason": stage.reason, "result": None, "override": override}
    record(tx, [Happened(c.study_id, "stage", c.actor, data, stage=c.stage)], now_us)
    if study.state == "paused":
        move_study(tx, c.study_id, "active", c.actor, now_us)
    go_on(tx, c.study_id, c.actor, now_us)
    return None


def _no_stage(tx: Tx, study_id: int, name: str) -> Refused:
    known = tx.execute(select(stages.c.name).where(stages.c.study_id == study_id).order_by(stages.c.position))
    listed = ", ".join(known.scalars()) or "none"
    return NotFound(f"There is no stage named {name} in this study; it has {listed}.")


def apply_move_study(tx: Tx, commands: Sequence[MoveStudy], now_us: int) -> list[str | Refused]:
    return [_move_study(tx, c, now_us) for c in commands]


def _move_study(tx: Tx, c: MoveStudy, now_us: int) -> str | Refused:
    study = study_row(tx, c.study_id)
    if study is None:
        return NotFound(f"There is no study {c.study_id}.")
    if study.state == c.state:
        return c.state
    if study.state not in OPEN:
        return Conflict(f"Study {study.name} has ended as {study.state}; it cannot become {c.state}.")
    if c.state == "stopped":
        stop_study(tx, study, c.actor, now_us, reason=c.reason, cause="study_stopped")
    elif c.state == "active" and (stage := blocking_stage(tx, c.study_id)) is not None:
        return Conflict(
            f"Study {study.name} is blocked: stage {stage.name} failed: {stage.reason} Repair it and create "
            f"a new study, or go on all the same: `tunesmith stage override {study.name} {stage.name} "
            "--reason …`."
        )
    elif c.state in OPEN:
        move_study(tx, c.study_id, c.state, c.actor, now_us, reason=c.reason or None)
    else:
        return Unprocessable(f"A person pauses, resumes or stops a study; {c.state} is not among these.")
    return c.state


# --- trials ---------------------------------------------------------------------------------------


def apply_enqueue(tx: Tx, commands: Sequence[Enqueue], now_us: int) -> list[list[int] | Refused]:
    return [_enqueue(tx, c, now_us) for c in commands]


def _enqueue(tx: Tx, c: Enqueue, now_us: int) -> list[int] | Refused:
    stored = once.stored(tx, c.idempotency)
    if stored is not None:
        return stored
    study = study_row(tx, c.study_id)
    stage = stage_row(tx, c.study_id, c.stage)
    if study is None or stage is None:
        return _no_stage(tx, c.study_id, c.stage)
    if c.work.get("kind", "train") != "train" or c.work.get("read_test"):
        return Unprocessable(
            "A trial by hand trains: only stages measure, and only `final` reads the test set."
        )
    n = len(c.params)
    if refused := cannot_enqueue(study, stage, n) or tx.bounds.refuse_queueing(tx, study.project_id, n):
        return refused
    ordinals = select(func.coalesce(func.max(trials.c.ordinal), -1)).where(trials.c.stage_id == stage.id)
    first: int = tx.execute(ordinals).scalar_one() + 1
    new = [_hand_row(c, study, stage, i, now_us) | {"ordinal": first + i} for i in range(len(c.params))]
    count(tx, {c.study_id: Counts(hand=len(new))})
    insert_trials(tx, new, {stage.id: stage.name}, c.actor, now_us)
    numbers: list[int] = [row["number"] for row in new]
    once.store(tx, c.idempotency, numbers, now_us)
    return numbers


def cannot_enqueue(study: Row[Any], stage: Row[Any], n: int) -> Refused | None:
    if not 1 <= n <= MOST_ENQUEUED:
        return Unprocessable(f"Between 1 and {MOST_ENQUEUED} trials can be enqueued at once, got {n}.")
    if study.state not in OPEN:
        return Conflict(f"Study {study.name} has ended as {study.state}; add a stage to go on with it.")
    if stage.state not in ("pending", "active"):
        return Conflict(f"Stage {stage.name} is {stage.state}; enqueue into a stage that is still to run.")
    if study.max_trials is not None and study.trial_n + n > study.max_trials:
        left = study.max_trials - study.trial_n
        return Conflict(
            f"Study {study.name} may have {study.max_trials} trials, of which {left} are left; got {n} more."
        )
    return None


def _hand_row(c: Enqueue, study: Row[Any], stage: Row[Any], i: int, now_us: int) -> dict[str, Any]:
    return {
        "study_id": c.study_id,
        "stage_id": stage.id,
        "number": study.trial_n + i,
        "key": f"hand:{study.hand_n + i}",
        "state": "waiting",
        "params": dict(c.params[i]),
        "work": dict(c.work),
        "kind": "train",
        "start": None,
        "sampler_state": {},
        "planned_at": study.event_n,
        "draft": False,
        "hand": True,
        "variant_of": c.variant_of,
        "created_us": now_us,
    }


def apply_cancel_trial(tx: Tx, commands: Sequence[CancelTrial], now_us: int) -> list[Ended | Refused]:
    return [_cancel_trial(tx, c, now_us) for c in commands]


def _cancel_trial(tx: Tx, c: CancelTrial, now_us: int) -> Ended | Refused:
    study_row(tx, c.study_id)
    wanted = moves.trial_rows().where(trials.c.study_id == c.study_id, trials.c.number == c.trial)
    trial = tx.execute(wanted).one_or_none()
    if trial is None:
        return NotFound(f"There is no trial {c.trial} in this study.")
    if trial.state in moves.FINAL:
        return Ended(trial.state, trial.stop_reason)
    move = moves.cancelled(trial, "cancelled", c.actor)
    moves.change(tx, [move], now_us)
    return Ended(move.to, move.stop_reason)


# --- workers --------------------------------------------------------------------------------------


def apply_drain_worker(tx: Tx, commands: Sequence[DrainWorker], now_us: int) -> list[Refused | None]:
    return [_drain_worker(tx, c, now_us) for c in commands]


def _drain_worker(tx: Tx, c: DrainWorker, now_us: int) -> Refused | None:
    theirs = (workers.c.id == c.worker_id, workers.c.project_id == c.project_id)
    if tx.execute(update(workers).where(*theirs).values(draining=c.draining)).rowcount == 0:
        return NotFound(f"There is no worker {c.worker_id}; `GET /api/v1/workers` lists those there are.")
    if not c.draining:
        tx.execute(faulty.let_work(c.worker_id, now_us))
    return None
