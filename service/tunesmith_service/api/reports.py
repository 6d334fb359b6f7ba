"""A study as one file to keep or to hand on."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection
from starlette.responses import Response

from tunesmith_service import store, study_report
from tunesmith_service.api.bytes import SAFE_HEADERS
from tunesmith_service.api.deps import ServiceDep, StudyDep, WhoDep, problem
from tunesmith_service.core import Service
from tunesmith_service.routing import router
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.ui import screens

routes: APIRouter = router(prefix="/studies/{study}", tags=["studies"])

Form = Annotated[study_report.Format, Query(description="html with figures, or md without.")]

_TYPES = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8"}
_ANSWER: dict[int | str, dict[str, Any]] = {200: {"description": "The file.", "content": {
    "text/html": {"schema": {"type": "string"}},
    "text/markdown": {"schema": {"type": "string"}, "example": "# digits-demo\n\nComplete; written …"},
}}}  # fmt: skip


@routes.get("/report", responses=problem(404, 422) | _ANSWER, response_class=Response)
@allow(Role.VIEWER)
async def study_report_file(
    study: StudyDep, service: ServiceDep, who: WhoDep, format: Form = "html"
) -> Response:
    """A study in one file that asks the network for nothing: question, answer, stages, findings, figures,
    failures, cost, and how to do it again."""
    return await file(service, who, study, format)


async def file(service: Service, who: Who, study: store.Study, form: study_report.Format) -> Response:
    """The report as a download: a page of its own policy, so never shown under the service's."""
    now_us = service.clock.now_us()

    def read(conn: Connection) -> str:
        shown = screens.study(conn, who, study.id)
        found = study_report.report(conn, service.columns, shown, now_us, figures=form == "html")
        return study_report.written(found, form)

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", study.name).strip(".-") or "study"
    headers = SAFE_HEADERS | {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    return Response(await service.read(read), media_type=_TYPES[form], headers=headers)
