"""The one-time link, the session's cookie, and the files that the login page needs."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tunesmith_service import sessions
from tunesmith_service.api.deps import ServiceDep
from tunesmith_service.errors import NotFound, Refused
from tunesmith_service.parsing import read_body
from tunesmith_service.security import Role, allow, public
from tunesmith_service.ui.rendering import assets, base, render
from tunesmith_service.ui.routing import router

FORM_BYTES = 4096

routes = router(prefix="/ui", include_in_schema=False)


@routes.get("/static/{name}")
@public
async def static(request: Request, name: str) -> Response:
    """A file of ours, by a name that changes with its content."""
    asset = assets.get(name)
    if asset is None:
        raise NotFound("there is no such file")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            asset.gzipped, headers=headers | {"Content-Encoding": "gzip"}, media_type=asset.media_type
        )
    return Response(asset.body, headers=headers, media_type=asset.media_type)


@routes.get("/login")
@public
async def login_page(request: Request) -> Response:
    return render(request, "login.html", message="")


@routes.post("/login")
@public
async def login(request: Request, service: ServiceDep) -> Response:
    """Exchange a one-time code for a session."""
    body = await read_body(request, limit=FORM_BYTES, seconds=service.settings.body_seconds)
    code = parse_qs(body.decode("latin-1")).get("code", [""])[0].strip()
    try:
        secret = await sessions.redeem(service, code)
    except Refused as refusal:
        return render(request, "login.html", status=403, message=refusal.detail)
    response = RedirectResponse(f"{base(request)}/studies", 303)
    sessions.set_cookie(response, service, secret)
    return response


@routes.post("/logout")
@allow(Role.VIEWER, by="session")
async def logout(request: Request, service: ServiceDep) -> Response:
    await sessions.end(service, request.cookies[service.gate.cookie])
    response = Response(status_code=204, headers={"HX-Redirect": f"{base(request)}/login"})
    sessions.clear_cookie(response, service)
    return response
