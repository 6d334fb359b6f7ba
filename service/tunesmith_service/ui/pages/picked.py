"""What a person may do with several trials at once: try again those that failed, give tags and take them."""

from __future__ import annotations

from fastapi import Request
from pydantic import ValidationError
from sqlalchemy import Connection, select
from starlette.responses import Response

from tunesmith_service.api import models
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.api.keeping import tag_trials
from tunesmith_service.errors import Conflict, Unprocessable
from tunesmith_service.parsing import whole_number
from tunesmith_service.problems import from_validation
from tunesmith_service.security import Role, allow
from tunesmith_service.tables import trials
from tunesmith_service.ui import screens
from tunesmith_service.ui.pages.common import StudyId, fields, lead_to, refresh
from tunesmith_service.ui.routing import router
from tunesmith_service.wishes import Retry

routes = router(include_in_schema=False)


@routes.post("/ui/studies/{study_id}/picked/again")
@allow(Role.RESEARCHER, by="session")
async def again(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    """Those among the trials that failed or were cancelled, all or none; leads to the new ones."""
    await service.read(screens.visible, who, study_id)
    sent = await fields(request, service)
    ended = await service.read(_ended_badly, study_id, _numbers(sent.get("trials", "")))
    if not ended:
        raise Conflict("None of the selected trials failed or was cancelled: nothing is to be tried again.")
    numbers = await service.writer.submit(Retry(study_id, tuple(ended), who.actor))
    return lead_to(request, f"/studies/{study_id}/explore?filter=number:{','.join(map(str, numbers))}")


@routes.post("/ui/studies/{study_id}/picked/tag")
@allow(Role.RESEARCHER, by="session")
async def tag(request: Request, service: ServiceDep, who: WhoDep, study_id: StudyId) -> Response:
    study = await service.read(screens.visible, who, study_id)
    sent = await fields(request, service)
    words = {name: _words(sent.get(name, "")) for name in ("add", "remove")}
    if not any(words.values()):
        raise Unprocessable("Write a tag to give or to take away.")
    data = {"trials": _numbers(sent.get("trials", "")), **words}
    try:
        body = models.Tagging.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, data) from error
    await tag_trials(study, body, service, who)
    return refresh()


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _numbers(text: str) -> list[int]:
    return [n for word in text.split(",") if (n := whole_number(word)) is not None]


def _ended_badly(conn: Connection, study_id: int, numbers: list[int]) -> list[int]:
    wanted = select(trials.c.number).where(
        trials.c.study_id == study_id, trials.c.number.in_(numbers), trials.c.kind == "train",
        trials.c.state.in_(("failed", "cancelled")),
    )  # fmt: skip
    return list(conn.execute(wanted.order_by(trials.c.number)).scalars())
