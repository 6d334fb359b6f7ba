"""Where a token's holder is logged in with a browser, and logging out from afar."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path

from tunesmith_service import session_store, sessions
from tunesmith_service.api import examples, models
from tunesmith_service.api.deps import ServiceDep, WhoDep, problem
from tunesmith_service.api.models import moment
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/sessions", tags=["tokens"])

Key = Annotated[str, Path(max_length=64, examples=["9d1c07b2e65fa380"])]


@routes.get("", responses=examples.page(examples.SESSION))
@allow(Role.VIEWER)
async def list_sessions(service: ServiceDep, who: WhoDep) -> models.Page[models.Session]:
    """The browsers that this token has logged in, the one that was used last first."""
    return models.Page(items=[_session(s) for s in await sessions.listed(service, who.token_id)])


@routes.delete("/{key}", status_code=204, responses=problem(404))
@allow(Role.VIEWER)
async def end_session(key: Key, service: ServiceDep, who: WhoDep) -> None:
    """Log one browser out, within a second."""
    await sessions.end_by_key(service, who.token_id, key)
    log.info("session.ended", session=key, actor=who.actor)


@routes.delete("", status_code=204)
@allow(Role.VIEWER)
async def end_sessions(service: ServiceDep, who: WhoDep) -> None:
    """Log out everywhere; login codes of this token that nobody has used end, too."""
    await sessions.end_all(service, who.token_id)
    log.info("sessions.ended", key_id=who.key_id, actor=who.actor)


def _session(row: session_store.Session) -> models.Session:
    return models.Session(
        key=row.key,
        browser=row.browser,
        begun_at=moment(row.begun_us),
        last_seen_at=moment(row.last_seen_us),
        expires_at=moment(row.expires_us),
    )
