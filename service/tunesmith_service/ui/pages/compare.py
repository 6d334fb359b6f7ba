"""Trials, studies or stages side by side."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service import store
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.comparison import confusion, groups, named, side_by_side, views
from tunesmith_service.comparison.asked import KINDS, NAMES, Asked, ChartQuery, Named, groups_of
from tunesmith_service.documents import Unread, View
from tunesmith_service.errors import NotFound, Unprocessable
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.ui.pages.common import drawn, page
from tunesmith_service.ui.routing import router

routes = router(include_in_schema=False)

MOST_OFFERED = 50
"""Studies of which the page lets choose."""
Names = Annotated[str | None, Query(max_length=NAMES)]


@routes.get("/ui/compare")
@allow(Role.VIEWER, by="session")
async def compare_page(  # noqa: PLR0917  (called by name)
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    trials: Names = None,
    studies: Annotated[list[str] | None, Query(max_length=100)] = None,
    stages: Names = None,
    every: Annotated[str, Query(max_length=1)] = "",
) -> Response:
    """What cannot be compared is told above the form, with what was typed kept. The form of studies sends one
    `studies` for each that is ticked."""
    given = {"trials": trials, "studies": studies and ",".join(studies)[:NAMES], "stages": stages}
    kind = next((k for k in KINDS if given[k]), next((k for k in KINDS if given[k] is not None), "trials"))
    text = given[kind] or ""

    def read(conn: Connection) -> dict[str, Any]:
        found: dict[str, Any] = {"found": None, "with_matrix": [], "wrong": ""}
        try:
            found |= _found(conn, service, who, kind, text)
        except (NotFound, Unprocessable) as e:
            found["wrong"] = e.detail
        offered = store.studies(conn, who.project_id, limit=MOST_OFFERED) if kind == "studies" else []
        return found | {"offered": offered}

    context = await service.read(read)
    context |= {"kind": kind, "kinds": KINDS, "asked": text, "every": bool(every), "most": named.MOST}
    return page(request, who, "compare.html", section="compare", **context)


def _found(conn: Connection, service: Any, who: Who, kind: str, text: str) -> dict[str, Any]:
    if not text:
        return {}
    if kind == "trials":
        trials = side_by_side.compared(conn, who.project_id, text)
        return {"found": trials, "with_matrix": confusion.with_matrix(conn, trials.trials)}
    of = groups_of(conn, who.project_id, Named(**{kind: text}))
    return {"found": groups.compared(conn, service.columns, of, service.clock.now_us())}


@routes.get("/ui/compare/views/{view}")
@allow(Role.VIEWER, by="session")
async def compare_view(
    request: Request, service: ServiceDep, who: WhoDep, view: Annotated[str, Path(max_length=32)]
) -> Response:
    def find(conn: Connection, query: ChartQuery) -> View | Unread:
        return views.view(Asked(conn, service.columns, who.project_id, query), view)

    return await drawn(request, service, ChartQuery, find)
