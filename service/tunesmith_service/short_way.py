"""A short way for what workers ask without end: claims, reports, beats, logs and ends of trials.

The framework finds out anew for each request which of all routes it is for and what its function takes, opens
exit stacks and looks for telemetry: half of what such a request costs us, and we know the answers beforehand.
So these few are admitted, read and answered by the same functions as by any route, without what lies between.
Only a request that no two readers could take for another goes this way; whatever is unusual about it, such
as a query, goes the usual one, and `tests/service/test_short_way.py` compares the answers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi.params import Depends
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith_service import problems
from tunesmith_service.errors import TunesmithError
from tunesmith_service.routing import Route
from tunesmith_service.security import Endpoint, own_path

Take = Callable[[Request], Awaitable[Any]]
"""Gives an argument of a route's function, as the dependency of that name does."""

ID = "{trial_id}"
_PATH = re.compile(r"(/[a-z0-9/]*/)(0|[1-9][0-9]{0,14})(/[a-z]+)")
_MISSING = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}


def short(endpoint: Endpoint) -> Endpoint:
    """Declare that a POST may come by the short way. Its function takes a body and what `ShortWay` knows how
    to give; its path may hold a trial's id."""
    endpoint.tunesmith_short = True  # type: ignore[attr-defined]
    return endpoint


class ShortWay:
    """Between the routes and what holds for every request.

    Args:
        routes: those of the application.
        takes: by the function that an argument depends on.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Any], takes: Mapping[Callable[..., Any], Take]) -> None:
        self._app = app
        self._ways: dict[tuple[str, str], _Way] = {}
        for context in iter_route_contexts(routes):
            if getattr(context.endpoint, "tunesmith_short", False):
                route = context.original_route
                assert isinstance(route, Route)
                before, _, after = (context.path or "").partition(ID)
                self._ways[before, after] = _Way(route, takes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._way(scope) if scope["type"] == "http" else None
        if way is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await way.answer(request)
        except TunesmithError as error:
            response = problems.answer(request, error)
        except Exception as error:
            response = await problems.bug(request, error)
        await response(scope, receive, send)

    def _way(self, scope: Scope) -> _Way | None:
        """None: the usual one."""
        if scope["method"] != "POST" or scope["query_string"]:
            return None
        path = own_path(Request(scope))
        found = _PATH.fullmatch(path)
        if found is None:
            scope["path_params"] = {}
            return self._ways.get((path, ""))
        scope["path_params"] = {"trial_id": int(found[2])}
        return self._ways.get((found[1], found[3]))


class _Way:
    """One route's."""

    def __init__(self, route: Route, takes: Mapping[Callable[..., Any], Take]) -> None:
        assert route.status_code in (None, 200)
        self._endpoint, self._admitted = route.endpoint, route.admission()
        self._takes: list[tuple[str, Take]] = []
        hints = get_type_hints(route.endpoint, include_extras=True)
        more: list[Any]
        for name in inspect.signature(route.endpoint).parameters:
            hint, more = hints[name], []
            if get_origin(hint) is Annotated:
                hint, *more = get_args(hint)
            depends = [m.dependency for m in more if isinstance(m, Depends)]
            if depends and depends[0] is not None:
                self._takes.append((name, takes[depends[0]]))
            elif hint is Request:
                self._takes.append((name, _itself))
            else:  # last of all, as the framework looks at it
                self._body, self._model, self._may_lack = name, *_model(hint)

    async def answer(self, request: Request) -> Response:
        """Raises: what the request is refused with."""
        request = await self._admitted(request)
        given = {name: await take(request) for name, take in self._takes}
        is_empty = not await request.body()
        given[self._body] = self._read(await request.json(), is_empty=is_empty)
        reply: BaseModel = await self._endpoint(**given)
        return Response(reply.model_dump_json(), media_type="application/json")

    def _read(self, value: Any, *, is_empty: bool) -> BaseModel | None:
        if value is None and self._may_lack:
            return None
        if is_empty:
            raise problems.unprocessable([_MISSING], value)
        try:
            return self._model.model_validate(value)
        except ValidationError as wrong:
            found = [{**e, "loc": ("body", *e["loc"])} for e in wrong.errors()]
            raise problems.unprocessable(found, value) from None


async def _itself(request: Request) -> Request:
    return request


def _model(hint: Any) -> tuple[type[BaseModel], bool]:
    """A body's model, and whether it may be missing."""
    kinds = get_args(hint) or (hint,)
    (model,) = (kind for kind in kinds if kind is not NoneType)
    assert issubclass(model, BaseModel)
    return model, NoneType in kinds
