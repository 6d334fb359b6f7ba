"""The dashboard's pages, their parts that refresh themselves, and what a person may do there.

A page is rendered whole, so that its address is all one needs; its parts are the same templates,
fetched again by htmx when the study's stream says that something has changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from fastapi import Depends, Path, Query
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from tunesmith_studies.trial import StudyState

from tunesmith_service import overviews
from tunesmith_service.api.bytes import download
from tunesmith_service.api.deps import MAX_ID, ServiceDep, WhoDep
from tunesmith_service.blobs import BlobStore
from tunesmith_service.commands import MoveStudy, OverrideStage
from tunesmith_service.core import Service
from tunesmith_service.errors import NotFound, Unauthorized, Unprocessable
from tunesmith_service.parsing import read_body
from tunesmith_service.security import Policy, Role, Who, allow, public
from tunesmith_service.trial_store import Artifact
from tunesmith_service.ui import live, login, screens
from tunesmith_service.ui.rendering import base, render
from tunesmith_service.ui.routing import router

REASON_CHARACTERS = 2000
FORM_BYTES = 32_768  # a reason of that length, each character percent-encoded in four bytes

LOG_BYTES = 32_768
"""Of a log, the end that a page shows."""

routes = router(include_in_schema=False)
routes.include_router(login.routes)

StudyId = Annotated[int, Path(ge=1, le=MAX_ID)]
Number = Annotated[int, Path(ge=0, le=MAX_ID)]
Metric = Annotated[str, Query(max_length=128)]
StageName = Annotated[str, Path(max_length=128)]


async def asked(
    stage: Annotated[str | None, Query(max_length=128)] = None,
    state: Annotated[str | None, Query(max_length=16)] = None,
    order: Literal["newest", "best"] = "newest",
    after: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
) -> screens.Asked:
    return screens.Asked(stage, state, order, after)


AskedDep = Annotated[screens.Asked, Depends(asked)]


def _page(request: Request, who: Who, template: str, **context: Any) -> Response:
    return render(request, template, who=who, csrf=who.csrf, section="studies", **context)


@routes.get("/")
@routes.get("/ui")
@routes.get("/ui/")
@public
async def root(request: Request) -> Response:
    return RedirectResponse(f"{base(request)}/studies", 307)


@routes.get("/ui/studies")
@allow(Role.VIEWER, by="session")
async def studies(
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
) -> Response:
    found, older = await service.read(screens.studies_list, who, before)
    query = f"?before={before}" if before else ""
    return _page(request, who, "studies.html", studies=found, older=older, query=query)


# --- a study --------------------------------------------------------------------------------------


@routes.get("/ui/studies/{study_id}")
@allow(Role.VIEWER, by="session")
async def study(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, asked: AskedDep
) -> Response:
    context = await service.read(_study_context, who, study_id, asked, service.clock.now_us())
    return _page(request, who, "study.html", **context)


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
    return _page(request, who, f"parts/{part}.html", **context)


def _study_context(
    conn: Connection, who: Who, study_id: int, asked: screens.Asked | None, now_us: int
) -> dict[str, Any]:
    shown = screens.study(conn, who, study_id)
    return {"study": shown, "table": screens.table(conn, shown, asked, now_us) if asked else None}


@routes.get("/ui/studies/{study_id}/curves.json")
@allow(Role.VIEWER, by="session")
async def study_curves(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, metric: Metric = ""
) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        return screens.study_curves(conn, screens.study(conn, who, study_id), metric, base(request))

    return JSONResponse(await service.read(read))


@routes.get("/ui/studies/{study_id}/range-tests.json")
@allow(Role.VIEWER, by="session")
async def range_tests(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        return screens.range_tests(conn, screens.study(conn, who, study_id), base(request))

    return JSONResponse(await service.read(read))


@routes.post("/ui/studies/{study_id}/stages/{name:path}/override")
@allow(Role.RESEARCHER, by="session")
async def override_stage(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, name: StageName
) -> Response:
    await service.read(screens.study, who, study_id)
    body = await read_body(request, limit=FORM_BYTES, seconds=service.settings.body_seconds)
    reason = parse_qs(body.decode("utf-8", "replace")).get("reason", [""])[0].strip()
    if not 0 < len(reason) <= REASON_CHARACTERS:
        raise Unprocessable(f"Say why in 1 to {REASON_CHARACTERS} characters; the reason is kept.")
    await service.writer.submit(OverrideStage(study_id, name, who.actor, reason))
    return Response(status_code=204, headers={"HX-Refresh": "true"})


_MOVES = {"pause": StudyState.PAUSED, "resume": StudyState.ACTIVE, "stop": StudyState.STOPPED}


@routes.post("/ui/studies/{study_id}/{verb}")
@allow(Role.RESEARCHER, by="session")
async def move_study(
    service: ServiceDep, who: WhoDep, study_id: StudyId, verb: Literal["pause", "resume", "stop"]
) -> Response:
    await service.read(screens.study, who, study_id)  # refuses what this person may not see
    await service.writer.submit(MoveStudy(study_id, _MOVES[verb], who.actor, "by hand, on the dashboard"))
    return Response(status_code=204, headers={"HX-Refresh": "true"})


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
    last = request.headers.get("last-event-id", "")
    start = int(last) if last.isascii() and last.isdecimal() and len(last) < 16 else after
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

    return StreamingResponse(messages(), media_type="text/event-stream", headers=live.HEADERS)


# --- a trial --------------------------------------------------------------------------------------


@routes.get("/ui/studies/{study_id}/trials/{number}")
@allow(Role.VIEWER, by="session")
async def trial(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number
) -> Response:
    return _page(request, who, "trial.html", **await _trial_context(service, who, study_id, number))


@routes.get("/ui/studies/{study_id}/trials/{number}/parts/{part}")
@allow(Role.VIEWER, by="session")
async def trial_part(
    *,
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    study_id: StudyId,
    number: Number,
    part: Literal["trial_heading", "trial_findings", "measured", "artifacts", "attempts", "log"],
) -> Response:
    context = await _trial_context(service, who, study_id, number)
    return _page(request, who, f"parts/{part}.html", **context)


async def _trial_context(service: Service, who: Who, study_id: int, number: int) -> dict[str, Any]:
    def read(conn: Connection) -> dict[str, Any]:
        shown = screens.study(conn, who, study_id)
        found = screens.trial(conn, shown, number, service.clock.now_us())
        return {"study": shown, "trial": found, "row": found.row, "log": _log_tail(service.blobs, found.log)}

    return await service.read(read)


def _log_tail(blobs: BlobStore, chunks: Any) -> str:
    """The end of a log, from whole lines. Blocks."""
    text = ""
    for chunk in chunks:
        try:
            text += blobs.read_bytes(chunk.sha256).decode("utf-8", "replace")
        except NotFound:
            text += "\n(a piece of this log is gone)\n"
    return text if len(text) <= LOG_BYTES else text[-LOG_BYTES:].partition("\n")[2]


@routes.get("/ui/studies/{study_id}/trials/{number}/curves.json")
@allow(Role.VIEWER, by="session")
async def trial_curves(
    service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number, metric: Metric = ""
) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        return screens.trial_curves(conn, screens.study(conn, who, study_id), number, metric)

    return JSONResponse(await service.read(read))


@routes.get("/ui/studies/{study_id}/trials/{number}/artifacts/{name:path}")
@allow(Role.VIEWER, by="session")
async def artifact(
    service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number, name: str
) -> Response:
    def read(conn: Connection) -> Artifact:
        return screens.artifact(conn, screens.study(conn, who, study_id), number, name)

    found = await service.read(read)
    return download(service.blobs, found.sha256, name.rpartition("/")[2] or "artifact")


@routes.get("/ui/{rest:path}")
@allow(Role.VIEWER, by="session")
async def nothing(rest: str) -> Response:
    raise NotFound("there is no such page")
