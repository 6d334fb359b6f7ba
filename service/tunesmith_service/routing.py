"""The one kind of route: it knows its policy, admits the request, then reads the body with our parser.

The order matters: nobody's body is read before we know that they may send one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from tunesmith_service.errors import Unprocessable
from tunesmith_service.parsing import parse_json, read_body
from tunesmith_service.security import Endpoint, policy_of


class PolicyMissingError(RuntimeError):
    """A route does not say who may use it; the server does not start."""


@dataclass(frozen=True, slots=True)
class _BodyRule:
    limit: int | None = None  # bytes; None: the setting
    free_text: bool = False


def takes(*, limit: int | None = None, free_text: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Declare that a route's JSON body may be longer than others, or hold NUL (see `parse_json`)."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.tunesmith_body = _BodyRule(limit, free_text)  # type: ignore[attr-defined]
        return endpoint

    return declare


class JsonRequest(Request):
    """A request whose body has been read and parsed by us; FastAPI finds it here."""

    def __init__(self, scope: Scope, receive: Receive, body: bytes, value: Any) -> None:
        super().__init__(scope, receive)
        self._read, self._value = body, value

    async def body(self) -> bytes:
        return self._read

    async def json(self) -> Any:
        return self._value


class Route(APIRoute):
    """A route that admits requests by its declared policy. See `security`."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if policy_of(endpoint) is None:
            raise PolicyMissingError(
                f"{sorted(options.get('methods') or ['GET'])} {path} declares no policy; "
                "put @allow(…) or @public on its function"
            )
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer, admitted = super().get_route_handler(), self.admission()

        async def guarded(request: Request) -> Response:
            return await answer(await admitted(request))

        return guarded

    def admission(self) -> Callable[[Request], Coroutine[Any, Any, Request]]:
        """Says whether a request may come in, and reads its body. Raises: what it is refused with."""
        policy = policy_of(self.endpoint)
        assert policy is not None
        rule = getattr(self.endpoint, "tunesmith_body", _BodyRule())
        reads_json = self.body_field is not None
        priorities = {method: policy.priority(method) for method in self.methods or ()}

        async def admitted(request: Request) -> Request:
            service = request.app.state.service
            request.state.priority = priorities.get(request.method)
            request.state.who = who = await service.gate.admit(request, policy)
            if who is not None:
                service.rates.check(who, request)
            if not reads_json:
                return request
            limit = rule.limit or service.settings.body_bytes
            body = await read_body(request, limit=limit, seconds=service.settings.body_seconds)
            depth = service.settings.json_depth
            value = _parsed(request, body, free_text=rule.free_text, depth=depth)
            return JsonRequest(request.scope, request.receive, body, value)

        return admitted


def _parsed(request: Request, body: bytes, *, free_text: bool, depth: int) -> Any:
    if not body:
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Unprocessable(
            f"send the body as Content-Type: application/json, not {kind[:100] or 'without one'}"
        )
    return parse_json(body, free_text=free_text, most_depth=depth)


router: Callable[..., APIRouter] = partial(APIRouter, route_class=Route, redirect_slashes=False)
"""What every module of routes is made with."""


def methods_at(app: FastAPI, path: str) -> list[str]:
    """What may be asked of a path of ours, whichever of its routes answers."""
    found = {
        method
        for context in iter_route_contexts(app.router.routes)
        if context.path_regex.match(path)
        for method in context.methods or ()
    }
    return sorted(found)


def check_policies(app: FastAPI) -> None:
    """Refuse to start with anything that answers requests beside our routes: a mount, a websocket, a
    plain route. Raises PolicyMissingError."""
    for context in iter_route_contexts(app.router.routes):
        if not isinstance(context.original_route, Route):
            raise PolicyMissingError(
                f"{context.path or context.original_route!r} is not a route with a policy"
            )
