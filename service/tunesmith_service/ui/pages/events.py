"""A study's log as sentences, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query
from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service import event_log
from tunesmith_service.api.deps import MAX_ID, ServiceDep, WhoDep
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.tables import workers
from tunesmith_service.ui import screens, sentences
from tunesmith_service.ui.pages.common import StudyId, page, tab
from tunesmith_service.ui.routing import router

PAGE = 100

routes = router(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which events a person wants to see.

    Attributes:
        kind: one of `sentences.KINDS`, or empty for all.
        before: those of lower numbers alone.
    """

    kind: str
    before: int | None


async def asked(
    kind: Annotated[str, Query(max_length=16)] = "",
    before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
) -> Asked:
    return Asked(kind if kind in sentences.KINDS else "", before)


AskedDep = Annotated[Asked, Depends(asked)]


@routes.get("/ui/studies/{study_id}/events")
@allow(Role.VIEWER, by="session")
async def events(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, asked: AskedDep
) -> Response:
    return tab(request, who, "events.html", "events", **await service.read(_read, who, study_id, asked))


@routes.get("/ui/studies/{study_id}/parts/events")
@allow(Role.VIEWER, by="session")
async def events_part(
    request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId, asked: AskedDep
) -> Response:
    return page(request, who, "parts/events.html", **await service.read(_read, who, study_id, asked))


def _read(conn: Connection, who: Who, study_id: int, asked: Asked) -> dict[str, Any]:
    shown = screens.study(conn, who, study_id)
    found = event_log.newest(conn, study_id, before=asked.before, kind=asked.kind or None, limit=PAGE + 1)
    more, found = len(found) > PAGE, found[:PAGE]
    ids = {e.actor.partition(" ")[2] for e in found if e.actor.startswith("worker ")}
    named = select(workers.c.id, workers.c.name).where(workers.c.id.in_(ids))
    names = {row.id: row.name for row in conn.execute(named)}
    return {
        "study": shown,
        "said": [sentences.said(e, names) for e in found],
        "kinds": sentences.KINDS,
        "kind": asked.kind,
        "before": asked.before,
        "next": found[-1].n if more else None,
    }
