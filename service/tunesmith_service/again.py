"""Trials that people want once more, or no longer: try again, prune now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row, func, select

from tunesmith_service import moves, once
from tunesmith_service.commands import Ended
from tunesmith_service.courses import study_row
from tunesmith_service.errors import Conflict, NotFound, Refused, Unprocessable
from tunesmith_service.people import MOST_ENQUEUED, cannot_enqueue
from tunesmith_service.plans import insert_trials
from tunesmith_service.tables import snapshots, stages, trials
from tunesmith_service.tx import Tx
from tunesmith_service.wishes import PruneNow, Retry

MOST_TRIES = 100
"""Of one trial; keys are looked up by name, so there must be an end."""

LONGEST_KEY = 512

COPIED = ("stage_id", "params", "work", "kind", "start")


def apply_retry(tx: Tx, commands: Sequence[Retry], now_us: int) -> list[list[int] | Refused]:
    return [_retry(tx, c, now_us) for c in commands]


def _retry(tx: Tx, c: Retry, now_us: int) -> list[int] | Refused:
    known = once.stored(tx, c.idempotency)
    if known is not None:
        return known
    study = study_row(tx, c.study_id)
    if study is None:
        return NotFound(f"There is no study {c.study_id}.")
    rows = _failed(tx, study.id) if c.trials is None else _numbered(tx, study.id, c.trials)
    if isinstance(rows, Refused):
        return rows
    of_stage = {s.id: s for s in tx.execute(select(stages).where(stages.c.study_id == study.id))}
    for row in rows:
        refused = _cannot_retry(study, of_stage[row.stage_id], row, len(rows))
        if refused := refused or tx.bounds.refuse_queueing(tx, study.project_id, len(rows)):
            return refused
    new: list[dict[str, Any]] = []
    for row in rows:
        copied = _again(tx, row)
        if isinstance(copied, Refused):
            return copied
        new.append(copied | {"study_id": study.id, "number": study.trial_n + len(new), "created_us": now_us})
    for made in new:
        made |= {"ordinal": _next_ordinal(tx, made["stage_id"], new), "planned_at": study.event_n}
    insert_trials(tx, new, {s.id: s.name for s in of_stage.values()}, c.actor, now_us)
    numbers: list[int] = [row["number"] for row in new]
    once.store(tx, c.idempotency, numbers, now_us)
    return numbers


def _next_ordinal(tx: Tx, stage_id: int, new: Sequence[dict[str, Any]]) -> int:
    newest = tx.execute(select(func.max(trials.c.ordinal)).where(trials.c.stage_id == stage_id)).scalar_one()
    return int(newest) + 1 + sum("ordinal" in row for row in new if row["stage_id"] == stage_id)


def _numbered(tx: Tx, study_id: int, numbers: Sequence[int]) -> Sequence[Row[Any]] | Refused:
    wanted = select(trials).where(trials.c.study_id == study_id, trials.c.number.in_(sorted(set(numbers))))
    rows = tx.execute(wanted.order_by(trials.c.number)).all()
    missing = set(numbers) - {row.number for row in rows}
    if missing:
        return NotFound(f"There is no trial {min(missing)} in this study.")
    return rows


def _failed(tx: Tx, study_id: int) -> Sequence[Row[Any]] | Refused:
    """Failed trials of stages that are still to run, without those that somebody has tried again."""
    open_ = select(stages.c.id).where(
        stages.c.study_id == study_id, stages.c.state.in_(("pending", "active"))
    )
    wanted = select(trials).where(
        trials.c.study_id == study_id, trials.c.state == "failed", trials.c.kind == "train",
        trials.c.stage_id.in_(open_),
    )  # fmt: skip
    rows = tx.execute(wanted.order_by(trials.c.number).limit(MOST_ENQUEUED + 1)).all()
    tried = {number for row in rows for number in _tried(tx, row)}
    rows = [row for row in rows if row.number not in tried][:MOST_ENQUEUED]
    if not rows:
        return Conflict("No failed trial of a stage that is still to run is left to be tried again.")
    return rows


def _tried(tx: Tx, row: Row[Any]) -> list[int]:
    """The number of a failed trial if a later try of the same key stands."""
    return [row.number] if any(later.number > row.number for later in tries(tx, row)) else []


def tries(tx: Tx, row: Row[Any]) -> Sequence[Row[Any]]:
    """All tries of a trial's key but the first, oldest first: (key, number, state)."""
    found = select(trials.c.key, trials.c.number, trials.c.state)
    found = found.where(trials.c.stage_id == row.stage_id, trials.c.key.in_(keys_of_tries(row.key)))
    return tx.execute(found.order_by(trials.c.number)).all()


def keys_of_tries(key: str) -> list[str]:
    """Every key that a try of this one may have: the index finds them one by one."""
    return [f"{_root(key)}/retry:{n}" for n in range(1, MOST_TRIES + 1)]


def _root(key: str) -> str:
    return key.partition("/retry:")[0]


def _cannot_retry(study: Row[Any], stage: Row[Any], trial: Row[Any], n: int) -> Refused | None:
    number = trial.number
    if trial.kind != "train":
        return Conflict(f"Trial {number} measures for its stage {stage.name}; add the stage again instead.")
    if trial.state not in ("failed", "cancelled"):
        return Conflict(
            f"Trial {number} is {trial.state}; only failed and cancelled trials are tried again. For the "
            f"same settings once more: `tunesmith trial enqueue {study.name} --like {number}`."
        )
    if stage.state not in ("pending", "active") and study.state in ("active", "paused"):
        return Conflict(
            f"Stage {stage.name} is {stage.state}, so its trials are not tried again. Queue the settings in "
            f"a stage that is still to run: `tunesmith trial enqueue {study.name} --like {number} --stage …`."
        )
    return cannot_enqueue(study, stage, n)


def _again(tx: Tx, row: Row[Any]) -> dict[str, Any] | Refused:
    earlier = tries(tx, row)
    if any(t.state in ("waiting", "running") for t in earlier):
        return Conflict(f"Trial {row.number} is being tried again already, as #{earlier[-1].number}.")
    if len(earlier) == MOST_TRIES:
        return Conflict(f"Trial {row.number} was tried {MOST_TRIES} times; queue its settings by hand.")
    key = f"{_root(row.key)}/retry:{len(earlier) + 1}"
    if len(key) > LONGEST_KEY:
        return Unprocessable(f"The key of trial {row.number} is too long to be tried again.")
    start = _start(tx, row)
    if isinstance(start, Refused):
        return start
    return {
        **{name: getattr(row, name) for name in COPIED},
        "key": key,
        "state": "waiting",
        "start_snapshot_id": start,
        "sampler_state": dict(row.sampler_state),
        "draft": False,
        "hand": True,
        "retry_of": row.number,
    }


def _start(tx: Tx, row: Row[Any]) -> int | Refused | None:
    """The snapshot that the trial goes on from; the newest of its step that still has its bytes."""
    if row.start is None:
        return None
    wanted = (
        select(func.max(snapshots.c.id))
        .join(trials, trials.c.id == snapshots.c.trial_id)
        .where(
            trials.c.study_id == row.study_id, trials.c.number == row.start["trial"],
            snapshots.c.step == row.start["step"], snapshots.c.forgotten_us.is_(None),
        )
    )  # fmt: skip
    found = tx.execute(wanted).scalar_one()
    if found is None:
        return Conflict(
            f"Trial {row.number} goes on from #{row.start['trial']} at step {row.start['step']}, whose "
            "snapshot is forgotten by now; queue its settings by hand to train them from the beginning."
        )
    return int(found)


# --- prune now ------------------------------------------------------------------------------------


def apply_prune_now(tx: Tx, commands: Sequence[PruneNow], now_us: int) -> list[Ended | Refused]:
    return [_prune_now(tx, c, now_us) for c in commands]


def _prune_now(tx: Tx, c: PruneNow, now_us: int) -> Ended | Refused:
    study_row(tx, c.study_id)
    wanted = moves.trial_rows().add_columns(trials.c.step)
    rows: Iterable[Row[Any]] = tx.execute(
        wanted.where(trials.c.study_id == c.study_id, trials.c.number == c.trial)
    )
    trial = next(iter(rows), None)
    if trial is None:
        return NotFound(f"There is no trial {c.trial} in this study.")
    if trial.state in moves.FINAL:
        return Ended(trial.state, trial.stop_reason)
    if trial.state != "running" or trial.kind != "train":
        what = "waits" if trial.state != "running" else "measures for its stage"
        return Conflict(f"Trial {c.trial} {what}; only a training that runs is pruned. Cancel it instead.")
    move = moves.Move(trial, "pruned", "by_hand", c.actor, "pruned", extra={"step": trial.step})
    moves.change(tx, [move], now_us)
    return Ended(move.to, move.stop_reason)
