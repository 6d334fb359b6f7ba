"""What the server tells Prometheus of itself."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from tunesmith_service.api import examples
from tunesmith_service.api.deps import ServiceDep
from tunesmith_service.metrics import CONTENT_TYPE
from tunesmith_service.places import Priority
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

routes: APIRouter = router(tags=["health"])


@routes.get("/metrics", response_class=Response, responses=examples.METRICS)
@allow(Role.VIEWER, priority=Priority.KEEP)
async def metrics(service: ServiceDep) -> Response:
    """Counters, histograms and gauges of this server, as text for Prometheus. A viewer's token is enough:
    they are sums over all projects and name nothing of any. Under load it is answered like a beat."""
    return Response(await service.metrics.exposition(service), media_type=CONTENT_TYPE)
