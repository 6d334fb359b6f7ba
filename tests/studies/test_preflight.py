"""The preflight stage: what it plans, and what it makes of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from contracts import COMPLETE, Ending, Runner
from pydantic import ValidationError
from tunesmith_studies.checks import learning, own_rate
from tunesmith_studies.planning import Done, Proposals, StageResult
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.times import Timing
from tunesmith_studies.trial import Trial

TIMES = {
    "time/fixed": 0.001, "time/sample": 1e-5, "time/evaluate": 0.01, "time/build": 0.01, "time/first": 0.0,
    "time/snapshot": 0.01, "time/median": 0.002, "time/train_samples": 1000.0, "time/val_samples": 200.0,
}  # fmt: skip
SOUND = {"check/zero_grad/kept": 0.0, "check/balance/entropy": 1.5, "check/balance/largest": 0.3,
         "check/balance/smallest": 0.2, "cost/data/samples": 0.0, "cost/data/seconds": 0.2}  # fmt: skip
SPACE: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
}
RANDOM = {"kind": "random", "epochs": 2, "trials": 7}


def study(space: Mapping[str, Any] = SPACE, **stage: Any) -> StudySpec:
    stages = [{"kind": "preflight", **stage}, RANDOM]
    return StudySpec.model_validate({"name": "s", "task": "digits", "space": space, "stages": stages})


def measuring(faults: Mapping[str, float]) -> Any:
    """Two probes: checks, then times; a trial that only times reports the second alone."""

    def measures(trial: Trial) -> Sequence[Mapping[str, float]]:
        times = {**TIMES, "sys/epoch": 1.25}
        if trial.work.options.get("only_times"):
            return [times]
        return [{**SOUND, **faults, "sys/epoch": 0.5}, times]

    return measures


def result(
    spec: StudySpec, faults: Mapping[str, float] | None = None, ending: Ending = COMPLETE
) -> StageResult:
    runner = Runner(spec, measures=measuring(faults or {}))
    return runner.run("preflight", ending=lambda trial: ending).result


def planned(spec: StudySpec) -> dict[str, Any]:
    runner = Runner(spec)
    runner.activate("preflight")
    plan = runner.ask("preflight", 9)
    assert isinstance(plan, Proposals)
    return {p.key: p for p in plan.items}


FAULT = {"check/zero_grad/kept": 1.0}


def test_one_trial_measures_at_the_middle_of_the_space() -> None:
    (proposal,) = planned(study()).values()
    assert proposal.key == "checks"
    assert proposal.params == {"lr": pytest.approx(10**-1.5), "batch_size": 64}
    assert proposal.work.kind == "preflight"
    options = proposal.work.options
    assert (options["by_heart"], options["overfit_batch"]) == (learning.BY_HEART, learning.OVERFIT_BATCH)


def test_a_rate_that_is_fixed_is_tried_for_longer_and_beside_others() -> None:
    open_rate = planned(study())["checks"].work.options
    assert (open_rate["rate_steps"], open_rate["rate_low"]) == (own_rate.FEW_STEPS, 1e-3)
    fixed = planned(study(fixed={"lr": 0.3}))["checks"]
    assert fixed.params["lr"] == 0.3
    options = fixed.work.options
    assert options["rate_steps"] == own_rate.STEPS
    assert (options["rate_low"], options["rate_high"]) == pytest.approx((0.01, 9.0))


def test_what_shapes_the_model_is_timed_at_both_ends_and_each_choice_once() -> None:
    space = SPACE | {"hidden": {"type": "int", "low": 16, "high": 256}, "model": ["mlp", "cnn"]}
    trials = planned(study(space))
    assert list(trials) == ["checks", "times:low", "times:high", "times:model=cnn"]
    assert [t.params["hidden"] for t in trials.values()] == [136, 16, 256, 136]
    assert [t.params["model"] for t in trials.values()] == ["mlp", "mlp", "mlp", "cnn"]
    assert all(t.work.options["only_times"] for key, t in trials.items() if key != "checks")
    held = planned(study(space, fixed={"hidden": 64, "model": "cnn"}))
    assert list(held) == ["checks"]


def test_a_sound_task_passes_and_says_what_the_rest_takes() -> None:
    spec = study()
    found = result(spec)
    assert (found.failed, found.blocks, found.ranking) == (False, False, ())
    assert {f.level for f in found.findings} == {"pass"}
    assert {f.trials for f in found.findings} == {(0,)}
    assert found.why.startswith("3 of 3 checks passed. The stages after it take about ")
    assert found.numbers["epochs"] == 1.25
    assert found.numbers["cost"] == {"data": {"samples": 0.0, "seconds": 0.2}}
    assert found.numbers["forecast"]["random"]["seconds"] == pytest.approx(found.numbers["seconds"])
    assert found.chosen["prior_entropy"] == 1.5
    assert Timing.from_json(found.chosen["timing"]).train_samples == 1000


def test_a_failing_check_stops_the_study_or_warns_as_the_stage_says() -> None:
    stopped, warned = result(study(), FAULT), result(study(on_failure="warn"), FAULT)
    assert (stopped.failed, stopped.blocks) == (True, True)
    assert (warned.failed, warned.blocks) == (False, False)
    for found in (stopped, warned):
        assert (found.findings[0].kind, found.findings[0].level) == ("zero_grad", "fail")
        assert found.why.startswith("2 of 3 checks passed, 1 fails. 100 % of the steps add")
    assert StageResult.from_json(stopped.to_json()) == stopped


@pytest.mark.parametrize("ending", [("failed", "error"), ("cancelled", "cancelled")])
def test_a_trial_that_did_not_finish_measuring_is_a_failure_of_its_own(ending: Ending) -> None:
    found = result(study(), ending=ending)
    assert found.blocks
    assert [f.kind for f in found.findings] == ["run", "balance", "zero_grad"]  # and what it had measured
    assert "trial 0" in found.findings[0].sentence
    assert "forecast" not in found.numbers


def test_a_trial_that_was_tried_again_is_judged_by_its_newest_try() -> None:
    runner = Runner(study(), measures=measuring({}))
    runner.activate("preflight")
    plan = runner.ask("preflight", 1)
    assert isinstance(plan, Proposals)
    again = runner.queue("preflight", plan.items[0])
    runner.start(again)
    runner.end(again, ("failed", "error"))
    retry = runner.queue("preflight", replace(plan.items[0], key="checks/retry:1", ordinal=1))
    runner.start(retry)
    runner.end(retry)
    done = runner.ask("preflight", 1)
    assert isinstance(done, Done)
    assert not done.result.failed
    assert {f.trials for f in done.result.findings} == {(retry,)}


def test_it_is_nobodys_source_and_takes_neither_pruner_nor_budget() -> None:
    spec = study()
    assert forecast(spec)["preflight"].trials == 1
    stages = [{"kind": "preflight"}, {"kind": "refine_grid", "epochs": 2}]
    with pytest.raises(ValidationError):  # nothing to refine
        StudySpec.model_validate({"name": "s", "task": "t", "space": SPACE, "stages": stages})
    with pytest.raises(ValidationError, match="leave the pruner out"):
        study(pruner={"kind": "median"})
    with pytest.raises(ValidationError, match="counts epochs"):
        study(budget={"steps": 100}, epochs=1)
