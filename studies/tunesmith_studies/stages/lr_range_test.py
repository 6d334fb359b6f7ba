"""Learning-rate range test: which rates are worth trying, before any is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from tunesmith_studies.checked import Listed
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.grounds import Grounds
from tunesmith_studies.planning import Done, History, Plan, Proposal, Seed, StageResult
from tunesmith_studies.rates import (
    STOP_FACTOR,
    STOP_SMOOTHING,
    Reading,
    Suggestion,
    Sweep,
    agreed,
    read,
)
from tunesmith_studies.space import Choice, Float, Int, Scalar, canonical
from tunesmith_studies.stages.base import Forecast, Stage, spent, still_open
from tunesmith_studies.trial import Trial, TrialState

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

DISAGREE = 3.0
"""Seeds whose suggestions differ by more than this factor say little."""
RULE = (
    "valley: of the loss, smoothed over the log of the rate, the middle between the rate at which a fifth of "
    "its fall is done and the one at which it is lowest"
)
OWN_RATES = "optimizer"
"""The choice whose values want rates of their own."""
Given: TypeAlias = Mapping[str, Scalar]
Readings: TypeAlias = list[tuple[Trial, Reading | str]]


class LrRangeTest(Stage):
    """Sweeps of the rate from far too small to far too large, one for each seed and each choice of `per`.

    A sweep takes max(`steps`, `epochs`) at the middle of the space, and ends early where the loss breaks
    away. Reports the loss; `tunesmith_studies.rates` reads it. What it costs is training as well: of a set
    of 1,000 samples in batches of 32, 300 steps are 9 epochs, of 10,000 one.

    Source: Smith, arXiv 1506.01186; the rule and its width measured for this project, docs/measured.md.
    """

    ranks: ClassVar[bool] = False

    kind: Literal["lr_range_test"] = "lr_range_test"
    epochs: int = Field(default=1, ge=1, description="Passes over the training split of a sweep, at least.")
    steps: int = Field(default=300, ge=20, description="Optimizer steps of a sweep, at least.")
    seeds: int = Field(default=2, ge=1, le=20, description="Sweeps with other weights and another order.")
    per: Listed[str] | None = Field(
        default=None,
        description="Choices that get sweeps of their own; default: optimizer, if the space leaves it open.",
    )
    lr_low: float = Field(default=1e-5, gt=0, allow_inf_nan=False, description="Where the rate begins.")
    lr_high: float = Field(default=10.0, gt=0, allow_inf_nan=False, description="Where it would end.")

    @model_validator(mode="after")
    def _rises(self) -> LrRangeTest:
        if self.lr_high < 100 * self.lr_low:
            raise ValueError(
                f"a range test sweeps two decades or more, got {self.lr_low:g} to {self.lr_high:g}; lower "
                "lr_low, or raise lr_high"
            )
        return self

    # --- checks -------------------------------------------------------------------------------------

    def problems(self, study: StudySpec) -> list[str]:
        return list(self._problems(study))

    def _problems(self, study: StudySpec) -> Iterator[str]:
        if "lr" in study.fixed:
            yield "lr is fixed for the whole study, so nothing could use what it finds; move lr to the space"
        space = self.open_space(study)
        for name in self.per or ():
            if not isinstance(space.root.get(name), Choice):
                known = ", ".join(n for n, p in space.items() if isinstance(p, Choice)) or "none"
                yield f"per names {name}, which is not a choice left open; those are: {known}"
        if self.pruner is not None:
            yield "its trials measure, and a pruner compares trials that train; leave the pruner out"

    # --- planning -----------------------------------------------------------------------------------

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        todo = self._sweeps(history, seed)
        if answer := still_open(todo, history, n, "sweeps"):
            return answer
        return _Result(self, history, self._givens(history.study)).done()

    def _sweeps(self, history: History, seed: Seed) -> list[Proposal]:
        """Seed by seed, so that each choice has one before any has two. Choices share weights and orders."""
        study = history.study
        options = {
            "lr_low": self.lr_low, "lr_high": self.lr_high, "steps": self.steps,
            "smoothing": STOP_SMOOTHING, "stop_factor": STOP_FACTOR,
        }  # fmt: skip
        found: list[Proposal] = []
        for i, given in product(range(self.seeds), self._givens(study)):
            params = self.base(study, given)
            work = self.work(
                history, i, kind="range_test", seed=seed.stream(self.name, "sweep", i), options=options
            )
            found.append(Proposal(sweep_key(given, i), len(found), params, work))
        return found

    def base(self, study: StudySpec, given: Given) -> dict[str, Scalar]:
        """Where the sweeps are run: the middle of what the space leaves open."""
        return study.space.switched_on(study.space.middle({**self.held(study), **given}))

    def _givens(self, study: StudySpec) -> list[dict[str, Scalar]]:
        space = self.open_space(study)
        per = self.per if self.per is not None else (OWN_RATES,)
        choices = [(name, space[name]) for name in per if name in space]
        axes = {name: p.values for name, p in choices if isinstance(p, Choice)}
        return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]

    def grounds(self, history: History) -> Grounds:
        return Grounds({"lr": (self.lr_low, self.lr_high)})

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        """Epochs where an epoch has `steps` or more; how many there are in it only the worker knows."""
        trials = self.seeds * len(self._givens(study))
        return Forecast(trials=trials, epochs=trials * self.epochs, least_steps=trials * self.steps)


def sweep_key(given: Given, seed: int) -> str:
    return f"{canonical(given)}/seed:{seed}" if given else f"seed:{seed}"


@dataclass(frozen=True, slots=True)
class _Result:
    """What the sweeps of a finished stage say."""

    stage: LrRangeTest
    history: History
    givens: list[dict[str, Scalar]]

    def done(self) -> Done:
        found = [(given, self._readings(given)) for given in self.givens]
        suggestions = [s for given, readings in found if (s := self._agreed(given, readings)) is not None]
        findings = [f for given, readings in found for f in self._silent(given, readings)]
        findings += [f for s in suggestions for f in (*self._disagree(s), *self._outside(s))]
        return Done(
            StageResult(
                ranking=(),
                why=" ".join(map(self._told, suggestions)) or self._nothing(found),
                chosen={"suggestions": [s.to_json() for s in suggestions]},
                numbers=spent(self.history) | {"sweeps": self._sweeps(found)},
                failed=not suggestions,
                findings=gravest_first(findings),
            )
        )

    def _readings(self, given: Given) -> Readings:
        trials = self.history.by_key()
        keys = [sweep_key(given, i) for i in range(self.stage.seeds)]
        return [(trials[key], _reading(trials[key])) for key in keys]

    def _agreed(self, given: Given, readings: Readings) -> Suggestion | None:
        found = [r for _, r in readings if isinstance(r, Reading)]
        at = {k: v for k, v in self.stage.base(self.history.study, given).items() if k != "lr"}
        # An optimizer that this stage alone holds says nothing of the others that later stages try.
        own = {n: v for n, v in self.stage.fixed.items() if n == OWN_RATES and n in self.history.study.space}
        return agreed(found, {**own, **given}, at) if found else None

    def _told(self, s: Suggestion) -> str:
        seeds = f"{s.seeds} seeds, which differ by a factor of {s.spread:.2g}" if s.seeds > 1 else "one seed"
        of = f" for {_shown(s.given)}" if s.given else ""
        return (
            f"A rate of {s.lr:g}{of}, by {seeds}: the middle of where the loss falls, which turns up at "
            f"{s.max:g}; 1cycle between {s.low:g} and {s.high:g}."
        )

    def _nothing(self, found: Sequence[tuple[Given, Readings]]) -> str:
        reasons = [f"trial {t.number}: {r}" for _, readings in found for t, r in readings]
        return f"No sweep suggests a rate ({'; '.join(reasons)})."

    def _sweeps(self, found: Sequence[tuple[Given, Readings]]) -> list[dict[str, Any]]:
        return [
            {"trial": trial.number, "given": given}
            | ({"why": r} if isinstance(r, str) else {"lr": r.lr, "max": r.turn_up})
            for given, readings in found
            for trial, r in readings
        ]

    # --- findings -----------------------------------------------------------------------------------

    def _silent(self, given: Given, readings: Readings) -> Iterator[Finding]:
        """Sweeps that suggest nothing."""
        silent = [(t, r) for t, r in readings if isinstance(r, str)]
        if not silent:
            return
        of = f" with {_shown(given)}" if given else ""
        if silent[0][0].state is TrialState.FAILED:
            next_step = f"See trial {silent[0][0].number}'s error, repair what it names, and begin again."
        else:
            next_step = (
                "See that the model learns at all (preflight: overfit a batch, gradients, labels), then "
                f"sweep another range than {self.stage.lr_low:g} to {self.stage.lr_high:g}."
            )
        yield Finding(
            kind="range_test_silent",
            level="fail" if len(silent) == len(readings) else "warn",
            sentence=f"{len(silent)} of {len(readings)} sweeps{of} suggest no rate: {silent[0][1]}.",
            rule=RULE,
            next_step=next_step,
            numbers={"sweeps": len(readings), "silent": len(silent)},
            trials=tuple(t.number for t, _ in silent),
        )

    def _disagree(self, s: Suggestion) -> Iterator[Finding]:
        if s.spread <= DISAGREE:
            return
        of = f" for {_shown(s.given)}" if s.given else ""
        yield Finding(
            kind="range_test_spread",
            level="warn",
            sentence=f"The seeds' suggestions{of} differ by a factor of {s.spread:.2g}; {s.lr:g} is their "
            "geometric mean.",
            rule=f"more than a factor of {DISAGREE:g} between {s.seeds} seeds",
            next_step=f"Search a wide range around it, or sweep longer: steps above {self.stage.steps}, or a "
            "larger batch, whose loss is less noisy.",
            numbers={"spread": s.spread, "seeds": s.seeds, "lr": s.lr},
        )

    def _outside(self, s: Suggestion) -> Iterator[Finding]:
        parameter = self.history.study.space.root.get("lr")
        if not isinstance(parameter, Float | Int) or parameter.contains(s.lr):
            return
        yield Finding(
            kind="range_test_outside",
            level="warn",
            sentence=f"The suggested rate {s.lr:g} lies outside the space, which has {parameter.shown()}.",
            rule="a search looks at rates in its space alone",
            next_step="Widen lr in the space, so that the search can try it.",
            numbers={"lr": s.lr, "low": parameter.low, "high": parameter.high},
        )


def _reading(trial: Trial) -> Reading | str:
    if trial.state is not TrialState.COMPLETE:
        return f"it ended {trial.state}"
    sweep = Sweep.of(trial.curve)
    return read(sweep) if sweep.rates else "it reported no losses"


def _shown(given: Given) -> str:
    return ", ".join(f"{name} {value}" for name, value in given.items())
