"""A trial queued like another: its settings as a form, what differs, and where it came from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from tunesmith_studies.study import StudySpec

from tunesmith_service import store, trial_store
from tunesmith_service.api import models, shapes
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.api.trials import enqueue
from tunesmith_service.core import Service
from tunesmith_service.errors import NotFound, TunesmithError
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import Number, StudyId, fields, lead_to, page
from tunesmith_service.ui.routing import router
from tunesmith_service.ui.variant import Variant

routes = router(include_in_schema=False)


@routes.get("/ui/studies/{study_id}/trials/{number}/variant")
@allow(Role.RESEARCHER, by="session")
async def variant(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number
) -> Response:
    return _page(request, who, await service.read(_read, who, study_id, number))


@routes.post("/ui/studies/{study_id}/trials/{number}/variant")
@allow(Role.RESEARCHER, by="session")
async def send_variant(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number
) -> Response:
    filled = await _sent(request, service, who, study_id, number)
    ready = filled.prepared()
    if ready is None:
        return _page(request, who, filled, status=422)
    body = models.Enqueue(
        params=[filled.changes()], like=number, stage=ready.stage, epochs=filled.asked_epochs()
    )
    try:
        (new,) = (await enqueue(filled.study, body, service, who, None)).numbers
    except TunesmithError as error:  # it has changed since it was read
        filled.wrong[""] = error.detail
        return _page(request, who, filled, status=error.status)
    return lead_to(request, f"/studies/{study_id}/trials/{new}")


@routes.post("/ui/studies/{study_id}/trials/{number}/variant/differences")
@allow(Role.RESEARCHER, by="session")
async def variant_differences(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number
) -> Response:
    """What the form as it stands differs in from the trial."""
    filled = await _sent(request, service, who, study_id, number)
    return page(request, who, "parts/differences.html", differences=filled.differences())


async def _sent(request: Request, service: Service, who: Who, study_id: int, number: int) -> Variant:
    sent = await fields(request, service)
    filled = await service.read(_read, who, study_id, number)
    filled.sent = sent
    return filled


def _read(conn: Connection, who: Who, study_id: int, number: int) -> Variant:
    """Raises: NotFound."""
    study = screens.visible(conn, who, study_id)
    trial = trial_store.find_trial(conn, study.id, number)
    if trial is None:
        raise NotFound(f"study {study.name} has no trial #{number}")
    stages = store.stages(conn, study.id)
    return Variant(study, StudySpec.from_json(shapes.spec_of(study, stages)), stages, trial)


def _page(request: Request, who: Who, filled: Variant, *, status: int = 200) -> Response:
    known: dict[str, Any] = {"differences": filled.differences() if filled.open_stages else None}
    shown = page(
        request, who, "variant.html", form=filled, study=filled.study, number=filled.original.number, **known
    )
    shown.status_code = status
    return shown
