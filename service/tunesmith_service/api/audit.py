"""The audit log: who did what, from where, and the ends of its chain."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from tunesmith_service import audit_store
from tunesmith_service.api import examples
from tunesmith_service.api.deps import Cursor, Limit, ServiceDep, WhoDep, cursor_number, problem
from tunesmith_service.api.models import Answer, Moment, Page, moment
from tunesmith_service.audit_chain import Entry
from tunesmith_service.routing import router
from tunesmith_service.security import Role, allow

routes: APIRouter = router(prefix="/audit", tags=["audit"])


class AuditEntry(Answer):
    """One action; what is asked for twice and done once stands here once."""

    n: int
    at: Moment
    action: str
    actor: str
    key_id: str = Field(description="Of the token; empty for what the service did by itself.")
    address: str
    request_id: str
    project_id: int | None
    subject: str
    detail: dict[str, Any]
    before: str | None = Field(description="Digest of the subject; null where it was not there.")
    after: str | None
    previous: str = Field(description="`hash` of entry n - 1.")
    hash: str = Field(description="SHA-256 over all other fields, `at` in microseconds since 1970.")


class AuditLink(Answer):
    n: int
    hash: str


class AuditEnds(Answer):
    head: AuditLink = Field(description="The newest entry.")
    anchor: AuditLink = Field(description="The last entry that was removed after its time; n 0: none.")


@routes.get("", responses=problem(422) | examples.page(examples.AUDIT_ENTRY))
@allow(Role.ADMIN)
async def list_audit(
    service: ServiceDep,
    who: WhoDep,
    *,
    action: Annotated[
        str | None,
        Query(description="Such as `study.stop`, or `study` for all of studies.", max_length=32),
    ] = None,
    order: Literal["newest", "oldest"] = "newest",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[AuditEntry]:
    """What people did in the project; an operator sees what they did anywhere, and each entry."""
    found = await service.read(
        audit_store.page,
        who.project_id,
        action=action,
        beside=cursor_number(cursor),
        newest_first=order == "newest",
        limit=limit,
    )
    more = str(found[-1].n) if len(found) == limit else None
    return Page(items=[_shown(entry) for entry in found], next_cursor=more)


@routes.get("/head", responses=examples.answer(examples.AUDIT_ENDS))
@allow(Role.OPERATOR)
async def audit_head(service: ServiceDep) -> AuditEnds:
    """Where the chain of entries begins and ends. Noted elsewhere, the head tells later whether the log was
    written anew."""
    return AuditEnds.model_validate(await service.read(audit_store.ends))


def _shown(entry: Entry) -> AuditEntry:
    names = (name for name in AuditEntry.model_fields if name != "at")
    return AuditEntry(at=moment(entry.at_us), **{name: getattr(entry, name) for name in names})
