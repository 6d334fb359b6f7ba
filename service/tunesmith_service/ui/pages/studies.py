"""The list of studies, and the way to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.security import Role, allow, public
from tunesmith_service.ui import screens, study_list
from tunesmith_service.ui.pages.common import StudyId, page
from tunesmith_service.ui.rendering import base
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)


@routes.get("/")
@routes.get("/ui")
@routes.get("/ui/")
@public
async def root(request: Request) -> Response:
    return RedirectResponse(f"{base(request)}/studies", 307)


async def asked(
    search: Annotated[str, Query(max_length=128)] = "",
    state: Annotated[str, Query(max_length=16)] = "",
    owner: Annotated[str, Query(max_length=128)] = "",
    order: study_list.Order = "newest",
    page: Annotated[int, Query(ge=0, le=10_000)] = 0,
) -> study_list.Asked:
    return study_list.Asked(search.strip(), state, owner, order, page)


@routes.get("/ui/studies")
@allow(Role.VIEWER, by="session")
async def studies(
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    asked: Annotated[study_list.Asked, Depends(asked)],
) -> Response:
    found, more = await service.read(study_list.lines, who, asked, service.clock.now_us())
    return page(
        request, who, "studies.html", studies=found, more=more, asked=asked, states=study_list.STATES,
        orders=study_list.ORDERS, owners=await service.read(study_list.owners, who),
    )  # fmt: skip


@routes.get("/ui/studies/{study_id}/parts/menu")
@allow(Role.VIEWER, by="session")
async def menu(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    """What may be done with a study of the list, fetched when somebody asks for it."""
    shown = await service.read(screens.study, who, study_id)
    return page(request, who, "parts/menu.html", study=shown)
