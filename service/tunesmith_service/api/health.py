"""Is it alive, is it ready: for supervisors of processes, without a token."""

from __future__ import annotations

import json
from importlib.metadata import version

from fastapi import APIRouter
from starlette.responses import Response

from tunesmith_service.api.deps import ServiceDep
from tunesmith_service.api.models import Alive, Ready
from tunesmith_service.problems import RETRY_AFTER_SECONDS
from tunesmith_service.routing import router
from tunesmith_service.security import public_and_free

routes: APIRouter = router(tags=["health"])


@routes.get("/healthz")
@public_and_free
async def healthz() -> Alive:
    """The process answers."""
    return Alive(version=version("tunesmith"))


@routes.get("/readyz", response_model=Ready, responses={503: {"model": Ready, "description": "Not ready."}})
@public_and_free
async def readyz(service: ServiceDep) -> Response:
    """The database answers, the sweeper has ticked within 10 s, and the planner lives."""
    found = await service.problems()
    parts = ("database", "sweeper", "planner")
    answer = {"ready": not found, **{part: found.get(part, "ok") for part in parts}}
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if found else {}
    return Response(json.dumps(answer), 503 if found else 200, headers, media_type="application/json")
