"""What a study's charts draw; `tunesmith_service.charts` works it out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service import charts
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import StudyId, drawn
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)


@routes.get("/ui/studies/{study_id}/views/{view}")
@allow(Role.VIEWER, by="session")
async def chart(
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    study_id: StudyId,
    view: Annotated[str, Path(max_length=32)],
) -> Response:
    def read(conn: Connection, query: charts.ChartQuery) -> dict[str, Any]:
        return charts.chart(conn, service.columns, screens.visible(conn, who, study_id), view, query)

    return await drawn(request, service, charts.ChartQuery, read)
