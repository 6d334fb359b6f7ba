"""The audit log, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from tunesmith_service import audit_store
from tunesmith_service.api.deps import MAX_ID, ServiceDep, WhoDep
from tunesmith_service.security import Role, allow
from tunesmith_service.ui import formats
from tunesmith_service.ui.pages.common import page
from tunesmith_service.ui.routing import router

PAGE = 100

routes = router(include_in_schema=False)


@routes.get("/ui/settings/audit")
@allow(Role.ADMIN, by="session")
async def audit(
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
) -> Response:
    found = await service.read(audit_store.page, who.project_id, beside=before, limit=PAGE + 1)
    ends = await service.read(audit_store.ends) if who.may(Role.OPERATOR) else None
    more, found = len(found) > PAGE, found[:PAGE]
    return page(
        request, who, "audit.html", section="settings", entries=[(e, told(e.detail)) for e in found],
        head=ends and ends.head, days=service.settings.audit_days, next=found[-1].n if more else None,
    )  # fmt: skip


def told(detail: Mapping[str, Any]) -> list[tuple[str, Markup | str]]:
    """An entry's details in words: `*_us` is a time, null is none.

    >>> told({"expires_us": None, "add": ["a", "b"], "whole": True, "cloned_from": 7})
    [('expires', 'none'), ('add', 'a, b'), ('whole', 'yes'), ('cloned from', '7')]
    """
    return [
        (name.removesuffix("_us").replace("_", " "), _said(name, value)) for name, value in detail.items()
    ]


def _said(name: str, value: Any) -> Markup | str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return formats.moment(value) if name.endswith("_us") else str(value)
