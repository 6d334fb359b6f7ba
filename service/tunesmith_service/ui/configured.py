"""How a study is set up: its specification as a file, and what became of it once it was created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.written import short

from tunesmith_service import event_log, overviews, spaces, store
from tunesmith_service.api import shapes
from tunesmith_service.cli import study_file
from tunesmith_service.security import Who


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage with its defaults filled in.

    Attributes:
        source: the stage that it builds on, also where it names none; "" for none.
        trials, epochs: the most that it plans, before anything has run.
        held: hyperparameters that it holds, over the study's own.
        ranges: where it looks instead of in the space's own ranges, as people read them.
    """

    name: str
    kind: str
    state: str
    source: str
    length: str
    trials: int
    epochs: int
    held: dict[str, Any]
    ranges: list[tuple[str, str]]
    pruner: str


@dataclass(frozen=True, slots=True)
class Configured:
    """
    Attributes:
        cloned_from: the study that it was cloned from, if that is still there.
        wider: hyperparameters whose space has grown: how far it reached when the study was created, and now.
        version: of the server that shows this.
    """

    text: str
    is_whole: bool
    stages: list[StageLine]
    cloned_from: store.Study | None
    wider: list[tuple[str, str, str]]
    notes: Sequence[str]
    recipe: str
    version: str


def text(spec: StudySpec, *, whole: bool) -> str:
    """The study as a file: without what has its usual value, or with every field."""
    return study_file.written(spec.to_json() if whole else short(spec))


def read(conn: Connection, who: Who, study: store.Study, *, whole: bool) -> Configured:
    rows = store.stages(conn, study.id)
    spec = StudySpec.from_json(shapes.spec_of(study, rows))
    now = spaces.as_found(spec, rows).space
    both = [(name, parameter.shown(), now[name].shown()) for name, parameter in spec.space.items()]
    recipe = spec.recipe
    return Configured(
        text=text(spec, whole=whole),
        is_whole=whole,
        stages=_stages(spec, rows),
        cloned_from=_original(conn, who, study),
        wider=[(name, was, is_) for name, was, is_ in both if was != is_],
        notes=(recipe.notes or ()) if recipe else (),
        recipe=f"{recipe.name}, at most {recipe.epochs} epochs a trial" if recipe else "",
        version=version("tunesmith"),
    )


def _original(conn: Connection, who: Who, study: store.Study) -> store.Study | None:
    first = event_log.page(conn, study.id, 0, 1)
    number = first[0].data.get("cloned_from") if first else None
    return None if number is None else overviews.visible_study(conn, who.project_id, int(number))


def _stages(spec: StudySpec, rows: Sequence[store.StageRow]) -> list[StageLine]:
    planned, states = forecast(spec), {row.name: row.state for row in rows}
    lines = []
    for found, stage in spec.as_found():
        source, space = stage.source_in(spec), stage.space_in(found)
        lines.append(
            StageLine(
                name=stage.name,
                kind=stage.kind,
                state=states[stage.name],
                source=source.name if source else "",
                length=stage.length,
                trials=planned[stage.name].trials,
                epochs=planned[stage.name].epochs,
                held=dict(stage.fixed),
                ranges=[(name, space[name].shown()) for name in stage.ranges],
                pruner=stage.pruner.kind if stage.pruner else "",
            )
        )
    return lines
