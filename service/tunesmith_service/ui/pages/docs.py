"""The interface's description, from the same document as /api/v1/openapi.json."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service.api.deps import WhoDep, address_of
from tunesmith_service.api.openapi import document
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import api_docs
from tunesmith_service.ui.pages.common import page
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)


@routes.get("/ui/docs")
@allow(Role.VIEWER, by="session")
async def docs(request: Request, who: WhoDep) -> Response:
    if not hasattr(request.app.state, "described"):
        request.app.state.described = document(request.app)
    described = request.app.state.described
    return page(
        request, who, "docs.html", section="docs", info=described["info"],
        tags=api_docs.operations(described, address_of(request)), schemas=api_docs.schemas(described),
    )  # fmt: skip
