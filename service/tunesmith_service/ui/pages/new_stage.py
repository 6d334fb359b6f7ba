"""A stage added to a study: a form, filled with what a finding proposes, and what it then would run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from tunesmith_studies.stages import AnyStage
from tunesmith_studies.study import StudySpec

from tunesmith_service import spaces, store
from tunesmith_service.api import models, shapes
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.api.studies import add_stage
from tunesmith_service.cli import study_file
from tunesmith_service.core import Service
from tunesmith_service.errors import Conflict, TunesmithError
from tunesmith_service.parsing import as_sent
from tunesmith_service.problems import from_validation
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import StudyId, fields, lead_to, page
from tunesmith_service.ui.routing import router
from tunesmith_service.ui.stage_form import KINDS, StageForm

_STAGE: TypeAdapter[AnyStage] = TypeAdapter(AnyStage)

routes = router(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage is added: the study, as its next stage finds it, and what a finding of it proposes.

    Attributes:
        found: the sentence of that finding, or "".
    """

    study: store.Study
    spec: StudySpec
    stage: str = ""
    param: str = ""
    found: str = ""
    proposed: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a stage would run, as text and in figures; `wider`: what it adds to the space."""

    text: str
    dry: models.StageDryRun
    values: list[tuple[str, tuple[Any, ...]]]
    wider: list[tuple[str, str, str]]


@routes.get("/ui/studies/{study_id}/stages/new")
@allow(Role.RESEARCHER, by="session")
async def new_stage(  # noqa: PLR0917  (called by name)
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    study_id: StudyId,
    stage: Annotated[str, Query(description="As a finding of it proposes.", max_length=128)] = "",
    param: Annotated[str, Query(description="Along this hyperparameter.", max_length=128)] = "",
) -> Response:
    place = await service.read(_place, who, study_id, stage, param)
    filled = StageForm.begun(place.spec, place.proposed or {})
    return await _page(request, service, who, place, filled)


@routes.post("/ui/studies/{study_id}/stages/new")
@allow(Role.RESEARCHER, by="session")
async def send_stage(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    """Write it as text (`action` text), or add it."""
    place, filled = await _sent(request, service, who, study_id)
    data = filled.stage()
    if filled.text("action") == "text" and data is not None:
        filled.values = {**filled.values, "mode": "yaml", "yaml": study_file.written(data)}
        return await _page(request, service, who, place, filled)
    checked = await asyncio.to_thread(_checked, filled, data)
    try:
        if checked is None:
            return await _page(request, service, who, place, filled, status=422)
        await add_stage(place.study, checked, service, who, Response())
    except TunesmithError as error:
        _blame(filled, error)
        return await _page(request, service, who, place, filled, status=error.status)
    return lead_to(request, f"/studies/{study_id}")


@routes.post("/ui/studies/{study_id}/stages/new/preview")
@allow(Role.RESEARCHER, by="session")
async def stage_preview(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    """What the form as it stands would run."""
    place, filled = await _sent(request, service, who, study_id)
    shown = await _preview(service, who, place, filled)
    return page(request, who, "parts/stage_preview.html", preview=shown, form=filled)


def _place(conn: Connection, who: Who, study_id: int, stage: str, param: str) -> Place:
    """Raises: NotFound."""
    study = screens.visible(conn, who, study_id)
    stages = store.stages(conn, study.id)
    spec = spaces.as_found(StudySpec.from_json(shapes.spec_of(study, stages)), stages)
    if not stage:
        return Place(study, spec)
    found = screens.proposal(conn, study, stage, param)
    return Place(study, spec, stage, param, found.sentence, dict(found.proposes or {}))


async def _sent(request: Request, service: Service, who: Who, study_id: int) -> tuple[Place, StageForm]:
    sent = await fields(request, service)
    place = await service.read(_place, who, study_id, sent.get("of_stage", ""), sent.get("of_param", ""))
    return place, StageForm(place.spec, place.proposed or {}, sent)


def _checked(filled: StageForm, data: dict[str, Any] | None) -> AnyStage | None:
    """The stage by itself; None if it is none, which then stands in the form."""
    if data is None:
        return None
    try:
        return _STAGE.validate_python(as_sent(data))
    except ValidationError as error:
        _blame(filled, from_validation(error, data))
    except TunesmithError as error:  # what JSON may not hold here
        _blame(filled, error)
    return None


def _blame(filled: StageForm, error: TunesmithError) -> None:
    at = "/name" if isinstance(error, Conflict) and "stage named" in error.detail else ""
    filled.blame(error.errors or [{"pointer": at, "message": error.detail}])


async def _preview(service: Service, who: Who, place: Place, filled: StageForm) -> Preview | None:
    """None if the stage cannot run in its study as it stands; why stands in the form."""
    checked = await asyncio.to_thread(_checked, filled, filled.stage())
    if checked is None:
        return None
    try:
        dry = await add_stage(place.study, checked, service, who, Response(), dry_run=True)
    except TunesmithError as error:
        _blame(filled, error)
        return None
    assert isinstance(dry, models.StageDryRun)
    axes = getattr(checked, "axis_values", None)
    return Preview(
        text=study_file.written(dry.stage),
        dry=dry,
        values=list(axes(place.spec).items()) if axes else [],
        wider=_wider(place.spec, checked),
    )


def _wider(spec: StudySpec, stage: AnyStage) -> list[tuple[str, str, str]]:
    """Hyperparameters whose space grows, how far it reaches now, and then."""
    after = spec.space.widened(stage.ranges)
    both = [(name, spec.space[name].shown(), after[name].shown()) for name in stage.ranges]
    return [(name, was, now) for name, was, now in both if was != now]


async def _page(
    request: Request, service: Service, who: Who, place: Place, filled: StageForm, *, status: int = 200
) -> Response:
    is_open = place.study.state != "stopped"
    wrong = dict(filled.wrong)
    preview = await _preview(service, who, place, filled) if is_open and not wrong else None
    if status == 200:
        filled.wrong = wrong  # of a form that nobody has sent yet, nothing is wrong
    shown = page(
        request, who, "new_stage.html", form=filled, place=place, study=place.study, kinds=KINDS,
        is_open=is_open, preview=preview,
    )  # fmt: skip
    shown.status_code = status
    return shown
