"""The fleet: who is here, what runs where, and how another machine joins."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunesmith_service.api import fleet as fleet_api
from tunesmith_service.api import models, tokens
from tunesmith_service.api.deps import ServiceDep, WhoDep, address_of
from tunesmith_service.charts import timeline
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import fleet
from tunesmith_service.ui.pages.common import page, refresh
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)


@routes.get("/ui/workers")
@allow(Role.VIEWER, by="session")
async def workers(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    shown = await service.read(fleet.screen, who)
    return page(request, who, "workers.html", section="workers", fleet=shown, may_join=who.may(Role.ADMIN))


@routes.get("/ui/workers/parts/fleet")
@allow(Role.VIEWER, by="session")
async def fleet_part(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    return page(request, who, "parts/fleet.html", fleet=await service.read(fleet.screen, who))


@routes.get("/ui/workers/views/timeline")
@allow(Role.VIEWER, by="session")
async def lanes(service: ServiceDep, who: WhoDep) -> Response:
    return JSONResponse(await service.read(timeline.of_fleet, who.project_id))


@routes.post("/ui/workers/token")
@allow(Role.ADMIN, by="session")
async def join(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    """A new worker's token, in the commands that use it; shown in this answer alone."""
    made = await tokens.create_token(
        models.NewToken(name="joined from the dashboard", role="worker"), service, who
    )
    return page(request, who, "parts/join.html", token=made, address=address_of(request))


@routes.post("/ui/workers/{worker_id}/{verb}")
@allow(Role.ADMIN, by="session")
async def drain(
    service: ServiceDep,
    who: WhoDep,
    worker_id: Annotated[str, Path(max_length=32)],
    verb: Literal["drain", "undrain"],
) -> Response:
    await (fleet_api.drain if verb == "drain" else fleet_api.undrain)(worker_id, service, who)
    return refresh()
