"""How wide a study's space has become: what the border rule and the ranges of stages have added to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sqlalchemy import Connection, select
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import StageState

from tunesmith_service.store import Study
from tunesmith_service.tables import stages

_BEGAN = (StageState.ACTIVE, StageState.DONE, StageState.FAILED)


class StageOfStudy(Protocol):
    """What of a stage's row tells how wide the space is."""

    @property
    def state(self) -> str: ...
    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def result(self) -> Mapping[str, Any] | None: ...


def as_found(spec: StudySpec, rows: Sequence[StageOfStudy]) -> StudySpec:
    """The study as its next stage finds it. Planning folds the same from the log."""
    space = spec.space
    for ranges in _added(rows):
        space = space.widened(ranges)
    return spec.model_copy(update={"space": space})


def now(conn: Connection, study: Study) -> Study:
    """The study with its space as wide as it is now: what charts and pages draw values in."""
    wanted = select(stages.c.state, stages.c.spec, stages.c.result).where(stages.c.study_id == study.id)
    rows: Sequence[Any] = conn.execute(wanted.order_by(stages.c.position)).all()
    space = {name: dict(parameter) for name, parameter in (study.spec.get("space") or {}).items()}
    for ranges in _added(rows):
        for name, (low, high) in ranges.items():
            if "low" in (parameter := space.get(name, {})):
                parameter |= {"low": min(parameter["low"], low), "high": max(parameter["high"], high)}
    return replace(study, spec={**study.spec, "space": space})


def _added(rows: Sequence[StageOfStudy]) -> Iterator[Mapping[str, Sequence[float]]]:
    """Ranges that the space holds beside its own, in the stages' order."""
    for row in rows:
        if row.state in _BEGAN:
            yield row.spec.get("ranges") or {}
        yield ((row.result or {}).get("chosen") or {}).get("widened") or {}
