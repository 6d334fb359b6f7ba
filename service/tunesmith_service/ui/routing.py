"""A route of the dashboard: its refusals are pages, and every answer carries the security headers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from tunesmith_service.errors import Forbidden, NotFound, TunesmithError, Unauthorized
from tunesmith_service.problems import retry_after, unprocessable
from tunesmith_service.routing import Route
from tunesmith_service.security import SAFE_METHODS
from tunesmith_service.ui import way_back
from tunesmith_service.ui.rendering import base, page_headers, render


class PageRoute(Route):
    """See `routing.Route`; without a session it leads to the login page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                _check_page_origin(request)
                response = await answer(request)
            except Unauthorized:
                response = _to_login(request)
            except TunesmithError as error:
                response = _refusal(request, error)
                response.headers.update(retry_after(error))
            except RequestValidationError as error:
                response = _refusal(request, _unreadable(error))
            for name, value in page_headers(request).items():
                response.headers.setdefault(name, value)
            return response

        return page


def _unreadable(error: RequestValidationError) -> TunesmithError:
    """An address that was typed, or a link that was cut."""
    if any(e["loc"][0] == "path" for e in error.errors()):
        return NotFound("there is no such page; the list of studies leads to those there are")
    return unprocessable(error.errors(), error.body)


def _check_page_origin(request: Request) -> None:
    """Browsers name the Origin of every change, so one without it is no page of ours. (That it is
    the right one is checked for every route.)"""
    if request.method not in SAFE_METHODS and "origin" not in request.headers:
        raise Forbidden("changes under /ui/ come from a page of this dashboard; programs use /api/v1")


def _to_login(request: Request) -> Response:
    """A page that is asked for leads to the login page. Scripts of an open page are told instead: it may hold
    what somebody has typed, so what becomes of it is `session.js`'s to say."""
    kind = request.headers.get("accept", "")
    is_script = "hx-request" in request.headers or kind in ("application/json", "text/event-stream")
    if request.method in SAFE_METHODS and not is_script:
        return RedirectResponse(way_back.to_login(base(request), way_back.asked(request)), 303)
    return PlainTextResponse("Your session has ended; log in again.", 401)


def _refusal(request: Request, error: TunesmithError) -> Response:
    if "hx-request" in request.headers:
        return PlainTextResponse(error.detail, error.status)
    title = HTTPStatus(error.status).phrase.capitalize()
    detail = error.detail[:1].upper() + error.detail[1:] + ("" if error.detail.endswith(".") else ".")
    return render(request, "problem.html", status=error.status, title=title, detail=detail)


router: Callable[..., APIRouter] = partial(APIRouter, route_class=PageRoute, redirect_slashes=False)
