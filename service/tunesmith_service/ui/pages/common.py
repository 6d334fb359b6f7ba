"""What every page's module uses: who asks, which study, and how a page is rendered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

from fastapi import Path, Query
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tunesmith_service.api.deps import MAX_ID
from tunesmith_service.core import Service
from tunesmith_service.documents import Unread, View, shown
from tunesmith_service.errors import Unavailable, Unprocessable
from tunesmith_service.parsing import read_body
from tunesmith_service.security import Who, masked
from tunesmith_service.ui.rendering import base, render

FORM_BYTES = 32_768
"""Of a form; a reason of 2000 characters, each percent-encoded in four bytes, fits."""

TABS = (
    ("overview", ""),
    ("explore", "/explore"),
    ("lineage", "/lineage"),
    ("failures", "/failures"),
    ("pruning", "/pruning"),
    ("config", "/config"),
    ("events", "/events"),
    ("notes", "/notes"),
)
"""A study's pages: name and path behind the study's own."""
WITHOUT_CHARTS = ("config", "events", "notes")

StudyId = Annotated[int, Path(ge=1, le=MAX_ID)]
Number = Annotated[int, Path(ge=0, le=MAX_ID)]
Metric = Annotated[str, Query(max_length=128)]
Asked = TypeVar("Asked", bound=BaseModel)
StageName = Annotated[str, Path(max_length=128)]


def page(request: Request, who: Who, template: str, *, section: str = "studies", **context: Any) -> Response:
    """A page or a part of one; `section` is what the navigation marks."""
    return render(request, template, who=who, csrf=masked(who.csrf), section=section, **context)


def tab(request: Request, who: Who, template: str, name: str, **context: Any) -> Response:
    """A page of a study, which extends `study_frame.html`; `name` is one of TABS."""
    response = page(request, who, template, tab=name, tabs=TABS, **context)
    if name not in WITHOUT_CHARTS:
        response.background = BackgroundTask(_read_ahead, request.app.state.service, context["study"].id)
    return response


async def _read_ahead(service: Service, study_id: int) -> None:
    """What the page's charts will ask for, while the browser still loads what draws them."""
    with suppress(Unavailable):
        await service.read(service.columns.get, study_id)


async def drawn(
    request: Request,
    service: Service,
    query: type[Asked],
    find: Callable[[Connection, Asked], View | Unread],
) -> Response:
    """A chart's view as JSON. A question that makes no sense, such as a filter half typed, is answered with
    what is `wrong`: a browser writes every error status on its console."""

    try:
        asked = query.model_validate(dict(request.query_params))
        return JSONResponse(await shown(service, lambda conn: find(conn, asked)))
    except Unprocessable as e:
        return JSONResponse({"wrong": e.detail})
    except ValidationError as e:
        first = e.errors()[0]
        return JSONResponse({"wrong": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"})


def refresh() -> Response:
    """What a change answers after which the whole page is to be loaded anew."""
    return Response(status_code=204, headers={"HX-Refresh": "true"})


def lead_to(request: Request, path: str) -> Response:
    """What a change answers after which another page is to be shown."""
    return Response(status_code=204, headers={"HX-Redirect": f"{base(request)}{path}"})


async def fields(request: Request, service: Service, *, limit: int = FORM_BYTES) -> dict[str, str]:
    """A form's fields, the first value of each. Raises what `form` does."""
    return {name: values[0] for name, values in (await form(request, service, limit=limit)).items()}


async def form(request: Request, service: Service, *, limit: int = FORM_BYTES) -> dict[str, list[str]]:
    """A form's fields as they were sent, each with all its values. Raises what `read_body` does."""
    body = await read_body(request, limit=limit, seconds=service.settings.body_seconds)
    return parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
