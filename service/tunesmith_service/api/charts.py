"""What charts draw, for people who draw their own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from tunesmith_service import charts
from tunesmith_service.api import examples
from tunesmith_service.api.deps import ServiceDep, StudyDep, one_of, problem
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

routes: APIRouter = router(prefix="/studies/{study}/views", tags=["studies"])


@routes.get("/{view}", responses=problem(404, 422) | examples.answer(examples.HISTORY))
@allow(Role.VIEWER)
async def view(
    study: StudyDep,
    service: ServiceDep,
    view: Annotated[str, one_of(charts.CHARTS)],
    query: Annotated[charts.ChartQuery, Query()],
) -> dict[str, Any]:
    """A view of a study's trials in columns, no longer than a screen can show."""

    def read(conn: Connection) -> dict[str, Any]:
        return charts.chart(conn, service.columns, study, view, query)

    return await service.read(read)
