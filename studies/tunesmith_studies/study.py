"""What a person writes: a task, an objective, a space, stages and limits."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from tunesmith_studies.checked import Checked, Listed
from tunesmith_studies.recipe import Named, Recipe, expanded
from tunesmith_studies.resources import Resources
from tunesmith_studies.space import Name, Scalar, Space
from tunesmith_studies.stages import AnyStage
from tunesmith_studies.stages.base import Forecast
from tunesmith_studies.stages.budget import budget_problems
from tunesmith_studies.stages.ranges import range_problems

STORED = {"stored": True}
"""Context of a validation that reads a study which was checked before."""


def _in_words(deadline: Any) -> Any:
    """Digits alone are a year to some and seconds to others."""
    if isinstance(deadline, int | float) or (isinstance(deadline, str) and "-" not in deadline[1:]):
        raise ValueError(f"write a date and a time, such as 2026-01-31T18:00:00Z, got {deadline!r}")
    return deadline


class Objective(Checked):
    """Which metric decides, which way, and which of its values: last, best, or mean of the last k."""

    metric: Name = "val/loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    reduce: Literal["last", "best", "mean"] = "last"
    k: int = Field(default=3, ge=1, description="For reduce: mean, how many of the last points.")
    target: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="What people, or the best known system, reach in this metric; for diagnosis alone.",
    )

    @model_validator(mode="after")
    def _not_the_test_set(self) -> Objective:
        if self.metric.startswith("test/"):
            raise ValueError(f"objective {self.metric}: the test set never decides; use a val/ metric")
        return self


class Limits(Checked):
    """Where a study ends whatever its stages want."""

    max_trials: int | None = Field(default=None, ge=1)
    max_gpu_hours: float | None = Field(default=None, gt=0, description="Slot-hours on a CPU.")
    deadline: Annotated[datetime, Field(strict=False), BeforeValidator(_in_words)] | None = Field(
        default=None, description="With a time zone, else UTC."
    )
    max_concurrent: int | None = Field(default=None, ge=1)

    @field_validator("deadline")
    @classmethod
    def _utc_unless_said(cls, deadline: datetime | None) -> datetime | None:
        if deadline is not None and deadline.tzinfo is None:
            return deadline.replace(tzinfo=UTC)
        return deadline


class StudySpec(Checked):
    """A study as a person describes it; `studies/tunesmith_studies/examples` has files to run."""

    name: Name
    task: Name = Field(description="Key in the workers' own registry.")
    objective: Objective = Objective()
    space: Space
    fixed: Mapping[Name, Scalar] = Field(
        default_factory=dict, description="Hyperparameters that do not vary."
    )
    recipe: Named | None = Field(
        default=None,
        description="Writes the stages of a study that names none: quick, standard (the default) or "
        "thorough; a name alone, or {name, epochs} with the most epochs of a trial.",
    )
    stages: Listed[AnyStage] = Field(default=(), description="In order; none: the recipe's.")
    limits: Limits = Limits()
    resources: Resources = Resources()
    priority: int = Field(default=0, ge=-100, le=100, description="Higher goes first.")
    seed: int = Field(default=0, ge=0, lt=2**53)
    seed_mode: Literal["shared", "per_trial"] = "shared"
    keep_best: int = Field(
        default=3, ge=0, le=100, description="Snapshots of this many best trials are kept."
    )
    retries: int = Field(default=2, ge=0, le=20, description="Retries of a trial after retryable failures.")
    snapshot_every_seconds: float = Field(default=600, gt=0)
    fresh_wait_seconds: float = Field(
        default=0.25, ge=0, description="How long a claim waits for a fresh draft."
    )
    notes: str = Field(default="", max_length=16384)

    @field_validator("stages")
    @classmethod
    def _complete_stages(cls, stages: tuple[AnyStage, ...]) -> tuple[AnyStage, ...]:
        """Give each stage a name of its own and its pruner numbers instead of `auto`."""
        named: list[AnyStage] = []
        for stage in stages:
            named.append(complete_stage(stage, [s.name for s in named + list(stages)]))
        return tuple(named)

    @model_validator(mode="wrap")
    @classmethod
    def _with_stages(
        cls, data: Any, handler: ModelWrapValidatorHandler[StudySpec], info: ValidationInfo
    ) -> StudySpec:
        """A study that names no stages gets its recipe's, once: it is stored with them."""
        study = handler(data)
        if study.stages or info.context == STORED:
            return study
        stages, recipe = expanded(study.recipe or Recipe(), study)
        return study.model_copy(update={"stages": stages, "recipe": recipe})

    @model_validator(mode="after")
    def _runs(self, info: ValidationInfo) -> StudySpec:
        if info.context == STORED:
            return self
        found = [
            InitErrorDetails(
                type=PydanticCustomError("study", "{sentence}", {"sentence": sentence}),
                loc=where,
                input=None,
            )
            for where, sentence in self.problems()
        ]
        if found:
            raise ValidationError.from_exception_data("StudySpec", found)
        return self

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What keeps this study from running: the place in the specification and a sentence each."""
        if self.objective.metric.endswith("accuracy") and self.objective.direction == "minimize":
            yield (
                ("objective",),
                f"{self.objective.metric} is the better the higher, and a study minimizes unless it says "
                "otherwise; add direction: maximize",
            )
        for name in self.fixed:
            if name in self.space:
                yield ("fixed", name), f"{name} stands in space and in fixed; leave it in one of them"
        if self.stages and self.recipe is not None and self.recipe.notes is None:
            yield (
                ("recipe",),
                "a recipe writes the stages, and this study names its own; leave one of them out",
            )
        for i, (study, stage) in enumerate(self.as_found()):
            for sentence in stage_problems(study, stage, self.stages[:i]):
                yield ("stages", i), f"stage {stage.name}: {sentence}"

    def as_found(self) -> Iterator[tuple[StudySpec, AnyStage]]:
        """This study as each stage finds it, and the stage: earlier ones may have widened the space by
        their own ranges."""
        study = self
        for stage in self.stages:
            yield study, stage
            if stage.ranges and stage.takes_ranges:
                study = study.model_copy(update={"space": study.space.widened(stage.ranges)})

    def with_stage(self, stage: AnyStage) -> StudySpec:
        """This study with one more stage at its end, checked. Raises ValidationError as creation does."""
        stages = [*self.to_json()["stages"], stage.model_dump(mode="json")]
        return StudySpec.model_validate(self.to_json() | {"stages": stages})

    def stages_after(self, name: str) -> tuple[AnyStage, ...]:
        names = [s.name for s in self.stages]
        return self.stages[names.index(name) + 1 :] if name in names else ()

    def to_json(self) -> dict[str, Any]:
        """Complete and canonical: equal studies give equal JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StudySpec:
        """A stored study. It was checked when it was created, with `model_validate`, and is not checked
        against its surroundings again: a package may be gone, and the study must still be readable.
        """
        return cls.model_validate(data, context=STORED)


def free_name(name: str, taken: Container[str]) -> str:
    """
    >>> free_name("random", ["random", "random_2"]), free_name("sobol", [])
    ('random_3', 'sobol')
    """
    n, free = 1, name
    while free in taken:
        n += 1
        free = f"{name}_{n}"
    return free


def complete_stage(stage: AnyStage, taken: list[str]) -> AnyStage:
    """The stage with a name (its kind, then kind_2, kind_3, …) and a pruner without `auto`."""
    update: dict[str, Any] = {}
    if not stage.name:
        update["name"] = free_name(stage.kind, taken)
    if stage.pruner is not None:
        update["pruner"] = stage.pruner.resolved(stage.epochs)
    return stage.model_copy(update=update) if update else stage


def stage_problems(study: StudySpec, stage: AnyStage, earlier: tuple[AnyStage, ...]) -> list[str]:
    """A sentence for each thing that keeps `stage` from running after `earlier`."""
    names = [s.name for s in earlier]
    if stage.name in names:
        return [f"two stages are named {stage.name}; give one of them another name"]
    if stage.source is not None and stage.source not in names:
        known = ", ".join(names) if names else "none, for it is the first"
        return [f"its source {stage.source!r} is no earlier stage; earlier ones are: {known}"]
    if wrong := list(range_problems(stage, study)):
        return wrong
    return [*stage.problems(study), *budget_problems(stage, study)]


def forecast(study: StudySpec) -> dict[str, Forecast]:
    """What each stage runs at most, by name, before anything has run."""
    planned: dict[str, Forecast] = {}
    for found, stage in study.as_found():
        planned[stage.name] = stage.forecast(found, planned)
    return planned
