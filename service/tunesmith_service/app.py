"""The HTTP application: routers, the one error handler, start and stop."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith_service import problems
from tunesmith_service.api import claims, fleet, health, leases, openapi, studies, tokens, trials
from tunesmith_service.clock import Clock
from tunesmith_service.core import Service
from tunesmith_service.errors import Refused, TunesmithError
from tunesmith_service.routing import check_policies
from tunesmith_service.security import LOOPBACK_NAMES, check_host, check_origin
from tunesmith_service.settings import Settings

MAX_URL_BYTES = 4096
MAX_HEADER_BYTES = 16_384
REQUEST_ID_HEADER = "Tunesmith-Request-Id"
PAGES = "tunesmith_service.ui.pages"

access = structlog.get_logger("tunesmith.access")


def create_app(settings: Settings, clock: Clock | None = None) -> FastAPI:
    """The application, ready to be served; its lifespan starts and stops the service.

    `app.state.service` is the `core.Service`. Raises: routing.PolicyMissingError.
    """
    service = Service(settings, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="Tunesmith",
        summary="Staged hyperparameter searches over REST.",
        version=version("tunesmith"),
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    problems.install(app)
    app.include_router(health.routes)
    for module in (claims, leases, studies, trials, fleet, tokens, openapi):
        app.include_router(module.routes, prefix="/api/v1")
    if find_spec(PAGES) is not None:
        app.include_router(import_module(PAGES).routes)
    check_policies(app)
    app.add_middleware(FrontDoor, settings=settings)
    return app


class FrontDoor:
    """What holds for every request, whatever answers it: an id, our own host name and origin, sane
    sizes, and a line in the log."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._public_url = settings.public_url
        named = {urlsplit(settings.public_url).hostname or "", settings.host, *settings.allowed_hosts}
        self._hosts = frozenset({n.lower() for n in named if n} | LOOPBACK_NAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                self._check(scope)
            except TunesmithError as error:
                await problems.answer(Request(scope), error)(scope, receive, note)
            else:
                await self._app(scope, receive, note)
            ms = round((time.monotonic() - started) * 1000, 1)
            line = access.info if status >= 400 else access.debug
            line("request", method=scope["method"], path=scope["path"][:200], status=status, ms=ms)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > MAX_URL_BYTES:
            raise Refused(f"the URL is longer than {MAX_URL_BYTES} bytes")
        if sum(len(k) + len(v) for k, v in headers.raw) > MAX_HEADER_BYTES:
            raise Refused(f"the headers are longer than {MAX_HEADER_BYTES} bytes")
        host = headers.get("host", "")
        check_host(host, self._hosts)
        check_origin(
            scope["method"],
            headers.get("origin"),
            scheme=scope["scheme"],
            host=host,
            public_url=self._public_url,
        )
