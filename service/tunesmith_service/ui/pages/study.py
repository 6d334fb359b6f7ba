"""A study's page, its parts that refresh themselves, and what a person may do there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from tunesmith_studies.trial import StudyState

from tunesmith_service import overviews
from tunesmith_service.api.deps import MAX_ID, ServiceDep, WhoDep
from tunesmith_service.commands import MoveStudy, OverrideStage
from tunesmith_service.errors import Unauthorized, Unprocessable
from tunesmith_service.parsing import whole_number
from tunesmith_service.security import Policy, Role, Who, allow
from tunesmith_service.ui import live, screens
from tunesmith_service.ui.pages.common import StageName, StudyId, form, page, refresh, tab
from tunesmith_service.ui.routing import router

REASON_CHARACTERS = 2000

routes = router(include_in_schema=False)


async def asked(
    stage: Annotated[str | None, Query(max_length=128)] = None,
    state: Annotated[str | None, Query(max_length=16)] = None,
    order: Literal["newest", "best"] = "newest",
    after: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
) -> screens.Asked:
    return screens.Asked(stage, state, order, after)


AskedDep = Annotated[screens.Asked, Depends(asked)]


@routes.get("/ui/studies/{study_id}")
@allow(Role.VIEWER, by="session")
async def study(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, asked: AskedDep
) -> Response:
    context = await service.read(_study_context, who, study_id, asked, service.clock.now_us())
    return tab(request, who, "study.html", "overview", **context)


@routes.get("/ui/studies/{study_id}/parts/{part}")
@allow(Role.VIEWER, by="session")
async def study_part(
    *,
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    study_id: StudyId,
    part: Literal["heading", "pipeline", "best", "findings", "notices", "rows"],
    asked: AskedDep,
) -> Response:
    wanted = asked if part == "rows" else None
    context = await service.read(_study_context, who, study_id, wanted, service.clock.now_us())
    return page(request, who, f"parts/{part}.html", **context)


def _study_context(
    conn: Connection, who: Who, study_id: int, asked: screens.Asked | None, now_us: int
) -> dict[str, Any]:
    shown = screens.study(conn, who, study_id)
    return {"study": shown, "table": screens.table(conn, shown, asked, now_us) if asked else None}


@routes.post("/ui/studies/{study_id}/stages/{name:path}/override")
@allow(Role.RESEARCHER, by="session")
async def override_stage(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, name: StageName
) -> Response:
    await service.read(screens.study, who, study_id)
    reason = (await form(request, service)).get("reason", [""])[0].strip()
    if not 0 < len(reason) <= REASON_CHARACTERS:
        raise Unprocessable(f"Say why in 1 to {REASON_CHARACTERS} characters; the reason is kept.")
    await service.writer.submit(OverrideStage(study_id, name, who.actor, reason))
    return refresh()


_MOVES = {"pause": StudyState.PAUSED, "resume": StudyState.ACTIVE, "stop": StudyState.STOPPED}


@routes.post("/ui/studies/{study_id}/{verb}")
@allow(Role.RESEARCHER, by="session")
async def move_study(
    service: ServiceDep, who: WhoDep, study_id: StudyId, verb: Literal["pause", "resume", "stop"]
) -> Response:
    await service.read(screens.study, who, study_id)  # refuses what this person may not see
    await service.writer.submit(MoveStudy(study_id, _MOVES[verb], who.actor, "by hand, on the dashboard"))
    return refresh()


@routes.get("/ui/studies/{study_id}/stream")
@allow(Role.VIEWER, by="session")
async def stream(
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    study_id: StudyId,
    after: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
) -> Response:
    """The study's log from an event on; a browser that comes back says where it was."""
    last = whole_number(request.headers.get("last-event-id", ""))
    start = after if last is None else last
    await service.read(screens.study, who, study_id)

    async def newest() -> int | None:
        if service.listeners.is_closing:
            return None
        try:
            await service.gate.admit(request, Policy(Role.VIEWER, "session"))
        except Unauthorized:
            return None
        return await service.read(overviews.newest_event, study_id)

    async def entries(after: int, limit: int) -> list[dict[str, Any]]:
        return await service.read(overviews.entries_after, study_id, after, limit)

    async def messages() -> AsyncIterator[str]:
        with service.listeners.to(study_id) as changed:
            async for message in live.messages(start, changed, newest, entries):
                yield message

    request.state.place.leave()  # from here on it mostly waits
    return StreamingResponse(messages(), media_type="text/event-stream", headers=live.HEADERS)
