"""Trials that people queue by hand: in which stage, with which settings, how long. Pure, from rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith_studies.planning import training_seed
from tunesmith_studies.space import Params, Scalar, Space
from tunesmith_studies.stages import AnyStage
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import StageState, Work

from tunesmith_service import spaces
from tunesmith_service.errors import Conflict, NotFound, Unprocessable
from tunesmith_service.store import StageRow, Study
from tunesmith_service.trial_store import Trial

_OPEN = (StageState.PENDING, StageState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Trials as they will be queued, complete and checked."""

    stage: str
    params: tuple[dict[str, Scalar], ...]
    work: Work


def prepared(  # noqa: PLR0917
    study: Study,
    spec: StudySpec,
    stages: Sequence[StageRow],
    params: Sequence[Params],
    stage: str | None = None,
    epochs: int | None = None,
    like: Trial | None = None,
) -> Prepared:
    """
    Args:
        params: of each trial what is said of it; the rest is that of `like`, or what study and stage hold.
        stage: default that of `like` if it is still to run, else the active one.
        epochs: default the stage's.
    Raises: Conflict, NotFound; Unprocessable with a pointer to each value that cannot be.
    """
    if like is not None and like.kind != "train":
        raise Conflict(f"trial {like.number} measures for its stage {like.stage}; vary a trial that trained")
    chosen = _stage(study, spec, stage or _usual_stage(stages, like))
    held = {**chosen.held(spec), **(like.params if like else {})}
    space = spaces.as_found(spec, stages).space.widened(chosen.ranges)  # what is wider is open to people too
    full = tuple(_varied(space, held, said) for said in params)
    found = [
        {"pointer": f"/params/{i}", "message": sentence}
        for i, values in enumerate(full)
        for sentence in space.problems(values)
    ]
    if found:
        raise Unprocessable("; ".join(f"{p['pointer']}: {p['message']}" for p in found[:3]), errors=found)
    budget = chosen.budget if epochs is None else None
    work = Work(
        epochs=epochs or chosen.epochs,
        seed=training_seed(spec, chosen.name, study.trial_n),
        data_fraction=chosen.data_fraction,
        steps=budget.steps if budget else None,
        seconds=budget.seconds if budget else None,
        keep_snapshot=chosen.keeps_snapshots(spec),
    )
    return Prepared(chosen.name, full, work)


def open_stages(spec: StudySpec, stages: Sequence[StageRow]) -> Mapping[str, AnyStage]:
    """Stages that take trials by hand, in order."""
    states = {row.name: row.state for row in stages}
    return {s.name: s for s in spec.stages if s.ranks and states.get(s.name) in _OPEN}


def _stage(study: Study, spec: StudySpec, name: str | None) -> AnyStage:
    if name is None:
        raise Conflict(f"study {study.name} has no active stage; name one with `stage`, or add one")
    stage = next((s for s in spec.stages if s.name == name), None)
    if stage is None:
        raise NotFound(
            f"study {study.name} has no stage {name!r}; it has {', '.join(s.name for s in spec.stages)}"
        )
    if not stage.ranks:
        raise Conflict(f"stage {name} measures and takes no trials by hand; name another with `stage`")
    return stage


def _usual_stage(stages: Sequence[StageRow], like: Trial | None) -> str | None:
    states = {s.name: s.state for s in stages}
    if like is not None and states[like.stage] in _OPEN:
        return like.stage
    return next((name for name, state in states.items() if state == StageState.ACTIVE), None)


def _varied(space: Space, begun: Params, said: Params) -> dict[str, Scalar]:
    """What a trial begins with, and what is said of it; of the former what is not active any more goes."""
    return {**space.switched_on({**begun, **said}), **said}
