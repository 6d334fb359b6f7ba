"""Workers, as people see them."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path

from tunesmith_service import store
from tunesmith_service.api import examples, models
from tunesmith_service.api.deps import ServiceDep, WhoDep, problem
from tunesmith_service.api.models import moment
from tunesmith_service.commands import DrainWorker
from tunesmith_service.errors import NotFound
from tunesmith_service.routing import router
from tunesmith_service.security import Role, Who, allow

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/workers", tags=["fleet"])

WorkerPath = Annotated[
    str, Path(description="The worker's id.", max_length=32, examples=[examples.WORKER_ID])
]


@routes.get("", responses=examples.page(examples.WORKER))
@allow(Role.VIEWER)
async def list_workers(service: ServiceDep, who: WhoDep) -> models.Page[models.Worker]:
    """Workers that ever registered; those heard of within the last minute are online."""
    rows = await service.read(store.workers, who.project_id)
    items = [
        models.Worker(
            id=w.id,
            name=w.name,
            version=w.version,
            online=w.live,
            draining=w.draining,
            aside_until=moment(w.aside_until_us),
            tasks=dict(w.tasks),
            slots=[models.Slot(id=s["slot_id"], devices=s["devices"]) for s in w.slots],
            running=w.running,
            first_seen_at=moment(w.first_seen_us),
            last_seen_at=moment(w.last_seen_us),
        )
        for w in rows
    ]
    return models.Page(items=items)


@routes.post("/{worker_id}/drain", status_code=204, responses=problem(404))
@allow(Role.ADMIN)
async def drain(worker_id: WorkerPath, service: ServiceDep, who: WhoDep) -> None:
    """Give the worker no new trial; those that it runs go on."""
    await _set_draining(worker_id, True, service, who)


@routes.post("/{worker_id}/undrain", status_code=204, responses=problem(404))
@allow(Role.ADMIN)
async def undrain(worker_id: WorkerPath, service: ServiceDep, who: WhoDep) -> None:
    """Give the worker trials again; at once, also if it was set aside for breaking them."""
    await _set_draining(worker_id, False, service, who)


async def _set_draining(worker_id: str, draining: bool, service: ServiceDep, who: Who) -> None:
    rows = await service.read(store.workers, who.project_id)
    worker = next((w for w in rows if w.id == worker_id), None)
    if worker is None:
        raise NotFound(f"no worker {worker_id}; GET /api/v1/workers lists those there are")
    await service.writer.submit(DrainWorker(worker.project_id, worker_id, draining))
    log.info("worker.draining", worker_id=worker_id, draining=draining, actor=who.actor)
