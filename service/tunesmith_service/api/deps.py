"""What routes ask for: the service, who is calling, and the rows that a path names."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Path, Query, Request

from tunesmith_service import store, trial_store
from tunesmith_service.core import Service
from tunesmith_service.errors import NotFound, Unprocessable
from tunesmith_service.once import Idempotency
from tunesmith_service.security import Who, own_path

MAX_ID = 2**53


async def get_service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


async def get_who(request: Request) -> Who:
    """Who the route's policy let in."""
    who = request.state.who
    assert isinstance(who, Who)
    return who


ServiceDep = Annotated[Service, Depends(get_service)]
WhoDep = Annotated[Who, Depends(get_who)]

StudyPath = Annotated[
    str, Path(description="A study's id or name.", max_length=128, examples=["digits-demo"])
]
NumberPath = Annotated[int, Path(description="A trial's number in its study.", ge=0, le=MAX_ID, examples=[4])]
TrialIdPath = Annotated[
    int, Path(description="The trial's id, as the grant says.", ge=0, le=MAX_ID, examples=[12])
]
Limit = Annotated[int, Query(description="Items in a page.", ge=1, le=1000)]
TextCursor = Annotated[str | None, Query(description="`next_cursor` of the page before.", max_length=128)]
Cursor = Annotated[
    str | None,
    Query(
        description="`next_cursor` of the page before.",
        max_length=128,
        json_schema_extra={"pattern": "^[0-9]{1,16}$"},
    ),
]


def one_of(names: Iterable[str]) -> Any:
    """A path's part that is one of these names; any other is told 404."""
    known = list(names)
    return Path(description=f"One of {', '.join(known)}.", max_length=32, json_schema_extra={"enum": known})


async def get_study(service: ServiceDep, who: WhoDep, study: StudyPath) -> store.Study:
    """The study that the path names, if this token may see it; else it does not exist."""
    found = await service.read(store.find_study, who.project_id, study)
    if found is None:
        raise NotFound(f"no study {study!r}; GET /api/v1/studies lists those there are")
    return found


StudyDep = Annotated[store.Study, Depends(get_study)]


async def get_trial(service: ServiceDep, study: StudyDep, number: NumberPath) -> trial_store.Trial:
    found = await service.read(trial_store.find_trial, study.id, number)
    if found is None:
        raise NotFound(f"study {study.name} has no trial {number}")
    return found


TrialDep = Annotated[trial_store.Trial, Depends(get_trial)]


async def idempotency(
    request: Request,
    who: WhoDep,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key and body again get the stored answer, for at least 24 h.",
            min_length=1,
            max_length=255,
        ),
    ] = None,
) -> Idempotency | None:
    if key is None:
        return None
    body = await request.body()
    scope = f"{who.token_id}:{own_path(request)}"
    if len(scope) > 255:
        raise Unprocessable("the path is too long for an Idempotency-Key; name the study by its id")
    return Idempotency(scope, key, hashlib.sha256(body).digest())


IdempotencyDep = Annotated[Idempotency | None, Depends(idempotency)]


def cursor_number(cursor: str | None) -> int | None:
    """What a cursor of ours holds. Raises Unprocessable for anything else."""
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > 16:
        raise Unprocessable("cursor is not one of ours; begin again without it")
    return int(cursor)


def address_of(request: Request) -> str:
    """How people reach this server, without a slash at the end: as it was told, else as this one did."""
    service: Service = request.app.state.service
    return service.settings.public_url or str(request.base_url).rstrip("/")


def watch_socket(request: Request) -> asyncio.Future[None]:
    """A future that is done when the client goes away. Cancel it in the end. Only for routes whose
    body has been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return asyncio.ensure_future(gone())


def problem(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document which problems a route answers with, beside those that any may (see `openapi`)."""
    return {s: {"description": PROBLEM_TITLES[s], "model": None} for s in statuses}


PROBLEM_TITLES = {
    404: "No such study, trial or blob, or none that this token may see.",
    409: "Refused as things stand; `type` says why.",
    412: "It was changed since; `outcome` has what it is now.",
    413: "The body is too long.",
    422: "The request is understood and wrong; `errors` points at the places.",
    507: "The service's disk is nearly full.",
}
