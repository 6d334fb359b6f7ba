"""Errors as RFC 9457 problem documents: `application/problem+json`, `urn:tunesmith:<type>`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tunesmith_service.errors import (
    FAULT,
    NotFound,
    TooMany,
    TunesmithError,
    Unauthorized,
    Unavailable,
    Unprocessable,
)
from tunesmith_service.routing import methods_at
from tunesmith_service.security import own_path

RETRY_AFTER_SECONDS = 1
CLIENT_CLOSED = 499  # nobody is there to read it; only the log sees the number

log = structlog.get_logger(__name__)


def install(app: FastAPI) -> None:
    """Make this the app's one way of saying no."""
    app.add_exception_handler(TunesmithError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, bug)


def answer(request: Request, error: TunesmithError) -> Response:
    """The problem document of an error."""
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    headers |= retry_after(error)
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body shall not be taken for a request
    return _document(
        request, error.status, error.type, error.detail, headers, errors=error.errors, outcome=error.outcome
    )


def retry_after(error: TunesmithError) -> dict[str, str]:
    """The header that says when to try again, if that may help."""
    match error:
        case TooMany():
            return {"Retry-After": str(error.retry_after_seconds)}
        case Unavailable():
            return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return {}


def _document(
    request: Request, status: int, kind: str, detail: str, headers: Mapping[str, str], **more: Any
) -> Response:
    document = {
        "type": f"urn:tunesmith:{kind}",
        "title": kind.replace("_", " "),
        "status": status,
        "detail": detail,
        "request_id": request.scope.get("state", {}).get("request_id"),
        **{k: v for k, v in more.items() if v},
    }
    return Response(
        json.dumps(document, allow_nan=False), status, dict(headers), media_type="application/problem+json"
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, TunesmithError)
    return answer(request, error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(request, unprocessable(error.errors(), error.body))


async def _plain(request: Request, error: Exception) -> Response:
    """What the framework itself says: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    if error.status_code == NotFound.status:
        return answer(request, NotFound(f"nothing lives at {request.url.path[:200]}"))
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    detail = f"{request.method} {request.url.path[:200]}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # the framework knows the first route's alone
        headers["Allow"] = ", ".join(methods_at(request.app, own_path(request)))
    return _document(request, error.status_code, kind, detail, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def bug(request: Request, error: Exception) -> Response:
    """What is told where we have failed."""
    log.error("request.failed", path=request.url.path, exc_info=error)
    return _document(request, 500, "internal", FAULT, {})


def unprocessable(errors: Sequence[Any], body: Any, *, prefix: Sequence[str] = ("body",)) -> Unprocessable:
    """pydantic's errors as pointers into what was sent, and one sentence for a person."""
    listed = [{"pointer": _pointer(e, body, prefix), "message": _message(e)} for e in errors]
    shown = "; ".join(f"{e['pointer']}: {e['message']}" if e["pointer"] else e["message"] for e in listed[:3])
    more = f" (and {len(listed) - 3} more)" if len(listed) > 3 else ""
    return Unprocessable(shown + more, errors=listed)


def from_validation(error: ValidationError, body: Any) -> Unprocessable:
    """The same for a model that a route checks by itself."""
    return unprocessable(error.errors(), body, prefix=())


def _pointer(error: Mapping[str, Any], body: Any, prefix: Sequence[str]) -> str:
    """A JSON pointer (RFC 6901). pydantic's places also name the member of a union that was tried;
    those steps do not exist in what was sent, so they are left out."""
    steps: list[str | int] = list(error["loc"])
    if prefix and steps and steps[0] != prefix[0]:
        return ":".join(str(s) for s in steps)  # such as query:limit
    steps = steps[len(prefix) :]
    found: list[str] = []
    here, kind = body, _kind(body)
    for at, step in enumerate(steps):
        if kind is not None and step == kind:
            kind = None  # names the member, even where a field bears the same name (a sampler's sampler)
            continue
        inner = _step(here, step)
        if inner is not None:
            here, kind = inner[0], _kind(inner[0])
        elif at < len(steps) - 1 or error["type"] != "missing":
            continue  # a union's member, or a type that was tried on a plain value
        found.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{step}" for step in found)


def _kind(here: Any) -> Any:
    """By which word a value chose its member of a union."""
    return here.get("kind") if isinstance(here, dict) else None


def _step(here: Any, step: str | int) -> tuple[Any] | None:
    """What lies one step further in, or None if there is nothing."""
    if isinstance(here, dict) and step in here:
        return (here[step],)
    if isinstance(here, list) and isinstance(step, int) and step < len(here):
        return (here[step],)
    return None


def _message(error: Mapping[str, Any]) -> str:
    context = error.get("ctx") or {}
    field = str(context.get("discriminator", "")).strip("'")
    got = _got(error.get("input"))
    match error["type"]:
        case "union_tag_invalid":
            said = f"unknown {field} {context['tag']!r}; it is one of {context['expected_tags']}"
        case "union_tag_not_found":
            said = f"{field} is missing"
        case "missing":
            said = "is missing"
        case "extra_forbidden":
            said = "is not a field here; check its spelling"
        case "model_type" | "model_attributes_type" | "dict_type":
            said = f"holds settings of its own, such as {{kind: …}}{got}"
        case "tuple_type" | "list_type":
            said = f"may be a list{got}"
        case _:  # our own words hold the numbers already, pydantic's do not
            said = str(error["msg"]).removeprefix("Value error, ")
            said += got if said.startswith("Input should") else ""
    return said


def _got(value: Any) -> str:
    """What was sent, where that is short."""
    plain = isinstance(value, str | int | float | None)
    return f", got {json.dumps(value, ensure_ascii=False)}" if plain and len(str(value)) <= 60 else ""
