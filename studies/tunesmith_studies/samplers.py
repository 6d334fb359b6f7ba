"""Samplers: models that propose trials from the results so far.

Each is one of Optuna's, under Optuna's own option names, and lives for one suggestion: the study it
looks at is rebuilt from rows. What Optuna would keep in a study's or trial's attributes stands in
`Trial.sampler_state`, which is JSON and small:

  at           {name: place} of parameters that Optuna sees on [0, 1] (a log range with a zero)
  generation   of CMA-ES and NSGA
  solutions    [[trial, value], …] that CMA-ES was told when this trial was asked for; `from` names
               the trial that held the optimizer before. Its optimizer is replayed from these
  x            what CMA-ES with margin will be told for this trial
  parents      the trials that NSGA picked for this generation
  unused       what TPE with groups drew for parameters that turned out inactive

Numbers in it are those of `optuna_rows.number_of`. The contract suite in `tests/contracts.py` runs
every sampler that is offered live and rebuilt and compares what they propose.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from tunesmith_studies.checked import Checked
from tunesmith_studies.space import Choice, Float, Int, Params, Scalar, Space
from tunesmith_studies.trial import Trial, TrialState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from tunesmith_studies.study import Objective

REFUSED: Mapping[str, str] = {
    "grid": "a coarse_grid stage runs every cell exactly once; use that",
    "qmc": "Optuna keeps its place in a study's attributes; use a random stage with method: sobol or halton",
    "partial_fixed": "hold those parameters under the stage's fixed, with any other sampler",
}
"""Samplers of Optuna's that are not offered, and what to do instead."""


class _Spec(Checked):
    optuna_name: ClassVar[str]
    reads_pruned: ClassVar[bool] = False
    """Whether it learns from pruned trials; the others are told a diverged one as the worst value."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages beside the server's own."""
    conditions: ClassVar[bool] = True
    """Whether it can handle parameters that are not always active."""

    kind: str

    def missing(self) -> list[str]:
        """Packages that it needs and this machine lacks."""
        return [name for name in self.needs if find_spec(name) is None]

    def options(self) -> dict[str, Any]:
        return self.model_dump(exclude={"kind"})


class RandomSampler(_Spec):
    """Independent draws. A `random` stage does the same and needs no drafts."""

    optuna_name = "RandomSampler"
    reads_pruned = True
    kind: Literal["random"] = "random"


class TPESampler(_Spec):
    """Tree-structured Parzen estimator: densities of good and of other trials."""

    optuna_name = "TPESampler"
    reads_pruned = True
    kind: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(default=10, ge=0)
    n_ei_candidates: int = Field(default=24, ge=1, le=10_000)
    multivariate: bool | None = None
    group: bool = False
    constant_liar: bool = Field(default=True, description="Running trials count as bad ones nearby.")


class CmaEsSampler(_Spec):
    """CMA-ES, for numbers that are always active; it draws choices at random."""

    optuna_name = "CmaEsSampler"
    needs = ("cmaes",)
    conditions = False
    kind: Literal["cmaes"] = "cmaes"
    n_startup_trials: int = Field(default=1, ge=0)
    popsize: int | None = Field(default=None, ge=2, le=100)
    use_separable_cma: bool = False
    with_margin: bool = False
    lr_adapt: bool = False


class GPSampler(_Spec):
    """Gaussian process with expected improvement."""

    optuna_name = "GPSampler"
    needs = ("torch", "scipy")
    kind: Literal["gp"] = "gp"
    n_startup_trials: int = Field(default=10, ge=0)
    deterministic_objective: bool = False


class NSGAIISampler(_Spec):
    """NSGA-II: generations by selection and crossover."""

    optuna_name = "NSGAIISampler"
    kind: Literal["nsgaii"] = "nsgaii"
    population_size: int = Field(default=50, ge=2, le=300)
    mutation_prob: float | None = Field(default=None, ge=0, le=1)
    crossover_prob: float = Field(default=0.9, ge=0, le=1)
    swapping_prob: float = Field(default=0.5, ge=0, le=1)


class NSGAIIISampler(NSGAIISampler):
    """NSGA-III: as NSGA-II, with reference points."""

    optuna_name = "NSGAIIISampler"
    kind: Literal["nsgaiii"] = "nsgaiii"  # type: ignore[assignment]
    dividing_parameter: int = Field(default=3, ge=1)


class BruteForceSampler(_Spec):
    """Every combination of choices and whole numbers, in random order."""

    optuna_name = "BruteForceSampler"
    reads_pruned = True
    kind: Literal["brute_force"] = "brute_force"


def _offered(data: Any) -> Any:
    kind = data.get("kind") if isinstance(data, dict) else None
    if isinstance(kind, str) and kind in REFUSED:
        raise ValueError(f"sampler {kind} is not offered: {REFUSED[kind]}")
    return data


SamplerSpec: TypeAlias = Annotated[
    Annotated[
        RandomSampler
        | TPESampler
        | CmaEsSampler
        | GPSampler
        | NSGAIISampler
        | NSGAIIISampler
        | BruteForceSampler,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_offered),
]


# --- what Optuna sees -------------------------------------------------------------------------------


def distribution(parameter: Float | Int | Choice) -> BaseDistribution:
    """The axis that Optuna sees. A log range with a zero is [0, 1], whose first eighth means 0."""
    import optuna.distributions as d  # noqa: PLC0415

    if isinstance(parameter, Choice):
        return d.CategoricalDistribution(parameter.values)
    if isinstance(parameter, Float):
        if parameter.zero:
            return d.FloatDistribution(0.0, 1.0)
        return d.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    high = parameter.low + (parameter.high - parameter.low) // parameter.step * parameter.step
    return d.IntDistribution(parameter.low, high, log=parameter.log, step=parameter.step)


def to_optuna(parameter: Float | Int | Choice, value: Scalar) -> Scalar:
    if isinstance(parameter, Float) and parameter.zero:
        return parameter.position(float(value))
    return value


def from_optuna(parameter: Float | Int | Choice, value: Any) -> Scalar:
    if isinstance(parameter, Float) and parameter.zero:
        return parameter.value(value)
    shown: Scalar = value
    return shown


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Values of every active parameter of the open space, and what to remember with the trial."""

    params: dict[str, Scalar]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """The rows that a sampler learns from.

    Attributes:
        space: what is left to vary, with its conditions.
        trials: of this stage by number, in order; what their `sampler_state` says counts.
        earlier: comparable ones of earlier stages by number, in order; they come before `trials`.
        objective: of the study.
    """

    name: str
    space: Space
    objective: Objective
    trials: Mapping[int, Trial]
    earlier: Mapping[int, Trial] = field(default_factory=dict)


def suggest(
    spec: SamplerSpec, told: Told, ordinals: Iterable[int], seeds: Mapping[int, int]
) -> list[Suggestion]:
    """A suggestion for each ordinal; each sees those before it as running trials.

    Args:
        seeds: by ordinal; all randomness of a suggestion comes from its seed.
    """
    import optuna  # noqa: PLC0415

    from tunesmith_studies.optuna_rows import RowStorage  # noqa: PLC0415

    with _quiet():
        rows = _rows(spec, told)
        storage = RowStorage(told.name, told.objective.direction, rows)
        memory = {number: trial.sampler_state for number, trial in told.trials.items()}
        _restore_study(spec, storage, memory, told)
        found = []
        for ordinal in ordinals:
            sampler = build(spec, seeds[ordinal], memory)
            study = optuna.study.Study(told.name, storage, sampler, optuna.pruners.NopPruner())
            storage.put(_running(ordinal))
            trial = optuna.trial.Trial(study, _NEW + ordinal)
            suggestion = _ask(trial, told.space)
            suggestion.state.update(_remember(spec, sampler, storage, _NEW + ordinal))
            memory[ordinal] = suggestion.state
            found.append(suggestion)
    return found


RELATIVE = "tpe:relative_params"
"""Under which attribute TPE keeps what it drew for a running trial."""

_NEW = 3_000_000
"""Optuna's ids of trials that are being proposed; those of rows are their numbers in the study."""


def _running(ordinal: int) -> FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState  # noqa: PLC0415

    from tunesmith_studies.optuna_rows import EPOCH  # noqa: PLC0415

    return FrozenTrial(
        number=ordinal, trial_id=_NEW + ordinal, state=TrialState.RUNNING, value=None, datetime_start=EPOCH,
        datetime_complete=None, params={}, distributions={}, user_attrs={}, system_attrs={},
        intermediate_values={},
    )  # fmt: skip


def _ask(trial: Any, space: Space) -> Suggestion:
    """Ask for each active parameter, deciders first."""
    params: dict[str, Scalar] = {}
    state: dict[str, Any] = {}
    for name in space.order():
        parameter = space[name]
        if not all(params.get(other) in wanted for other, wanted in parameter.when.items()):
            continue
        raw = trial._suggest(name, distribution(parameter))
        params[name] = from_optuna(parameter, raw)
        if isinstance(parameter, Float) and parameter.zero:
            state.setdefault("at", {})[name] = raw
    return Suggestion(params, state)


def fits(space: Space, params: Params) -> bool:
    """Whether these values, of whatever stage, are a point of this space."""
    return not space.problems({n: v for n, v in params.items() if n in space})


_kept: Any = None
"""Translations of unchanged trials; see `optuna_rows.Kept`."""


def _rows(spec: SamplerSpec, told: Told) -> list[FrozenTrial]:
    from tunesmith_studies.optuna_rows import Kept, frozen  # noqa: PLC0415

    global _kept  # noqa: PLW0603 - a cache, made on first use because it needs Optuna
    if _kept is None:
        _kept = Kept()
    axes = {name: distribution(parameter) for name, parameter in told.space.items()}
    worst = None if spec.reads_pruned else _worst(told)

    def make(number: int, trial: Trial) -> FrozenTrial:
        active = [n for n in told.space.active(trial.params) if n in trial.params]
        state = trial.sampler_state if number in told.trials else {}
        places = state.get("at", {})
        params = {n: places.get(n, to_optuna(told.space[n], trial.params[n])) for n in active}
        return frozen(
            trial,
            told.objective,
            number=number,
            params=params,
            distributions={n: axes[n] for n in active},
            attributes=_attributes(spec, state),
            diverged_value=worst,
        )

    question = repr((told.name, told.objective, spec, axes, worst))
    rows: list[FrozenTrial] = _kept.rows(question, chain(told.earlier.items(), told.trials.items()), make)
    return rows


def _worst(told: Told) -> float | None:
    """What a diverged trial is told as to those who read only complete ones."""
    own = told.trials.values()
    values = [t.value for t in own if t.state is TrialState.COMPLETE and t.value is not None]
    return (max if told.objective.direction == "minimize" else min)(values, default=None)


# --- what Optuna would have remembered --------------------------------------------------------------


def build(spec: SamplerSpec, seed: int, memory: Mapping[int, Mapping[str, Any]]) -> BaseSampler:
    """Optuna's sampler for one suggestion. `memory` holds sampler states by number."""
    import optuna  # noqa: PLC0415

    if isinstance(spec, CmaEsSampler):
        from tunesmith_studies.cmaes_replay import ReplayedCmaEs  # noqa: PLC0415

        return ReplayedCmaEs(memory, seed=seed, warn_independent_sampling=False, **spec.options())
    extra = {"warn_independent_sampling": False} if isinstance(spec, GPSampler) else {}
    made: Any = getattr(optuna.samplers, spec.optuna_name)(seed=seed, **spec.options(), **extra)
    if isinstance(spec, TPESampler):
        _look_at_one_of_each(made)
    built: BaseSampler = made
    return built


def _look_at_one_of_each(tpe: Any) -> None:
    from tunesmith_studies.optuna_rows import OneOfEach  # noqa: PLC0415

    tpe._search_space = OneOfEach(tpe._search_space)
    if tpe._group_decomposed_search_space is not None:
        tpe._group_decomposed_search_space = OneOfEach(tpe._group_decomposed_search_space)


def _attributes(spec: SamplerSpec, state: Mapping[str, Any]) -> dict[str, Any]:
    """The system attributes of one trial that its sampler reads back."""
    if isinstance(spec, CmaEsSampler) and "generation" in state:
        found = {f"{cma_prefix(spec)}generation": state["generation"]}
        return found | ({"x_for_tell": state["x"]} if "x" in state else {})
    if isinstance(spec, NSGAIISampler) and "generation" in state:
        return {f"{spec.optuna_name}:generation": state["generation"]}
    if "unused" in state:
        return {f"{RELATIVE}:0": json.dumps(state["unused"])}
    return {}


def _restore_study(
    spec: SamplerSpec, storage: Any, memory: Mapping[int, Mapping[str, Any]], told: Told
) -> None:
    """NSGA picks a generation's parents once; whoever was asked for in it remembers them."""
    if not isinstance(spec, NSGAIISampler):
        return
    ids = {number: trial.number for number, trial in told.trials.items()}
    for _, state in sorted(memory.items(), reverse=True):
        if state.get("parents"):
            key = f"{spec.optuna_name}:parent:{state['generation']}"
            parents = [ids[number] for number in state["parents"] if number in ids]
            storage.set_study_system_attr(storage.study_id, key, parents)


def _remember(spec: SamplerSpec, sampler: Any, storage: Any, trial_id: int) -> dict[str, Any]:
    """What this suggestion adds to its trial's state."""
    attributes = storage.get_trial(trial_id).system_attrs
    if isinstance(spec, CmaEsSampler):
        found: dict[str, Any] = sampler.remembered(attributes)
        return found
    if isinstance(spec, TPESampler) and spec.group:
        chunks = [v for k, v in sorted(attributes.items()) if k.startswith(f"{RELATIVE}:")]
        drawn = json.loads("".join(chunks)) if chunks else {}
        unused = {n: v for n, v in drawn.items() if n not in storage.get_trial(trial_id).params}
        return {"unused": unused} if unused else {}
    if not isinstance(spec, NSGAIISampler) or f"{spec.optuna_name}:generation" not in attributes:
        return {}
    generation = attributes[f"{spec.optuna_name}:generation"]
    study = storage.get_study_system_attrs(storage.study_id)
    ids = study.get(f"{spec.optuna_name}:parent:{generation}", [])
    numbers = {t._trial_id: t.number for t in storage.get_all_trials(storage.study_id, deepcopy=False)}
    return {"generation": generation, "parents": [numbers[i] for i in ids]}


def cma_prefix(spec: CmaEsSampler) -> str:
    if spec.use_separable_cma:
        return "sepcma:"
    return "cmawm:" if spec.with_margin else "cma:"


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's warnings that an option is experimental: the contract suite holds us to what it does."""
    from optuna.exceptions import ExperimentalWarning  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
