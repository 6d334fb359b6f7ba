"""The HTTP application: routers, the one error handler, start and stop."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith_service import problems
from tunesmith_service.api import (
    again,
    audit,
    charts,
    claims,
    cloning,
    comparing,
    csp_reports,
    exports,
    fleet,
    health,
    importing,
    keeping,
    leases,
    metrics,
    notify,
    openapi,
    reports,
    sessions,
    studies,
    tokens,
    trials,
)
from tunesmith_service.api.deps import get_service, get_who
from tunesmith_service.clock import Clock
from tunesmith_service.compression import Compression
from tunesmith_service.core import Service
from tunesmith_service.errors import Refused, TunesmithError
from tunesmith_service.headers import REQUEST_ID_HEADER, harden
from tunesmith_service.metrics import Metrics
from tunesmith_service.origin import answering
from tunesmith_service.routing import check_policies
from tunesmith_service.security import LOOPBACK_NAMES, check_host, check_origin, check_site
from tunesmith_service.settings import Settings
from tunesmith_service.shedding import Priorities, Shedding
from tunesmith_service.short_way import ShortWay, Take

PAGES = "tunesmith_service.ui.pages"

access = structlog.get_logger("tunesmith.access")


def create_app(settings: Settings, clock: Clock | None = None, *, writes_apart: bool = False) -> FastAPI:
    """The application, ready to be served; its lifespan starts and stops the service.

    `app.state.service` is the `core.Service`. Raises: routing.PolicyMissingError.
    """
    service = Service(settings, clock, writes_apart=writes_apart)
    pages = import_module(PAGES) if find_spec(PAGES) is not None else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        # In a thread, and not waited for: who waits for a server that starts is a worker, not a page.
        warming = asyncio.create_task(asyncio.to_thread(pages.warm_up)) if pages is not None else None
        try:
            yield
        finally:
            await service.stop()
            if warming is not None:
                await warming

    app = Application(
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
    app.include_router(metrics.routes)
    app.include_router(csp_reports.routes)
    for module in (
        claims, leases, studies, cloning, keeping, exports, reports, comparing, trials, again, importing,
        charts, fleet, tokens, sessions, audit, notify, openapi,
    ):  # fmt: skip
        app.include_router(module.routes, prefix="/api/v1")
    if pages is not None:
        app.include_router(pages.routes)
    check_policies(app)
    shedding = Shedding(service.places, Priorities(app.routes), service.vouches, settings.prefix)
    app.state.shedding = shedding
    return app


class Application(FastAPI):
    """FastAPI behind our front door. What is ours is outermost: a request that takes the short way meets
    nothing of the framework's."""

    def build_middleware_stack(self) -> ASGIApp:
        service: Service = self.state.service
        takes: dict[Callable[..., Any], Take] = {
            get_service: get_service, get_who: get_who, leases.get_lease: leases.take_lease,
        }  # fmt: skip
        usual = super().build_middleware_stack()
        answered = Compression(ShortWay(usual, routes=self.routes, takes=takes))
        return FrontDoor(answered, service.settings, self.state.shedding, service.metrics)


def _prefixed(scope: Scope, prefix: str) -> None:
    """Say where a proxy has put us, as ASGI does: the path with its prefix, whether the proxy cuts that off
    or leaves it. What is asked of us directly, without it, is answered alike."""
    path = scope["path"]
    scope["root_path"] = prefix
    if path == prefix:
        scope["path"] = f"{prefix}/"
    elif not path.startswith(f"{prefix}/"):
        scope["path"] = prefix + path


class FrontDoor:
    """What holds for every request, whatever answers it: an id, our own host name and origin, sane
    sizes, a place to be worked on, security headers, and a line in the log."""

    def __init__(self, app: ASGIApp, settings: Settings, shedding: Shedding, metrics: Metrics) -> None:
        self._app, self._shedding, self._metrics = app, shedding, metrics
        self._url_bytes, self._header_bytes = settings.url_bytes, settings.header_bytes
        self._public_url, self._prefix = settings.public_url, settings.prefix
        named = {urlsplit(settings.public_url).hostname or "", settings.host, *settings.allowed_hosts}
        self._hosts = frozenset({n.lower() for n in named if n} | LOOPBACK_NAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        _prefixed(scope, self._prefix)
        started = time.monotonic()
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.append(REQUEST_ID_HEADER, request_id)
                harden(headers, scope)
            await send(message)

        with answering(scope):
            try:
                await self._answer(scope, receive, note)
            finally:
                seconds = time.monotonic() - started
                if status:  # else nobody was there to be answered
                    self._metrics.answered(status, scope["state"].get("priority"), seconds)
                if status >= 400:
                    path, ms = scope["path"][:200], round(seconds * 1000, 1)
                    access.info("request", method=scope["method"], path=path, status=status, ms=ms)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            place = await self._shedding.place_for(scope)
        except TunesmithError as error:
            await problems.answer(Request(scope), error)(scope, receive, send)
            return
        scope["state"]["place"] = place
        try:
            await self._app(scope, receive, send)
        finally:
            place.leave()

    def _check(self, scope: Scope) -> None:
        if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > self._url_bytes:
            raise Refused(f"the URL is longer than {self._url_bytes} bytes")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._header_bytes:
            raise Refused(f"the headers are longer than {self._header_bytes} bytes")
        told = dict(reversed(scope["headers"]))  # of several of a name the first counts, as everywhere
        host, origin, site = (_text(told.get(name)) for name in (b"host", b"origin", b"sec-fetch-site"))
        check_host(host or "", self._hosts)
        check_origin(
            scope["method"], origin, scheme=scope["scheme"], host=host or "", public_url=self._public_url
        )
        check_site(scope["method"], site)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
