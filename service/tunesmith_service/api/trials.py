"""Trials: list, look, enqueue by hand, cancel; their curves, logs and artifacts."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Path, Query, Request
from sqlalchemy import Connection
from starlette.responses import FileResponse, Response
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import TrialState

from tunesmith_service import by_hand, store, trial_filter, trial_store
from tunesmith_service.api import examples, models, shapes
from tunesmith_service.api.bytes import download, snapshot_name
from tunesmith_service.api.deps import (
    MAX_ID,
    Cursor,
    IdempotencyDep,
    Limit,
    ServiceDep,
    StudyDep,
    TextCursor,
    TrialDep,
    WhoDep,
    cursor_number,
    one_of,
    problem,
)
from tunesmith_service.api.deps import (
    get_trial as find_trial,
)
from tunesmith_service.api.models import moment
from tunesmith_service.charts import of_trial, trial_views
from tunesmith_service.commands import CancelTrial, Enqueue
from tunesmith_service.documents import Unread, View, shown
from tunesmith_service.errors import NotFound
from tunesmith_service.filters import MOST_CHARACTERS
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/studies/{study}/trials", tags=["trials"])

Sort = Annotated[
    str,
    Query(
        description="A name that filters know; trials without it come last. `-`: downwards.",
        max_length=128,
    ),
]
FilterWords = Annotated[
    str,
    Query(
        description="Only those that it picks, such as `state:complete lr>=1e-3 val_loss<0.42`; see "
        "docs/filters.md.",
        max_length=MOST_CHARACTERS,
    ),
]


@routes.get("", responses=problem(404, 422) | examples.answer(examples.TRIALS))
@allow(Role.VIEWER)
async def list_trials(  # noqa: PLR0917  (called by name)
    study: StudyDep,
    service: ServiceDep,
    filter: FilterWords = "",
    state: Annotated[TrialState | None, Query(description="Only those in this state.")] = None,
    stage: Annotated[str | None, Query(description="Only those of this stage.", max_length=128)] = None,
    sort: Sort = "number",
    limit: Limit = 50,
    cursor: TextCursor = None,
) -> models.TrialsPage:
    """A study's trials, a page at a time."""
    after = None if cursor is None else trial_store.Place.read(cursor)

    def read(conn: Connection) -> models.TrialsPage:
        rows = trial_store.trials(
            conn, study, filter=filter, state=state, stage=stage, sort=sort, after=after, limit=limit
        )
        items = shapes.trials(conn, rows, study.project_id)
        full = len(items) == limit
        more = str(trial_store.place(conn, study, sort, items[-1].number)) if full else None
        total = trial_filter.count(conn, study, filter)
        return models.TrialsPage(items=items, next_cursor=more, total_estimate=total)

    return await service.read(read)


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
    stages = await service.read(store.stages, study.id)
    spec = StudySpec.from_json(shapes.spec_of(study, stages))
    like = None if body.like is None else await find_trial(service, study, body.like)
    ready = by_hand.prepared(study, spec, stages, body.params, body.stage, body.epochs, like)
    command = Enqueue(study.id, ready.stage, ready.params, ready.work.to_json(), who.actor, once, body.like)
    numbers = await service.writer.submit(command)
    log.info("trials.enqueued", study=study.name, stage=ready.stage, trials=numbers, actor=who.actor)
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


@routes.get("/{number}/views/{view}", responses=problem(404, 422) | examples.answer(examples.LOSSES))
@allow(Role.VIEWER)
async def trial_view(
    trial: TrialDep,
    study: StudyDep,
    service: ServiceDep,
    view: Annotated[str, one_of(trial_views.NAMES)],
    query: Annotated[of_trial.TrialChartQuery, Query()],
) -> dict[str, Any]:
    """What a chart of a trial draws: its curves, its lineage, the documents that it left."""

    def find(conn: Connection) -> View | Unread:
        return trial_views.view(conn, service.columns, study, trial.number, view, query)

    return await shown(service, find)


@routes.get("/{number}/logs", responses=problem(404) | examples.page(examples.LOG))
@allow(Role.VIEWER)
async def logs(
    trial: TrialDep,
    service: ServiceDep,
    attempt: Annotated[
        int | None, Query(description="Default: the newest that wrote.", ge=1, le=MAX_ID)
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> models.Page[models.LogChunk]:
    """What an attempt's training wrote, in order. The cursor is a chunk's number, so a page can be asked
    for again to see what has come since."""
    after = cursor_number(cursor) or 0
    rows = await service.read(trial_store.logs, trial.id, attempt=attempt, after=after, limit=limit)
    items = [
        models.LogChunk(
            attempt=row.attempt, seq=row.seq, at=moment(row.at_us),
            text=(await service.stored(service.blobs.read_bytes, row.sha256)).decode(),
        )
        for row in rows
    ]  # fmt: skip
    return models.Page(items=items, next_cursor=str(items[-1].seq) if len(items) == limit else None)


@routes.get("/{number}/artifacts/{name:path}", responses=problem(404), response_class=FileResponse)
@allow(Role.VIEWER)
async def artifact(
    request: Request,
    trial: TrialDep,
    name: Annotated[str, Path(description="As the trial lists it.", examples=["confusion.json"])],
    service: ServiceDep,
) -> Response:
    """An artifact's bytes."""
    known = await service.read(trial_store.artifacts, trial.id)
    row = next((a for a in known if a.name == name), None)
    if row is None:
        raise NotFound(f"trial {trial.number} has no artifact {name[:128]!r}")
    return await download(request, service, row.sha256, name.rpartition("/")[2] or "artifact")


@routes.get("/{number}/snapshots/{step}", responses=problem(404, 422), response_class=FileResponse)
@allow(Role.VIEWER)
async def snapshot(
    request: Request,
    trial: TrialDep,
    step: Annotated[int, Path(description="As the trial lists it.", ge=0, le=MAX_ID, examples=[5])],
    service: ServiceDep,
) -> Response:
    """A snapshot's bytes, of the newest attempt that left one at this step: a safetensors file that
    `tunesmith_workers.snapshots.load` reads."""
    found = await service.read(trial_store.snapshot_at, trial, step)
    return await download(request, service, found.sha256, snapshot_name(trial.number, step))


@routes.post("/{number}/cancel", responses=problem(404) | examples.answer(examples.TRIAL_ENDED))
@allow(Role.RESEARCHER)
async def cancel_trial(
    trial: TrialDep, study: StudyDep, service: ServiceDep, who: WhoDep
) -> models.TrialEnded:
    """End a trial that waits or runs; its worker is told with its next call. No-op once it has ended."""
    ended = await service.writer.submit(CancelTrial(study.id, trial.number, who.actor))
    log.info("trial.cancelled", study=study.name, trial=trial.number, state=ended.state, actor=who.actor)
    return models.TrialEnded(number=trial.number, state=ended.state, stop_reason=ended.stop_reason)
