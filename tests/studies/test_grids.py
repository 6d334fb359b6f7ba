"""Grids that build on what was found: around a range test, around the best, beyond their borders."""

from __future__ import annotations

import math
from typing import Any

import pytest
from contracts import COMPLETE, Ending, Runner, check_plan
from pydantic import ValidationError
from tunesmith_studies.decisions import differences
from tunesmith_studies.planning import Done, StageResult
from tunesmith_studies.rates import Suggestion
from tunesmith_studies.space import Float, Int, Params, Space
from tunesmith_studies.stages.border import step_beyond
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.trial import Trial

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 0.3, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-3, "log": True},
}
TEST = {"kind": "lr_range_test"}
CENTRED = {
    "kind": "coarse_grid",
    "epochs": 2,
    "axes": {"lr": {"factors": [0.1, 1, 3]}, "optimizer": ["momentum", "adam"]},
}
OPTIMIZERS = {"lr": {"low": 1e-5, "high": 1.0, "log": True}, "optimizer": ["momentum", "adam"]}
GRID = {
    "kind": "coarse_grid",
    "epochs": 2,
    "axes": {"lr": [0.001, 0.01, 0.1], "weight_decay": [1e-5, 1e-4, 1e-3]},
}

CONTINUED = {"kind": "refine_grid", "epochs": 4, "continue_snapshots": True}


def study(*stages: dict[str, Any], **changes: Any) -> StudySpec:
    data = {"name": "s", "task": "digits", "space": SPACE, "stages": stages}
    return StudySpec.model_validate(data | changes)


def after_test(spec: StudySpec, *suggestions: Suggestion) -> Runner:
    """A study whose range test has ended with these suggestions."""
    runner = Runner(spec)
    tell(runner, "lr_range_test", *suggestions)
    return runner


def tell(runner: Runner, test: str, *suggestions: Suggestion) -> None:
    runner.activate(test)
    found = {"suggestions": [s.to_json() for s in suggestions]}
    runner.finish_stage(test, Done(StageResult(ranking=(), why="Told.", chosen=found)))


def suggestion(lr: float, batch_size: int = 32, **given: str) -> Suggestion:
    return Suggestion(given, lr, low=lr / 10, high=lr, max=4 * lr, at=given | {"batch_size": batch_size})


def best_at(lr: float, decay: float = 1e-4) -> Any:
    def loss(params: Params, epoch: int) -> float:
        miss = (math.log10(float(params["lr"]) / lr)) ** 2
        return 1 + miss + 0.1 * math.log10(float(params.get("weight_decay", decay)) / decay) ** 2

    return loss


def trained(runner: Runner, stage: str, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(t.params.get(n) for n in names) for t in runner.log.trials(stage)]


# --- centred on a range test ------------------------------------------------------------------------------


def test_rates_are_multiples_of_what_the_range_test_suggests_for_each_optimizer() -> None:
    spec = study(TEST, CENTRED, space=OPTIMIZERS)
    runner = after_test(spec, suggestion(0.05, optimizer="momentum"), suggestion(1e-3, optimizer="adam"))
    done = runner.run("coarse_grid", check=check_plan(spec, "coarse_grid"))
    assert sorted(trained(runner, "coarse_grid", "optimizer", "lr")) == [
        ("adam", 1e-4), ("adam", 1e-3), ("adam", 3e-3),
        ("momentum", 0.005), ("momentum", 0.05), ("momentum", 0.15),
    ]  # fmt: skip
    assert done.result.chosen["axes"]["lr"] == [1e-4, 1e-3, 3e-3, 0.005, 0.05, 0.15]
    assert {g["given"]["optimizer"]: g["axes"]["lr"] for g in done.result.chosen["axes_by"]} == {
        "adam": [1e-4, 1e-3, 3e-3], "momentum": [0.005, 0.05, 0.15],
    }  # fmt: skip


def test_a_refined_grid_takes_the_gaps_of_its_centre_s_own_rates() -> None:
    """The next rate above adam's 3e-3 is momentum's 5e-3: no neighbour."""
    refine = {"kind": "refine_grid", "epochs": 4, "top": 1}
    spec = study(TEST, CENTRED, refine, space=OPTIMIZERS)
    runner = after_test(spec, suggestion(0.05, optimizer="momentum"), suggestion(1e-3, optimizer="adam"))
    runner.objective = best_at(1e-3)
    runner.run("coarse_grid")
    runner.run("refine_grid")
    rates = sorted(lr for _, lr in trained(runner, "refine_grid", "optimizer", "lr"))
    assert rates == pytest.approx([1e-3 / math.sqrt(10), 1e-3, 1e-3 * math.sqrt(3)])


def test_an_optimizer_without_a_suggestion_gets_the_space_s_own_grid() -> None:
    spec = study(TEST, CENTRED, space=OPTIMIZERS)
    runner = after_test(spec, suggestion(0.05, optimizer="momentum"))
    runner.run("coarse_grid")
    adams = sorted(lr for o, lr in trained(runner, "coarse_grid", "optimizer", "lr") if o == "adam")
    assert adams == pytest.approx([1e-5, math.sqrt(1e-5), 1.0])


def test_rates_follow_the_batch_from_where_the_range_test_was_run() -> None:
    axes = {"lr": {"factors": [1]}, "batch_size": [32, 128]}
    grid = {"kind": "coarse_grid", "epochs": 1, "axes": axes, "fixed": {"optimizer": "momentum"}}
    space = {"lr": SPACE["lr"], "batch_size": [32, 64, 128]}
    for scale, expected in ((None, 0.08), ("sqrt", 0.04), ("none", 0.02)):
        spec = study(TEST, grid | {"scale_lr": scale}, space=space)
        runner = after_test(spec, suggestion(0.02))
        runner.run("coarse_grid")
        assert trained(runner, "coarse_grid", "batch_size", "lr") == [
            (32, 0.02),
            (128, pytest.approx(expected)),
        ]


def test_rates_that_leave_the_space_stop_at_its_ends_and_say_so() -> None:
    grid = {"kind": "coarse_grid", "epochs": 1, "axes": {"lr": {}, "weight_decay": [1e-4]}}
    runner = after_test(study(TEST, grid), suggestion(0.2))
    done = runner.run("coarse_grid")
    assert trained(runner, "coarse_grid", "lr") == [(pytest.approx(v),) for v in (0.02, 0.066, 0.2, 0.3)]
    assert "Rates outside the space were moved to its ends: 0.6." in done.result.why


def test_of_several_range_tests_the_last_one_counts_unless_one_is_named() -> None:
    tests = [TEST, TEST | {"name": "again"}]
    axes = {"weight_decay": [1e-4], "lr": {"factors": [1]}}
    for named, expected in ((None, 0.02), ("lr_range_test", 0.01)):
        lr = {"factors": [1]} | ({"around": named} if named else {})
        spec = study(*tests, {"kind": "coarse_grid", "epochs": 1, "axes": axes | {"lr": lr}})
        runner = after_test(spec, suggestion(0.01))
        tell(runner, "again", suggestion(0.02))
        runner.run("coarse_grid")
        assert trained(runner, "coarse_grid", "lr") == [(expected,)]
        assert spec.stages[-1].range_test_in(spec) == (named or "again")


# --- around the best --------------------------------------------------------------------------------------


def test_a_short_grid_holds_the_best_of_its_source() -> None:
    momentum = {"momentum": {"low": 0.8, "high": 0.99}}
    first = {"kind": "random", "epochs": 2, "trials": 6, "fixed": {"momentum": 0.9}}
    short = {
        "kind": "coarse_grid",
        "epochs": 1,
        "around_best": True,
        "axes": {"momentum": [0.9, 0.95, 0.97, 0.99]},
    }
    spec = study(first, short, space=SPACE | momentum)
    runner = Runner(spec)
    ranked = runner.run("random").result.ranking
    best = runner.log.trial(ranked[0].trial).params
    done = runner.run("coarse_grid", check=check_plan(spec, "coarse_grid"))
    assert trained(runner, "coarse_grid", "momentum", "lr", "weight_decay") == [
        (m, best["lr"], best["weight_decay"]) for m in (0.9, 0.95, 0.97, 0.99)
    ]
    assert done.result.chosen["axes"] == {"momentum": [0.9, 0.95, 0.97, 0.99]}
    assert forecast(spec)["coarse_grid"].trials == 4


@pytest.mark.parametrize(
    ("scale", "factor"), [("linear", 4), ("sqrt", 2), ("auto", 4), ("none", 1), (None, 1)]
)
def test_batch_sizes_are_compared_at_equal_time_with_the_rate_scaled_when_asked(
    scale: str, factor: float
) -> None:
    batches = {"batch_size": [32, 128]}
    first = {"kind": "random", "epochs": 2, "trials": 3, "fixed": {"batch_size": 32}}
    compare = {
        "kind": "coarse_grid", "name": "batches", "epochs": 50, "budget": {"seconds": 20}, "axes": batches,
        "around_best": True, "scale_lr": scale,
    }  # fmt: skip
    space = {"lr": {"low": 0.001, "high": 0.2, "log": True}} | batches
    runner = Runner(study(first, compare, space=space))
    ranked = runner.run("random").result.ranking
    lr = float(runner.log.trial(ranked[0].trial).params["lr"])
    done = runner.run("batches")
    larger = pytest.approx(min(lr * factor, 0.2))
    assert trained(runner, "batches", "batch_size", "lr") == [(32, lr), (128, larger)]
    assert {(t.work.seconds, t.work.epochs, t.work.unit) for t in runner.log.trials("batches")} == {
        (20.0, 50, "step")
    }
    assert "2 cells of 20 seconds each." in done.result.why


# --- the border -------------------------------------------------------------------------------------------


def run_grid(
    objective: Any,
    *,
    later: tuple[dict[str, Any], ...] = (),
    ending: Any = lambda trial: COMPLETE,
    **changes: Any,
) -> tuple[Runner, Done]:
    spec = study(GRID | {"extend": 2} | changes, *later)
    runner = Runner(spec, objective)
    return runner, runner.run("coarse_grid", ending=ending, check=check_plan(spec, "coarse_grid"))


def test_a_best_cell_on_the_border_asks_for_one_more_step_past_the_space_if_need_be() -> None:
    runner, done = run_grid(best_at(2.0))
    added = trained(runner, "coarse_grid", "lr", "weight_decay")[9:]
    assert added == [(1.0, 1e-4)], "a fifth of nine cells is one"
    assert done.result.chosen["widened"] == {"lr": [0.001, 1.0]}
    assert done.result.chosen["axes"]["lr"] == [0.001, 0.01, 0.1, 1.0]
    assert (
        "The best lay at the border, so 1 more went one grid step beyond: lr 0.1 → 1. The space of lr is "
        "wider from here on: [0.001, 1]." in done.result.why
    )


def test_a_border_is_crossed_again_while_the_best_lies_on_it_and_at_most_so_often() -> None:
    fine = {"lr": [0.001, 0.003, 0.01, 0.03], "weight_decay": [1e-5, 3e-5, 1e-4, 1e-3]}
    for extend, expected in ((0, []), (1, [0.09]), (2, [0.09, 0.27])):
        runner, _ = run_grid(best_at(2.0), axes=fine, extend=extend)
        rates = [lr for lr, _ in trained(runner, "coarse_grid", "lr", "weight_decay")[16:]]
        assert sorted(set(rates)) == pytest.approx(expected)
        assert len(rates) <= 3, "a fifth of sixteen cells"


def test_a_best_cell_inside_the_grid_asks_for_nothing() -> None:
    runner, done = run_grid(best_at(0.01))
    assert len(runner.log.trials("coarse_grid")) == 9
    assert "widened" not in done.result.chosen
    assert "border" not in done.result.why


def test_two_of_the_best_three_on_a_border_ask_as_the_best_does() -> None:
    def second_and_third_on_top(params: Params, epoch: int) -> float:
        order = [(0.01, 1e-4), (0.1, 1e-4), (0.1, 1e-5)]
        at = (float(params["lr"]), float(params["weight_decay"]))
        return 1.0 + order.index(at) if at in order else 9.0

    runner, _ = run_grid(second_and_third_on_top)
    assert trained(runner, "coarse_grid", "lr", "weight_decay")[9:] == [(1.0, 1e-4)]


def test_trials_that_diverge_at_a_border_close_it() -> None:
    """More room cures no instability."""

    def unstable(trial: Trial) -> Ending:
        return (
            ("pruned", "diverged")
            if trial.params["lr"] == 0.1 and trial.params["weight_decay"] == 1e-5
            else COMPLETE
        )

    runner, done = run_grid(best_at(2.0), ending=unstable)
    assert len(runner.log.trials("coarse_grid")) == 9
    assert "widened" not in done.result.chosen


def test_every_later_plan_looks_at_the_wider_space_and_a_replay_agrees() -> None:
    later = (
        {"kind": "random", "epochs": 2, "trials": 12, "method": "sobol"},
        {"kind": "refine_grid", "epochs": 3, "top": 1, "source": "coarse_grid"},
        {"kind": "sampler", "epochs": 2, "trials": 6, "sampler": {"kind": "tpe", "n_startup_trials": 2}},
    )
    runner, _ = run_grid(best_at(2.0), later=later)
    assert runner.log.study.space["lr"].shown() == "[0.001, 1]"
    assert runner.spec.space["lr"].shown() == "[0.001, 0.3]"
    for stage in later:
        runner.run(str(stage["kind"]))
    assert max(lr for (lr,) in trained(runner, "random", "lr")) > 0.3
    assert max(lr for (lr,) in trained(runner, "refine_grid", "lr")) == 1.0
    assert list(differences(runner.spec.to_json(), runner.entries)) == []


def test_a_forecast_holds_the_cells_beyond_the_border() -> None:
    spec = study(GRID | {"extend": 2})
    assert forecast(spec)["coarse_grid"].trials == 10
    assert forecast(spec)["coarse_grid"].likely_epochs == 18


@pytest.mark.parametrize(
    ("name", "parameter", "values", "side", "expected"),
    [
        ("lr", Float(low=1e-3, high=1, log=True), [0.1, 0.3, 1.0], "high", 10 / 3),
        ("lr", Float(low=1e-3, high=1, log=True), [1e-3, 1e-2], "low", 1e-4),
        ("dropout", Float(low=0.1, high=0.5), [0.1, 0.3, 0.5], "high", 0.7),
        ("dropout", Float(low=0.1, high=0.5), [0.1, 0.3, 0.5], "low", None),  # -0.1 drops nothing
        ("dropout", Float(low=0.0, high=0.5), [0.1, 0.2], "low", 0.0),
        ("momentum", Float(low=0.9, high=0.99), [0.95, 0.97, 0.99], "high", None),  # 1.01 never forgets
        ("batch_size", Int(low=16, high=64, log=True), [16, 32, 64], "high", 128),
        ("batch_size", Int(low=1, high=64, log=True), [1, 8], "low", None),
        ("depth", Int(low=1, high=3), [1, 2, 3], "low", None),
        ("depth", Int(low=1, high=3), [1, 2, 3], "high", 4),
    ],
)
def test_a_step_beyond_is_as_long_as_the_last_gap_and_ends_where_the_hyperparameter_does(
    name: str, parameter: Float | Int, values: list[float], side: Any, expected: float | None
) -> None:
    found = step_beyond(name, parameter, values, side)
    assert found == (pytest.approx(expected) if expected is not None else None)
    assert isinstance(found, int) == (isinstance(parameter, Int) and expected is not None)


def test_below_the_smallest_decay_lies_zero_which_is_no_border() -> None:
    zero = {"weight_decay": {"low": 1e-5, "high": 1e-3, "log": True, "zero": True}, "lr": SPACE["lr"]}
    axes = {"lr": [0.001, 0.01, 0.1], "weight_decay": [0, 1e-5, 1e-4]}
    for decay in (0.0, 1e-5):

        def loss(params: Params, epoch: int, decay: float = decay) -> float:
            return 1 + abs(math.log10(float(params["lr"]) / 0.01)) + (params["weight_decay"] != decay)

        spec = study(GRID | {"axes": axes, "extend": 2}, space=zero)
        runner = Runner(spec, loss)
        runner.run("coarse_grid")
        assert len(runner.log.trials("coarse_grid")) == 9


def test_a_wider_space_is_never_narrower() -> None:
    space = Space({"lr": {"low": 0.01, "high": 1.0, "log": True}, "optimizer": ["sgd"]})
    assert space.widened({"lr": [0.1, 3.0], "optimizer": [0, 1], "gone": [0, 1]})["lr"].shown() == "[0.01, 3]"


# --- forecasts and refusals -------------------------------------------------------------------------------


def test_a_forecast_around_the_best_holds_an_axis_that_only_some_choices_switch_on() -> None:
    space = {
        "lr": {"low": 0.01, "high": 0.1, "log": True},
        "optimizer": ["momentum", "adam"],
        "momentum": {"low": 0.5, "high": 0.95, "when": {"optimizer": "momentum"}},
    }
    momenta = {
        "kind": "coarse_grid", "name": "momenta", "epochs": 2, "around_best": True, "axes": {"momentum": 4},
    }  # fmt: skip
    spec = study({"kind": "coarse_grid", "epochs": 2, "points": 2}, momenta, space=space)
    runner = Runner(spec, lambda params, epoch: 1.0 + (params["optimizer"] == "adam"))
    runner.run("coarse_grid")
    runner.run("momenta")
    assert len(runner.log.trials("momenta")) == 4 == forecast(spec)["momenta"].trials


def test_a_forecast_of_later_rounds_counts_the_centres_that_the_first_round_leaves() -> None:
    space = {"lr": {"low": 1e-6, "high": 1e3, "log": True}}
    grid = {"kind": "coarse_grid", "epochs": 1, "axes": {"lr": [0.01, 0.1]}}
    spec = study(grid, {"kind": "refine_grid", "epochs": 2, "top": 100, "rounds": 3}, space=space)
    runner = Runner(spec)
    runner.run("coarse_grid")
    took = runner.run("refine_grid").result.numbers["epochs"]
    planned = forecast(spec)["refine_grid"]
    assert len(runner.log.trials("refine_grid")) <= planned.trials
    assert took <= planned.epochs


def test_the_likely_epochs_of_a_refined_grid_are_close_to_what_it_takes() -> None:
    """Measured over where the best lies; the most there may be is twice as much and more."""
    ratios = []
    for lr, decay in ((0.01, 1e-4), (0.02, 5e-5), (0.005, 2e-4), (0.05, 1e-4), (0.1, 1e-3)):
        spec = study(GRID, {"kind": "refine_grid", "epochs": 4, "top": 3})
        runner = Runner(spec, best_at(lr, decay))
        runner.run("coarse_grid")
        took = runner.run("refine_grid").result.numbers["epochs"]
        planned = forecast(spec)["refine_grid"]
        assert planned.likely_epochs is not None
        assert took <= planned.epochs
        ratios.append(took / planned.likely_epochs)
    assert all(0.67 < r < 1.5 for r in ratios), ratios


def test_a_range_test_that_holds_an_optimizer_suggests_nothing_for_another() -> None:
    held = TEST | {"seeds": 1, "fixed": {"optimizer": "momentum"}}
    rates = [1e-5 * 10 ** (i / 10) for i in range(60)]
    sweep = [{"sys/lr": lr, "train/loss": 2.0 / (1 + 30 * lr) + 3 * max(lr - 1, 0)} for lr in rates]
    runner = Runner(study(held, CENTRED, space=OPTIMIZERS), measures=lambda trial: sweep)
    (found,) = runner.run("lr_range_test").result.chosen["suggestions"]
    assert found["given"] == {"optimizer": "momentum"}
    runner.run("coarse_grid")
    cells = trained(runner, "coarse_grid", "optimizer", "lr")
    middle = {optimizer: sorted(lr for o, lr in cells if o == optimizer)[1] for optimizer, _ in cells}
    assert middle["momentum"] == pytest.approx(found["lr"])
    assert middle["adam"] == pytest.approx(10**-2.5)  # of the space's own grid


def test_a_forecast_saves_nothing_where_centres_are_held_to_other_values_and_train_again() -> None:
    space = {"lr": {"low": 1e-4, "high": 1.0, "log": True}, "dropout": {"low": 0, "high": 0.5}}
    grid = {"kind": "coarse_grid", "epochs": 5, "axes": {"lr": 3}, "fixed": {"dropout": 0.2}}
    held = {"lr": 0.01, "dropout": 0.1}
    refined = {"kind": "refine_grid", "epochs": 6, "top": 1, "continue_snapshots": True, "fixed": held}
    spec = study(grid, refined, space=space)
    runner = Runner(spec)
    runner.run("coarse_grid")
    took = runner.run("refine_grid").result.numbers["epochs"]
    assert took == 6 == forecast(spec)["refine_grid"].epochs


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([GRID | {"axes": {"lr": {}, "weight_decay": 2}}], "none comes before; add a stage kind"),
        ([TEST, GRID | {"axes": {"lr": 2, "weight_decay": {"factors": [1]}}}], "which suggests rates alone"),
        ([TEST, GRID | {"axes": {"lr": {"around": "x"}, "weight_decay": 2}}], "'x', which is no range test"),
        ([GRID | {"around_best": True}], "best of an earlier stage, and none comes before"),
        ([GRID, {"kind": "coarse_grid", "epochs": 1, "around_best": True}], "none is named; name some"),
        ([GRID | {"scale_lr": "auto"}], "scales a rate that was found at some batch"),
        ([GRID, GRID | {"around_best": True, "scale_lr": "auto"}], "would change the rates that axis lr"),
        (
            [GRID, GRID | {"around_best": True, "scale_lr": "auto", "axes": {"weight_decay": 2}}],
            "scale_lr has nothing to follow",
        ),
        ([GRID | {"budget": {"seconds": 5}, "epochs": None}], "needs epochs as well, the most"),
        ([GRID | {"budget": {"epochs": 3}}], "epochs: 2 and a budget of 3 epochs differ"),
        ([GRID | {"budget": {"steps": 3, "seconds": 5}}], "one of epochs, steps and seconds, got"),
        (
            [GRID | {"budget": {"steps": 50}}, CONTINUED],
            "whose trials are 50 steps long: only trials that count epochs can be gone on from",
        ),
        (
            [GRID, CONTINUED | {"budget": {"steps": 50}}],
            "its trials are 50 steps long; write epochs instead, or let its trials begin anew",
        ),
        ([GRID | {"budget": {"steps": 50}, "pruner": {"kind": "median"}}], "leave the pruner or that length"),
        (
            [GRID | {"budget": {"seconds": 5}, "fixed": {"schedule": "cosine"}}],
            "nobody knows how many steps 5 seconds will be, and the schedule is cosine",
        ),
        (
            [{"kind": "weight_decay_restarts", "epochs": 9, "fixed": {"lr": 0.1}, "budget": {"steps": 5}}],
            "a weight_decay_restarts stage counts epochs, and its trials are 5 steps long",
        ),
        (
            [GRID | {"validate_every": 20}, CONTINUED],
            "whose trials are 2 epochs, evaluated every 20 steps long: only trials that count epochs",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_what_to_do(stages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        study(*stages)
    assert said in str(caught.value)


def test_a_stage_that_is_evaluated_between_epochs_counts_steps() -> None:
    runner = Runner(study(GRID | {"validate_every": 20}))
    runner.run("coarse_grid")
    works = {(t.work.unit, t.work.validate_every, t.work.epochs) for t in runner.log.trials("coarse_grid")}
    assert works == {("step", 20, 2)}


def test_a_budget_in_epochs_is_another_way_to_write_epochs() -> None:
    grid = {k: v for k, v in GRID.items() if k != "epochs"} | {"budget": {"epochs": 7}}
    spec = study(grid)
    assert spec.stages[0].epochs == 7
    assert StudySpec.from_json(spec.to_json()) == spec
    runner = Runner(spec)
    assert "9 cells of 7 epochs each." in runner.run("coarse_grid").result.why
    assert {t.work.unit for t in runner.log.trials("coarse_grid")} == {"epoch"}
