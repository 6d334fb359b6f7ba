"""What all stages share. One kind a file beside this one; the union stands in `stages/__init__`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from tunesmith_studies.pruners import Pruner
from tunesmith_studies.space import Scalar

if TYPE_CHECKING:
    from tunesmith_studies.planning import History, Plan, Seed
    from tunesmith_studies.study import StudySpec


class Stage(BaseModel):
    """A stage is data: what it plans, from which earlier stage, with which budget and pruner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draws_drafts: ClassVar[bool] = False
    """True if a model proposes its trials, so that each finish makes a waiting one stale."""

    kind: str
    name: str = Field(default="", max_length=128, description="Unique in the study; the kind if empty.")
    source: str | None = Field(default=None, description="Earlier stage to build on; default the last that ranked.")
    epochs: int = Field(ge=1, description="Full passes over the training split for each trial.")
    data_fraction: float = Field(default=1.0, gt=0, le=1, description="Share of the training split to use.")
    fixed: Mapping[str, Scalar] = Field(
        default_factory=dict, description="Hyperparameters held for this stage; over the study's own."
    )
    pruner: Pruner | None = Field(default=None, description="Compares trials within this stage.")

    def problems(self, study: StudySpec) -> list[str]:
        """What keeps this stage from running in that study, a sentence each with what to do."""
        return []

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        """See `planning`; n is how many proposals there is room for."""
        raise NotImplementedError

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        """How much this stage will run at most, before anything has run."""
        raise NotImplementedError


class Forecast(BaseModel):
    """Trials, epochs and end-of-trial snapshots that a stage plans at most."""

    trials: int
    epochs: int
    snapshots: int = 0
