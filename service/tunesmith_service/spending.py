"""What a study's trials have cost, and how they ended, stage by stage: reads whose answers are short
whatever the study's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Float, case, cast, func, select

from tunesmith_service.tables import attempts, stages, trials

MOST_KINDS = 20
"""Of failures that are told apart."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one stage.

    Attributes:
        epochs: passes over its training data that its trials' reports speak of, trials that go on from a
            snapshot without those before it.
        slot_us: how long its attempts held slots, times the devices of each.
    """

    stage: str
    trials: int
    epochs: float
    slot_us: int


def costs(conn: Connection, study_id: int, now_us: int) -> list[Cost]:
    """In the order of the stages; an attempt that still runs counts till now."""
    done = case(
        (trials.c.kind == "train", trials.c.step - func.coalesce(_inside(trials.c.start, "step"), 0)), else_=0
    )
    epochs = func.coalesce(_inside(trials.c.last_metrics, "sys/epoch"), done)
    counted = (
        select(trials.c.stage_id, func.count().label("trials"), func.sum(epochs).label("epochs"))
        .where(trials.c.study_id == study_id)
        .group_by(trials.c.stage_id)
        .subquery()
    )
    held = (func.coalesce(attempts.c.ended_us, now_us) - attempts.c.claimed_us) * attempts.c.devices
    slots = (
        select(trials.c.stage_id, func.sum(held).label("us"))
        .join(attempts, attempts.c.trial_id == trials.c.id)
        .where(trials.c.study_id == study_id)
        .group_by(trials.c.stage_id)
        .subquery()
    )
    wanted = (
        select(stages.c.name, counted.c.trials, counted.c.epochs, slots.c.us)
        .outerjoin(counted, counted.c.stage_id == stages.c.id)
        .outerjoin(slots, slots.c.stage_id == stages.c.id)
        .where(stages.c.study_id == study_id)
        .order_by(stages.c.position)
    )
    return [Cost(r.name, r.trials or 0, float(r.epochs or 0), int(r.us or 0)) for r in conn.execute(wanted)]


def _inside(column: Any, name: str) -> Any:
    """A number within a JSON column; nothing where there is none, or where it is not finite."""
    text = column[name].as_string()
    return case((text.in_(("NaN", "Infinity", "-Infinity")), None), else_=cast(text, Float))


@dataclass(frozen=True, slots=True)
class Failure:
    """Trials that failed alike: in one stage, with one kind of error.

    Attributes:
        first: number of the first of them; error: its.
    """

    stage: str
    kind: str
    count: int
    first: int
    error: Mapping[str, Any]


def failures(conn: Connection, study_id: int) -> list[Failure]:
    """The most frequent first, at most MOST_KINDS."""
    kind = func.coalesce(trials.c.error["kind"].as_string(), "error")
    count = func.count().label("count")
    grouped = (
        select(
            stages.c.name.label("stage"), kind.label("kind"), count, func.min(trials.c.number).label("first")
        )
        .join(stages, stages.c.id == trials.c.stage_id)
        .where(trials.c.study_id == study_id, trials.c.state == "failed")
        .group_by(stages.c.name, kind)
        .order_by(count.desc())
        .limit(MOST_KINDS)
    )
    found = conn.execute(grouped).all()
    wanted = select(trials.c.number, trials.c.error).where(
        trials.c.study_id == study_id, trials.c.number.in_([r.first for r in found])
    )
    errors = {r.number: r.error or {} for r in conn.execute(wanted)}
    return [Failure(r.stage, r.kind, r._mapping["count"], r.first, errors[r.first]) for r in found]


def diverged(conn: Connection, study_id: int) -> Sequence[tuple[str, int]]:
    """How many trials of each stage diverged; stages without any are left out."""
    wanted = (
        select(stages.c.name, func.count())
        .join(trials, trials.c.stage_id == stages.c.id)
        .where(trials.c.study_id == study_id, trials.c.stop_reason == "diverged")
        .group_by(stages.c.name, stages.c.position)
        .order_by(stages.c.position)
    )
    return [(name, n) for name, n in conn.execute(wanted).all()]
