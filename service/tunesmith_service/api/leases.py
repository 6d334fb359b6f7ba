"""What a lease's holder may write. The token opens the route; the lease's secret, in a header, is the
second key, and the fence in the database decides."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import structlog
from fastapi import APIRouter, Body, Depends, Header, Path, Request
from starlette.responses import FileResponse, Response

from tunesmith_service import snapshot_header, trial_store, wire
from tunesmith_service.api import claims, examples
from tunesmith_service.api.bytes import download
from tunesmith_service.api.deps import ServiceDep, TrialIdPath, WhoDep, problem
from tunesmith_service.blobs import BlobStore
from tunesmith_service.commands import (
    AppendLog,
    CommitArtifact,
    CommitSnapshot,
    Ended,
    Finish,
    Granted,
    Kept,
    Lease,
    Release,
    Renew,
    Report,
)
from tunesmith_service.core import Service
from tunesmith_service.errors import NotFound, TooLarge, TooMany, Unprocessable
from tunesmith_service.parsing import read_stream
from tunesmith_service.places import Priority
from tunesmith_service.routing import router, takes
from tunesmith_service.security import Role, Who, allow, lease_of
from tunesmith_service.short_way import short

LOG_BODY_BYTES = 2 * 2**20  # 262,144 characters, each up to six bytes as JSON

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/leases/{trial_id}", tags=["workers"])

Sha256Path = Annotated[wire.Sha256, Path(description="SHA-256 of the bytes.", examples=[examples.SHA256])]


async def get_lease(
    request: Request,
    trial_id: TrialIdPath,
    service: ServiceDep,
    who: WhoDep,
    header: Annotated[
        str,
        Header(
            alias=wire.LEASE_HEADER,
            description="`incarnation.attempt.secret` of the lease.",
            examples=[f"1.1.{examples.SECRET}"],
            json_schema_extra={"pattern": r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9a-f]{32}$"},
        ),
    ] = "",
) -> Lease:
    """The lease that the request names; its trial must be of the token's project."""
    return await _lease_in(request, trial_id, service, who)


async def take_lease(request: Request) -> Lease:
    """The same, by the short way."""
    trial_id = request.path_params["trial_id"]
    return await _lease_in(request, trial_id, request.app.state.service, request.state.who)


async def _lease_in(request: Request, trial_id: int, service: Service, who: Who) -> Lease:
    lease = lease_of(request, trial_id)
    project_id = await service.project_of_trial(trial_id)
    if project_id is None or not who.sees(project_id):
        raise NotFound(f"no trial with id {trial_id}")
    return lease


LeaseDep = Annotated[Lease, Depends(get_lease)]


@routes.post("/heartbeat", responses=problem(404, 409, 422) | examples.answer(examples.RENEWED))
@allow(Role.WORKER, priority=Priority.KEEP)
@short
async def heartbeat(lease: LeaseDep, service: ServiceDep, body: wire.Heartbeat | None = None) -> wire.Renewed:
    """Keep a trial. 409 `lease_lost`: it is somebody else's now; `already_final`: it has ended."""
    await service.writer.submit(Renew(lease))
    return wire.Renewed(ttl_seconds=service.settings.ttl_seconds)


@routes.post("/reports", responses=problem(404, 409, 413, 422) | examples.answer(examples.REPORTED))
@allow(Role.WORKER)
@short
async def report(
    lease: LeaseDep,
    body: Annotated[wire.Report, Body(openapi_examples=examples.request(examples.REPORT))],
    service: ServiceDep,
) -> wire.Reported:
    """Add points to the trial's curve. The same `seq` and points again are a no-op; a gap is refused with
    `expected_seq`."""
    kept = await service.writer.submit(_report(lease, body))
    return _reported(kept, service.settings.ttl_seconds)


@routes.post("/uploads", responses=problem(404, 413, 422) | examples.answer(examples.TO_UPLOAD))
@allow(Role.WORKER)
async def ask_upload(
    lease: LeaseDep,
    body: Annotated[wire.AskUpload, Body(openapi_examples=examples.request(examples.ASK_UPLOAD))],
    service: ServiceDep,
) -> wire.Upload:
    """Where to send a file, before it is committed. What the service signs for its store holds for these
    bytes alone."""
    if body.size > service.settings.upload_bytes:
        raise TooLarge(f"{body.size} bytes; at most {service.settings.upload_bytes} are taken")
    if isinstance(service.blobs, BlobStore):
        return wire.Upload()
    return await service.stored(service.blobs.upload, body.sha256, body.size)


@routes.get("/downloads/{sha256}", responses=problem(404, 422) | examples.answer(examples.TO_DOWNLOAD))
@allow(Role.WORKER)
async def ask_download(
    lease: LeaseDep, sha256: Sha256Path, service: ServiceDep, response: Response
) -> wire.Download:
    """Where to fetch the snapshot that this lease's grant goes on from."""
    await _check_fetch(service, lease, sha256)
    response.headers["Cache-Control"] = "private, no-store"
    if isinstance(service.blobs, BlobStore):
        return wire.Download()
    return await service.stored(service.blobs.download, sha256)


@routes.put(
    "/blobs/{sha256}", status_code=204, responses=problem(404, 413, 422, 507), openapi_extra=examples.UPLOAD
)
@allow(Role.WORKER)
async def put_blob(lease: LeaseDep, sha256: Sha256Path, request: Request, service: ServiceDep) -> None:
    """Store bytes, to be committed afterwards as a snapshot or artifact. Bytes alone show nowhere."""
    settings = service.settings
    pieces = read_stream(request, limit=settings.upload_bytes, idle_seconds=settings.upload_idle_seconds)
    with service.uploads.one():
        request.state.place.leave()
        await service.blobs.put(pieces, sha256)


@routes.post("/snapshots", responses=problem(404, 409, 422, 507) | examples.answer(examples.REPORTED))
@allow(Role.WORKER)
async def commit_snapshot(
    lease: LeaseDep,
    body: Annotated[wire.CommitSnapshot, Body(openapi_examples=examples.request(examples.COMMIT_SNAPSHOT))],
    service: ServiceDep,
    who: WhoDep,
) -> wire.Reported:
    """Publish stored bytes, a safetensors file, as this attempt's snapshot of a step. A later attempt may go
    on from it."""
    size = await _stored_size(service, body.sha256)
    settings = service.settings
    await service.stored(
        snapshot_header.check,
        size,
        partial(service.blobs.peek, body.sha256),
        most_bytes=settings.snapshot_header_bytes,
        most_tensors=settings.snapshot_tensors,
    )
    await service.snapshot_room.check(who.home_project, size)
    kept = await service.writer.submit(CommitSnapshot(lease, body.step, body.sha256, size))
    if not kept.duplicate:
        service.snapshot_room.took(who.home_project, size)
    log.info("snapshot.committed", trial_id=lease.trial_id, attempt=lease.attempt, step=body.step, size=size)
    return _reported(kept, service.settings.ttl_seconds)


@routes.get("/snapshots/{sha256}", responses=problem(404, 409, 422), response_class=FileResponse)
@allow(Role.WORKER)
async def get_snapshot(
    request: Request, lease: LeaseDep, sha256: Sha256Path, service: ServiceDep
) -> Response:
    """Bytes of the snapshot that this lease's grant goes on from."""
    await _check_fetch(service, lease, sha256)
    return await download(request, service, sha256, "snapshot.safetensors")


@routes.post("/logs", responses=problem(404, 409, 413, 422, 507) | examples.answer(examples.REPORTED))
@allow(Role.WORKER)
@takes(limit=LOG_BODY_BYTES, free_text=True)
@short
async def append_log(
    lease: LeaseDep,
    body: Annotated[wire.LogChunk, Body(openapi_examples=examples.request(examples.LOG_CHUNK))],
    service: ServiceDep,
) -> wire.Reported:
    """Append to the trial's log. `seq` counts an attempt's chunks from 1."""
    text = body.text.encode()
    sha256 = await service.stored(service.blobs.put_bytes, text)
    kept = await service.writer.submit(AppendLog(lease, body.seq, sha256, len(text)))
    return _reported(kept, service.settings.ttl_seconds)


@routes.post("/artifacts", responses=problem(404, 409, 422) | examples.answer(examples.REPORTED))
@allow(Role.WORKER)
async def commit_artifact(
    lease: LeaseDep,
    body: Annotated[wire.CommitArtifact, Body(openapi_examples=examples.request(examples.COMMIT_ARTIFACT))],
    service: ServiceDep,
) -> wire.Reported:
    """Publish stored bytes under a name; the same name again replaces what it showed."""
    size = await _stored_size(service, body.sha256)
    kept = await service.writer.submit(CommitArtifact(lease, body.name, body.sha256, size))
    return _reported(kept, service.settings.ttl_seconds)


@routes.post("/finish", responses=problem(404, 409, 422) | examples.answer(examples.FINISHED))
@allow(Role.WORKER, priority=Priority.KEEP)
@short
async def finish(
    lease: LeaseDep,
    body: Annotated[wire.Finish, Body(openapi_examples=examples.request(examples.FINISH))],
    service: ServiceDep,
    who: WhoDep,
) -> wire.Finished:
    """End a trial. The first finish counts; the same again gets the same answer. It may bring the last report
    and the slot's next claim along: one request then does what three do."""
    error = body.error.model_dump() if body.error else None
    report = _report(lease, body.report) if body.report else None
    claim = claims.command(body.claim, who) if body.claim and _may_claim(service, body.claim) else None
    ended = await service.writer.submit(
        Finish(lease, body.state, body.stop_reason, error, body.retryable, report, claim)
    )
    finished = _finished(lease, ended)
    if body.claim is None or ended.claim is None:
        return finished
    if isinstance(ended.claim, Granted):
        service.room.gave(who.home_project)
        service.metrics.claim_wait.observe(0.0)
    return finished.model_copy(update={"claim": claims.reply(service, who, body.claim, ended.claim)})


def _may_claim(service: Service, claim: wire.Claim) -> bool:
    """What a claim by itself would be refused for now must not keep a trial from its end."""
    try:
        service.rates.check_slot(claim.slot_id)
    except TooMany:
        return False
    return not service.disk.is_full


@routes.post("/release", responses=problem(404, 409, 422) | examples.answer(examples.RELEASED))
@allow(Role.WORKER, priority=Priority.KEEP)
async def release(
    lease: LeaseDep,
    body: Annotated[wire.Release, Body(openapi_examples=examples.request(examples.RELEASE))],
    service: ServiceDep,
) -> wire.Finished:
    """Hand a trial back unfinished; it costs no retry and goes on from its newest snapshot."""
    return _finished(lease, await service.writer.submit(Release(lease, body.cause)))


async def _check_fetch(service: Service, lease: Lease, sha256: str) -> None:
    if not await service.read(trial_store.may_fetch, lease, sha256):
        raise NotFound(f"the grant of trial {lease.trial_id} names no snapshot {sha256[:12]}…")


async def _stored_size(service: Service, sha256: str) -> int:
    size = await service.stored(service.blobs.size, sha256)
    if size is None:
        raise Unprocessable(f"the bytes of {sha256[:12]}… are not here; PUT …/blobs/{sha256} first")
    return size


def _report(lease: Lease, body: wire.Report) -> Report:
    return Report(lease, body.seq, tuple((p.step, p.metrics) for p in body.points))


def _reported(kept: Kept, ttl_seconds: float) -> wire.Reported:
    return wire.Reported(duplicate=kept.duplicate, ttl_seconds=ttl_seconds)


def _finished(lease: Lease, ended: Ended) -> wire.Finished:
    log.info(
        "trial.ended",
        trial_id=lease.trial_id,
        attempt=lease.attempt,
        state=ended.state,
        stop_reason=ended.stop_reason,
    )
    return wire.Finished(state=ended.state, stop_reason=ended.stop_reason)
