"""Explore: the filter, what it picks as charts, and as a table."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service.api import exports
from tunesmith_service.api.deps import MAX_ID, ServiceDep, WhoDep
from tunesmith_service.filters import MOST_CHARACTERS
from tunesmith_service.parsing import whole_number
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.ui import explore, screens
from tunesmith_service.ui.pages.common import StudyId, page, tab
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)


async def question(  # noqa: PLR0917  (called by name)
    filter: Annotated[str, Query(max_length=MOST_CHARACTERS + 100)] = "",
    sort: Annotated[str, Query(max_length=129)] = "",
    columns: Annotated[str, Query(max_length=2000)] = "",
    differ: Annotated[str, Query(max_length=1)] = "",
    after: Annotated[str, Query(max_length=16, pattern=r"^\d*$")] = "",
    pick: Annotated[str, Query(max_length=400)] = "",
) -> explore.Question:
    names = tuple(dict.fromkeys(n for n in columns.split(",") if n))
    last = min(int(after), MAX_ID) if after else None
    numbers = dict.fromkeys(n for word in pick.split(",") if (n := whole_number(word)) is not None)
    picked = tuple(numbers)[: explore.MOST_PICKED]
    return explore.Question(filter.strip(), sort, names, bool(differ), last, picked)


QuestionDep = Annotated[explore.Question, Depends(question)]


def _context(
    conn: Connection, who: Who, study_id: int, asked: explore.Question, now_us: int
) -> dict[str, Any]:
    shown = screens.study(conn, who, study_id)
    return {"study": shown, "found": explore.explored(conn, shown, asked, now_us)}


@routes.get("/ui/studies/{study_id}/explore")
@allow(Role.VIEWER, by="session")
async def explore_page(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, asked: QuestionDep
) -> Response:
    context = await service.read(_context, who, study_id, asked, service.clock.now_us())
    return tab(request, who, "explore.html", "explore", **context)


@routes.get("/ui/studies/{study_id}/parts/explored")
@allow(Role.VIEWER, by="session")
async def explored(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, asked: QuestionDep
) -> Response:
    """The table alone, as the address asks for it."""
    context = await service.read(_context, who, study_id, asked, service.clock.now_us())
    return page(request, who, "parts/explored.html", **context)


@routes.get("/ui/studies/{study_id}/explore/export")
@allow(Role.VIEWER, by="session")
async def export(
    service: ServiceDep, who: WhoDep, study_id: StudyId, asked: Annotated[exports.Asked, Query()]
) -> Response:
    """What the table shows, all its pages, as a file."""
    study = await service.read(screens.visible, who, study_id)
    return await exports.written(service, study, asked)
