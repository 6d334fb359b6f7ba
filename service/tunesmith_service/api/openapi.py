"""The API's description: `/api/v1/openapi.json`, and the file docs/openapi.json that a test keeps true."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from starlette.responses import Response

from tunesmith_service.api import examples
from tunesmith_service.api.deps import PROBLEM_TITLES
from tunesmith_service.api.keeping import IF_MATCH
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow, policy_of
from tunesmith_service.wire import LEASE_HEADER, Problem

routes: APIRouter = router(tags=["about"])

DESCRIBED = ("/api/v1/", "/healthz", "/readyz", "/metrics")

_ALWAYS = {
    "400": "The URL or the headers are too long, or the body is encoded.",
    "403": "The request names another host than this server, or a page elsewhere asked.",
}
_WITH_TOKEN = {
    "401": "No token, or none that is known, current and not revoked.",
    "403": "The token's role does not reach this, or a page elsewhere asked.",
    "429": "Too often, or the server has too much to do; try again after `Retry-After`.",
    "503": "The database is away; try again after `Retry-After`.",
}
_WITH_BODY = {
    "408": "The body came too slowly.",
    "413": PROBLEM_TITLES[413],
    "422": PROBLEM_TITLES[422],
}
_WRITING = {"507": PROBLEM_TITLES[507]}


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
            _add_problems(operation, method, has_role=policy.role is not None)
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in _NEEDED_HEADERS:
                    parameter["required"] = True
                    parameter["schema"].pop("default")
    _corrected(made)
    return made


_NEEDED_HEADERS = (LEASE_HEADER, IF_MATCH)
"""We say better than the framework what is missing, so it takes them for optional."""


def _add_problems(operation: dict[str, Any], method: str, *, has_role: bool) -> None:
    said = dict(_WITH_TOKEN) if has_role else {}
    if "requestBody" in operation:
        said |= _WITH_BODY
    if method != "get" and has_role:
        said |= _WRITING
    for status, description in (_ALWAYS | said).items():
        operation["responses"].setdefault(status, {"description": description})
    for status, response in operation["responses"].items():
        if int(status) >= 400 and (has_role or status in _ALWAYS):
            response["content"] = _PROBLEM


def _corrected(schema: Any) -> None:
    """Say in JSON Schema what pydantic leaves open: names that miss the pattern of a mapping's keys are
    refused, and a union's discriminator must be there though each member has it by default."""
    if isinstance(schema, list):
        for item in schema:
            _corrected(item)
    if not isinstance(schema, dict):
        return
    for inner in schema.values():
        _corrected(inner)
    if isinstance(patterns := schema.get("patternProperties"), dict):
        ((pattern, values),) = patterns.items()
        del schema["patternProperties"]
        schema |= {"propertyNames": {**schema.get("propertyNames", {}), "pattern": pattern}}
        schema["additionalProperties"] = values
    if "$ref" in schema and "anyOf" in schema:  # an answer's own model beside all that the route returns
        del schema["anyOf"], schema["title"]
    if isinstance(chosen_by := schema.get("discriminator"), dict):
        for member in schema["oneOf"]:
            member["required"] = [chosen_by["propertyName"]]


_PROBLEM = {
    "application/problem+json": {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "example": examples.PROBLEM,
    }
}
