"""Settings: who a person is here, where they are logged in, and the tokens that open the service."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service import sessions, store
from tunesmith_service.api import models, tokens
from tunesmith_service.api.deps import ServiceDep, WhoDep
from tunesmith_service.problems import from_validation
from tunesmith_service.security import Role, allow
from tunesmith_service.ui.login import left
from tunesmith_service.ui.pages.common import form, page, refresh
from tunesmith_service.ui.routing import router
from tunesmith_service.ui.study_form import scalar

MOST_TOKENS = 200

MAY = {
    Role.VIEWER: "sees studies and trials, changes nothing",
    Role.RESEARCHER: "also creates and stops studies, and moves trials",
    Role.WORKER: "claims trials and reports them; sees no page",
    Role.ADMIN: "also deletes studies, drains workers, makes and revokes tokens",
    Role.OPERATOR: "an admin of every project of this service",
}

routes = router(include_in_schema=False)


@routes.get("/ui/settings")
@allow(Role.VIEWER, by="session")
async def settings(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    rows = await service.read(store.tokens, who.project_id) if who.may(Role.ADMIN) else None
    roles = [r for r in Role if r is Role.WORKER or who.may(r)]
    return page(
        request, who, "settings.html", section="settings", roles=roles, may=MAY,
        now_us=service.clock.now_us(), sessions=await sessions.listed(service, who.token_id),
        tokens=None if rows is None else rows[::-1][:MOST_TOKENS],
        more=max(len(rows or ()) - MOST_TOKENS, 0),
    )  # fmt: skip


@routes.post("/ui/settings/tokens")
@allow(Role.ADMIN, by="session")
async def make_token(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    """A new token, shown in this answer alone."""
    sent = {name: values[0].strip() for name, values in (await form(request, service)).items()}
    asked = {"name": sent.get("name", ""), "role": sent.get("role", "")}
    try:
        body = models.NewToken.model_validate(
            asked | ({"days": scalar(sent["days"])} if sent.get("days") else {})
        )
    except ValidationError as error:
        raise from_validation(error, asked) from error
    made = await tokens.create_token(body, service, who)
    return page(request, who, "parts/new_token.html", token=made)


@routes.post("/ui/settings/tokens/{key_id}/revoke")
@allow(Role.ADMIN, by="session")
async def revoke_token(
    service: ServiceDep, who: WhoDep, key_id: Annotated[str, Path(max_length=64)]
) -> Response:
    await tokens.revoke_token(key_id, service, who)
    return refresh()


@routes.post("/ui/settings/sessions/{key}/end")
@allow(Role.VIEWER, by="session")
async def end_session(
    request: Request, service: ServiceDep, who: WhoDep, key: Annotated[str, Path(max_length=64)]
) -> Response:
    await sessions.end_by_key(service, who.token_id, key)
    return left(request, service) if key == who.session else refresh()


@routes.post("/ui/settings/sessions/end")
@allow(Role.VIEWER, by="session")
async def end_sessions(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    await sessions.end_all(service, who.token_id)
    return left(request, service)
