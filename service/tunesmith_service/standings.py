"""How studies stand, many of them at once: as many statements for fifty as for one.

For lists of studies; `store` and `overviews` tell more of a single one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, case, func, select
from tunesmith_studies.pace import Progress, seconds_left
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import StageState, StudyState, TrialState

from tunesmith_service import store, tables, trial_store
from tunesmith_service.clock import SECOND

LATELY = 50
"""Of a study's newest trials, how many tell how long one takes."""
OVER = (StageState.DONE, StageState.SKIPPED, StageState.FAILED)
RAN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)
ENDED = (*RAN, TrialState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Best:
    """A study's best complete trial, folds left out."""

    number: int
    value: float


@dataclass(frozen=True, slots=True)
class StageStanding:
    """A stage, and how many of its trials are in each state."""

    name: str
    state: str
    spec: Mapping[str, Any]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """
    Attributes:
        counts: trials by state.
        updated_us: of its newest event.
        left_seconds: till it ends, by the clock; None where nothing honest can be said.
    """

    study: store.Study
    stages: Sequence[StageStanding]
    counts: Mapping[str, int]
    best: Best | None
    updated_us: int
    left_seconds: float | None


def standings(conn: Connection, studies: Sequence[store.Study], now_us: int) -> list[Standing]:
    """In the order of `studies`."""
    ids = [s.id for s in studies]
    stages, bests, updated = _stages(conn, ids), _bests(conn, ids), _updated(conn, ids)
    forecasts, took = _forecasts(conn, ids), _took(conn, ids)
    slots = store.slots_of(conn, studies)
    found = []
    for study in studies:
        mine = stages.get(study.id, [])
        so_far = _SoFar(mine, forecasts.get(study.id, {}), took.get(study.id, {}), slots[study.id])
        found.append(
            Standing(
                study=study,
                stages=mine,
                counts={state: sum(s.counts.get(state, 0) for s in mine) for state in TrialState},
                best=bests.get(study.id),
                updated_us=updated.get(study.id, study.created_us),
                left_seconds=left(study, so_far, now_us),
            )
        )
    return found


# --- how much longer ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _SoFar:
    """What tells how much longer a study runs.

    Attributes:
        forecasts: slot-seconds of stages by name, as a preflight measured.
        took: by stage, seconds that trials which ended lately took.
        slots: that could run its trials now.
    """

    stages: Sequence[StageStanding]
    forecasts: Mapping[str, float] = field(default_factory=dict)
    took: Mapping[str, Sequence[float]] = field(default_factory=dict)
    slots: store.Slots = field(default_factory=lambda: store.Slots(0, 1.0))


def left(study: store.Study, so_far: _SoFar, now_us: int) -> float | None:
    """Seconds until its stages end or a limit stops it; nobody knows of a study that does not go on."""
    if study.state != StudyState.ACTIVE:
        return None
    try:
        spec = StudySpec.from_json({**study.spec, "stages": [s.spec for s in so_far.stages]})
    except ValidationError:  # written by another version
        return None
    at_once = study.running or so_far.slots.count
    seconds = seconds_left(spec, {s.name: _progress(s, so_far) for s in so_far.stages}, at_once)
    if seconds is None:
        return None
    ends = [seconds]
    if study.deadline_us is not None:
        ends.append((study.deadline_us - now_us) / SECOND)
    if study.max_gpu_us is not None:
        ends.append((study.max_gpu_us - study.gpu_us) / SECOND / (at_once * so_far.slots.devices))
    return max(min(ends), 0.0)


def _progress(stage: StageStanding, so_far: _SoFar) -> Progress:
    return Progress(
        ended=sum(stage.counts.get(state, 0) for state in ENDED),
        running=stage.counts.get(TrialState.RUNNING, 0),
        waiting=stage.counts.get(TrialState.WAITING, 0),
        is_over=stage.state in OVER,
        took=so_far.took.get(stage.name, ()),
        forecast=so_far.forecasts.get(stage.name),
    )


# --- reads, a statement each ----------------------------------------------------------------------


def _stages(conn: Connection, ids: Sequence[int]) -> dict[int, list[StageStanding]]:
    """By study, in order. Two statements."""
    t, g = tables.trials, tables.stages
    counts: dict[int, dict[str, int]] = {}
    counted = select(t.c.study_id, t.c.stage_id, t.c.state, func.count().label("n"))
    for row in conn.execute(
        counted.where(t.c.study_id.in_(ids)).group_by(t.c.study_id, t.c.stage_id, t.c.state)
    ):
        counts.setdefault(row.stage_id, {})[row.state] = row.n
    wanted = select(g.c.id, g.c.study_id, g.c.name, g.c.state, g.c.spec).where(g.c.study_id.in_(ids))
    found: dict[int, list[StageStanding]] = {}
    for row in conn.execute(wanted.order_by(g.c.study_id, g.c.position)):
        stage = StageStanding(row.name, row.state, row.spec, counts.get(row.id, {}))
        found.setdefault(row.study_id, []).append(stage)
    return found


def _bests(conn: Connection, ids: Sequence[int]) -> dict[int, Best]:
    """By study; a look into an index each, within one statement."""
    s, t, g, b = tables.studies, tables.trials.alias("t"), tables.stages, tables.trials.alias("b")
    of_study = (
        select(t.c.id)
        .select_from(t)
        .join(g, g.c.id == t.c.stage_id)
        .where(t.c.study_id == s.c.id, t.c.value.is_not(None), g.c.kind != trial_store.FOLDED)
        .limit(1)
        .correlate(s)
    )
    least = of_study.order_by(t.c.value, t.c.number).scalar_subquery()
    most = of_study.order_by(t.c.value.desc(), t.c.number).scalar_subquery()
    is_minimized = s.c.spec["objective"]["direction"].as_string() == "minimize"
    best = b.c.id == case((is_minimized, least), else_=most)
    wanted = select(s.c.id, b.c.number, b.c.value).select_from(s).join(b, best)
    return {row.id: Best(row.number, row.value) for row in conn.execute(wanted.where(s.c.id.in_(ids)))}


def _updated(conn: Connection, ids: Sequence[int]) -> dict[int, int]:
    """When each study's newest event was; reports are events too."""
    s, e, r = tables.studies, tables.events, tables.reports
    event = select(e.c.at_us).where(e.c.study_id == s.c.id, e.c.n == s.c.event_n).scalar_subquery()
    report = select(r.c.at_us).where(r.c.study_id == s.c.id, r.c.n == s.c.event_n).scalar_subquery()
    wanted = select(s.c.id, func.coalesce(event, report, s.c.created_us).label("at_us"))
    return {row.id: row.at_us for row in conn.execute(wanted.where(s.c.id.in_(ids)))}


def _forecasts(conn: Connection, ids: Sequence[int]) -> dict[int, dict[str, float]]:
    """Slot-seconds of stages, as the newest preflight of each study says."""
    g = tables.stages
    wanted = select(g.c.study_id, g.c.result["numbers"]["forecast"].label("told"))
    found: dict[int, dict[str, float]] = {}
    here = (g.c.study_id.in_(ids), g.c.kind == "preflight", g.c.state.in_(OVER))
    for row in conn.execute(wanted.where(*here).order_by(g.c.study_id, g.c.position)):
        for name, forecast in (row.told or {}).items():
            found.setdefault(row.study_id, {})[name] = float(forecast["seconds"])
    return found


def _took(conn: Connection, ids: Sequence[int]) -> dict[int, dict[str, list[float]]]:
    """By study and stage, seconds from start to end of the newest trials that train and have ended."""
    s, t, g = tables.studies, tables.trials, tables.stages
    wanted = (
        select(t.c.study_id, g.c.name, t.c.started_us, t.c.ended_us)
        .select_from(t)
        .join(s, s.c.id == t.c.study_id)
        .join(g, g.c.id == t.c.stage_id)
        .where(s.c.id.in_(ids), s.c.state == StudyState.ACTIVE, t.c.number >= s.c.trial_n - LATELY)
        .where(t.c.kind == "train", t.c.state.in_(RAN), t.c.started_us.is_not(None))
    )
    found: dict[int, dict[str, list[float]]] = {}
    for row in conn.execute(wanted):
        seconds = (row.ended_us - row.started_us) / SECOND
        found.setdefault(row.study_id, {}).setdefault(row.name, []).append(seconds)
    return found
