"""Trials once more, or no longer: try again, all failed ones of a study, prune now."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Body

from tunesmith_service.api import examples, models
from tunesmith_service.api.deps import IdempotencyDep, ServiceDep, StudyDep, TrialDep, WhoDep, problem
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow
from tunesmith_service.wishes import PruneNow, Retry

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/studies/{study}", tags=["trials"])


@routes.post(
    "/trials/{number}/retry",
    status_code=201,
    responses=problem(404, 409, 422) | examples.answer(examples.ENQUEUED, 201),
)
@allow(Role.RESEARCHER)
async def retry_trial(
    trial: TrialDep, study: StudyDep, service: ServiceDep, who: WhoDep, once: IdempotencyDep
) -> models.Enqueued:
    """Queue a failed or cancelled trial again, as a new trial that names it in `retry_of`. Its stage must
    still be to run."""
    numbers = await service.writer.submit(Retry(study.id, (trial.number,), who.actor, once))
    log.info("trial.retried", study=study.name, trial=trial.number, again=numbers[0], actor=who.actor)
    return models.Enqueued(numbers=numbers)


@routes.post(
    "/rerun", status_code=201, responses=problem(404, 409, 422) | examples.answer(examples.ENQUEUED, 201)
)
@allow(Role.RESEARCHER)
async def rerun_failed(
    study: StudyDep,
    service: ServiceDep,
    who: WhoDep,
    once: IdempotencyDep,
    body: Annotated[models.Rerun | None, Body(openapi_examples=examples.request(examples.RERUN))] = None,
) -> models.Enqueued:
    """Queue failed trials of stages that are still to run again, those named or all but those tried again
    already; at most 1000 at once."""
    named = None if body is None or body.trials is None else tuple(body.trials)
    numbers = await service.writer.submit(Retry(study.id, named, who.actor, once))
    log.info("study.rerun", study=study.name, trials=numbers, actor=who.actor)
    return models.Enqueued(numbers=numbers)


@routes.post(
    "/trials/{number}/prune",
    responses=problem(404, 409)
    | examples.answer(examples.TRIAL_ENDED | {"state": "pruned", "stop_reason": "pruned"}),
)
@allow(Role.RESEARCHER)
async def prune_trial(
    trial: TrialDep, study: StudyDep, service: ServiceDep, who: WhoDep
) -> models.TrialEnded:
    """End a running trial as pruned; its worker is told with its next call. No-op once it has ended."""
    ended = await service.writer.submit(PruneNow(study.id, trial.number, who.actor))
    log.info("trial.pruned", study=study.name, trial=trial.number, state=ended.state, actor=who.actor)
    return models.TrialEnded(number=trial.number, state=ended.state, stop_reason=ended.stop_reason)
