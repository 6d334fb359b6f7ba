"""Trials that were run elsewhere, by another program: history for the stages behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunesmith_studies.planning import History, Plan, Seed, Wait
from tunesmith_studies.space import PRINTED
from tunesmith_studies.stages.base import Forecast, Stage

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec


class Imported(Stage):
    """`trials` trials that somebody brings with their curves and ends; nothing of them is run here.

    It plans nothing, waits until all have come, and ranks them. So an import that broke off is known as
    such, and goes on where it was. `epochs` is how long they were: a model of a later stage learns from those
    of its own length.
    """

    kind: Literal["imported"] = "imported"
    trials: int = Field(ge=1, le=100_000, description="How many are brought.")
    origin: str = Field(
        default="", max_length=200, pattern=PRINTED, description="Where they come from, for people."
    )

    def problems(self, study: StudySpec) -> list[str]:
        return ["its trials have ended already, so nothing prunes them; leave pruner out"] * bool(self.pruner)

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        come = sum(t.is_imported for t in history.trials)
        if come < self.trials:
            return Wait(f"{come} of {self.trials} trials have come")
        return self.done(history, f"{self.trials} trials{f' of {self.origin}' if self.origin else ''}.")

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        return Forecast(trials=self.trials, epochs=0)
