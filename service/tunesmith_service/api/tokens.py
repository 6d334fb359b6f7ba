"""Tokens, and the one-time codes that open the dashboard."""

from __future__ import annotations

import hashlib
from typing import Annotated

import structlog
from fastapi import APIRouter, Body, Header, Path, Request

from tunesmith_service import store
from tunesmith_service.admission import CreateToken, RevokeToken
from tunesmith_service.api import examples, models
from tunesmith_service.api.deps import ServiceDep, WhoDep, address_of, problem
from tunesmith_service.api.models import moment
from tunesmith_service.clock import SECOND
from tunesmith_service.errors import Forbidden, NotFound
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow
from tunesmith_service.sessions import login_link, new_code
from tunesmith_service.tokens import Token

DAYS = {Role.WORKER: 30.0}
USUAL_DAYS = 90.0
DAY_US = 86_400 * SECOND

log = structlog.get_logger(__name__)

routes: APIRouter = router(tags=["tokens"])


@routes.get("/tokens", responses=examples.page(examples.TOKEN))
@allow(Role.ADMIN)
async def list_tokens(service: ServiceDep, who: WhoDep) -> models.Page[models.Token]:
    """Tokens of the project, without their secrets; an operator sees all."""
    rows = await service.read(store.tokens, who.project_id)
    return models.Page(items=[_token(r) for r in rows])


@routes.post(
    "/tokens", status_code=201, responses=problem(409, 422) | examples.answer(examples.TOKEN_CREATED, 201)
)
@allow(Role.ADMIN)
async def create_token(
    body: Annotated[models.NewToken, Body(openapi_examples=examples.request(examples.NEW_TOKEN))],
    service: ServiceDep,
    who: WhoDep,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
) -> models.TokenCreated:
    """Make a token. It is shown in this answer alone."""
    role = Role(body.role)
    if not who.may(role) and role is not Role.WORKER:
        raise Forbidden(f"a token with the role {who.role} cannot make one with the role {role}")
    days = DAYS.get(role, USUAL_DAYS) if body.days is None else body.days
    ends_us = service.clock.now_us() + int(days * DAY_US)
    token = Token.mint()
    if key is not None:  # the same request again finds its token there: a secret is never shown twice
        again = hashlib.sha256(f"{who.token_id}:{key}".encode()).hexdigest()[: len(token.key_id)]
        token = Token(again, token.secret)
    project_id = None if role is Role.OPERATOR else who.home_project
    await service.writer.submit(
        CreateToken(project_id, body.name, role, token.key_id, token.secret_hash, ends_us, who.actor)
    )
    await service.know_tokens()
    log.info("token.created", key_id=token.key_id, role=str(role), actor=who.actor)
    return models.TokenCreated(
        key_id=token.key_id, name=body.name, role=role, token=token.reveal(), expires_at=moment(ends_us)
    )


@routes.delete("/tokens/{key_id}", status_code=204, responses=problem(404))
@allow(Role.ADMIN)
async def revoke_token(
    key_id: Annotated[str, Path(max_length=64, examples=["5f0c8a3e9b7d4c21"])],
    service: ServiceDep,
    who: WhoDep,
) -> None:
    """End a token and its sessions; whoever carries it is refused within a second."""
    row = await service.read(store.token_by_key, key_id)
    if row is None or not (who.project_id is None or row.project_id == who.project_id):
        raise NotFound(f"no token {key_id}")
    await service.writer.submit(RevokeToken(key_id, who.actor))
    service.gate.forget()
    await service.know_tokens()
    log.info("token.revoked", key_id=key_id, actor=who.actor)


@routes.post("/login-codes", status_code=201, responses=examples.answer(examples.LOGIN_CODE, 201))
@allow(Role.VIEWER)
async def create_login_code(request: Request, service: ServiceDep, who: WhoDep) -> models.LoginCode:
    """A link that opens the dashboard once, with the rights of this token."""
    code = await new_code(service, who.token_id)
    link = login_link(address_of(request), code)
    return models.LoginCode(code=code, url=link, expires_seconds=service.settings.login_code_seconds)


def _token(row: store.TokenRow) -> models.Token:
    return models.Token(
        key_id=row.key_id,
        name=row.name,
        role=row.role,
        created_at=moment(row.created_us),
        expires_at=moment(row.expires_us),
        last_used_at=moment(row.last_used_us),
        revoked_at=moment(row.revoked_us),
    )
