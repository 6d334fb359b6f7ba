"""What a person writes: a task, an objective, a space, stages and limits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith_studies.space import Scalar, Space
from tunesmith_studies.stages import AnyStage


class Objective(BaseModel):
    """Which metric decides, which way, and which of its values: last, best, or mean of the last k."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(default="val/loss", max_length=128)
    direction: Literal["minimize", "maximize"] = "minimize"
    reduce: Literal["last", "best", "mean"] = "last"
    k: int = Field(default=3, ge=1, description="For reduce: mean, how many of the last points.")

    @model_validator(mode="after")
    def _not_the_test_set(self) -> Objective:
        if self.metric.startswith("test/"):
            raise ValueError(f"objective {self.metric}: the test set never decides; use a val/ metric")
        return self


class Limits(BaseModel):
    """Where a study ends whatever its stages want."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_trials: int | None = Field(default=None, ge=1)
    max_gpu_hours: float | None = Field(default=None, gt=0, description="Slot-hours on a CPU.")
    deadline: datetime | None = Field(default=None, description="With a time zone, else UTC.")
    max_concurrent: int | None = Field(default=None, ge=1)


class StudySpec(BaseModel):
    """A study as a person describes it; `studies/tunesmith_studies/examples` has files to run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=128)
    task: str = Field(min_length=1, max_length=128, description="Key in the workers' own registry.")
    objective: Objective = Objective()
    space: Space
    fixed: Mapping[str, Scalar] = Field(default_factory=dict, description="Hyperparameters that do not vary.")
    stages: tuple[AnyStage, ...] = Field(min_length=1)
    limits: Limits = Limits()
    priority: int = Field(default=0, ge=-100, le=100, description="Higher goes first.")
    seed: int = Field(default=0, ge=0, lt=2**53)
    seed_mode: Literal["shared", "per_trial"] = "shared"
    keep_best: int = Field(default=3, ge=0, le=100, description="Snapshots of this many best trials are kept.")
    retries: int = Field(default=2, ge=0, le=20, description="Retries of a trial after retryable failures.")
    snapshot_every_seconds: float = Field(default=600, gt=0)
    fresh_wait_seconds: float = Field(default=0.25, ge=0, description="How long a claim waits for a fresh draft.")
    notes: str = Field(default="", max_length=16384)
