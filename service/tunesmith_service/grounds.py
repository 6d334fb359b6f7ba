"""Where a study's stages look and what put them there: as their results tell, and as those of stages that
are yet to end will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection
from tunesmith_studies.grounds import Grounds
from tunesmith_studies.planning import Earlier, History, Ranked, StageResult
from tunesmith_studies.stages.base import Stage
from tunesmith_studies.study import StudySpec

from tunesmith_service import store, trial_store

MOST_AROUND = 100
"""The most trials that a stage may lie around."""


@dataclass(frozen=True, slots=True)
class _Look:
    """A stage with what it may know of those before it; of their trials none is read yet."""

    stage: Stage
    history: History

    @property
    def source(self) -> Earlier | None:
        """Whose trials its own lie around, if they do."""
        return self.history.source_of(self.stage) if self.stage.around else None

    @property
    def centres(self) -> list[int]:
        source = self.source
        return [r.trial for r in source.result.ranking[: self.stage.around]] if source else []


def of_stages(conn: Connection, study: store.Study, rows: Sequence[store.StageRow]) -> dict[str, Grounds]:
    """By stage; those of which nothing is known, or there is nothing to say, are left out."""
    try:
        spec = StudySpec.from_json({**study.spec, "stages": [r.spec for r in rows]})
    except ValidationError:  # written by another version
        return {}
    found: dict[str, Grounds] = {}
    looks = []
    for row, look in zip(rows, _looks(spec, rows), strict=True):
        if told := ((row.result or {}).get("chosen") or {}).get("grounds"):
            found[row.name] = Grounds.from_json(told)
        else:
            looks.append(look)
    numbers = sorted({n for look in looks for n in look.centres})
    trials = {t.number: t for t in trial_store.numbered(conn, study.id, numbers)} if numbers else {}
    for look in looks:
        if (grounds := _grounds(look, trials)) is not None:
            found[look.stage.name] = grounds
    return found


def _looks(spec: StudySpec, rows: Sequence[store.StageRow]) -> list[_Look]:
    """Each stage in turn, with the space as those before it have left it."""
    looks, earlier, widened = [], dict[str, Earlier](), list[Mapping[str, Any]]()
    for row, (study, stage) in zip(rows, spec.as_found(), strict=True):
        space = study.space
        for past in widened:
            space = space.widened(past)
        found = study.model_copy(update={"space": space})
        looks.append(_Look(stage, History(found, earlier=dict(earlier))))
        if row.result is not None:
            result = _result(row.result)
            earlier[row.name] = Earlier(stage, (), result)
            widened.append(result.chosen.get("widened") or {})
    return looks


def _result(told: Mapping[str, Any]) -> StageResult:
    """What of a result says where later stages look; a ranking may name every trial of a large stage."""
    ranking = tuple(Ranked(r["trial"], r["value"]) for r in told["ranking"][:MOST_AROUND])
    return StageResult(ranking, told["why"], chosen=told.get("chosen") or {})


def _grounds(look: _Look, trials: Mapping[int, trial_store.Trial]) -> Grounds | None:
    if not look.stage.around:
        return look.stage.grounds(look.history)
    source = look.source
    if source is None or not all(n in trials for n in look.centres):
        return None
    known = tuple(trial_store.as_planned(trials[n]) for n in look.centres)
    with_trials = {**look.history.earlier, source.stage.name: replace(source, trials=known)}
    return look.stage.grounds(replace(look.history, earlier=with_trials))
