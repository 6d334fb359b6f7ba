"""What a person may do with a study or a trial that is there already. A button's answer leads to a page."""

from __future__ import annotations

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service.api import keeping
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import Number, StudyId, form, lead_to, refresh
from tunesmith_service.ui.routing import router
from tunesmith_service.wishes import PruneNow, PutAway, Retry

routes = router(include_in_schema=False)


@routes.post("/ui/studies/{study_id}/trials/{number}/retry")
@allow(Role.RESEARCHER, by="session")
async def retry_trial(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number
) -> Response:
    await service.read(screens.visible, who, study_id)  # refuses what this person may not see
    (again,) = await service.writer.submit(Retry(study_id, (number,), who.actor))
    return lead_to(request, f"/studies/{study_id}/trials/{again}")


@routes.post("/ui/studies/{study_id}/trials/{number}/prune")
@allow(Role.RESEARCHER, by="session")
async def prune_trial(service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number) -> Response:
    await service.read(screens.visible, who, study_id)
    await service.writer.submit(PruneNow(study_id, number, who.actor))
    return refresh()


@routes.post("/ui/studies/{study_id}/rerun")
@allow(Role.RESEARCHER, by="session")
async def rerun_failed(service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    await service.read(screens.visible, who, study_id)
    await service.writer.submit(Retry(study_id, None, who.actor))
    return refresh()


@routes.post("/ui/studies/{study_id}/put/{where}")
@allow(Role.RESEARCHER, by="session")
async def put_away(
    service: ServiceDep, who: WhoDep, study_id: StudyId, where: Literal["away", "back"]
) -> Response:
    await service.read(screens.visible, who, study_id)
    await service.writer.submit(PutAway(study_id, where == "away", who.actor))
    return refresh()


@routes.post("/ui/studies/{study_id}/delete")
@allow(Role.ADMIN, by="session")
async def delete_study(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    study = await service.read(screens.visible, who, study_id)
    name = (await form(request, service)).get("name", [""])[0]
    await keeping.delete(service, study, name, who)
    return lead_to(request, "/studies")
