"""Workers register and claim trials."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated

import structlog
from fastapi import APIRouter, Body, Path, Request

from tunesmith_service import wire
from tunesmith_service.api import examples
from tunesmith_service.api.deps import ServiceDep, WhoDep, problem, watch_socket
from tunesmith_service.commands import Claim, Granted, Nothing, Register
from tunesmith_service.core import Service
from tunesmith_service.errors import Unprocessable
from tunesmith_service.places import Priority
from tunesmith_service.routing import router
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.short_way import short
from tunesmith_service.tokens import hash_secret

log = structlog.get_logger(__name__)

routes: APIRouter = router(tags=["workers"])


@routes.put("/workers/{worker_id}", responses=problem(409, 422) | examples.answer(examples.REGISTERED))
@allow(Role.WORKER, priority=Priority.CLAIM)
async def register(
    worker_id: Annotated[wire.Hex128, Path(examples=[examples.WORKER_ID])],
    body: Annotated[wire.Register, Body(openapi_examples=examples.request(examples.REGISTER))],
    service: ServiceDep,
    who: WhoDep,
) -> wire.Registered:
    """Say who a supervisor is, at each of its starts. Trials that its slots still held under an earlier
    start are handed back at once."""
    if worker_id != body.worker_id:
        raise Unprocessable(
            f"the path names worker {worker_id}, the body {body.worker_id}",
            errors=[{"pointer": "/worker_id", "message": "must be the worker of the path"}],
        )
    await service.writer.submit(Register(who.home_project, who.token_id, body))
    log.info("worker.registered", worker=body.name, worker_id=worker_id, slots=len(body.slots))
    ttl = service.settings.ttl_seconds
    direct = bool(service.settings.blob_store)
    return wire.Registered(ttl_seconds=ttl, beat_seconds=ttl / 3, direct_transfers=direct)


@routes.post("/claims", responses=problem(404, 409, 422) | examples.answer(examples.CLAIM_REPLY))
@allow(Role.WORKER, priority=Priority.CLAIM)
@short
async def claim(
    request: Request,
    body: Annotated[wire.ClaimRequest, Body(openapi_examples=examples.request(examples.CLAIM))],
    service: ServiceDep,
    who: WhoDep,
) -> wire.ClaimReply:
    """Ask for a trial, of any study that this worker serves or of the one that is named. A long poll:
    answered when there is one, first come first served, or without a grant after `wait_seconds`."""
    service.rates.check_slot(body.slot_id)
    asked_at = time.monotonic()
    outcome = await service.room.claim(
        command(body, who),
        wait_seconds=body.wait_seconds,
        watch=partial(watch_socket, request),
        parked=request.state.place.leave,
    )
    if isinstance(outcome, Granted):
        service.metrics.claim_wait.observe(time.monotonic() - asked_at)
    return reply(service, who, body, outcome)


def command(body: wire.Claim, who: Who) -> Claim:
    """What the writer is asked."""
    return Claim(
        who.home_project,
        who.token_id,
        body.claim_id,
        body.worker_id,
        body.boot_id,
        body.slot_id,
        hash_secret(body.secret),
        study=body.study,
    )


def reply(service: Service, who: Who, body: wire.Claim, outcome: Granted | Nothing) -> wire.ClaimReply:
    """What the slot is told."""
    if not isinstance(outcome, Granted):
        return wire.ClaimReply(draining=outcome.draining, ended=outcome.ended)
    service.remember_trial(outcome.trial_id, who.home_project)
    work = wire.WorkOrder.model_validate(outcome.work)
    log.info(
        "trial.claimed",
        study=work.study,
        trial=work.number,
        attempt=outcome.attempt,
        worker_id=body.worker_id,
    )
    grant = wire.Grant(
        trial_id=outcome.trial_id,
        incarnation=outcome.incarnation,
        attempt=outcome.attempt,
        ttl_seconds=service.settings.ttl_seconds,
        work=work,
    )
    return wire.ClaimReply(grant=grant)
