"""The API's description: `/api/v1/openapi.json`, and the file docs/openapi.json that a test keeps true."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from starlette.responses import Response

from tunesmith_service.api import examples
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow, policy_of
from tunesmith_service.wire import Problem

routes: APIRouter = router(tags=["about"])

DESCRIBED = ("/api/v1/", "/healthz", "/readyz", "/metrics")

_ANY = {
    "401": "No token, or none that is known, current and not revoked.",
    "403": "The token's role does not reach this, or a page elsewhere asked.",
    "408": "The body came too slowly.",
    "429": "Too often, or the server has too much to do; try again after `Retry-After`.",
    "503": "The database is away; try again after `Retry-After`.",
}


@routes.get("/openapi.json", include_in_schema=False)
@allow(Role.VIEWER)
async def openapi_json(request: Request) -> Response:
    """This document."""
    return Response(json.dumps(document(request.app)), media_type="application/json")


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document, with each operation's role and problems."""
    described = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=(
            "Workers pull trials and report; people create studies and read. Errors are RFC 9457 problem "
            "documents with a stable `type`. Lists come in pages: ask again with `next_cursor` until it is "
            "null."
        ),
        routes=[c for c in iter_route_contexts(app.routes) if (c.path or "").startswith(DESCRIBED)],
    )
    made: dict[str, Any] = examples.unsealed(described)
    components = made["components"]
    components["schemas"]["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "tsm_…"}}
    components["schemas"].pop("HTTPValidationError", None)
    components["schemas"].pop("ValidationError", None)
    policies = {
        (c.path_format, m.lower()): policy_of(c.endpoint)
        for c in iter_route_contexts(app.routes)
        if c.endpoint is not None
        for m in c.methods or ()
    }
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            policy = policies[path, method]
            assert policy is not None
            if policy.role is not None:
                operation["x-tunesmith-role"] = str(policy.role)
                operation["security"] = [{"token": []}]
                for status, description in _ANY.items():
                    operation["responses"].setdefault(status, {"description": description})
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        response["content"] = _PROBLEM
    return made


_PROBLEM = {
    "application/problem+json": {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "example": examples.PROBLEM,
    }
}
