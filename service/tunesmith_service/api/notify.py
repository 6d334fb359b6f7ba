"""Notifications: who is told of what, a message to try them, and what was sent. For operators alone, since a
target makes this server call an address."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path
from pydantic import Field

from tunesmith_service import news, sending
from tunesmith_service.api import examples
from tunesmith_service.api.deps import Cursor, Limit, ServiceDep, WhoDep, cursor_number, problem
from tunesmith_service.api.models import Answer, Moment, Page, Question, moment
from tunesmith_service.clock import SECOND
from tunesmith_service.notices import AddTarget, Event, QueueTest, RemoveTarget
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

routes: APIRouter = router(prefix="/notify", tags=["notifications"])

TargetName = Annotated[str, Path(max_length=128, examples=["lab channel"])]
USUAL: tuple[Event, ...] = (
    "study_complete",
    "study_stopped",
    "stage_failed",
    "trial_failed",
    "finding",
    "stuck",
)


NAME_PATTERN = r"^[^\x00-\x1f\x7f/]*[^\x00-\x1f\x7f/.][^\x00-\x1f\x7f/]*$"
"""It stands in addresses, where a slash, or dots alone, would lead elsewhere."""


class NewTarget(Question):
    name: str = Field(min_length=1, max_length=128, pattern=NAME_PATTERN)
    kind: Literal["webhook", "slack", "email"]
    to: str = Field(min_length=3, max_length=2048, description="A URL, or an e-mail's address.")
    events: list[Event] = Field(default=list(USUAL), min_length=1, max_length=20)


class Target(Answer):
    """Who is told. Of a URL only the host is shown, since the rest may be a secret."""

    name: str
    kind: str
    to: str
    events: list[str]
    created_at: Moment


class TargetCreated(Answer):
    """The only time that a webhook's secret is shown."""

    name: str
    secret: str | None


class Delivery(Answer):
    id: str = Field(description="The same at each try; a receiver knows by it what came twice.")
    target: str
    study: str | None
    event: str
    text: str
    state: str = Field(description="waiting, delivered, or failed: nobody took it.")
    tries: int
    said: str | None = Field(description="What the last try came to.")
    created_at: Moment
    next_at: Moment | None = Field(description="When it is tried next.")
    ended_at: Moment | None


@routes.get("/targets", responses=examples.page(examples.TARGET))
@allow(Role.OPERATOR)
async def list_targets(service: ServiceDep, who: WhoDep) -> Page[Target]:
    """Who is told of what."""
    return Page(items=[_target(row) for row in await service.read(news.all_targets)])


@routes.post(
    "/targets", status_code=201, responses=problem(409, 422) | examples.answer(examples.TARGET_CREATED, 201)
)
@allow(Role.OPERATOR)
async def add_target(
    body: Annotated[NewTarget, Body(openapi_examples=examples.request(examples.NEW_TARGET))],
    service: ServiceDep,
    who: WhoDep,
) -> TargetCreated:
    """Tell somebody of what happens from now on. The secret that signs a webhook's messages is in this answer
    alone."""
    sending.check(body.kind, body.to, service.settings)
    secret = secrets.token_urlsafe(32) if body.kind == "webhook" else None
    await service.writer.submit(AddTarget(body.name, body.kind, body.to, tuple(body.events), secret))
    return TargetCreated(name=body.name, secret=secret)


@routes.delete("/targets/{name}", status_code=204, responses=problem(404))
@allow(Role.OPERATOR)
async def remove_target(name: TargetName, service: ServiceDep, who: WhoDep) -> None:
    """Tell them no more; what still waits for them is not sent, and their part of the log goes."""
    await service.writer.submit(RemoveTarget(name))


@routes.post(
    "/targets/{name}/test", status_code=202, responses=problem(404) | examples.answer(examples.TESTED, 202)
)
@allow(Role.OPERATOR)
async def test_target(name: TargetName, service: ServiceDep, who: WhoDep) -> dict[str, str]:
    """Send them a message that says that it is a test. The log says what became of it, by this id."""
    key = secrets.token_hex(16)
    now_us = service.clock.now_us()
    said = news.News("test", 0, now_us // SECOND * SECOND, "This is a test of Tunesmith's notifications")
    body = news.message("", said, service.settings.address, 0) | {"url": service.settings.address}
    await service.writer.submit(QueueTest(name, key, body))
    return {"id": key}


@routes.get("/deliveries", responses=problem(422) | examples.page(examples.DELIVERY))
@allow(Role.OPERATOR)
async def list_deliveries(
    service: ServiceDep, who: WhoDep, *, cursor: Cursor = None, limit: Limit = 100
) -> Page[Delivery]:
    """What was sent, or waits to be, the newest first; kept for 30 days."""
    before = None if cursor is None else cursor_number(cursor)
    rows = await service.read(news.log_page, before, limit)
    more = str(rows[-1]["id"]) if len(rows) == limit else None
    return Page(items=[_delivery(row) for row in rows], next_cursor=more)


def _target(row: Any) -> Target:
    to = row["destination"]
    if row["kind"] != "email":
        scheme, _, rest = to.partition("://")
        to = f"{scheme}://{rest.partition('/')[0].partition('?')[0]}/…"
    at = moment(row["created_us"])
    return Target(name=row["name"], kind=row["kind"], to=to, events=row["events"], created_at=at)


def _delivery(row: Any) -> Delivery:
    is_waiting = row["state"] == "waiting"
    return Delivery(
        id=row["key"], target=row["target"], study=row["study"], event=row["event"], text=row["body"]["text"],
        state=row["state"], tries=row["tries"], said=row["said"], created_at=moment(row["created_us"]),
        next_at=moment(row["due_us"]) if is_waiting else None, ended_at=moment(row["ended_us"]),
    )  # fmt: skip
