"""The dashboard's pages, one module each, and what a person may do there.

A page is rendered whole, so that its address is all one needs; its parts are the same templates,
fetched again by htmx when the study's stream says that something has changed.
"""

from __future__ import annotations

from starlette.responses import Response

from tunesmith_service.errors import NotFound
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import login
from tunesmith_service.ui.pages import (
    actions,
    audit,
    charts,
    compare,
    config,
    create,
    diagnosis,
    docs,
    events,
    explore,
    new_stage,
    notes,
    picked,
    report,
    settings,
    studies,
    study,
    trial,
    variant,
    workers,
)
from tunesmith_service.ui.rendering import warm_up
from tunesmith_service.ui.routing import router

__all__ = ["routes", "warm_up"]

routes = router(include_in_schema=False)
for module in (
    login,
    studies,
    docs,
    settings,
    audit,
    workers,
    create,
    actions,
    config,
    new_stage,
    notes,
    picked,
    explore,
    report,
    diagnosis,
    events,
    study,
    variant,
    trial,
    charts,
    compare,
):
    routes.include_router(module.routes)


@routes.get("/ui/{rest:path}")
@allow(Role.VIEWER, by="session")
async def nothing(rest: str) -> Response:
    raise NotFound("there is no such page")
