"""Where browsers send what they found against the pages' policy. Nobody says who they are here."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service.api.deps import ServiceDep
from tunesmith_service.errors import TooMany, Unprocessable
from tunesmith_service.limits import address_of
from tunesmith_service.parsing import parse_json, read_body
from tunesmith_service.routing import router
from tunesmith_service.security import public
from tunesmith_service.violations import reports_in

PATH = "/csp-reports"
BODY_BYTES = 32_768
KINDS = ("application/csp-report", "application/reports+json")

routes: APIRouter = router(include_in_schema=False)


@routes.post(PATH)
@public
async def csp_reports(request: Request, service: ServiceDep) -> Response:
    """204 for whatever can be read, of both forms."""
    if wait := service.report_bodies.take(address_of(request)):
        raise TooMany(f"too many reports; try again in {wait} s", retry_after_seconds=wait)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise Unprocessable(f"send a report as {' or '.join(KINDS)}")
    body = await read_body(request, limit=BODY_BYTES, seconds=service.settings.body_seconds)
    service.violations.tell(reports_in(parse_json(body, free_text=True)))
    return Response(status_code=204)
