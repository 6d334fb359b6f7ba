"""The range test as a stage: which sweeps it plans, what it makes of them, and who can use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from contracts import Runner, check_plan
from pydantic import ValidationError
from tunesmith_studies.planning import Done, Proposals, Wait
from tunesmith_studies.rates import Suggestion, suggested
from tunesmith_studies.space import Scalar
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.trial import StopReason, TrialState

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "optimizer": ["momentum", "adam"],
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
}
TEST = {"kind": "lr_range_test"}
BEST = {"momentum": 0.03, "adam": 0.001}
Loss = Callable[[float], float]


def study(*stages: dict[str, Any], **changes: Any) -> StudySpec:
    data = {"name": "s", "task": "digits", "space": SPACE, "stages": stages or [TEST]}
    return StudySpec.model_validate(data | changes)


def falling(best: float) -> Loss:
    """2.3 at first, least at ten times `best`, where it turns up."""

    def loss(rate: float) -> float:
        x = math.log10(rate / best)
        return 2.3 - 2.0 / (1 + math.exp(-4 * x)) if x < 1 else 0.4 * 10 ** (2 * (x - 1))

    return loss


def by_optimizer(params: Mapping[str, Scalar]) -> Loss:
    return falling(BEST[str(params["optimizer"])])


def report(runner: Runner, number: int, loss: Loss, *, points: int = 300) -> None:
    """What a worker would: points up to where the loss breaks away, then complete without a value."""
    options = runner.log.trial(number).work.options
    low, high = float(options["lr_low"]), float(options["lr_high"])
    rates = [low * (high / low) ** (i / (points - 1)) for i in range(points)]
    said = []
    for step, rate in enumerate(rates, start=1):
        value = loss(rate)
        shown = value if math.isfinite(value) else "NaN"
        metrics = {"train/loss": shown, "sys/lr": rate, "sys/epoch": step / 34}
        said.append({"step": step, "metrics": metrics})
        if shown == "NaN" or value > 4 * 2.3:
            break
    runner.put("reported", trial=number, attempt=1, seq=1, points=said)
    runner.put(
        "moved",
        trial=number,
        **{"from": "running"},
        to="complete",
        attempt=1,
        stop_reason="budget",
        value=None,
    )


def run(spec: StudySpec, loss: Callable[[Mapping[str, Scalar]], Loss]) -> tuple[Done, Runner]:
    """The stage to its end, each answer checked by the contract."""
    runner, stage = Runner(spec), "lr_range_test"
    runner.activate(stage)
    check = check_plan(spec, stage)
    while True:
        plan = runner.ask(stage, 2)
        check(runner.log.history(stage), 2, plan)
        if isinstance(plan, Done):
            runner.finish_stage(stage, plan)
            return plan, runner
        assert isinstance(plan, Proposals)
        for proposal in plan.items:
            number = runner.queue(stage, proposal)
            runner.start(number)
            report(runner, number, loss(proposal.params))


def test_each_optimizer_left_open_gets_a_sweep_for_each_seed() -> None:
    done, runner = run(study(), by_optimizer)
    trials = runner.log.trials("lr_range_test")
    assert [t.key for t in trials] == [
        "optimizer='momentum'/seed:0", "optimizer='adam'/seed:0",
        "optimizer='momentum'/seed:1", "optimizer='adam'/seed:1",
    ]  # fmt: skip
    assert [t.work.seed == trials[0].work.seed for t in trials] == [True, True, False, False]
    assert {t.work.kind for t in trials} == {"range_test"}
    assert {t.params["batch_size"] for t in trials} == {64}, "the middle of what is left open"
    momentum, adam = (Suggestion.from_json(s) for s in done.result.chosen["suggestions"])
    assert momentum.given == {"optimizer": "momentum"}
    assert momentum.lr == pytest.approx(0.03 * math.sqrt(10) / 2, rel=0.5)
    assert adam.lr == pytest.approx(momentum.lr / 30, rel=0.1)
    assert momentum.lr < momentum.high < momentum.max < 0.5
    assert momentum.low == pytest.approx(momentum.high / 10, rel=0.01)
    assert momentum.at == {"optimizer": "momentum", "batch_size": 64}
    assert done.result.ranking == ()
    assert not done.result.failed
    assert not done.result.findings
    assert "for optimizer adam" in done.result.why


def test_later_stages_ask_what_fits_their_hyperparameters() -> None:
    spec = study(TEST, {"kind": "random", "epochs": 1, "trials": 1})
    _, runner = run(spec, by_optimizer)
    history = runner.log.history("random")
    found = suggested(history, {"optimizer": "adam", "batch_size": 256})
    assert found is not None
    assert found.given == {"optimizer": "adam"}
    assert found.rate({"optimizer": "adam", "batch_size": 256}) == pytest.approx(2 * found.lr)
    assert suggested(history, {"optimizer": "sgd"}) is None
    assert suggested(history, {"optimizer": "adam"}, source="lr_range_test") == found
    assert suggested(history, {"optimizer": "adam"}, source="another") is None


def test_without_an_optimizer_to_choose_there_is_one_suggestion_for_all() -> None:
    spec = study(fixed={"optimizer": "momentum"}, space={"lr": SPACE["lr"]})
    done, runner = run(spec, by_optimizer)
    (found,) = done.result.chosen["suggestions"]
    assert found["given"] == {}
    assert found["at"] == {"optimizer": "momentum"}
    assert [t.key for t in runner.log.trials("lr_range_test")] == ["seed:0", "seed:1"]


def test_seeds_that_disagree_are_a_finding() -> None:
    spec = study(TEST | {"fixed": {"optimizer": "momentum"}, "seeds": 2})
    losses = iter([falling(0.003), falling(0.03)])
    done, _ = run(spec, lambda params: next(losses))
    (finding,) = done.result.findings
    assert (finding.kind, finding.level) == ("range_test_spread", "warn")
    assert finding.sentence.startswith(
        "The seeds' suggestions for optimizer momentum differ by a factor of 10; "
    )
    assert finding.numbers["spread"] == pytest.approx(10, rel=0.05)


def test_a_choice_that_never_learns_is_told_and_the_others_stand() -> None:
    done, _ = run(study(), lambda p: falling(0.03) if p["optimizer"] == "momentum" else lambda rate: 2.3)
    (found,) = done.result.chosen["suggestions"]
    assert found["given"] == {"optimizer": "momentum"}
    (finding,) = done.result.findings
    assert (finding.kind, finding.level, finding.trials) == ("range_test_silent", "fail", (1, 3))
    assert finding.sentence.startswith(
        "2 of 2 sweeps with optimizer adam suggest no rate: the loss never fell"
    )
    assert not done.result.failed


def test_a_loss_that_breaks_away_at_once_fails_the_stage_and_says_so() -> None:
    done, _ = run(study(TEST | {"fixed": {"optimizer": "adam"}}), lambda params: lambda rate: math.nan)
    assert done.result.failed
    assert done.result.why == (
        "No sweep suggests a rate (trial 0: the loss broke away at once, at a rate of 1e-05; "
        "trial 1: the loss broke away at once, at a rate of 1e-05)."
    )


def test_a_suggestion_outside_the_space_is_told() -> None:
    narrow = {"lr": {"low": 1e-4, "high": 1e-3, "log": True}}
    done, _ = run(study(space=narrow, fixed={"optimizer": "momentum"}), by_optimizer)
    (finding,) = done.result.findings
    assert finding.kind == "range_test_outside"
    assert "outside the space, which has [0.0001, 0.001]" in finding.sentence


def test_a_failed_sweep_leaves_the_suggestion_to_the_other_seed() -> None:
    runner = Runner(study(TEST | {"fixed": {"optimizer": "momentum"}}))
    runner.activate("lr_range_test")
    plan = runner.ask("lr_range_test", 5)
    assert isinstance(plan, Proposals)
    numbers = [runner.queue("lr_range_test", p) for p in plan.items]
    assert isinstance(runner.ask("lr_range_test", 1), Wait)
    for number in numbers:
        runner.start(number)
    runner.put(
        "moved", trial=0, **{"from": "running"}, to=str(TrialState.FAILED), attempt=1,
        stop_reason=str(StopReason.ERROR), value=None,
    )  # fmt: skip
    report(runner, 1, falling(0.03))
    done = runner.ask("lr_range_test", 1)
    assert isinstance(done, Done)
    assert done.result.chosen["suggestions"][0]["seeds"] == 1
    assert done.result.findings[0].sentence == "1 of 2 sweeps suggest no rate: it ended failed."
    assert done.result.findings[0].next_step.startswith("See trial 0's error, repair what it names")
    assert done.result.numbers["epochs"] == pytest.approx(runner.log.trial(1).epochs_run)


def test_a_range_test_is_no_stage_to_build_on() -> None:
    """A stage after it takes its source from before it."""
    grid = {
        "kind": "coarse_grid",
        "epochs": 1,
        "axes": {"lr": 3},
        "fixed": {"optimizer": "adam", "batch_size": 32},
    }
    spec = study(grid, TEST, {"kind": "refine_grid", "epochs": 2})
    refine = spec.stages[-1]
    source = refine.source_in(spec)
    assert source is not None
    assert source.name == "coarse_grid"


def test_its_forecast_counts_steps_where_nobody_knows_the_epochs() -> None:
    planned = forecast(study())["lr_range_test"]
    assert (planned.trials, planned.epochs, planned.least_steps) == (4, 4, 1200)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fixed": {"lr": 0.1}, "space": {"batch_size": [16, 32]}}, "lr is fixed for the whole study"),
        ({"stages": [TEST | {"per": ["momentum"]}]}, "per names momentum, which is not a choice left open"),
        ({"stages": [TEST | {"lr_low": 0.1, "lr_high": 1.0}]}, "sweeps two decades or more, got 0.1 to 1"),
        ({"stages": [TEST | {"pruner": {"kind": "median"}}]}, "leave the pruner out"),
        (
            {"stages": [TEST | {"budget": {"steps": 5}, "epochs": 1}]},
            "counts epochs, and its trials are 5 steps long",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        study(**changes)
