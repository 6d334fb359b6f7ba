"""Studies: create, list, look, steer; their stages, best trials and events."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import ValidationError
from sqlalchemy import Connection
from starlette.responses import Response
from tunesmith_studies.findings import Level
from tunesmith_studies.stages import AnyStage
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.vocabulary import doubts
from tunesmith_studies.written import short

from tunesmith_service import event_log, findings, problems, spaces, store, trial_store
from tunesmith_service.api import examples, models, shapes
from tunesmith_service.api.deps import (
    MAX_ID,
    Cursor,
    IdempotencyDep,
    Limit,
    ServiceDep,
    StudyDep,
    WhoDep,
    cursor_number,
    problem,
)
from tunesmith_service.commands import AddStage, CreateStudy, MoveStudy, OverrideStage, SkipStage
from tunesmith_service.core import Service
from tunesmith_service.errors import NotFound, Unprocessable
from tunesmith_service.once import Idempotency
from tunesmith_service.routing import router
from tunesmith_service.security import Role, Who, allow

log = structlog.get_logger(__name__)

routes: APIRouter = router(tags=["studies"])

StagePath = Annotated[str, Path(description="A stage's name.", max_length=128, examples=["coarse"])]


@routes.post(
    "/studies",
    status_code=201,
    response_model=models.Created | models.DryRun,
    responses=problem(409, 413, 422, 507)
    | examples.dry_run(examples.DRY_RUN, models.DryRun)
    | examples.answer(examples.CREATED, 201, models.Created),
)
@allow(Role.RESEARCHER)
async def create_study(  # noqa: PLR0917  (called by name)
    body: Annotated[StudySpec, Body(openapi_examples=examples.request(examples.SPEC))],
    service: ServiceDep,
    who: WhoDep,
    once: IdempotencyDep,
    response: Response,
    dry_run: Annotated[
        bool, Query(description="Check it and forecast what it runs at most; create nothing.")
    ] = False,
) -> models.Created | models.DryRun:
    """Create a study; its first stage starts at once. A task that no worker serves yet is a warning: the
    study waits for a worker."""
    found = await created(service, who, body, once, dry_run=dry_run)
    response.status_code = 200 if dry_run else 201
    return found


def no_name(name: str) -> str:
    """Why nobody could ask for a study of this name; empty if one can."""
    if name in (".", "..") or "/" in name:
        instead = f"; {name.replace('/', '-')} would do" if "/" in name else ""
        return f"a study cannot be called {name!r}: its name stands in addresses{instead}"
    if name.isascii() and name.isdecimal():
        return f"a study cannot be called {name!r}: a number alone is a study's id"
    return ""


async def created(
    service: Service,
    who: Who,
    body: StudySpec,
    once: Idempotency | None = None,
    *,
    dry_run: bool = False,
    cloned_from: int | None = None,
) -> models.Created | models.DryRun:
    """A study that was created, or what it would run. Raises: Unprocessable for too many hyperparameters."""
    if (n := len(body.space) + len(body.fixed)) > (most := service.settings.study_params):
        raise Unprocessable(
            f"the study has {n} hyperparameters; at most {most} are taken",
            errors=[{"pointer": "/space", "message": f"{n} with those of fixed; at most {most}"}],
        )
    if why := no_name(body.name):
        raise Unprocessable(why, errors=[{"pointer": "/name", "message": why}])
    planned = forecast(body)
    offers = await service.read(shapes.offers, who.home_project)
    warnings = [] if body.task in offers else [shapes.no_worker(body.task, offers)]
    gpus = body.resources.gpus
    if gpus and body.task in offers and gpus > (largest := offers[body.task].devices()):
        warnings.append(shapes.too_small(gpus, largest))
    warnings += doubts(body.space, body.fixed)
    if dry_run:
        total = planned.values()
        snapshots = sum(f.snapshots for f in total)
        size = await service.read(trial_store.largest_snapshot, who.home_project, body.task)
        return models.DryRun(
            name=body.name,
            stages=planned,
            trials=sum(f.trials for f in total),
            epochs=sum(f.epochs for f in total),
            likely_epochs=sum(f.epochs if f.likely_epochs is None else f.likely_epochs for f in total),
            snapshots=snapshots,
            **_recipe(body),
            snapshot_bytes=None if size is None else size * snapshots,
            warnings=warnings,
        )
    command = CreateStudy(who.home_project, body.to_json(), who.actor, once, cloned_from)
    study_id = await service.writer.submit(command)
    log.info("study.created", study=body.name, study_id=study_id, actor=who.actor)
    return models.Created(
        id=study_id,
        name=body.name,
        state="active",
        forecast=planned,
        warnings=warnings,
        **_recipe(body),
    )


def _recipe(spec: StudySpec) -> dict[str, Any]:
    if spec.recipe is None:
        return {}
    return {"recipe": spec.recipe.name, "notes": list(spec.recipe.notes or ())}


@routes.get("/studies", responses=examples.page(examples.SUMMARY))
@allow(Role.VIEWER)
async def list_studies(  # noqa: PLR0917  (called by name)
    service: ServiceDep,
    who: WhoDep,
    state: Annotated[str | None, Query(description="Only those in this state.", max_length=16)] = None,
    archived: Annotated[bool, Query(description="Those put away, too.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> models.Page[models.StudySummary]:
    """Studies, newest first."""

    before = cursor_number(cursor)

    def read(conn: Connection) -> list[models.StudySummary]:
        rows = store.studies(conn, who.project_id, state=state, archived=archived, before=before, limit=limit)
        return [shapes.summary(conn, row) for row in rows]

    items = await service.read(read)
    more = str(items[-1].id) if len(items) == limit else None
    return models.Page(items=items, next_cursor=more)


@routes.get(
    "/studies/{study}", response_model=models.Study, responses=problem(404) | examples.answer(examples.STUDY)
)
@allow(Role.VIEWER)
async def get_study(
    study: StudyDep, service: ServiceDep, request: Request, response: Response
) -> models.Study | Response:
    """A study by id or name, with its stages and why each chose what it chose."""
    tag = f"{study.id}.{study.event_n}"
    if shapes.is_known(request, tag):
        return Response(status_code=304, headers={"ETag": f'"{tag}"'})
    response.headers["ETag"] = f'"{tag}"'
    return await service.read(shapes.detail, study)


@routes.post("/studies/{study}/pause", responses=problem(404, 409) | examples.answer(examples.MOVED))
@allow(Role.RESEARCHER)
async def pause_study(
    study: StudyDep, service: ServiceDep, who: WhoDep, body: models.Why | None = None
) -> models.Moved:
    """Hand out no more trials; those that run go on."""
    return await _move(study, "paused", service, who, body)


@routes.post(
    "/studies/{study}/resume",
    responses=problem(404, 409) | examples.answer(examples.MOVED | {"state": "active"}),
)
@allow(Role.RESEARCHER)
async def resume_study(
    study: StudyDep, service: ServiceDep, who: WhoDep, body: models.Why | None = None
) -> models.Moved:
    """Go on with a paused study."""
    return await _move(study, "active", service, who, body)


@routes.post(
    "/studies/{study}/stop",
    responses=problem(404, 409) | examples.answer(examples.MOVED | {"state": "stopped"}),
)
@allow(Role.RESEARCHER)
async def stop_study(
    study: StudyDep, service: ServiceDep, who: WhoDep, body: models.Why | None = None
) -> models.Moved:
    """End a study: its waiting and running trials are cancelled, the stages left are skipped."""
    return await _move(study, "stopped", service, who, body)


async def _move(
    study: store.Study, state: str, service: ServiceDep, who: Who, why: models.Why | None
) -> models.Moved:
    reason = (why.reason if why else "") or f"by {who.actor}"
    now = await service.writer.submit(MoveStudy(study.id, state, who.actor, reason))
    log.info("study.moved", study=study.name, state=now, actor=who.actor)
    return models.Moved(id=study.id, name=study.name, state=now)


@routes.post(
    "/studies/{study}/stages",
    status_code=201,
    response_model=models.Study | models.StageDryRun,
    responses=problem(404, 409, 422)
    | examples.dry_run(examples.STAGE_DRY_RUN, models.StageDryRun)
    | examples.answer(examples.STUDY, 201, models.Study),
)
@allow(Role.RESEARCHER)
async def add_stage(  # noqa: PLR0917  (called by name)
    study: StudyDep,
    body: Annotated[AnyStage, Body(openapi_examples=examples.request(examples.ADD_STAGE))],
    service: ServiceDep,
    who: WhoDep,
    response: Response,
    dry_run: Annotated[
        bool, Query(description="Check it and forecast what it runs at most; add nothing.")
    ] = False,
) -> models.Study | models.StageDryRun:
    """Add a stage at the end of a study; one that was complete becomes active again."""
    stages = await service.read(store.stages, study.id)
    spec = spaces.as_found(StudySpec.from_json(shapes.spec_of(study, stages)), stages)
    try:
        checked = spec.with_stage(body)
    except ValidationError as e:
        raise problems.from_validation(e, None) from e
    stage = checked.stages[-1]
    if dry_run:
        response.status_code = 200
        return models.StageDryRun(stage=short(stage), forecast=forecast(checked)[stage.name])
    await service.writer.submit(AddStage(study.id, stage.model_dump(mode="json"), who.actor))
    log.info("stage.added", study=study.name, stage=stage.name, actor=who.actor)
    return await _fresh(service, who, study.id)


@routes.post(
    "/studies/{study}/stages/{name:path}/skip", responses=problem(404, 409) | examples.answer(examples.STUDY)
)
@allow(Role.RESEARCHER)
async def skip_stage(
    study: StudyDep,
    name: StagePath,
    service: ServiceDep,
    who: WhoDep,
    body: Annotated[models.Why | None, Body(openapi_examples=examples.request(examples.WHY))] = None,
) -> models.Study:
    """Skip a stage: its waiting trials are cancelled, running ones go on."""
    reason = (body.reason if body else "") or f"by {who.actor}"
    await service.writer.submit(SkipStage(study.id, name, who.actor, reason))
    log.info("stage.skipped", study=study.name, stage=name, actor=who.actor)
    return await _fresh(service, who, study.id)


@routes.post(
    "/studies/{study}/stages/{name:path}/override",
    responses=problem(404, 409, 422) | examples.answer(examples.STUDY),
)
@allow(Role.RESEARCHER)
async def override_stage(
    study: StudyDep,
    name: StagePath,
    body: Annotated[models.OverrideReason, Body(openapi_examples=examples.request(examples.OVERRIDE))],
    service: ServiceDep,
    who: WhoDep,
) -> models.Study:
    """Go on past a check that failed and blocks the study. It stays failed; the reason is kept with it."""
    await service.writer.submit(OverrideStage(study.id, name, who.actor, body.reason))
    log.info("stage.overridden", study=study.name, stage=name, actor=who.actor)
    return await _fresh(service, who, study.id)


async def _fresh(service: ServiceDep, who: Who, study_id: int) -> models.Study:
    def read(conn: Connection) -> models.Study:
        row = store.find_study(conn, who.project_id, str(study_id))
        if row is None or row.id != study_id:
            raise NotFound(f"no study {study_id}")
        return shapes.detail(conn, row)

    return await service.read(read)


@routes.get("/studies/{study}/best", responses=problem(404) | examples.page(examples.BEST))
@allow(Role.VIEWER)
async def best(
    study: StudyDep,
    service: ServiceDep,
    top: Annotated[int, Query(description="So many trials.", ge=1, le=1000)] = 1,
) -> models.Page[models.Best]:
    """The best complete trials by the study's objective, best first."""
    rows = await service.read(trial_store.best_trials, study, limit=top)
    return models.Page(items=[shapes.ranked(r) for r in rows])


@routes.get("/studies/{study}/findings", responses=problem(404) | examples.page(examples.FINDING))
@allow(Role.VIEWER)
async def list_findings(
    study: StudyDep,
    service: ServiceDep,
    level: Annotated[Level | None, Query(description="Only those of this level.")] = None,
    stage: Annotated[str | None, Query(description="Only those of this stage.", max_length=128)] = None,
) -> models.Page[models.StageFinding]:
    """What the stages that have ended showed, the gravest first: each with its rule and what to do."""
    stages = await service.read(store.stages, study.id)
    found = findings.of_stages(stages, stage=stage, level=level)
    return models.Page(items=[shapes.found(f) for f in found])


@routes.get("/studies/{study}/events", responses=problem(404) | examples.page(examples.EVENT))
@allow(Role.VIEWER)
async def events(
    study: StudyDep,
    service: ServiceDep,
    after: Annotated[int, Query(description="Number of the last event that you know.", ge=0, le=MAX_ID)] = 0,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> models.Page[models.Event]:
    """What happened, in order: proposals, changes of state, reports, snapshots."""
    entries = await service.read(event_log.page, study.id, cursor_number(cursor) or after, limit)
    items = [
        models.Event(
            n=e.n, kind=e.kind, trial=e.trial_number, stage=e.stage, at=models.moment(e.at_us),
            actor=e.actor, cause=e.cause, data=dict(e.data),
        )
        for e in entries
    ]  # fmt: skip
    return models.Page(items=items, next_cursor=str(items[-1].n) if len(items) == limit else None)
