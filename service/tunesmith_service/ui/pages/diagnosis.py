"""A study's pages about what went wrong and where trials came from: failures, pruning, lineage."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service import charts
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import StudyId, page, tab
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)


@routes.get("/ui/studies/{study_id}/failures")
@allow(Role.VIEWER, by="session")
async def failures(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        shown = screens.study(conn, who, study_id)
        found = charts.chart(conn, service.columns, shown.row, "failures", charts.ChartQuery())
        return {"study": shown, "failures": found}

    return tab(request, who, "failures.html", "failures", **await service.read(read))


@routes.get("/ui/studies/{study_id}/parts/failures")
@allow(Role.VIEWER, by="session")
async def failures_part(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        shown = screens.study(conn, who, study_id)
        found = charts.chart(conn, service.columns, shown.row, "failures", charts.ChartQuery())
        return {"study": shown, "failures": found}

    return page(request, who, "parts/failures.html", **await service.read(read))


@routes.get("/ui/studies/{study_id}/pruning")
@allow(Role.VIEWER, by="session")
async def pruning(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    return tab(
        request, who, "pruning.html", "pruning", study=await service.read(screens.study, who, study_id)
    )


@routes.get("/ui/studies/{study_id}/lineage")
@allow(Role.VIEWER, by="session")
async def lineage(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    return tab(
        request, who, "lineage.html", "lineage", study=await service.read(screens.study, who, study_id)
    )
