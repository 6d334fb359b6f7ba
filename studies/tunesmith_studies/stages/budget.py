"""How long a stage's trials train, where it is not so many epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from tunesmith_studies.checked import Checked
from tunesmith_studies.vocabulary import ANY_LENGTH_SCHEDULES

if TYPE_CHECKING:
    from tunesmith_studies.stages.base import Stage
    from tunesmith_studies.study import StudySpec


class Budget(Checked):
    """How long each trial trains, in one unit. Batch sizes are compared at equal epochs (which favours
    small ones), at equal steps (which favours large ones) or at equal time (Smith 1803.09820, remark 4).
    """

    epochs: int | None = Field(default=None, ge=1, description="Passes over the training split.")
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps.")
    seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Time spent in training, evaluations left out."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        named = self.model_dump(exclude_none=True)
        if len(named) != 1:
            found = ", ".join(named) or "none"
            raise ValueError(f"a budget names one of epochs, steps and seconds, got {found}")
        return self

    @property
    def in_epochs(self) -> bool:
        return self.epochs is not None

    def shown(self) -> str:
        """`5 epochs`, `300 steps` or `20 seconds`."""
        ((unit, n),) = self.model_dump(exclude_none=True).items()
        return f"{n:g} {unit}"


def budget_problems(stage: Stage, study: StudySpec) -> Iterator[str]:
    """Why a stage's budget, or its source's, does not go with what else it asks for, a sentence each."""
    source = stage.source_in(study)
    if stage.goes_on_from_source and source is not None and not source.counts_epochs:
        yield (
            f"it goes on from snapshots of {source.name}, whose trials are {source.length} long: only "
            "trials that count epochs can be gone on from; let that stage count epochs"
        )
    if stage.counts_epochs:
        return
    length = stage.length
    if not stage.takes_budget:
        yield f"a {stage.kind} stage counts epochs, and its trials are {length} long; write epochs instead"
    elif stage.goes_on_from_source:
        yield (
            f"it goes on from its source's snapshots, which count epochs, and its trials are {length} long; "
            "write epochs instead, or let its trials begin anew"
        )
    if stage.pruner is not None:
        yield (
            f"its pruner compares trials at the same epoch, and trials {length} long are evaluated at "
            "different steps; leave the pruner or that length out"
        )
    if stage.budget is not None and stage.budget.seconds is not None:
        yield from _unknown_length(stage, study)


def _unknown_length(stage: Stage, study: StudySpec) -> Iterator[str]:
    varies = "schedule" in stage.open_space(study)
    schedule = stage.held(study).get("schedule", "constant")
    if varies or schedule not in ANY_LENGTH_SCHEDULES:
        found = "varies in the space" if varies else f"is {schedule}"
        yield (
            f"nobody knows how many steps {stage.length} will be, and the schedule {found}; hold one that "
            f"does not depend on the length under fixed: {', '.join(ANY_LENGTH_SCHEDULES)}"
        )
