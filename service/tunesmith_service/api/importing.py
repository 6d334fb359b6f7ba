"""Trials that were run elsewhere, brought into a study."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Body
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tunesmith_service.api import examples
from tunesmith_service.api.deps import ServiceDep, StudyDep, WhoDep, problem
from tunesmith_service.api.models import Answer, Question, TrialNumber
from tunesmith_service.routing import router, takes
from tunesmith_service.security import Role, allow
from tunesmith_service.settings import MIB
from tunesmith_service.wire import Name, ReportPoint, Scalar, Text, show_number
from tunesmith_service.wishes import ImportTrials

log = structlog.get_logger(__name__)

routes: APIRouter = router(prefix="/studies/{study}", tags=["trials"])

REASONS = {
    "complete": ("budget",),
    "pruned": ("pruned", "diverged"),
    "failed": ("error",),
    "cancelled": ("cancelled",),
}
ATTRIBUTES_BYTES = 65_536


class ImportedTrial(Question):
    """A trial that has ended where it was run."""

    number: TrialNumber = Field(description="Its number there; the same again is left as it is.")
    state: Literal["complete", "pruned", "failed", "cancelled"]
    stop_reason: Literal["budget", "pruned", "diverged", "error", "cancelled"] | None = Field(
        default=None, description="Default: by its state; a pruned trial may have diverged."
    )
    value: float | None = Field(
        default=None, allow_inf_nan=False, description="The objective, of a complete trial."
    )
    params: dict[Name, Scalar] = Field(max_length=1000)
    points: list[ReportPoint] = Field(default=[], description="Its curve, in rising order of step.")
    attributes: dict[str, Any] = Field(default={}, description="What else was noted; kept as it is.")
    error: Text | None = Field(default=None, max_length=10_000, description="Why it failed.")
    started_at: Annotated[datetime, Field(strict=False)] | None = None
    ended_at: Annotated[datetime, Field(strict=False)] | None = None

    @field_validator("attributes")
    @classmethod
    def _small(cls, attributes: dict[str, Any]) -> dict[str, Any]:
        size = len(json.dumps(attributes))
        if size > ATTRIBUTES_BYTES:
            raise ValueError(
                f"attributes are {size} bytes as JSON, of at most {ATTRIBUTES_BYTES}; leave the rest out"
            )
        return attributes

    @model_validator(mode="after")
    def _sound(self) -> ImportedTrial:
        for wrong in self._wrong():
            raise PydanticCustomError("imported", "{sentence}", {"sentence": f"trial {self.number}: {wrong}"})
        return self

    def _wrong(self) -> list[str]:
        found = []
        if (self.state == "complete") != (self.value is not None):
            found.append(f"it is {self.state} with value {self.value}; just complete trials have a value")
        if self.stop_reason not in (None, *REASONS[self.state]):
            found.append(f"it is {self.state}, which goes with {' or '.join(REASONS[self.state])}")
        steps = [point.step for point in self.points]
        if any(later <= step for step, later in pairwise(steps)):
            found.append("its points must come in rising order of step")
        if any(name.startswith("test/") for point in self.points for name in point.metrics):
            found.append("it has metrics under test/, which no trial may choose by; leave them out")
        times = [at for at in (self.started_at, self.ended_at) if at is not None]
        if any(at.tzinfo is None for at in times):
            found.append("times need a zone, such as 2026-01-05T09:30:00Z")
        elif self.ended_at is not None and (self.started_at is None or self.ended_at < self.started_at):
            found.append(f"it ended at {self.ended_at} and started at {self.started_at}")
        return found

    def brought(self) -> dict[str, Any]:
        """As the command has it."""
        return {
            "number": self.number,
            "state": self.state,
            "stop_reason": self.stop_reason or REASONS[self.state][0],
            "value": self.value,
            "params": self.params,
            "points": [
                {"step": p.step, "metrics": {name: show_number(v) for name, v in p.metrics.items()}}
                for p in self.points
            ],
            "attributes": self.attributes,
            "error": self.error,
            "started_us": _us(self.started_at),
            "ended_us": _us(self.ended_at),
        }


def _us(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1e6)


class Import(Question):
    """Trials for a stage of kind `imported`, all or none."""

    stage: Name
    trials: list[ImportedTrial] = Field(min_length=1, max_length=500)

    @field_validator("trials")
    @classmethod
    def _differ(cls, trials: list[ImportedTrial]) -> list[ImportedTrial]:
        numbers = [t.number for t in trials]
        if len(set(numbers)) < len(numbers):
            twice = next(n for n in numbers if numbers.count(n) > 1)
            raise ValueError(f"trial {twice} stands twice")
        return trials


class ImportedAnswer(Answer):
    new: int = Field(description="How many have come; the others had come before.")


@routes.post(
    "/import", responses=problem(404, 409, 413, 422, 507) | examples.answer(examples.IMPORTED_TRIALS)
)
@takes(limit=8 * MIB)
@allow(Role.RESEARCHER)
async def import_trials(
    study: StudyDep,
    body: Annotated[Import, Body(openapi_examples=examples.request(examples.IMPORT))],
    service: ServiceDep,
    who: WhoDep,
) -> ImportedAnswer:
    """Bring trials that were run elsewhere, with their curves and ends. Sent again, those that have come are
    left as they are, so an import that broke off goes on."""
    trials = tuple(trial.brought() for trial in body.trials)
    new = await service.writer.submit(ImportTrials(study.id, body.stage, trials, who.actor))
    log.info("trials.imported", study=study.name, stage=body.stage, new=new, actor=who.actor)
    return ImportedAnswer(new=new)
