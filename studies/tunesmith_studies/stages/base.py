"""What all stages share. One kind a file beside this one; the union stands in `stages/__init__`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith_studies.checked import Checked, Range
from tunesmith_studies.grounds import Grounds
from tunesmith_studies.planning import (
    Done,
    Earlier,
    History,
    Plan,
    Proposal,
    Proposals,
    Ranked,
    Seed,
    StageResult,
    Wait,
    training_seed,
)
from tunesmith_studies.planning import rank as by_objective
from tunesmith_studies.pruners import Pruner
from tunesmith_studies.space import PRINTED, Scalar, Space
from tunesmith_studies.stages.budget import Budget
from tunesmith_studies.trial import Work
from tunesmith_studies.vocabulary import ANY_LENGTH_SCHEDULES

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec


class Forecast(BaseModel):
    """Trials, epochs and end-of-trial snapshots that a stage plans at most."""

    trials: int
    epochs: int
    snapshots: int = 0
    likely_epochs: int | None = Field(
        default=None, description="Epochs as it usually comes out, where that is less than the most."
    )
    least_steps: int = Field(
        default=0,
        description="Optimizer steps of all its trials, where `epochs` of the task's data have fewer.",
    )


def _epochs_or_a_budget(schema: dict[str, Any]) -> None:
    """Say that a budget in epochs stands for `epochs`."""
    if "epochs" in schema.get("required", ()):
        schema["required"] = [name for name in schema["required"] if name != "epochs"]
        budget = {"required": ["epochs"], "properties": {"epochs": {"type": "integer"}}}
        schema["anyOf"] = [
            {"required": ["epochs"]},
            {"required": ["budget"], "properties": {"budget": budget}},
        ]


class Stage(Checked):
    """A stage is data: what it plans, from which earlier stage, with which budget and pruner."""

    model_config = ConfigDict(json_schema_extra=_epochs_or_a_budget)

    draws_drafts: ClassVar[bool] = False
    """True if a model proposes its trials, so that each finish makes a waiting one stale."""

    ranks: ClassVar[bool] = True
    """False if its trials measure, so that it is never the stage that a later one builds on by default."""

    takes_ranges: ClassVar[bool] = False
    """True if it draws its points from the whole space, so that it may be told to draw them elsewhere."""

    takes_budget: ClassVar[bool] = False
    """True if its trials may be as long as a `budget` says; the others count epochs alone."""

    kind: str
    name: str = Field(
        default="", max_length=128, pattern=PRINTED, description="Unique in the study; the kind if empty."
    )
    source: str | None = Field(
        default=None, description="Earlier stage to build on; default the last that ranked."
    )
    epochs: int = Field(
        ge=1,
        description="Full passes over the training split for each trial; with a budget in steps or seconds "
        "the most there may be.",
    )
    budget: Budget | None = Field(
        default=None, description="Length of each trial as epochs, steps or seconds; default: epochs."
    )
    validate_every: int = Field(
        default=0,
        ge=0,
        description="Evaluate after every so many optimizer steps as well as after each epoch; its trials "
        "then count steps. 0: after each epoch alone.",
    )
    data_fraction: float = Field(default=1.0, gt=0, le=1, description="Share of the training split to use.")
    inspect: bool = Field(
        default=False,
        description="Leave a confusion matrix, sample predictions and the worst mistakes with each trial.",
    )
    fixed: Mapping[str, Scalar] = Field(
        default_factory=dict, description="Hyperparameters held for this stage; over the study's own."
    )
    ranges: Mapping[str, Range] = Field(
        default_factory=dict,
        description="By parameter, [low, high] for this stage instead of the space's own; past its ends "
        "the space is wider from this stage on.",
    )
    pruner: Pruner | None = Field(default=None, description="Compares trials within this stage.")

    @model_validator(mode="before")
    @classmethod
    def _epochs_of_budget(cls, data: Any) -> Any:
        """A budget in epochs is another way to write epochs; one in steps or seconds needs both."""
        if not isinstance(data, Mapping) or not isinstance(data.get("budget"), Mapping):
            return data
        budget, epochs = data["budget"], data.get("epochs")
        if epochs is None and "epochs" in budget:
            return {**data, "epochs": budget["epochs"]}
        if epochs is None:
            raise ValueError(
                f"a budget in {', '.join(budget) or 'nothing'} needs epochs as well, the most that a trial "
                "may train; add epochs"
            )
        if budget.get("epochs") not in (None, epochs):
            raise ValueError(
                f"epochs: {epochs} and a budget of {budget['epochs']} epochs differ; leave one of them out"
            )
        return data

    # --- what each kind answers ---------------------------------------------------------------------

    def problems(self, study: StudySpec) -> list[str]:
        """What keeps this stage from running in that study, a sentence each with what to do."""
        return []

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        """See `planning`; n is how many proposals there is room for."""
        raise NotImplementedError

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        """How much this stage will run at most, before anything has run."""
        raise NotImplementedError

    def grounds(self, history: History) -> Grounds | None:
        """Where its trials lie and what put them there, as far as what came before it tells: of the history
        no trial of its own, and of earlier stages' only those that their results rank, are needed.

        None where that is not known yet, or where its trials repeat what was tried before.
        """
        return None

    @property
    def around(self) -> int:
        """How many of its source's best its trials lie around."""
        return 0

    def range_test_in(self, study: StudySpec) -> str | None:
        """The range test around whose suggestion this stage places its rates, if that suggests one."""
        return None

    @property
    def goes_on_from_source(self) -> bool:
        """Whether this stage starts trials from snapshots that its source's trials leave."""
        return False

    # --- what they have in common -------------------------------------------------------------------

    def held(self, study: StudySpec) -> dict[str, Scalar]:
        """Hyperparameters that do not vary in this stage."""
        return {**study.fixed, **self.fixed}

    def open_space(self, study: StudySpec) -> Space:
        """What of the space is left to vary here; conditions on a held choice are settled."""
        return self.space_in(study).without(self.held(study))

    def space_in(self, study: StudySpec) -> Space:
        """The study's space with the ranges of this stage."""
        return study.space.within(self.ranges) if self.ranges else study.space

    def source_in(self, study: StudySpec) -> Stage | None:
        """The stage that this one will build on if all before it rank something."""
        before = self.before(study)
        if self.source is not None:
            return next((s for s in before if s.name == self.source), None)
        return next((s for s in reversed(before) if s.ranks), None)

    def before(self, study: StudySpec) -> Sequence[Stage]:
        """The stages before this one; all, if it is yet to be added."""
        names = [s.name for s in study.stages]
        return study.stages[: names.index(self.name)] if self.name in names else study.stages

    def range_tests_before(self, study: StudySpec) -> list[str]:
        """Their names, in order."""
        return [s.name for s in self.before(study) if s.kind == "lr_range_test"]

    def keeps_snapshots(self, study: StudySpec) -> bool:
        """Whether a later stage may go on from the snapshots of this one's trials."""
        return any(
            later.goes_on_from_source and later.source in (None, self.name)
            for later in study.stages_after(self.name)
        )

    def prolonging_problems(self, study: StudySpec) -> list[str]:
        """Why a trial may not go on from a snapshot in this stage: its rate depends on the run's length."""
        schedule = self.held(study).get("schedule", "constant")
        if self.held(study).get("cooldown") or "cooldown" in self.open_space(study):
            return [
                "going on from a snapshot needs a rate that does not depend on the run's length, and "
                "cooldown makes it fall at the end of each; leave cooldown out, halving has its own"
            ]
        if "schedule" not in self.open_space(study) and schedule in ANY_LENGTH_SCHEDULES:
            return []
        found = "varies in the space" if "schedule" in self.open_space(study) else f"is {schedule}"
        return [
            "going on from a snapshot needs a rate that does not depend on the run's length, and the "
            f"schedule {found}; hold schedule: constant under fixed"
        ]

    @property
    def counts_epochs(self) -> bool:
        """Whether its trials' points and snapshots count epochs; with a budget in steps or seconds, or
        evaluations between epochs, they count steps."""
        return (self.budget is None or self.budget.in_epochs) and not self.validate_every

    @property
    def length(self) -> str:
        """How long its trials are, for people: `5 epochs`."""
        epochs = f"{self.epochs} epoch{'s' if self.epochs != 1 else ''}"
        length = self.budget.shown() if self.budget is not None else epochs
        return f"{length}, evaluated every {self.validate_every} steps" if self.validate_every else length

    def work(self, history: History, ordinal: int, **changes: Any) -> Work:
        """A trial of this stage's budget; `changes` are fields of Work."""
        usual: dict[str, Any] = {
            "epochs": self.epochs,
            "seed": training_seed(history.study, self.name, ordinal),
            "data_fraction": self.data_fraction,
            "inspect": self.inspect,
        }
        if self.budget is not None:
            usual |= {"steps": self.budget.steps, "seconds": self.budget.seconds}
        if self.validate_every:
            usual["validate_every"] = self.validate_every
        return Work(**(usual | changes))

    def done(self, history: History, why: str, **chosen: Any) -> Done:
        """The end of this stage with its trials ranked by the objective; failed if none ranks."""
        ranking = by_objective(history)
        if not ranking:
            return nothing_ranks(history)
        best = next(t for t in history.trials if t.number == ranking[0].trial)
        shown = show_params(best.params, self.open_space(history.study).names())
        metric = history.study.objective.metric
        return Done(
            StageResult(
                ranking=ranking,
                why=f"{why} Best is trial {best.number} with {shown}: {metric} {ranking[0].value:.4g}.",
                chosen={"params": dict(best.params), **chosen},
                numbers=spent(history),
            )
        )


def still_open(
    todo: Sequence[Proposal], history: History, n: int, what: str = "trials"
) -> Proposals | Wait | None:
    """What a stage answers until all of `todo` has run: up to n of those that no trial stands for, then Wait;
    None once all have ended. `what` names them for people."""
    taken = history.by_key()
    if left := [p for p in todo if p.key not in taken]:
        return Proposals(tuple(left[:n]))
    if running := [p.key for p in todo if not taken[p.key].state.is_finished]:
        return Wait(f"{len(running)} of {len(todo)} {what} have not finished: {', '.join(running[:3])}")
    return None


def spent(history: History) -> dict[str, Any]:
    """How many trials ended how, and the epochs they trained."""
    ends = Counter(outcome(t.state, t.is_diverged) for t in history.trials if t.state.is_finished)
    return {"epochs": sum(t.epochs_run for t in history.trials), "trials": dict(sorted(ends.items()))}


def outcome(state: str, is_diverged: bool) -> str:
    return "diverged" if is_diverged else str(state)


def nothing_ranks(history: History) -> Done:
    """The end of a stage in which no trial finished with a finite objective."""
    numbers = spent(history)
    ends = ", ".join(f"{n} {how}" for how, n in numbers["trials"].items()) or "none was run"
    metric = history.study.objective.metric
    return failed(f"No trial ended with a finite {metric} ({ends}), so there is nothing to rank.", numbers)


def failed(why: str, numbers: Mapping[str, Any] | None = None) -> Done:
    return Done(StageResult(ranking=(), why=why, numbers=numbers or {}, failed=True))


def source_or_why(stage: Stage, history: History) -> Earlier | str:
    """The stage to build on, or a sentence that says why there is none."""
    source = history.source_of(stage)
    if source is None:
        wanted = stage.source or "an earlier stage"
        return f"{stage.name} builds on {wanted}, which has left no result; it may have been skipped."
    if not source.result.ranking:
        return f"{stage.name} builds on {source.stage.name}, which ranked nothing: {source.result.why}"
    return source


def show_params(params: Mapping[str, Scalar], names: tuple[str, ...]) -> str:
    """`lr=0.01, weight_decay=0.0001` for people."""
    values = {n: params[n] for n in names if n in params}
    shown = [f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in values.items()]
    return ", ".join(shown) if shown else "nothing varied"


__all__ = [
    "Budget",
    "Forecast",
    "Ranked",
    "Stage",
    "failed",
    "nothing_ranks",
    "show_params",
    "source_or_why",
    "spent",
    "still_open",
]
