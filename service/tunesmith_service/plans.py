"""What the planner decides: proposals, redraws, prune verdicts, and the end of a stage.

Planning runs beside everything else, so its word may come late: each handler looks again, under the
study's lock, whether it still applies, and answers None or False if not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Row, and_, exists, func, insert, select

from tunesmith_service import moves
from tunesmith_service.bulk import Change
from tunesmith_service.commands import EndStage, FailStage, Propose, Prune, Redraw
from tunesmith_service.courses import OPEN, end_stage, stage_row, stop_study, study_row
from tunesmith_service.errors import Refused, Unprocessable
from tunesmith_service.moves import Move
from tunesmith_service.tables import members, snapshots, stages, trials
from tunesmith_service.tx import Counts, Happened, Tx, record

ACTOR = "planner"


def apply_propose(tx: Tx, commands: Sequence[Propose], now_us: int) -> list[int | Refused | None]:
    """Queue trials. A key that stands already, a stage that is over and a study that has all its
    trials give None and use up no number. A study that has all its trials, none of them still to
    end, and is asked for more has reached its limit: it stops."""
    outcomes: list[int | Refused | None] = []
    for study_id, theirs in groupby(commands, key=lambda c: c.study_id):
        outcomes.extend(_propose(tx, study_id, list(theirs), now_us))
    return outcomes


def _propose(tx: Tx, study_id: int, commands: Sequence[Propose], now_us: int) -> list[int | Refused | None]:
    study = study_row(tx, study_id)
    if study is None or study.state not in OPEN:
        return [None] * len(commands)
    active = {
        s.name: s
        for s in tx.execute(select(stages).where(stages.c.study_id == study_id, stages.c.state == "active"))
    }
    taken = _taken(tx, commands, active)
    starts = _starts(tx, study_id, commands)
    room = study.max_trials - study.trial_n if study.max_trials is not None else len(commands)
    outcomes: list[int | Refused | None] = []
    new: list[dict[str, Any]] = []
    member_ids: dict[int, list[int]] = {}
    wanted_more = False
    for c in commands:
        place = (c.stage, c.key)
        if c.stage not in active or place in taken or len(new) >= room:
            wanted_more |= c.stage in active and place not in taken and c.planned_at >= study.event_n
            outcomes.append(None)
            continue
        named = _named(c)
        if missing := [place for place in named if place not in starts]:
            outcomes.append(_no_snapshot(c, *missing[0]))
            continue
        taken.add(place)
        number = study.trial_n + len(new)
        outcomes.append(number)
        start = starts[named.pop(0)] if c.start is not None else None
        member_ids[number] = [starts[place] for place in named]
        stage_id = active[c.stage].id
        new.append(
            _trial_row(c, now_us) | {"number": number, "stage_id": stage_id, "start_snapshot_id": start}
        )
    insert_trials(tx, new, {s.id: s.name for s in active.values()}, ACTOR, now_us, members_of=member_ids)
    if wanted_more and study.finished == study.max_trials:
        reason = f"its {study.max_trials} trials are used up"
        stop_study(tx, study, ACTOR, now_us, reason=reason, cause="limit")
    return outcomes


def _taken(tx: Tx, commands: Sequence[Propose], active: Mapping[str, Row[Any]]) -> set[tuple[str, str]]:
    """Pairs (stage, key) among those proposed that stand already."""
    keys = sorted({c.key for c in commands})
    names = {s.id: s.name for s in active.values()}
    wanted = select(trials.c.stage_id, trials.c.key).where(
        trials.c.stage_id.in_(list(names)), trials.c.key.in_(keys)
    )
    return {(names[row.stage_id], row.key) for row in tx.execute(wanted)}


def _starts(tx: Tx, study_id: int, commands: Sequence[Propose]) -> dict[tuple[int, int], int]:
    """(trial number, step) → id of its newest committed snapshot that still has its bytes."""
    numbers = sorted({number for c in commands for number, _ in _named(c)})
    if not numbers:
        return {}
    wanted = (
        select(trials.c.number, snapshots.c.step, func.max(snapshots.c.id).label("id"))
        .join(trials, trials.c.id == snapshots.c.trial_id)
        .where(
            trials.c.study_id == study_id, trials.c.number.in_(numbers), snapshots.c.forgotten_us.is_(None)
        )
        .group_by(trials.c.number, snapshots.c.step)
    )
    return {(row.number, row.step): row.id for row in tx.execute(wanted)}


def _named(c: Propose) -> list[tuple[int, int]]:
    """(trial number, step) of the snapshots that a proposal needs: its start, if it has one, and members."""
    needed = [*([c.start] if c.start is not None else []), *c.work.get("members", ())]
    return [(ref["trial"], ref["step"]) for ref in needed]


def _no_snapshot(c: Propose, trial: int, step: int) -> Refused:
    return Unprocessable(
        f"{c.key} of stage {c.stage} needs the snapshot of trial {trial} at step {step}, which was never "
        "committed or is forgotten by now."
    )


def _trial_row(c: Propose, now_us: int) -> dict[str, Any]:
    return {
        "study_id": c.study_id,
        "key": c.key,
        "ordinal": c.ordinal,
        "state": "waiting",
        "params": dict(c.params),
        "work": dict(c.work),
        "kind": c.work.get("kind", "train"),
        "start": dict(c.start) if c.start is not None else None,
        "sampler_state": dict(c.sampler_state),
        "planned_at": c.planned_at,
        "draft": c.draft,
        "hand": False,
        "created_us": now_us,
    }


def insert_trials(
    tx: Tx,
    new: Sequence[dict[str, Any]],
    stage_names: Mapping[int, str],
    actor: str,
    now_us: int,
    *,
    members_of: Mapping[int, Sequence[int]] | None = None,
) -> None:
    """Insert waiting trials of one study with their `planned` events.

    Args:
        members_of: trial number → ids of the snapshots that it evaluates, in order.
    """
    if not new:
        return
    tx.execute(insert(trials), new)
    numbers = [row["number"] for row in new]
    study_id = new[0]["study_id"]
    asked = select(trials.c.number, trials.c.id).where(
        trials.c.study_id == study_id, trials.c.number >= min(numbers)
    )
    ids = {row.number: row.id for row in tx.execute(asked)}
    theirs = [
        {"trial_id": ids[number], "place": place, "snapshot_id": snapshot_id}
        for number, snapshot_ids in (members_of or {}).items()
        for place, snapshot_id in enumerate(snapshot_ids)
    ]
    if theirs:
        tx.execute(insert(members), theirs)
    counts = {study_id: Counts(trials=len(new), waiting=len(new))}
    record(
        tx,
        [_planned(row, ids[row["number"]], stage_names[row["stage_id"]], actor) for row in new],
        now_us,
        counts,
    )


_TOLD = (
    "key", "ordinal", "params", "work", "start", "sampler_state", "planned_at", "draft", "hand",
)  # fmt: skip


def _planned(row: Mapping[str, Any], trial_id: int, stage: str, actor: str) -> Happened:
    return Happened(
        study_id=row["study_id"],
        kind="planned",
        actor=actor,
        data={name: row[name] for name in _TOLD}
        | {name: row[name] for name in ("retry_of", "variant_of") if row.get(name) is not None},
        trial_id=trial_id,
        trial_number=row["number"],
        stage=stage,
    )


# --- redraw ---------------------------------------------------------------------------------------


def apply_redraw(tx: Tx, commands: Sequence[Redraw], now_us: int) -> list[bool]:
    """T5c. What has been claimed since, or has ever run, keeps its values. The old ones stay in the log."""
    found: dict[tuple[int, int], Row[Any]] = {}
    for study_id, theirs in groupby(commands, key=lambda c: c.study_id):
        found |= _drafts(tx, study_id, [c.trial for c in theirs])
    last = {(c.study_id, c.trial): c for c in commands}
    redrawn = [
        (c, found[place]) for place, c in last.items() if place in found and _is_newer(c, found[place])
    ]
    tx.update(trials, [_redraw(c, row) for c, row in redrawn])
    record(tx, [_redrawn(c, row) for c, row in redrawn], now_us)
    done = {id(c) for c, _ in redrawn}
    return [id(c) in done for c in commands]


def _is_newer(c: Redraw, row: Row[Any]) -> bool:
    return c.planned_at > int(row.planned_at)


def _drafts(tx: Tx, study_id: int, numbers: Sequence[int]) -> dict[tuple[int, int], Row[Any]]:
    study_row(tx, study_id)
    wanted = (
        select(trials, stages.c.name.label("stage"))
        .join(stages, stages.c.id == trials.c.stage_id)
        .where(
            trials.c.study_id == study_id,
            trials.c.number.in_(numbers),
            trials.c.state == "waiting",
            trials.c.draft.is_(True),
        )
    )
    return {(study_id, row.number): row for row in tx.execute(wanted)}


def _redraw(c: Redraw, row: Row[Any]) -> Change:
    becomes = {
        "params": dict(c.params),
        "sampler_state": dict(c.sampler_state),
        "planned_at": c.planned_at,
    }
    return Change({"id": row.id, "state": "waiting", "draft": True}, becomes)


def _redrawn(c: Redraw, row: Row[Any]) -> Happened:
    data = {
        "params": dict(c.params),
        "sampler_state": dict(c.sampler_state),
        "planned_at": c.planned_at,
        "old_params": row.params,
        "old_planned_at": row.planned_at,
    }
    return Happened(
        study_id=row.study_id,
        kind="redrawn",
        actor=ACTOR,
        data=data,
        trial_id=row.id,
        trial_number=row.number,
        stage=row.stage,
    )


# --- prune, end, fail -----------------------------------------------------------------------------


def apply_prune(tx: Tx, commands: Sequence[Prune], now_us: int) -> list[bool]:
    """T5: terminal at once, the lease revoked; the worker is told by its next call."""
    found: dict[tuple[int, int], Row[Any]] = {}
    for study_id, theirs in groupby(commands, key=lambda c: c.study_id):
        study_row(tx, study_id)
        running = moves.trial_rows().where(
            trials.c.study_id == study_id,
            trials.c.number.in_([c.trial for c in theirs]),
            trials.c.state == "running",
        )
        found |= {(study_id, row.number): row for row in tx.execute(running)}
    ends: dict[tuple[int, int], Move] = {}
    outcomes = []
    for c in commands:
        place = (c.study_id, c.trial)
        outcomes.append(place in found)
        if place in found and place not in ends:
            verdict = {"planned_at": c.planned_at, "step": c.step}
            ends[place] = Move(found[place], "pruned", "verdict", ACTOR, "pruned", extra=verdict)
    moves.change(tx, list(ends.values()), now_us)
    return outcomes


def apply_end_stage(tx: Tx, commands: Sequence[EndStage], now_us: int) -> list[bool]:
    return [_end_stage(tx, c, now_us) for c in commands]


def _end_stage(tx: Tx, c: EndStage, now_us: int) -> bool:
    stage = _active_stage(tx, c.study_id, c.stage)
    if stage is None or stage.last_end_n > c.planned_at or _by_hand_to_end(tx, stage.id):
        return False
    failed = bool(c.result.get("failed") or c.result.get("blocks"))
    reason = str(c.result.get("why", "")) if failed else None
    end_stage(tx, stage, "failed" if failed else "done", ACTOR, now_us, reason=reason, result=c.result)
    return True


def _by_hand_to_end(tx: Tx, stage_id: int) -> bool:
    """Whether a trial that a person queued has still to end. No stage waits for those when it plans;
    its end does, or they would be cancelled the moment they are queued. Their own end makes the
    planner say Done again, with them in the ranking."""
    live = and_(
        trials.c.stage_id == stage_id, trials.c.hand.is_(True), trials.c.state.in_(("waiting", "running"))
    )
    return bool(tx.execute(select(exists().where(live))).scalar_one())


def apply_fail_stage(tx: Tx, commands: Sequence[FailStage], now_us: int) -> list[bool]:
    return [_fail_stage(tx, c, now_us) for c in commands]


def _fail_stage(tx: Tx, c: FailStage, now_us: int) -> bool:
    stage = _active_stage(tx, c.study_id, c.stage)
    if stage is None:
        return False
    end_stage(tx, stage, "failed", ACTOR, now_us, reason=c.reason)
    return True


def _active_stage(tx: Tx, study_id: int, name: str) -> Row[Any] | None:
    study = study_row(tx, study_id)
    stage = stage_row(tx, study_id, name)
    is_open = study is not None and study.state in OPEN
    return stage if is_open and stage is not None and stage.state == "active" else None
