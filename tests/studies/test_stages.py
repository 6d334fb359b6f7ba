"""Every stage passes one contract; then what each stage alone promises."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from contracts import COMPLETE, ENDINGS, Runner, check_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from tunesmith_studies.planning import Done, Proposals, Wait
from tunesmith_studies.space import Float, Int, Space
from tunesmith_studies.stages.refine_grid import finer_steps
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.trial import Start, Trial

DECAYS = [0, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2]
SPACE: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-5, "high": 3e-2, "log": True, "zero": True, "values": DECAYS},
}
COARSE = {"kind": "coarse_grid", "epochs": 2, "axes": {"lr": 3, "weight_decay": [0, 1e-4, 1e-2]}}
REFINE = {"kind": "refine_grid", "epochs": 4, "top": 2, "continue_snapshots": True}
RESTARTS = {"kind": "weight_decay_restarts", "epochs": 40, "middle": 1e-3}
LAST_STAGES: dict[str, list[dict[str, Any]]] = {
    "preflight": [{"kind": "preflight"}],
    "lr_range_test": [{"kind": "lr_range_test"}],
    "coarse_grid": [COARSE],
    "coarse_grid that extends": [COARSE | {"extend": 2}],
    "coarse_grid around a range test": [
        {"kind": "lr_range_test"}, COARSE | {"axes": {"lr": {"factors": [0.3, 1, 3]}, "weight_decay": 2}},
    ],
    "coarse_grid around the best": [
        COARSE, {"kind": "coarse_grid", "epochs": 3, "around_best": True, "axes": {"weight_decay": 4}},
    ],
    "refine_grid": [COARSE, REFINE],
    "refine_grid in rounds": [COARSE, REFINE | {"rounds": 3, "continue_snapshots": False}],
    "random": [{"kind": "random", "epochs": 2, "trials": 7}],
    "sobol": [{"kind": "random", "epochs": 2, "trials": 7, "method": "sobol"}],
    "halton": [{"kind": "random", "epochs": 2, "trials": 7, "method": "halton"}],
    "random in ranges of its own": [
        {"kind": "random", "epochs": 2, "trials": 7, "ranges": {"lr": [0.5, 5], "weight_decay": [1e-3, 0.1]}},
    ],
    "coarse_grid beyond the space": [
        COARSE, {"kind": "coarse_grid", "epochs": 3, "around_best": True, "axes": {"lr": 3},
                 "ranges": {"lr": [1.0, 10.0]}, "extend": 2},
    ],
    "halving": [{"kind": "halving", "epochs": 9, "rungs": [1, 3], "trials": 9, "grid": 4,
                 "rounds": 2, "later": 5}],
    "tpe": [COARSE, {"kind": "sampler", "epochs": 2, "trials": 8, "warm_start": 1,
                     "sampler": {"kind": "tpe", "n_startup_trials": 3}}],
    "cross_validation": [COARSE, {"kind": "cross_validation", "epochs": 2, "folds": 3}],
    "final": [COARSE, {"kind": "final", "epochs": 3, "top": 2, "honest_seeds": 3}],
    "final after restarts": [COARSE, RESTARTS | {"epochs": 8}, {"kind": "final", "epochs": 3}],
    "final alone": [{"kind": "final", "epochs": 3, "fixed": {"lr": 0.03, "weight_decay": 0.0}}],
    "weight_decay_restarts": [COARSE, RESTARTS],
    "weight_decay_restarts alone": [RESTARTS | {"epochs": 8, "fixed": {"lr": 0.03}, "confirm": 0}],
}  # fmt: skip


def study(stages: list[dict[str, Any]], **changes: Any) -> StudySpec:
    data = {"name": "s", "task": "digits", "space": SPACE, "fixed": {"batch_size": 32}, "stages": stages}
    return StudySpec.model_validate(data | changes)


def ready(stages: list[dict[str, Any]]) -> tuple[Runner, str]:
    """A study whose stages before the last have run well."""
    runner = Runner(study(stages))
    for stage in runner.spec.stages[:-1]:
        runner.run(stage.name)
    return runner, runner.spec.stages[-1].name


@pytest.mark.parametrize("stages", LAST_STAGES.values(), ids=LAST_STAGES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_stage_keeps_its_contract_and_ends_whatever_becomes_of_its_trials(
    stages: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Same history, same answer; a longer answer begins with the shorter; no key twice; it ends.

    Any trial may end in any way, and people enqueue trials in between.
    """
    runner, name = ready(stages)
    rng = random.Random(data.draw(st.integers(0, 2**16), label="fates"))
    weights = data.draw(st.sampled_from([(9, 1, 1, 1, 1), (1, 1, 1, 1, 1), (0, 1, 1, 1, 1), (1, 0, 0, 0, 0)]))
    by_hand = {data.draw(st.integers(0, 6)), data.draw(st.integers(0, 20))}
    hand_params = {"lr": 0.05, "weight_decay": 1e-4, "batch_size": 32}

    def ending(trial: Trial) -> tuple[str, str]:
        if trial.ordinal in by_hand and not trial.by_hand:
            number = runner.enqueue(name, hand_params)
            if rng.random() < 0.7:  # else it waits on, and must keep nobody waiting
                runner.start(number)
                runner.end(number, rng.choices(ENDINGS, weights)[0])
        return rng.choices(ENDINGS, weights)[0]

    done = runner.run(
        name, slots=data.draw(st.integers(1, 5)), ending=ending, check=check_plan(runner.spec, name), most=400
    )
    trials = runner.log.trials(name)
    assert len({t.key for t in trials}) == len(trials)
    complete = {t.number for t in trials if t.value is not None}
    assert {r.trial for r in done.result.ranking} <= complete
    if runner.log.stage(name).ranks:
        assert done.result.failed == (not done.result.ranking)
    assert done.result.why.endswith(".")


@pytest.mark.parametrize("stages", LAST_STAGES.values(), ids=LAST_STAGES)
@pytest.mark.parametrize("asked", [False, True])
def test_trainings_leave_what_people_look_at_where_a_stage_says_so_and_in_final_always(
    stages: list[dict[str, Any]], asked: bool
) -> None:
    *before, last = stages
    runner, name = ready([*before, last | {"inspect": asked}])
    runner.run(name)
    trainings = [t for t in runner.log.trials(name) if t.work.kind == "train"]
    expected = asked or last["kind"] == "final"
    assert {t.work.inspect for t in trainings} <= {expected}


@pytest.mark.parametrize("stages", LAST_STAGES.values(), ids=LAST_STAGES)
def test_a_forecast_is_never_below_what_runs(stages: list[dict[str, Any]]) -> None:
    runner = Runner(study(stages))
    planned = forecast(runner.spec)
    for stage in runner.spec.stages:
        done = runner.run(stage.name)
        trials = runner.log.trials(stage.name)
        assert len(trials) <= planned[stage.name].trials
        assert done.result.numbers["epochs"] <= planned[stage.name].epochs
        assert sum(bool(t.snapshots) for t in trials) <= planned[stage.name].snapshots


def test_a_study_replayed_from_its_log_makes_the_same_proposals() -> None:
    runner = Runner(study([COARSE, REFINE, {"kind": "random", "epochs": 2, "trials": 4}, RESTARTS]))
    for stage in runner.spec.stages:
        runner.run(stage.name, slots=3)
    again = Runner(runner.spec)
    for entry in runner.entries:
        if entry.kind == "planned":
            assert entry.stage is not None
            plan = again.ask(entry.stage, 4)
            assert isinstance(plan, Proposals)
            keys = {p.key: p for p in plan.items}
            assert dict(keys[entry.data["key"]].params) == entry.data["params"]
        again.log.apply(entry)


# --- coarse grid ----------------------------------------------------------------------------------------


def test_a_coarse_grid_runs_every_cell_once_and_goes_on_without_failed_ones() -> None:
    runner = Runner(study([COARSE]))
    fates = iter([("failed", "error"), ("pruned", "diverged")] + [COMPLETE] * 7)
    done = runner.run("coarse_grid", ending=lambda trial: next(fates))
    cells = Counter((t.params["lr"], t.params["weight_decay"]) for t in runner.log.trials("coarse_grid"))
    assert set(cells.values()) == {1}
    assert len(cells) == 9
    assert len(done.result.ranking) == 7
    assert done.result.numbers["trials"] == {"complete": 7, "diverged": 1, "failed": 1}
    assert done.result.why.startswith("9 cells of 2 epochs each. Best is trial ")


def test_cells_that_differ_in_inactive_parameters_only_are_one_cell() -> None:
    space = {
        "optimizer": ["sgd", "adam"],
        "beta1": {"low": 0.8, "high": 0.9, "values": [0.8, 0.9], "when": {"optimizer": "adam"}},
    }
    runner = Runner(study([{"kind": "coarse_grid", "epochs": 1}], space=space))
    runner.run("coarse_grid")
    seen = [(t.params["optimizer"], t.params.get("beta1")) for t in runner.log.trials("coarse_grid")]
    assert seen == [("sgd", None), ("adam", 0.8), ("adam", 0.9)]


def test_cells_of_a_long_space_have_short_keys_of_their_own() -> None:
    space = {f"a_rather_long_name_{i}": {"low": 0.0, "high": 1.0} for i in range(30)}
    axes = {name: 2 if i == 29 else 1 for i, name in enumerate(space)}
    runner = Runner(study([{"kind": "coarse_grid", "epochs": 1, "axes": axes}], space=space))
    runner.run("coarse_grid")
    keys = [t.key for t in runner.log.trials("coarse_grid")]
    assert len(set(keys)) == 2
    assert max(map(len, keys)) <= 400


def test_a_stage_in_which_nothing_ranks_fails_and_says_why() -> None:
    runner = Runner(study([COARSE, REFINE]))
    done = runner.run("coarse_grid", ending=lambda trial: ("pruned", "diverged"))
    assert done.result.failed
    assert (
        done.result.why == "No trial ended with a finite val/loss (9 diverged), so there is nothing to rank."
    )
    after = runner.run("refine_grid")
    assert after.result.failed
    assert "refine_grid builds on an earlier stage, which has left no result" in after.result.why


def test_trials_by_hand_rank_and_keep_no_stage_waiting() -> None:
    runner = Runner(study([COARSE]))
    runner.activate("coarse_grid")
    number = runner.enqueue("coarse_grid", {"lr": 10**-1.5, "weight_decay": 1e-4, "batch_size": 32})
    runner.enqueue("coarse_grid", {"lr": 0.5, "weight_decay": 0.0, "batch_size": 32})  # never ends
    runner.start(number)
    runner.end(number)
    done = runner.run("coarse_grid")
    assert done.result.ranking[0].trial == number


def test_coarse_trials_leave_snapshots_only_if_a_later_stage_goes_on_from_them() -> None:
    for refine, kept in ((REFINE, True), (REFINE | {"continue_snapshots": False}, False)):
        runner = Runner(study([COARSE, refine]))
        runner.run("coarse_grid")
        assert {t.work.keep_snapshot for t in runner.log.trials("coarse_grid")} == {kept}


# --- refined grid ---------------------------------------------------------------------------------------

LOG = Float(low=1e-4, high=1.0, log=True)


def test_finer_steps_halve_the_gaps_and_an_edge_goes_one_step_beyond() -> None:
    grid = [1e-3, 1e-2, 1e-1]
    assert finer_steps(LOG, grid, 1e-2, 2) == pytest.approx([10**-2.5, 1e-2, 10**-1.5])
    assert finer_steps(LOG, grid, 1e-1, 2) == pytest.approx([10**-1.5, 1e-1, 10**-0.5, 1.0])
    assert finer_steps(LOG, grid, 1e-3, 2) == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5])


def test_an_edge_never_goes_past_the_space() -> None:
    assert finer_steps(LOG, [1e-1, 1.0], 1.0, 2) == pytest.approx([10**-0.5, 1.0])
    narrow = Float(low=1e-4, high=0.2, log=True)
    assert finer_steps(narrow, [1e-2, 1e-1], 1e-1, 2)[-1] == pytest.approx(0.2)


def test_zero_on_a_log_axis_is_a_point_of_its_own() -> None:
    decay = Float(low=1e-6, high=1e-2, log=True, zero=True)
    grid = [0.0, 1e-4, 1e-2]
    assert finer_steps(decay, grid, 0.0, 2) == pytest.approx([0.0, 1e-5])
    assert finer_steps(decay, grid, 1e-4, 2) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3])
    assert finer_steps(decay, [0.0, 1e-6, 1e-4], 0.0, 2) == [0.0]


def test_steps_of_a_whole_number_stay_whole_and_apart() -> None:
    assert finer_steps(Int(low=1, high=9), [1, 5, 9], 5, 2) == [3, 5, 7]
    assert finer_steps(Int(low=1, high=3), [1, 2, 3], 2, 4) == [2]


def test_centres_go_on_from_their_snapshots_and_a_shared_cell_runs_once() -> None:
    runner = Runner(study([COARSE, REFINE]))
    best = runner.run("coarse_grid").result.ranking[:2]
    runner.run("refine_grid")
    trials = runner.log.trials("refine_grid")
    assert len({t.key for t in trials}) == len(trials)
    started = {t.start for t in trials if t.start is not None}
    assert started == {Start(r.trial, 2) for r in best}
    assert all(t.params == runner.log.trial(t.start.trial).params for t in trials if t.start)
    assert {t.work.epochs for t in trials} == {4}


def test_later_rounds_refine_around_the_best_so_far_with_smaller_steps() -> None:
    runner = Runner(study([COARSE, REFINE | {"rounds": 3, "continue_snapshots": False, "top": 1}]))
    first = runner.run("coarse_grid").result.ranking[0].value
    last = runner.run("refine_grid").result.ranking[0].value
    lrs = sorted({t.params["lr"] for t in runner.log.trials("refine_grid")})
    assert min(b / a for a, b in pairwise(lrs)) < 10 ** (1.5 / 4)
    assert last < first


# --- random ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["uniform", "sobol", "halton"])
def test_points_depend_on_seed_and_ordinal_alone(method: str) -> None:
    stage = {"kind": "random", "epochs": 1, "trials": 6, "method": method}
    one, other = Runner(study([stage])), Runner(study([stage], seed=1))
    whole, different = one.ask("random", 6), other.ask("random", 6)
    assert isinstance(whole, Proposals)
    assert isinstance(different, Proposals)
    assert [p.params for p in whole.items] != [p.params for p in different.items]
    one.activate("random")
    one.queue("random", whole.items[3])
    rest = one.ask("random", 6)
    assert isinstance(rest, Proposals)
    assert rest.items == whole.items[:3] + whole.items[4:]


def test_sobol_fills_every_quarter_of_a_log_axis() -> None:
    runner = Runner(study([{"kind": "random", "epochs": 1, "trials": 8, "method": "sobol"}]))
    plan = runner.ask("random", 8)
    assert isinstance(plan, Proposals)
    lr = Space.model_validate(SPACE)["lr"]
    quarters = Counter(int(4 * lr.position(p.params["lr"])) for p in plan.items)
    assert quarters == {0: 2, 1: 2, 2: 2, 3: 2}


# --- weight-decay restarts ------------------------------------------------------------------------------


def restarts(plateau: int = 11, **changes: Any) -> tuple[Runner, str]:
    runner = Runner(study([RESTARTS | {"fixed": {"lr": 0.03}} | changes]))
    runner.activate("weight_decay_restarts")
    plan = runner.ask("weight_decay_restarts", 9)
    assert isinstance(plan, Proposals)
    (trunk,) = plan.items
    number = runner.queue("weight_decay_restarts", trunk)
    runner.start(number)
    runner.end(number, epochs=plateau)
    return runner, "weight_decay_restarts"


def test_restarts_follow_the_recipe_trunk_branches_best_two_confirmation() -> None:
    runner, name = restarts()
    trunk = runner.log.trial(0)
    assert (trunk.work.epochs, trunk.work.stop_at_plateau, trunk.params["weight_decay"]) == (20, True, 1e-3)
    done = runner.run(name)
    by_key = {t.key: t for t in runner.log.trials(name)}
    branches = [by_key[f"branch:{v:g}"] for v in DECAYS]
    assert all(t.start == Start(0, 11) and t.work.epochs == 16 for t in branches)
    longer = [t for k, t in by_key.items() if k.startswith("longer:")]
    assert [t.work.epochs for t in longer] == [31, 31]
    assert {t.start for t in longer} == {Start(by_key[f"branch:{v:g}"].number, 16) for v in (1e-4, 1e-5)}
    confirmed = [t for k, t in by_key.items() if k.startswith("confirm:")]
    assert [(t.params["weight_decay"], t.start, t.work.epochs) for t in confirmed] == [
        (1e-4, None, 40), (1e-3, None, 40),
    ]  # fmt: skip
    numbers = done.result.numbers
    assert numbers["epochs_before_confirmation"] == 11 + 7 * 5 + 2 * 15 == 76
    assert numbers["epochs_full_grid"] == 280
    assert (numbers["spearman"], numbers["spearman_over"]) == (1, 2)
    assert done.result.chosen["weight_decay"] == 1e-4
    assert done.result.ranking[0].trial == by_key["confirm:0.0001"].number


def test_branches_are_judged_by_their_last_value_and_never_by_their_best() -> None:
    """The first epochs after a restart reward the strongest decay."""
    runner, name = restarts()

    def tempting(params: Any, epoch: int) -> float:
        return 0.01 if params["weight_decay"] == 3e-2 and epoch <= 14 else 1 + params["weight_decay"]

    runner.objective = tempting
    done = runner.run(name)
    assert list(done.result.numbers["longer"]) == ["0", "1e-05"]


def test_the_control_wins_when_restarts_and_whole_trainings_disagree() -> None:
    runner, name = restarts()
    runner.objective = lambda params, epoch: abs(params["weight_decay"] - (1e-3 if epoch > 35 else 1e-5))
    done = runner.run(name)
    assert done.result.chosen["weight_decay"] == 1e-3
    assert done.result.numbers["spearman"] == -1


@pytest.mark.parametrize(
    ("ending", "reason"),
    [(("pruned", "diverged"), "ended diverged"), (("failed", "error"), "ended failed")],
)
def test_without_a_trunk_to_restart_from_the_stage_fails_with_the_reason(
    ending: tuple[str, str], reason: str
) -> None:
    runner = Runner(study([RESTARTS | {"fixed": {"lr": 0.03}}]))
    done = runner.run("weight_decay_restarts", ending=lambda trial: ending)
    assert done.result.failed
    assert f"The trunk, trial 0, {reason}, so there is nothing to restart from" in done.result.why


def test_a_trunk_without_a_snapshot_fails_the_stage() -> None:
    runner = Runner(study([RESTARTS | {"fixed": {"lr": 0.03}}]))
    runner.activate("weight_decay_restarts")
    plan = runner.ask("weight_decay_restarts", 1)
    assert isinstance(plan, Proposals)
    number = runner.queue("weight_decay_restarts", plan.items[0])
    runner.start(number)
    waits = runner.ask("weight_decay_restarts", 1)
    assert isinstance(waits, Wait)
    runner.put("moved", trial=number, to="complete", stop_reason="budget", value=1.0)
    ended = runner.ask("weight_decay_restarts", 1)
    assert isinstance(ended, Done)
    assert "left no snapshot to restart from" in ended.result.why


def test_the_base_comes_from_the_best_of_the_source() -> None:
    runner = Runner(study([COARSE, RESTARTS]))
    best = runner.run("coarse_grid").result.ranking[0].trial
    runner.run("weight_decay_restarts")
    wanted = {k: v for k, v in runner.log.trial(best).params.items() if k != "weight_decay"}
    for trial in runner.log.trials("weight_decay_restarts"):
        assert {k: v for k, v in trial.params.items() if k != "weight_decay"} == wanted
