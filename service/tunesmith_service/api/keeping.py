"""What is kept of studies, and what not: archive, delete, notes, tags."""

from __future__ import annotations

import re
from typing import Annotated

import structlog
from fastapi import APIRouter, Body, Header, Query
from starlette.responses import Response

from tunesmith_service import store, trial_filter
from tunesmith_service.api import examples, models
from tunesmith_service.api.deps import ServiceDep, StudyDep, WhoDep, problem
from tunesmith_service.core import Service
from tunesmith_service.errors import Unprocessable
from tunesmith_service.routing import router
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.wishes import DeleteStudy, PutAway, TagTrials, WriteNote

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/studies/{study}", tags=["studies"])

IF_MATCH = "If-Match"
_ETAG = re.compile(r'(?:W/)?(?:"([0-9]{1,16})"|([0-9]{1,16}))')
IfMatch = Annotated[
    str,
    Header(
        alias=IF_MATCH,
        description="The note's ETag as you read it.",
        examples=['"0"'],
        json_schema_extra={"pattern": '^(W/)?("[0-9]{1,16}"|[0-9]{1,16})$'},
    ),
]


@routes.post("/archive", responses=problem(404, 409) | examples.answer(examples.PUT_AWAY))
@allow(Role.RESEARCHER)
async def archive_study(study: StudyDep, service: ServiceDep, who: WhoDep) -> models.PutAway:
    """Put a study away that is not active: lists leave it out unless asked. Nothing is lost."""
    return await _put_away(study, True, service, who)


@routes.post(
    "/unarchive", responses=problem(404, 409) | examples.answer(examples.PUT_AWAY | {"archived": False})
)
@allow(Role.RESEARCHER)
async def unarchive_study(study: StudyDep, service: ServiceDep, who: WhoDep) -> models.PutAway:
    """Bring a study back that was put away."""
    return await _put_away(study, False, service, who)


async def _put_away(study: store.Study, archived: bool, service: Service, who: Who) -> models.PutAway:
    await service.writer.submit(PutAway(study.id, archived, who.actor))
    log.info("study.archived", study=study.name, archived=archived, actor=who.actor)
    return models.PutAway(id=study.id, name=study.name, archived=archived)


@routes.delete("", status_code=204, responses=problem(404, 409, 422))
@allow(Role.ADMIN)
async def delete_study(
    study: StudyDep,
    service: ServiceDep,
    who: WhoDep,
    name: Annotated[str, Query(description="The study's exact name, so that no other goes.", max_length=128)],
) -> Response:
    """Delete a study that has ended, with its trials, curves and snapshots. There is no way back."""
    await delete(service, study, name, who)
    return Response(status_code=204)


async def delete(service: Service, study: store.Study, name: str, who: Who) -> None:
    """Piece by piece, so that workers' reports come in between. Raises what the command is refused with."""
    while not await service.writer.submit(DeleteStudy(study.id, name, who.actor)):
        pass
    service.forget_study(study.id)
    log.info("study.deleted", study=study.name, study_id=study.id, actor=who.actor)


@routes.get("/note", responses=problem(404) | examples.answer(examples.NOTED))
@allow(Role.VIEWER)
async def get_note(study: StudyDep, service: ServiceDep, response: Response) -> models.Note:
    """What people wrote about a study. The ETag is what an edit names in `If-Match`."""
    note = await service.read(store.note, study.id)
    response.headers["ETag"] = f'"{note.version}"'
    return models.Note(text=note.text, version=note.version)


@routes.put("/note", responses=problem(404, 412, 422) | examples.answer(examples.NOTED))
@allow(Role.RESEARCHER)
async def put_note(  # noqa: PLR0917  (called by name)
    study: StudyDep,
    body: Annotated[models.NewNote, Body(openapi_examples=examples.request(examples.NOTE))],
    service: ServiceDep,
    who: WhoDep,
    response: Response,
    if_match: IfMatch = "",
) -> models.Note:
    """Replace a study's note. If somebody has changed it since `If-Match` was read, it is refused and
    `outcome` has the text as it is now."""
    version = _version(if_match)
    newest = await service.writer.submit(WriteNote(study.id, body.text, version, who.actor))
    response.headers["ETag"] = f'"{newest}"'
    return models.Note(text=body.text, version=newest)


def _version(if_match: str) -> int:
    written = _ETAG.fullmatch(if_match)
    if written is None:
        raise Unprocessable('If-Match must be the ETag of `GET …/note`, such as If-Match: "3"')
    return int(written[1] or written[2])


@routes.get("/tags", responses=problem(404) | examples.page(examples.TAGGED))
@allow(Role.VIEWER)
async def list_tags(study: StudyDep, service: ServiceDep) -> models.Page[models.Tagged]:
    """The tags of a study's trials, the most used first; at most 1000."""
    found = await service.read(trial_filter.tags, study.id)
    return models.Page(items=[models.Tagged(tag=word, trials=n) for word, n in found])


@routes.post("/tags", status_code=204, responses=problem(404, 422))
@allow(Role.RESEARCHER)
async def tag_trials(
    study: StudyDep,
    body: Annotated[models.Tagging, Body(openapi_examples=examples.request(examples.TAGGING))],
    service: ServiceDep,
    who: WhoDep,
) -> Response:
    """Give trials some tags and take others away, all or none."""
    await service.writer.submit(TagTrials(study.id, tuple(body.trials), tuple(body.add), tuple(body.remove)))
    log.info("trials.tagged", study=study.name, trials=len(body.trials), add=body.add, remove=body.remove)
    return Response(status_code=204)
