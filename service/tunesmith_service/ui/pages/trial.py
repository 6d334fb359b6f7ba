"""A trial's page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import Path as PathWord
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tunesmith_service import trial_store
from tunesmith_service.api.bytes import SAFE_HEADERS, download, snapshot_name
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.charts import of_trial, trial_views
from tunesmith_service.core import Service
from tunesmith_service.documents import Unread, View
from tunesmith_service.errors import NotFound, Unavailable
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.trial_store import Artifact, Snapshot
from tunesmith_service.ui import screens, trial_screen
from tunesmith_service.ui.pages.common import Number, StudyId, drawn, page
from tunesmith_service.ui.routing import router

LOG_BYTES = 32_768
"""Of a log, the end that a page shows."""
LOG_PAGE = 50
"""Chunks read at once of a log that is downloaded."""

routes = router(include_in_schema=False)


@routes.get("/ui/studies/{study_id}/trials/{number}")
@allow(Role.VIEWER, by="session")
async def trial(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number
) -> Response:
    context = await _trial_context(service, who, study_id, number, "whole")
    return page(request, who, "trial.html", **context)


@routes.get("/ui/studies/{study_id}/trials/{number}/parts/{part}")
@allow(Role.VIEWER, by="session")
async def trial_part(
    *,
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    study_id: StudyId,
    number: Number,
    part: Literal[
        "trial_heading", "trial_error", "trial_findings", "measured", "artifacts", "attempts", "log"
    ],
) -> Response:
    context = await _trial_context(service, who, study_id, number, part)
    return page(request, who, f"parts/{part}.html", **context)


async def _trial_context(service: Service, who: Who, study_id: int, number: int, part: str) -> dict[str, Any]:
    def read(conn: Connection) -> dict[str, Any]:
        shown = screens.study(conn, who, study_id)
        found = screens.trial(conn, shown, number, service.clock.now_us(), may_move=who.may(Role.RESEARCHER))
        return {
            "study": shown, "trial": found, "row": found.row,
            "beside": trial_screen.beside(conn, service.columns, shown.row, number),
        }  # fmt: skip

    context = await service.read(read)
    trial = context["trial"]
    wants_log = part in ("whole", "log") or (part == "trial_error" and trial.error)
    log = await _log_tail(service, trial.log) if wants_log else ""
    return context | {"log": log, "last_lines": trial_screen.last_lines(log)}


async def _log_tail(service: Service, chunks: Any) -> str:
    """The end of a log, from whole lines. A page has much else to show while the store is away."""
    text = ""
    for chunk in chunks:
        try:
            text += (await service.stored(service.blobs.read_bytes, chunk.sha256)).decode("utf-8", "replace")
        except NotFound:
            text += "\n(a piece of this log is gone)\n"
        except Unavailable as e:
            text += f"\n(the rest of this log cannot be read: {e.detail})\n"
            break
    return text if len(text) <= LOG_BYTES else text[-LOG_BYTES:].partition("\n")[2]


@routes.get("/ui/studies/{study_id}/trials/{number}/log")
@allow(Role.VIEWER, by="session")
async def whole_log(service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number) -> Response:
    """The newest attempt's log from its first line, as a file."""

    def read(conn: Connection) -> tuple[int, str]:
        study = screens.visible(conn, who, study_id)
        found = trial_store.find_trial(conn, study.id, number)
        if found is None:
            raise NotFound(f"study {study.name} has no trial #{number}")
        return found.id, f"{study.id}-trial-{number}.log"

    trial_id, name = await service.read(read)

    async def pieces() -> AsyncIterator[bytes]:
        after = 0
        while chunks := await service.read(_chunks, trial_id, after):
            for chunk in chunks:
                after = chunk.seq
                try:
                    yield await service.stored(service.blobs.read_bytes, chunk.sha256)
                except NotFound:
                    yield b"\n(a piece of this log is gone)\n"

    headers = SAFE_HEADERS | {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(pieces(), media_type="text/plain; charset=utf-8", headers=headers)


def _chunks(conn: Connection, trial_id: int, after: int) -> list[trial_store.LogChunk]:
    return trial_store.logs(conn, trial_id, after=after, limit=LOG_PAGE)


@routes.get("/ui/studies/{study_id}/trials/{number}/views/{view}")
@allow(Role.VIEWER, by="session")
async def trial_chart(  # noqa: PLR0917  (called by name)
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    study_id: StudyId,
    number: Number,
    view: Annotated[str, PathWord(max_length=32)],
) -> Response:
    """What a chart of the trial draws; of the documents that it left, what stands in them."""

    def find(conn: Connection, query: of_trial.TrialChartQuery) -> View | Unread:
        study = screens.visible(conn, who, study_id)
        return trial_views.view(conn, service.columns, study, number, view, query)

    return await drawn(request, service, of_trial.TrialChartQuery, find)


@routes.get("/ui/studies/{study_id}/trials/{number}/artifacts/{name:path}")
@allow(Role.VIEWER, by="session")
async def artifact(  # noqa: PLR0917  (called by name)
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number, name: str
) -> Response:
    def read(conn: Connection) -> Artifact:
        return screens.artifact(conn, screens.study(conn, who, study_id), number, name)

    found = await service.read(read)
    return await download(request, service, found.sha256, name.rpartition("/")[2] or "artifact")


@routes.get("/ui/studies/{study_id}/trials/{number}/snapshots/{step}")
@allow(Role.VIEWER, by="session")
async def snapshot(  # noqa: PLR0917  (called by name)
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, number: Number, step: Number
) -> Response:
    def read(conn: Connection) -> Snapshot:
        return screens.snapshot(conn, screens.study(conn, who, study_id), number, step)

    found = await service.read(read)
    return await download(request, service, found.sha256, snapshot_name(number, step))
