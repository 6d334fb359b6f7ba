"""A study like another, with some fields changed."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Query
from pydantic import ValidationError
from starlette.responses import Response
from tunesmith_studies.differences import cloned, differences
from tunesmith_studies.study import StudySpec

from tunesmith_service.api import examples, models, shapes
from tunesmith_service.api.deps import IdempotencyDep, ServiceDep, StudyDep, WhoDep, problem
from tunesmith_service.api.studies import created
from tunesmith_service.errors import Unprocessable
from tunesmith_service.parsing import as_sent
from tunesmith_service.problems import from_validation
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/studies/{study}", tags=["studies"])


@routes.post(
    "/clone",
    status_code=201,
    response_model=models.Cloned | models.CloneDryRun,
    responses=problem(404, 409, 413, 422, 507)
    | examples.dry_run(examples.CLONE_DRY_RUN, models.CloneDryRun)
    | examples.answer(examples.CLONED, 201, models.Cloned),
)
@allow(Role.RESEARCHER)
async def clone_study(  # noqa: PLR0917  (called by name)
    study: StudyDep,
    body: Annotated[models.Clone, Body(openapi_examples=examples.request(examples.CLONE))],
    service: ServiceDep,
    who: WhoDep,
    once: IdempotencyDep,
    response: Response,
    dry_run: Annotated[
        bool, Query(description="Say what would differ and what it would run; create nothing.")
    ] = False,
) -> models.Cloned | models.CloneDryRun:
    """Create a study like another one, stages that were added since among them, with some fields changed.
    What differs is told by path. Its trials begin anew."""
    was = await service.read(shapes.whole_spec, study)
    try:
        data = cloned(was, body.name, body.changes)
    except ValueError as e:
        raise Unprocessable(str(e)) from e
    try:
        spec = StudySpec.model_validate(as_sent(data))
    except ValidationError as e:
        raise from_validation(e, data) from e
    found = await created(service, who, spec, once, dry_run=dry_run, cloned_from=study.id)
    told: dict[str, Any] = {"differences": differing(was, spec)}
    if isinstance(found, models.DryRun):
        response.status_code = 200
        return models.CloneDryRun(**found.model_dump(), **told)
    return models.Cloned(**found.model_dump(), **told)


def differing(was: dict[str, Any], spec: StudySpec) -> list[models.Difference]:
    """All but the name, which always differs."""
    found = differences(was, spec.to_json())
    return [models.Difference.model_validate(d) for d in found if d.path != "name"]
