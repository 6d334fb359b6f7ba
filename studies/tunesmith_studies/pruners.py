"""Pruners: which running trials to give up, by comparing them within their stage.

Each is one of Optuna's, under Optuna's own option names. Nothing is kept between verdicts: the
Optuna study that a pruner looks at is rebuilt from the trials' curves every time, with the rungs of
successive halving derived from them, so that a restarted server gives the same verdicts.

Optuna is imported inside functions: a command line that reads a study file stays quick.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from tunesmith_studies.checked import Checked

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

    from tunesmith_studies.planning import History, Seed
    from tunesmith_studies.trial import Trial


class _Spec(Checked):
    def resolved(self, epochs: int) -> _Spec:
        """The same pruner with `auto` replaced by numbers, for trials of this many epochs."""
        return self


class NopPruner(_Spec):
    """Never prunes."""

    kind: Literal["nop"] = "nop"


class MedianPruner(_Spec):
    """Stop a trial whose best value so far is worse than the median of the others at that epoch.

    Source: Golovin et al. 2017, Google Vizier, doi:10.1145/3097983.3098043.
    """

    kind: Literal["median"] = "median"
    n_startup_trials: int = Field(default=5, ge=0, description="Finished trials before it prunes.")
    n_warmup_steps: int = Field(default=0, ge=0, description="Epochs in which no trial is stopped.")
    interval_steps: int = Field(default=1, ge=1, description="Epochs between verdicts.")
    n_min_trials: int = Field(default=1, ge=1, description="Trials that must have reached the epoch.")


class PercentilePruner(_Spec):
    """Keep a trial only while it is in the best `percentile` per cent at its epoch."""

    kind: Literal["percentile"] = "percentile"
    percentile: float = Field(ge=0, le=100)
    n_startup_trials: int = Field(default=5, ge=0)
    n_warmup_steps: int = Field(default=0, ge=0)
    interval_steps: int = Field(default=1, ge=1)
    n_min_trials: int = Field(default=1, ge=1)


class SuccessiveHalvingPruner(_Spec):
    """Keep the best 1/`reduction_factor` at each rung (ASHA). Source: arXiv 1810.05934."""

    kind: Literal["successive_halving"] = "successive_halving"
    min_resource: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="Epochs at the first rung; auto: a hundredth of the stage's epochs."
    )
    reduction_factor: int = Field(default=4, ge=2)
    min_early_stopping_rate: int = Field(default=0, ge=0)
    bootstrap_count: int = Field(default=0, ge=0)

    def resolved(self, epochs: int) -> SuccessiveHalvingPruner:
        if self.min_resource != "auto":
            return self
        return self.model_copy(update={"min_resource": max(epochs // 100, 1)})


class HyperbandPruner(_Spec):
    """Several brackets of successive halving side by side. Source: Li et al., JMLR 18, 2018."""

    kind: Literal["hyperband"] = "hyperband"
    min_resource: int = Field(default=1, ge=1, description="Epochs at the first rung of the widest bracket.")
    max_resource: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="Epochs of a whole trial; auto: the stage's epochs."
    )
    reduction_factor: int = Field(default=3, ge=2)
    bootstrap_count: int = Field(default=0, ge=0)

    def resolved(self, epochs: int) -> HyperbandPruner:
        if self.max_resource != "auto":
            return self
        return self.model_copy(update={"max_resource": max(epochs, self.min_resource)})

    @model_validator(mode="after")
    def _sound(self) -> HyperbandPruner:
        if self.max_resource != "auto" and self.max_resource < self.min_resource:
            raise ValueError(
                f"max_resource must not be below min_resource, got {self.max_resource} < {self.min_resource}"
            )
        return self


class ThresholdPruner(_Spec):
    """Stop a trial whose value leaves [lower, upper], or is NaN."""

    kind: Literal["threshold"] = "threshold"
    lower: float | None = None
    upper: float | None = None
    n_warmup_steps: int = Field(default=0, ge=0)
    interval_steps: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _sound(self) -> ThresholdPruner:
        if self.lower is None and self.upper is None:
            raise ValueError("a threshold pruner needs lower or upper; set at least one")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"lower must not be above upper, got {self.lower:g} > {self.upper:g}")
        return self


class WilcoxonPruner(_Spec):
    """Stop a trial that a signed-rank test finds worse than the best trial, point by point."""

    kind: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: float = Field(default=0.1, ge=0, le=1)
    n_startup_steps: int = Field(default=2, ge=0)


_Wrapped: TypeAlias = Annotated[
    NopPruner
    | MedianPruner
    | PercentilePruner
    | SuccessiveHalvingPruner
    | HyperbandPruner
    | ThresholdPruner
    | WilcoxonPruner,
    Field(discriminator="kind"),
]


class PatientPruner(_Spec):
    """Ask another pruner only once a trial has not improved for `patience` epochs."""

    kind: Literal["patient"] = "patient"
    wrapped_pruner: _Wrapped | None = Field(default=None, description="None: impatience alone prunes.")
    patience: int = Field(ge=0)
    min_delta: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _sound(self) -> PatientPruner:
        if isinstance(self.wrapped_pruner, SuccessiveHalvingPruner | HyperbandPruner):
            raise ValueError(
                f"patient cannot wrap {self.wrapped_pruner.kind}: Optuna notes a rung only when it is asked, "
                "so its rungs cannot be told from the curves; wrap median or percentile instead"
            )
        return self

    def resolved(self, epochs: int) -> PatientPruner:
        if self.wrapped_pruner is None:
            return self
        return self.model_copy(update={"wrapped_pruner": self.wrapped_pruner.resolved(epochs)})


Pruner: TypeAlias = Annotated[
    NopPruner
    | MedianPruner
    | PercentilePruner
    | SuccessiveHalvingPruner
    | HyperbandPruner
    | ThresholdPruner
    | WilcoxonPruner
    | PatientPruner,
    Field(discriminator="kind"),
]


def should_prune(pruner: Pruner, history: History, trial: Trial, seed: Seed) -> bool:
    """Whether `pruner` stops `trial` at the newest point of its curve.

    A pure function of its arguments; no pruner that we offer draws random numbers.

    Args:
        pruner: with `auto` resolved, as every study's are.
        history: of the trial's stage; its own copy of the trial is not looked at.
        trial: running; its curve may be cut to an earlier point.
        seed: of the study.
    """
    from tunesmith_studies.optuna_rows import Kept, frozen, open_study  # noqa: PLC0415

    global _kept  # noqa: PLW0603 - a cache, made on first use because it needs Optuna
    if _kept is None:
        _kept = Kept()
    objective = history.study.objective
    if isinstance(pruner, NopPruner) or not trial.curve or objective.metric not in trial.curve[-1].metrics:
        return False
    name = f"{history.study.name}/{trial.stage}"
    with _quiet():
        asked = _build(pruner)
        others = ((t.number, t) for t in history.trials if t.number != trial.number and t.state != "waiting")

        def make(_: int, other: Trial) -> FrozenTrial:
            rungs = _rungs(pruner, asked, name, other, other.metric(objective.metric))
            return frozen(other, objective, attributes=rungs)

        rows = _kept.rows(repr((objective, pruner, name)), others, make)
        *passed, _ = trial.metric(objective.metric)
        rungs = _rungs(pruner, asked, name, trial, passed)
        mine = frozen(trial, objective, attributes=rungs)
        study = open_study(name, objective.direction, sorted([*rows, mine], key=lambda t: t.number))
        return bool(asked.prune(study, mine))


_kept: Any = None
"""Translations of unchanged trials; see `optuna_rows.Kept`."""


def _build(pruner: Pruner) -> BasePruner:
    """Optuna's pruner for a specification."""
    import optuna  # noqa: PLC0415

    options = pruner.model_dump(exclude={"kind", "wrapped_pruner"})
    if isinstance(pruner, PatientPruner):
        inner = pruner.wrapped_pruner
        return optuna.pruners.PatientPruner(_build(inner) if inner is not None else None, **options)
    made: BasePruner = getattr(optuna.pruners, type(pruner).__name__)(**options)
    if isinstance(made, optuna.pruners.HyperbandPruner):
        # Its brackets come into being at the first verdict; rungs are derived before that.
        brackets: Any = made
        brackets._try_initialization(None)  # reads the study for `auto` alone
    return made


def _rungs(
    pruner: Pruner, asked: BasePruner, name: str, trial: Trial, curve: Iterable[tuple[int, float]]
) -> dict[str, float]:
    """Which rungs a curve has completed, under the attribute names that Optuna reads.

    Live, Optuna notes a rung when it is asked at the first point at or past the rung's step. The
    curve holds those points, so nothing has to be stored. A NaN completes none: it is pruned.
    """
    if isinstance(pruner, SuccessiveHalvingPruner):
        rate = pruner.min_early_stopping_rate
    elif isinstance(pruner, HyperbandPruner):
        rate = _bracket(asked, name, trial)
    else:
        return {}
    assert isinstance(pruner.min_resource, int), "auto is resolved when a study is created"
    done: dict[str, float] = {}
    for step, value in curve:
        while step >= pruner.min_resource * pruner.reduction_factor ** (rate + len(done)):
            if math.isnan(value):
                return done
            done[f"completed_rung_{len(done)}"] = value
    return done


def _bracket(asked: Any, name: str, trial: Trial) -> int:
    """Hyperband deals trials to brackets by a hash of the study's name and the trial's number."""
    from tunesmith_studies.optuna_rows import number_of  # noqa: PLC0415

    bracket: int = asked._get_bracket_id(
        SimpleNamespace(study_name=name), SimpleNamespace(number=number_of(trial))
    )
    return bracket


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's and numpy's warnings about what is meant here.

    Experimental pruners are offered because the contract suite holds them to their behaviour; a
    curve with NaN, or one that the best trial does not cover, is a verdict and no mistake.
    """
    from optuna.exceptions import ExperimentalWarning  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
