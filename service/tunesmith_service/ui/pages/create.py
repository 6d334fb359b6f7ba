"""A new study, or a clone: a form or its whole text, what it would cost, what differs, then its creation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import ValidationError
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from tunesmith_studies.study import StudySpec
from tunesmith_studies.written import short

from tunesmith_service import overviews, store
from tunesmith_service.api import shapes
from tunesmith_service.api.cloning import differing
from tunesmith_service.api.deps import MAX_ID, ServiceDep, WhoDep
from tunesmith_service.api.models import Created, DryRun
from tunesmith_service.api.studies import created
from tunesmith_service.cli import study_file
from tunesmith_service.core import Service
from tunesmith_service.errors import Conflict, TunesmithError
from tunesmith_service.parsing import as_sent, whole_number
from tunesmith_service.problems import from_validation
from tunesmith_service.security import Role, Who, allow
from tunesmith_service.ui import screens, study_clone, study_form
from tunesmith_service.ui.pages.common import fields, lead_to, page
from tunesmith_service.ui.routing import router

TEXT_BYTES = 262_144
"""Of the form; percent-encoding triples what a person wrote."""

Mode = Literal["fields", "yaml"]

routes = router(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Original:
    """The study that a new one is cloned from, as it is now."""

    study: store.Study
    spec: StudySpec
    taken: set[str]  # names that a clone cannot have


@routes.get("/ui/studies/new")
@allow(Role.RESEARCHER, by="session")
async def new_study(  # noqa: PLR0917  (called by name)
    request: Request,
    service: ServiceDep,
    who: WhoDep,
    mode: Mode = "fields",
    example: Annotated[str, Query(max_length=64)] = "",
    clone: Annotated[int | None, Query(description="Begin with this study.", ge=1, le=MAX_ID)] = None,
    stage: Annotated[str, Query(description="With the room that its finding wants.", max_length=128)] = "",
    param: Annotated[str, Query(description="Along this hyperparameter.", max_length=128)] = "",
) -> Response:
    if clone is not None:
        original = await service.read(_original, who, clone)
        spec = original.spec
        if stage:
            found = await service.read(screens.proposal, original.study, stage, param)
            spec = study_clone.extended(spec, stage, found)
        filled = await asyncio.to_thread(study_clone.begun, original.spec, spec, original.taken)
        return await _page(request, service, who, filled, original=original)
    shipped = study_file.examples()
    text = shipped[example].read_text(encoding="utf-8") if example in shipped else ""
    values = {"mode": "yaml" if text else mode, "yaml": text, **study_form.BLANK}
    return await _page(request, service, who, study_form.Form(values))


def _original(conn: Connection, who: Who, study_id: int) -> Original:
    """Raises: NotFound, also for a study of another project."""
    study = screens.visible(conn, who, study_id)
    spec = StudySpec.from_json(shapes.whole_spec(conn, study))
    return Original(study, spec, overviews.names_like(conn, who.home_project, study.name))


async def _sent(
    request: Request, service: Service, who: Who
) -> tuple[dict[str, str], study_form.Form, Original | None]:
    """What came: all of it, the form, and the study that it is a clone of."""
    sent = await fields(request, service, limit=TEXT_BYTES)
    clone = whole_number(sent.get("clone", ""))
    original = None if clone is None else await service.read(_original, who, clone)
    return sent, study_form.Form(sent, base=short(original.spec) if original else {}), original


@routes.post("/ui/studies/new")
@allow(Role.RESEARCHER, by="session")
async def send_study(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    """Forecast it (`action` look), write it as text (text), or create it (create)."""
    sent, filled, original = await _sent(request, service, who)
    action = sent.get("action", "look")
    data = await asyncio.to_thread(_data, filled)
    if action == "text" and data is not None:
        text = {**sent, "mode": "yaml", "yaml": study_file.written(data)}
        return await _page(request, service, who, study_form.Form(text, base=filled.base), original=original)
    spec = await asyncio.to_thread(_checked, filled, data)
    if spec is None:
        return await _page(request, service, who, filled, original=original, status=422)
    from_ = original.study.id if original else None
    try:
        answer = await created(service, who, spec, dry_run=action != "create", cloned_from=from_)
    except TunesmithError as error:
        at = "yaml" if sent.get("mode") == "yaml" else "name" if isinstance(error, Conflict) else ""
        filled.add_wrong(at, error.detail)
        return await _page(request, service, who, filled, original=original, status=error.status)
    if isinstance(answer, Created):
        return lead_to(request, f"/studies/{answer.id}")
    return await _page(request, service, who, filled, original=original, spec=spec, cost=_cost(answer))


@routes.post("/ui/studies/new/differences")
@allow(Role.RESEARCHER, by="session")
async def differences_part(request: Request, service: ServiceDep, who: WhoDep) -> Response:
    """What the form as it stands differs in from the study that it is a clone of."""
    _, filled, original = await _sent(request, service, who)
    spec = await asyncio.to_thread(lambda: _checked(filled, _data(filled)))
    return page(request, who, "parts/differences.html", **_differing(original, spec))


def _differing(original: Original | None, spec: StudySpec | None) -> dict[str, Any]:
    """`differences` is None where there is nothing to compare: no clone, or one that cannot be read yet."""
    known = None if original is None or spec is None else differing(original.spec.to_json(), spec)
    return {"differences": known}


def _data(filled: study_form.Form) -> dict[str, Any] | None:
    """The specification as plain JSON, or None if it cannot be read at all."""
    if filled.text("mode") != "yaml":
        return filled.specification()
    try:
        return study_form.read_yaml(filled.values.get("yaml", ""), "the text")
    except ValueError as error:
        filled.add_wrong("yaml", str(error))
        return None


def _checked(filled: study_form.Form, data: dict[str, Any] | None) -> StudySpec | None:
    """The study; None if something is wrong with it, which then stands beside its field."""
    if data is None:
        return None
    filled.places.setdefault("", "yaml" if filled.text("mode") == "yaml" else "")
    try:
        spec = StudySpec.model_validate(as_sent(data))
    except ValidationError as error:
        filled.blame([dict(e) for e in from_validation(error, data).errors])
        return None
    except TunesmithError as error:  # what JSON may not hold here
        filled.add_wrong(filled.places[""], error.detail)
        return None
    return None if filled.wrong else spec


@dataclass(frozen=True, slots=True)
class Cost:
    """What a study would run at most."""

    dry: DryRun
    rows: list[tuple[str, Any]]


def _cost(answer: DryRun) -> Cost:
    return Cost(answer, list(answer.stages.items()))


async def _page(
    request: Request,
    service: Service,
    who: Who,
    filled: study_form.Form,
    *,
    status: int = 200,
    original: Original | None = None,
    spec: StudySpec | None = None,
    cost: Cost | None = None,
) -> Response:
    """Args: spec: what the form says, if that is known already."""
    offers = await service.read(shapes.offers, who.home_project)
    if original and spec is None and status == HTTPStatus.OK:
        spec = await asyncio.to_thread(lambda: _checked(filled, _data(filled)))
    shown = page(
        request, who, "new_study.html", form=filled, cost=cost, tasks=sorted(offers),
        examples=list(study_file.examples()), is_text=filled.text("mode") == "yaml",
        original=original.study if original else None, **_differing(original, spec),
    )  # fmt: skip
    shown.status_code = status
    return shown
