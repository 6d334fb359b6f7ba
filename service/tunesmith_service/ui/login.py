"""The one-time link, the session's cookie, and the files that the login page needs."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from tunesmith_service import limits, sessions
from tunesmith_service.api.deps import ServiceDep
from tunesmith_service.core import Service
from tunesmith_service.errors import LoginCodeInvalid, NotFound, Refused, TooMany, Unauthorized
from tunesmith_service.parsing import read_body
from tunesmith_service.security import Policy, Role, allow, public
from tunesmith_service.ui import way_back
from tunesmith_service.ui.rendering import assets, base, render
from tunesmith_service.ui.routing import router
from tunesmith_service.ui.way_back import FIELD

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
    return render(request, "login.html", message="", to=way_back.kept(request.query_params.get(FIELD, "")))


@routes.get("/session")
@public
async def session(request: Request, service: ServiceDep) -> Response:
    """Whose session the browser has; name null: none. Never refused, for a page asks to know where to go."""
    try:
        who = await service.gate.admit(request, Policy(Role.VIEWER, "session"))
    except Unauthorized:
        who = None
    return JSONResponse({"name": who.name if who else None})


@routes.post("/login")
@public
async def login(request: Request, service: ServiceDep) -> Response:
    """Exchange a one-time code for a session."""
    address = limits.address_of(request)
    if wait := service.login_tries.take(address):
        said = f"Too many tries from {address}; try again in {wait} s."
        refused = render(request, "login.html", status=TooMany.status, message=said, to=way_back.HOME)
        refused.headers["Retry-After"] = str(wait)
        return refused
    body = await read_body(request, limit=FORM_BYTES, seconds=service.settings.body_seconds)
    sent = parse_qs(body.decode("latin-1"))
    code, to = (sent.get(name, [""])[0].strip() for name in ("code", FIELD))
    to = way_back.kept(to)
    before = request.cookies.get(service.gate.cookie, "")
    agent = request.headers.get("user-agent", "")
    try:
        secret = await sessions.redeem(service, code, user_agent=agent, before=before)
    except Refused as refusal:
        if isinstance(refusal, LoginCodeInvalid):
            service.gate.refusals.tell("no such code")
        return render(request, "login.html", status=403, message=refusal.detail, to=to)
    service.login_tries.forgive(address)
    response = RedirectResponse(f"{base(request)}/{to}", 303)
    sessions.set_cookie(response, service, secret)
    return response


@routes.post("/logout")
@allow(Role.VIEWER, by="session")
async def logout(request: Request, service: ServiceDep) -> Response:
    await sessions.end(service, request.cookies[service.gate.cookie])
    return left(request, service)


def left(request: Request, service: Service) -> Response:
    """What ending one's own session answers."""
    response = Response(status_code=204, headers={"HX-Redirect": f"{base(request)}/login"})
    sessions.clear_cookie(response, service)
    return response
