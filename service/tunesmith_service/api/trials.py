"""Trials: list, look, enqueue by hand, cancel; their curves, logs and artifacts."""

from __future__ import annotations

from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Body, Query, Request
from sqlalchemy import Connection
from starlette.responses import FileResponse, Response
from tunesmith_studies.planning import training_seed
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import TrialState, Work

from tunesmith_service import store, trial_store
from tunesmith_service.api import examples, models, shapes
from tunesmith_service.api.bytes import download
from tunesmith_service.api.deps import (
    Cursor,
    IdempotencyDep,
    Limit,
    ServiceDep,
    StudyDep,
    TrialDep,
    WhoDep,
    cursor_number,
    problem,
)
from tunesmith_service.api.models import moment
from tunesmith_service.commands import CancelTrial, Enqueue
from tunesmith_service.errors import Conflict, NotFound, Unprocessable
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/studies/{study}/trials", tags=["trials"])

Sort = Literal["number", "-number", "value", "-value"]


@routes.get("", responses=problem(404) | examples.page(examples.TRIAL))
@allow(Role.VIEWER)
async def list_trials(  # noqa: PLR0917  (called by name)
    study: StudyDep,
    service: ServiceDep,
    state: Annotated[TrialState | None, Query(description="Only those in this state.")] = None,
    stage: Annotated[str | None, Query(description="Only those of this stage.", max_length=128)] = None,
    sort: Annotated[Sort, Query(description="By value: complete trials alone. `-`: downwards.")] = "number",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> models.Page[models.Trial]:
    """A study's trials, a page at a time."""
    after = cursor_number(cursor)

    def read(conn: Connection) -> list[models.Trial]:
        rows = trial_store.trials(
            conn, study.id, state=state, stage=stage, sort=sort, after=after, limit=limit
        )
        return shapes.trials(conn, rows, study.project_id)

    items = await service.read(read)
    return models.Page(items=items, next_cursor=str(items[-1].number) if len(items) == limit else None)


@routes.post(
    "", status_code=201, responses=problem(404, 409, 413, 422, 507) | examples.answer(examples.ENQUEUED, 201)
)
@allow(Role.RESEARCHER)
async def enqueue(
    study: StudyDep,
    body: Annotated[models.Enqueue, Body(openapi_examples=examples.request(examples.ENQUEUE))],
    service: ServiceDep,
    who: WhoDep,
    once: IdempotencyDep,
) -> models.Enqueued:
    """Queue trials by hand, all or none. What the study or stage fixes need not be said."""
    service.blobs.check_space()
    stages = await service.read(store.stages, study.id)
    name = body.stage or next((s.name for s in stages if s.state == "active"), None)
    if name is None:
        raise Conflict(f"study {study.name} has no active stage; name one with `stage`, or add one")
    spec = StudySpec.from_json(shapes.spec_of(study, stages))
    stage = next((s for s in spec.stages if s.name == name), None)
    if stage is None:
        raise NotFound(
            f"study {study.name} has no stage {name!r}; it has {', '.join(s.name for s in spec.stages)}"
        )
    if not stage.ranks:
        raise Conflict(f"stage {name} measures and takes no trials by hand; name another with `stage`")
    held, space = stage.held(spec), spec.space
    for row in stages:  # what the border rule has widened is open to people too
        space = space.widened(((row.result or {}).get("chosen") or {}).get("widened") or {})
    found = [
        {"pointer": f"/params/{i}", "message": sentence}
        for i, params in enumerate(body.params)
        for sentence in space.problems({**held, **params})
    ]
    if found:
        raise Unprocessable("; ".join(f"{p['pointer']}: {p['message']}" for p in found[:3]), errors=found)
    budget = stage.budget if body.epochs is None else None
    work = Work(
        epochs=body.epochs or stage.epochs,
        seed=training_seed(spec, name, study.trial_n),
        data_fraction=stage.data_fraction,
        steps=budget.steps if budget else None,
        seconds=budget.seconds if budget else None,
        keep_snapshot=stage.keeps_snapshots(spec),
    )
    full = tuple({**held, **params} for params in body.params)
    numbers = await service.writer.submit(Enqueue(study.id, name, full, work.to_json(), who.actor, once))
    log.info("trials.enqueued", study=study.name, stage=name, trials=numbers, actor=who.actor)
    return models.Enqueued(numbers=numbers)


@routes.get(
    "/{number}",
    response_model=models.TrialDetail,
    responses=problem(404) | examples.answer(examples.TRIAL_DETAIL),
)
@allow(Role.VIEWER)
async def get_trial(
    trial: TrialDep, study: StudyDep, service: ServiceDep, request: Request, response: Response
) -> models.TrialDetail | Response:
    """One trial with its attempts, and why it failed if it did."""
    tag = f"{study.id}.{study.event_n}"
    if shapes.is_known(request, tag):
        return Response(status_code=304, headers={"ETag": f'"{tag}"'})
    response.headers["ETag"] = f'"{tag}"'
    return await service.read(shapes.trial_detail, trial, study)


@routes.get("/{number}/curve", responses=problem(404) | examples.answer(examples.CURVE))
@allow(Role.VIEWER)
async def curve(trial: TrialDep, service: ServiceDep) -> models.Curve:
    """What the trial reported, in order of step."""
    points = await service.read(trial_store.curve, trial.id)
    return models.Curve(
        number=trial.number, points=[models.Point(step=p.step, metrics=dict(p.metrics)) for p in points]
    )


@routes.get("/{number}/logs", responses=problem(404) | examples.page(examples.LOG))
@allow(Role.VIEWER)
async def logs(
    trial: TrialDep,
    service: ServiceDep,
    attempt: Annotated[int | None, Query(description="Default: the newest that wrote.", ge=1)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> models.Page[models.LogChunk]:
    """What an attempt's training wrote, in order. The cursor is a chunk's number, so a page can be asked
    for again to see what has come since."""
    after = cursor_number(cursor) or 0

    def read(conn: Connection) -> list[models.LogChunk]:
        rows = trial_store.logs(conn, trial.id, attempt=attempt, after=after, limit=limit)
        return [
            models.LogChunk(
                attempt=row.attempt, seq=row.seq, at=moment(row.at_us),
                text=service.blobs.read_bytes(row.sha256).decode(),
            )
            for row in rows
        ]  # fmt: skip

    items = await service.read(read)
    return models.Page(items=items, next_cursor=str(items[-1].seq) if len(items) == limit else None)


@routes.get("/{number}/artifacts/{name:path}", responses=problem(404), response_class=FileResponse)
@allow(Role.VIEWER)
async def artifact(trial: TrialDep, name: str, service: ServiceDep) -> FileResponse:
    """An artifact's bytes."""
    known = await service.read(trial_store.artifacts, trial.id)
    row = next((a for a in known if a.name == name), None)
    if row is None:
        raise NotFound(f"trial {trial.number} has no artifact {name[:128]!r}")
    return download(service.blobs, row.sha256, name.rpartition("/")[2] or "artifact")


@routes.post("/{number}/cancel", responses=problem(404) | examples.answer(examples.TRIAL_ENDED))
@allow(Role.RESEARCHER)
async def cancel_trial(
    trial: TrialDep, study: StudyDep, service: ServiceDep, who: WhoDep
) -> models.TrialEnded:
    """End a trial that waits or runs; its worker is told with its next call. No-op once it has ended."""
    ended = await service.writer.submit(CancelTrial(study.id, trial.number, who.actor))
    log.info("trial.cancelled", study=study.name, trial=trial.number, state=ended.state, actor=who.actor)
    return models.TrialEnded(number=trial.number, state=ended.state, stop_reason=ended.stop_reason)
