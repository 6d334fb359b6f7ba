"""Preflight: what is looked at before money is spent, and what the rest will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunesmith_studies.checks import Known, judge, learning, merged, own_rate
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.planning import Done, History, Plan, Proposal, Seed, StageResult
from tunesmith_studies.space import Choice, Float, Int, Scalar, Space
from tunesmith_studies.stages.base import Forecast, Stage, spent, still_open
from tunesmith_studies.times import Place, Timing, forecast_seconds, timing_of
from tunesmith_studies.trial import Trial, TrialState
from tunesmith_studies.vocabulary import HYPERPARAMETERS

if TYPE_CHECKING:
    from tunesmith_studies.study import StudySpec

CHECKS = "checks"
MOST_STEPS = 1500
"""Optimizer steps that the checks take at most of a set whose epoch is shorter (recipe §1.1)."""
_TIMED = 6
"""Points at which a step is timed, at most, the middle included."""


class Preflight(Stage):
    """One trial at the middle of the space measures; `tunesmith_studies.checks` judges, a finding a check.

    Where hyperparameters of the model's own vary, such as its width, trials that only time a few steps
    follow at other points, for the forecast of what later stages take.

    Source: recipe §1.1; Karpathy, "A Recipe for Training Neural Networks", 2019; EECS 498/598 lecture 11.
    """

    ranks: ClassVar[bool] = False

    kind: Literal["preflight"] = "preflight"
    epochs: int = Field(
        default=5,
        ge=1,
        description="Passes over the training split that the checks need at most; of small sets more, up to "
        f"{MOST_STEPS} steps.",
    )
    on_failure: Literal["stop", "warn"] = Field(
        default="stop", description="stop: a check that fails pauses the study; warn: it goes on."
    )

    def problems(self, study: StudySpec) -> list[str]:
        if self.pruner is not None:
            return ["its trials measure and are not compared with each other; leave the pruner out"]
        return []

    def plan(self, history: History, n: int, seed: Seed) -> Plan:
        return still_open(list(self._proposals(history)), history, n) or Done(self._result(history, seed))

    def forecast(self, study: StudySpec, sources: Mapping[str, Forecast]) -> Forecast:
        return Forecast(trials=1 + len(self._timed(study)), epochs=self.epochs, least_steps=MOST_STEPS)

    # --- what is measured -----------------------------------------------------------------------------

    def _proposals(self, history: History) -> Iterator[Proposal]:
        study = history.study
        middle = self.open_space(study).middle(self.held(study))
        points = {CHECKS: (middle, self._options(study, middle))}
        for key, (changes, _) in self._timed(study).items():
            params = study.space.switched_on({**middle, **changes})
            points[key] = (params, {"only_times": True, "rate_steps": 5})
        for ordinal, (key, (params, options)) in enumerate(points.items()):
            # one seed for all: they differ in what they cost alone
            yield Proposal(key, ordinal, params, self.work(history, 0, kind="preflight", options=options))

    def _options(self, study: StudySpec, middle: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The thresholds at which a probe has seen enough; the worker has none of its own."""
        return {
            "by_heart": learning.BY_HEART,
            "first_steps": learning.FIRST_STEPS,
            "overfit_steps": learning.OVERFIT_STEPS,
            "overfit_batch": learning.OVERFIT_BATCH,
            "rates": learning.RATES,
            "sign": learning.SIGN,
            "related": learning.RELATED,
            "deep": learning.DEEP,
            "most_steps": MOST_STEPS,
            **rate_options(self.open_space(study), middle),
        }

    def _timed(self, study: StudySpec) -> dict[str, tuple[dict[str, Scalar], Place]]:
        """Points beside the middle whose steps are timed: what they change, and where that is."""
        space = self.open_space(study)
        found: dict[str, tuple[dict[str, Scalar], Place]] = {}
        if spans := self._spans(space):
            found["times:low"] = ({n: _end(space[n], 0.0) for n in spans}, Place(along=0.0))
            found["times:high"] = ({n: _end(space[n], 1.0) for n in spans}, Place(along=1.0))
        for name, parameter in space.items():
            if is_costly(name) and isinstance(parameter, Choice) and not parameter.when:
                for value in parameter.values[1:]:
                    place = Place(choice=(name, value), share=1 / len(parameter.values))
                    found[f"times:{name}={value}"] = ({name: value}, place)
        return dict(list(found.items())[: _TIMED - 1])

    def _spans(self, space: Space) -> tuple[str, ...]:
        """Numbers of the model's own, such as its width, that vary whatever is chosen."""
        return tuple(
            n for n, p in space.items() if is_costly(n) and isinstance(p, Float | Int) and not p.when
        )

    # --- what it says ---------------------------------------------------------------------------------

    def _result(self, history: History, seed: Seed) -> StageResult:
        study, trials = history.study, history.by_key()
        checks = trials[CHECKS]
        findings = self._judged(study, checks)
        timing = self._timing(study, trials)
        failing = [f for f in findings if f.level == "fail"]
        stops = bool(failing) and self.on_failure == "stop"
        numbers = {**spent(history), "cost": cost(checks)}
        if timing is not None:
            times = forecast_seconds(study, timing)
            later = {s.name: times[s.name] for s in study.stages_after(self.name)}
            numbers["forecast"] = {name: {"seconds": round(t, 3)} for name, t in later.items()}
            numbers["seconds"] = round(sum(later.values()), 3)
            numbers["gpu_hours"] = round(sum(later.values()) / 3600, 6)
        return StageResult(
            ranking=(),
            why=_why(findings, numbers),
            chosen=_chosen(timing, merged(checks.curve)),
            numbers=numbers,
            failed=stops,
            findings=findings,
            blocks=stops,
        )

    def _judged(self, study: StudySpec, checks: Trial) -> tuple[Finding, ...]:
        space = self.open_space(study)
        known = Known(
            rate_is_fixed="lr" not in space,
            freezes=checks.params.get("freeze", "none") != "none",
            largest_batch=_largest(space, checks.params),
        )
        found = list(judge(merged(checks.curve), known))
        if checks.state is not TrialState.COMPLETE:
            found.append(_not_measured(checks))
        return tuple(replace(f, trials=(checks.number,)) for f in gravest_first(found))

    def _timing(self, study: StudySpec, trials: Mapping[str, Trial]) -> Timing | None:
        places = {CHECKS: Place()} | {key: place for key, (_, place) in self._timed(study).items()}
        measured = [(place, merged(trials[key].curve)) for key, place in places.items()]
        return timing_of(measured, self._spans(self.open_space(study)))


def _end(parameter: Float | Int | Choice, at: float) -> Scalar:
    """The value at an end of a number's scale; a zero beside a log range is left aside."""
    return parameter.positive().value(at) if isinstance(parameter, Float) else parameter.value(at)


def _chosen(timing: Timing | None, measured: Mapping[str, float]) -> dict[str, Any]:
    """What others need: times, and H(p), which a loss must get below to show learning."""
    found: dict[str, Any] = {"timing": timing.to_json()} if timing is not None else {}
    if "check/balance/entropy" in measured:
        found["prior_entropy"] = measured["check/balance/entropy"]
    return found


def is_costly(name: str) -> bool:
    """Whether a hyperparameter changes what a step costs: the model's own do, and the optimizer."""
    return name not in HYPERPARAMETERS or name == "optimizer"


def rate_options(space: Space, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """How the study's own rate is tried: for long where it is fixed, else only whether it blows up."""
    if "lr" not in space:
        lr = params.get("lr", HYPERPARAMETERS["lr"].default)
        lr = float(lr) if isinstance(lr, int | float) else 0.0
        return {
            "rate_steps": own_rate.STEPS,
            "rate_epochs": 3.0,
            "clearly_fell": own_rate.CLEARLY_FELL,
            "rate_low": lr / own_rate.APART,
            "rate_high": lr * own_rate.APART,
        }
    return {
        "rate_steps": own_rate.FEW_STEPS,
        "rate_epochs": 1.0,
        "clearly_fell": own_rate.BLEW_UP,
        "rate_low": _lowest(space["lr"]),
    }


def _lowest(parameter: Float | Int | Choice) -> float:
    if isinstance(parameter, Choice):
        return min((float(v) for v in parameter.values if isinstance(v, int | float) and v > 0), default=0.0)
    return float(parameter.low)


def _largest(space: Space, params: Mapping[str, Scalar]) -> int | None:
    """The largest batch that the space or the study asks for."""
    if "batch_size" not in space:
        batch = params.get("batch_size", HYPERPARAMETERS["batch_size"].default)
        return int(batch) if isinstance(batch, int | float) else None
    parameter = space["batch_size"]
    if isinstance(parameter, Choice):
        return max((int(v) for v in parameter.values if isinstance(v, int | float)), default=None)
    return int(parameter.high)


def cost(checks: Trial) -> dict[str, dict[str, float]]:
    """What each probe trained on, in samples, and how long it took, in seconds."""
    found: dict[str, dict[str, float]] = {}
    for name, value in merged(checks.curve).items():
        if name.startswith("cost/"):
            _, probe, what = name.split("/")
            found.setdefault(probe, {})[what] = value
    return found


def _not_measured(checks: Trial) -> Finding:
    how = "failed" if checks.state is TrialState.FAILED else f"was {checks.state}"
    sentence = f"The checks ended early: trial {checks.number} {how}."
    step = "See the trial's error and log, repair what it names, and try it again."
    return Finding("run", "fail", sentence, "the trial that measures runs to its end", step)


def _why(findings: tuple[Finding, ...], numbers: Mapping[str, Any]) -> str:
    """How many checks came out how, the gravest sentence, and what the rest will take."""
    counts = {level: sum(f.level == level for f in findings) for level in ("pass", "warn", "fail")}
    shown = [f"{counts['pass']} of {len(findings)} checks passed"]
    shown += [f"{counts['warn']} warn{'s' if counts['warn'] == 1 else ''}"] if counts["warn"] else []
    shown += [f"{counts['fail']} fail{'s' if counts['fail'] == 1 else ''}"] if counts["fail"] else []
    said = f"{', '.join(shown)}."
    if findings and findings[0].level in ("fail", "warn"):
        said += f" {findings[0].sentence}"
    if numbers.get("seconds"):
        said += f" The stages after it take about {numbers['seconds']:,.0f} slot-seconds."
    return said
