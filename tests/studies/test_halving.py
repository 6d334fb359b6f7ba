"""Halving: who goes on, from where, and which points are drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from contracts import Runner, check_plan
from pydantic import ValidationError
from tunesmith_studies.planning import Done, Earlier, History, Proposals, Seed, StageResult, Wait
from tunesmith_studies.rates import Suggestion
from tunesmith_studies.space import Float
from tunesmith_studies.stages.halving import Halving
from tunesmith_studies.stages.halving_border import Batch, wider
from tunesmith_studies.stages.halving_points import momentum_factor
from tunesmith_studies.study import StudySpec, forecast
from tunesmith_studies.trial import Start, StopReason, Trial, TrialState, Work

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "momentum": {"low": 0.5, "high": 0.99},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
    "batch_size": [32, 64, 128],
    "hidden": {"type": "int", "low": 16, "high": 256, "log": True},
}
HALVING: dict[str, Any] = {"kind": "halving", "epochs": 18, "rounds": 0}


def study(stage: dict[str, Any] = HALVING, **changes: Any) -> StudySpec:
    data = {"name": "s", "task": "digits", "space": SPACE, "stages": [stage]}
    return StudySpec.model_validate(data | changes)


def halving(spec: StudySpec) -> Halving:
    stage = spec.stages[-1]
    assert isinstance(stage, Halving)
    return stage


def by_rung(trials: tuple[Trial, ...]) -> dict[int, list[Trial]]:
    found: dict[int, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.work.epochs, []).append(trial)
    return found


def test_rates_are_placed_around_the_last_range_test_where_the_rate_is_left_open() -> None:
    spec = study(stages=[{"kind": "lr_range_test", "name": "sweeps"}, HALVING])
    assert halving(spec).range_test_in(spec) == "sweeps"
    for held in (study(stages=[HALVING]), study(stages=[spec.stages[0], HALVING | {"fixed": {"lr": 0.1}}])):
        assert halving(held).range_test_in(held) is None


# --- rungs ----------------------------------------------------------------------------------------------


def test_a_third_goes_on_from_its_snapshots_and_no_epoch_is_trained_twice() -> None:
    runner = Runner(study())
    done = runner.run("halving", slots=4)
    rungs = by_rung(runner.log.trials("halving"))
    assert {epochs: len(trials) for epochs, trials in rungs.items()} == {2: 27, 6: 9, 18: 3}
    assert {t.start for t in rungs[2]} == {None}
    for shorter, longer in ((2, 6), (6, 18)):
        best = sorted(rungs[shorter], key=lambda t: (t.value, t.ordinal))[: len(rungs[longer])]
        assert {t.start for t in rungs[longer]} == {Start(t.number, shorter) for t in best}
        parents = {t.number: t for t in best}
        assert all(t.params == parents[t.start.trial].params for t in rungs[longer] if t.start)
    assert done.result.numbers["epochs"] == 27 * 2 + 9 * 4 + 3 * 12
    assert done.result.numbers["epochs_from_scratch"] == 27 * 2 + 9 * 6 + 3 * 18
    assert done.result.numbers["epochs"] == forecast(runner.spec)["halving"].epochs
    assert "27 to epoch 2, 9 to epoch 6, 3 to epoch 18" in done.result.why


def test_a_cooldown_is_of_whole_trainings_alone_and_no_point_of_the_space() -> None:
    runner = Runner(study(HALVING | {"cooldown": 0.5, "rounds": 2, "trials": 9, "grid": 3}))
    done = runner.run("halving", slots=3)
    trials = runner.log.trials("halving")
    assert {t.params.get("cooldown") for t in trials if t.work.epochs < 18} == {None}
    assert {t.params.get("cooldown") for t in trials if t.work.epochs == 18} == {0.5}
    assert done.result.chosen["params"]["cooldown"] == 0.5
    drawn = [tuple(sorted(t.params.items())) for t in trials if t.work.epochs == 2]
    assert len(set(drawn)) == len(drawn), "a point that had cooled down was drawn again"


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        (HALVING | {"cooldown": 0.7}, {}, "begins before the last rung, at epoch 6: what goes on"),
        (HALVING, {"fixed": {"cooldown": 0.2}}, "leave cooldown out, halving has its own"),
        (
            HALVING | {"cooldown": 0.5, "epochs": 2, "rungs": []},
            {"fixed": {"schedule": "cosine"}},
            "needs a schedule that does not know the length",
        ),
    ],
)
def test_a_cooldown_that_would_make_another_training_is_refused(
    stage: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        study(stage, **changes)
    assert said in str(caught.value)


def test_restarts_cool_down_in_their_confirmations_alone() -> None:
    restarts = {"kind": "weight_decay_restarts", "epochs": 18, "values": [0, 1e-4, 1e-3], "branch_epochs": 2}
    stages = [HALVING | {"cooldown": 0.5, "trials": 9, "grid": 3}, restarts]
    runner = Runner(study(stages=stages))
    runner.run("halving")
    done = runner.run("weight_decay_restarts")
    for trial in runner.log.trials("weight_decay_restarts"):
        whole = trial.key.startswith("confirm:")
        assert trial.params.get("cooldown") == (0.5 if whole else None), trial.key
    assert done.result.chosen["params"]["cooldown"] == 0.5


def test_the_longest_trainings_rank_first_and_a_point_ranks_once() -> None:
    runner = Runner(study())
    done = runner.run("halving")
    ranked = [runner.log.trial(r.trial) for r in done.result.ranking]
    assert [t.work.epochs for t in ranked] == [18] * 3 + [6] * 6 + [2] * 18
    assert [t.value for t in ranked[:3]] == sorted(t.value or math.nan for t in ranked[:3])


def test_a_training_that_stopped_for_good_ranks_with_whole_ones() -> None:
    def at_best(trial: Trial) -> tuple[str, str]:
        return ("complete", "early_stopping" if trial.key == "point:0@2" else "budget")

    spec = study(HALVING | {"trials": 9, "grid": 0, "rounds": 1})
    runner = Runner(spec, lambda params, epoch: 0.0 if params == first.params else 1 + 1 / epoch)
    first = halving(spec).plan(runner.log.history("halving"), 1, runner.seed).items[0]  # type: ignore[union-attr]
    done = runner.run("halving", ending=at_best)
    best = runner.log.trial(done.result.ranking[0].trial)
    assert (best.key, best.value) == ("point:0@2", 0.0)
    assert done.result.chosen["params"] == first.params
    assert "point:0@6" not in {t.key for t in runner.log.trials("halving")}


def test_more_finalists_than_a_third_may_reach_full_length() -> None:
    runner = Runner(study(HALVING | {"trials": 9, "grid": 2, "finalists": 2}))
    done = runner.run("halving")
    assert {e: len(trials) for e, trials in by_rung(runner.log.trials("halving")).items()} == {
        2: 9,
        6: 3,
        18: 2,
    }
    assert done.result.numbers["epochs"] == forecast(runner.spec)["halving"].epochs == 18 + 12 + 24


def test_a_diverged_pruned_or_failed_trial_is_never_promoted() -> None:
    runner = Runner(study(HALVING | {"trials": 9, "grid": 4}))
    fates = [("pruned", "diverged"), ("pruned", "pruned"), ("failed", "error"), ("cancelled", "cancelled")]

    def ending(trial: Trial) -> tuple[str, str]:
        return fates[trial.ordinal % 4] if trial.ordinal < 8 else ("complete", "budget")

    runner.run("halving", ending=ending)
    rungs = by_rung(runner.log.trials("halving"))
    assert [t.start.trial for t in rungs[6] if t.start] == [t.number for t in rungs[2] if t.ordinal == 8]


def test_a_trial_that_is_sure_of_its_place_goes_on_before_its_rung_has_ended() -> None:
    """Three of nine places: once seven have ended, the best of them cannot be overtaken by two more."""
    runner = Runner(study(HALVING | {"trials": 9, "grid": 0}))
    runner.activate("halving")
    plan = runner.ask("halving", 9)
    assert isinstance(plan, Proposals)
    numbers = [runner.queue("halving", p) for p in plan.items]
    for number in numbers:
        runner.start(number)
    for number in numbers[:6]:
        runner.end(number)
        assert isinstance(runner.ask("halving", 9), Wait)
    runner.end(numbers[6])
    plan = runner.ask("halving", 9)
    assert isinstance(plan, Proposals)
    best = min((runner.log.trial(n) for n in numbers[:7]), key=lambda t: t.value or math.inf)
    assert [p.start for p in plan.items] == [Start(best.number, 2)]
    for number in numbers[7:]:
        runner.end(number)
    plan = runner.ask("halving", 9)
    assert isinstance(plan, Proposals)
    assert best.number in {p.start.trial for p in plan.items if p.start}, "the decision has not changed"
    assert len(plan.items) == 3


def test_where_more_is_better_the_largest_go_on() -> None:
    spec = study(objective={"metric": "val/loss", "direction": "maximize"})
    runner = Runner(spec)
    runner.run("halving")
    rungs = by_rung(runner.log.trials("halving"))
    best = sorted(rungs[6], key=lambda t: (-(t.value or 0.0), t.ordinal))[:3]
    assert {t.start.trial for t in rungs[18] if t.start} == {t.number for t in best}


def test_where_a_snapshot_is_gone_the_point_trains_again_from_scratch() -> None:
    runner = Runner(study(HALVING | {"trials": 3, "grid": 0, "rungs": [6]}))
    runner.activate("halving")
    for _ in range(3):
        (proposal,) = runner.ask("halving", 1).items  # type: ignore[union-attr]
        number = runner.queue("halving", proposal)
        runner.start(number)
        runner.end(number)
        runner.put("forgotten", trial=number, step=6)
    (again,) = runner.ask("halving", 1).items  # type: ignore[union-attr]
    assert again.start is None
    assert again.work.epochs == 18
    parents = [t for t in runner.log.trials("halving") if t.params == again.params]
    assert [t.work.seed for t in parents] == [again.work.seed], "the same weights and data order as before"


def test_a_schedule_that_needs_the_length_is_refused_and_one_rung_is_not() -> None:
    with pytest.raises(ValidationError, match="the schedule is cosine; hold schedule: constant under fixed"):
        study(fixed={"schedule": "cosine"})
    assert study(HALVING | {"epochs": 3}, fixed={"schedule": "cosine"}).stages[0].epochs == 3


def test_rungs_that_do_not_rise_and_a_grid_larger_than_its_batch_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"rungs must rise from 1 to below its 18 epochs, got \[6, 6\]"):
        study(HALVING | {"rungs": [6, 6]})
    with pytest.raises(ValidationError, match="grid is 12 of 9 trials; lower grid, or raise trials"):
        study(HALVING | {"trials": 9, "grid": 12})


@pytest.mark.parametrize(("trials", "cells"), [(6, 6), (12, 12), (27, 12)])
def test_as_many_points_of_a_batch_are_cells_as_there_are(trials: int, cells: int) -> None:
    assert Halving(epochs=18, trials=trials).cells == cells


@pytest.mark.parametrize(
    ("epochs", "lengths"), [(1, (1,)), (5, (2, 5)), (18, (2, 6, 18)), (20, (2, 7, 20)), (100, (11, 33, 100))]
)
def test_rungs_are_a_ninth_and_a_third_but_no_single_epoch(epochs: int, lengths: tuple[int, ...]) -> None:
    assert Halving(epochs=epochs).lengths == lengths


# --- points ---------------------------------------------------------------------------------------------


def after_test(runner: Runner, suggestion: Suggestion) -> History:
    """The stage's history after a range test that left this suggestion."""
    result = StageResult((), "A range test.", {"suggestions": [suggestion.to_json()]})
    earlier = {"lr_range_test": Earlier(halving(runner.spec), (), result)}
    return replace(runner.log.history("halving"), earlier=earlier)


def first_batch(suggestion: Suggestion | None, **changes: Any) -> list[dict[str, Any]]:
    runner = Runner(study(HALVING | changes))
    history = after_test(runner, suggestion) if suggestion else runner.log.history("halving")
    plan = halving(runner.spec).plan(history, 1000, Seed(0))
    assert isinstance(plan, Proposals)
    return [dict(p.params) for p in plan.items]


AT = {"momentum": 0.745, "batch_size": 32}
SUGGESTED = Suggestion(given={}, lr=0.02, low=0.01, high=0.1, max=0.4, at=AT)


def test_the_first_batch_is_a_grid_around_the_suggestion_and_quasi_random_points() -> None:
    points = first_batch(SUGGESTED)
    cells, rest = points[:12], points[12:]
    assert {round(p["lr"], 9) for p in cells} == {0.002, round(0.02 / 3, 9), 0.02, 0.06}
    assert {p["weight_decay"] for p in cells} == {1e-3, 1e-4, 1e-5}
    assert len({p["hidden"] for p in cells}) == 1
    assert len(rest) == 15
    for p in rest:
        factor = p["lr"] / (0.02 * p["batch_size"] / 32 * (1 - p["momentum"]) / (1 - 0.745))
        assert 0.2499 <= factor <= 2.001 or p["lr"] in (1e-4, 1.0)
    assert len({p["hidden"] for p in rest}) > 10


def test_without_a_range_test_the_first_batch_covers_the_whole_range() -> None:
    rates = [math.log10(p["lr"]) for p in first_batch(None)]
    assert min(rates) < -3.5
    assert max(rates) > -0.5


def test_a_space_without_a_rate_has_no_cells_and_a_small_one_fewer_points() -> None:
    spec = study(
        HALVING | {"trials": 12, "rounds": 2}, space={"optimizer": ["sgd", "adam"], "act": ["a", "b"]}
    )
    runner = Runner(spec)
    done = runner.run("halving", check=check_plan(spec, "halving"))
    assert len(by_rung(runner.log.trials("halving"))[2]) == 4
    assert not done.result.failed


def test_a_longer_momentum_wants_a_smaller_rate_and_an_adaptive_optimizer_does_not_care() -> None:
    assert momentum_factor({"momentum": 0.5}, {"momentum": 0.9}) == pytest.approx(0.2)
    assert momentum_factor({"momentum": 0.5}, {"momentum": 0.9, "optimizer": "rmsprop"}) == 1
    assert momentum_factor({}, {"momentum": 0.9}) == 1


def test_later_batches_look_around_the_best_and_ask_the_model() -> None:
    runner = Runner(study(HALVING | {"rounds": 1, "later": 10}))
    runner.run("halving", slots=3)
    trials = runner.log.trials("halving")
    points = {t.key: t for t in trials}
    later = [points[f"point:{i}@2"] for i in range(27, 37)]
    best = sorted(
        (t for t in trials if t.work.epochs == 18 and t.ordinal % 37 < 27), key=lambda t: t.value or 9
    )
    for i, trial in zip(range(27, 37), later, strict=True):
        if i % 2 == 0:  # a neighbour of one of the best three
            centre = best[i // 2 % 3]
            assert abs(math.log10(float(trial.params["lr"]) / float(centre.params["lr"]))) < 4 * 4 * 0.1
    good = [t.value for t in later if t.value is not None]
    first = [points[f"point:{i}@2"].value or 9 for i in range(27)]
    assert sorted(good)[5] < sorted(first)[13], "half of the new ones are better than half of the first"


def test_a_batch_does_not_change_while_it_runs() -> None:
    """Its points are drawn from the batches before it, so an end within the batch moves none of them."""
    spec = study(HALVING | {"trials": 9, "grid": 4, "rounds": 1, "later": 6, "rungs": [3]})
    runner = Runner(spec)
    seen: dict[str, Any] = {}

    def check(history: History, n: int, plan: Any) -> None:
        whole = halving(spec).plan(history, 1000, runner.seed)
        for p in whole.items if isinstance(whole, Proposals) else ():
            if p.work.epochs == 3:
                assert seen.setdefault(p.key, p.params) == p.params

    done = runner.run("halving", check=check)
    assert isinstance(done, Done)
    assert len(seen) == 15
    assert all(t.state is TrialState.COMPLETE for t in runner.log.trials("halving"))


def test_the_best_of_each_earlier_stage_are_points_of_the_first_batch() -> None:
    random = {"kind": "random", "epochs": 1, "trials": 4}
    stage = HALVING | {"trials": 9, "grid": 3, "warm_start": 2}
    runner = Runner(study(stages=[random, random | {"fixed": {"hidden": 7}}, stage]))
    first, other = (runner.run(name) for name in ("random", "random_2"))
    runner.run("halving")
    drawn = [dict(t.params) for t in runner.log.trials("halving") if t.work.epochs == 2]
    best = [dict(runner.log.trial(r.trial).params) for r in first.result.ranking[:2]]
    assert drawn[:2] == best
    assert len(drawn) == 9
    assert other.result.ranking
    assert 7 not in {p["hidden"] for p in drawn}, "what the second held is no point of this space"


# --- the border -----------------------------------------------------------------------------------------


def at(lr: float, *, decay: float = 1e-4, diverged: bool = False) -> Trial:
    state, reason = (TrialState.PRUNED, StopReason.DIVERGED) if diverged else (TrialState.COMPLETE, None)
    params = {"lr": lr, "weight_decay": decay}
    return Trial(0, "halving", "k", 0, params, Work(1, 0), state=state, stop_reason=reason, value=1.0)


def rates_after(*batches: Batch) -> tuple[float, float]:
    axis = wider(study().space, batches)["lr"]
    assert isinstance(axis, Float)
    return axis.low, axis.high


def test_the_best_in_the_outer_tenth_of_a_log_range_move_its_end_by_a_decade_twice_at_most() -> None:
    inside, high, low = at(0.01), at(0.5), at(2e-4)
    assert rates_after(Batch([inside, high, inside], [])) == (1e-4, 1.0), "one of three, and not the best"
    assert rates_after(Batch([high, inside, inside], [])) == (1e-4, 10.0)
    assert rates_after(Batch([inside, low, low], [])) == (1e-5, 1.0)
    assert rates_after(Batch([high], []), Batch([high], [])) == (1e-4, 10.0), "inside of the wider range"
    further = [Batch([at(10.0**k * 0.9)], []) for k in range(5)]
    assert rates_after(*further) == (1e-4, 100.0)


def test_a_side_on_which_a_training_diverged_is_no_border() -> None:
    assert rates_after(Batch([at(0.5)], [at(0.9, diverged=True)])) == (1e-4, 1.0)


def test_nothing_lies_below_a_log_range_with_a_zero_and_whole_numbers_stay() -> None:
    space = wider(study().space, [Batch([at(0.01, decay=1.1e-6)], [])])
    assert space == study().space
    decay = wider(study().space, [Batch([at(0.01, decay=9e-3)], [])])["weight_decay"]
    assert isinstance(decay, Float)
    assert decay.high == pytest.approx(0.1)
    assert decay.zero


def test_a_stage_whose_best_lie_at_the_border_looks_beyond_it_and_says_so() -> None:
    """The loss falls with the rate up to 30, and the space ends at 1."""
    runner = Runner(
        study(HALVING | {"trials": 9, "grid": 0, "rounds": 4, "later": 12}),
        objective=lambda params, epoch: abs(math.log10(float(params["lr"])) - 1.5) + 1 / epoch,
    )
    done = runner.run("halving", check=check_plan(runner.spec, "halving"))
    assert max(float(t.params["lr"]) for t in runner.log.trials("halving")) > 1
    assert done.result.chosen["widened"]["lr"][1] in (10.0, 100.0)
    assert "The best lay at the border, so the space is wider from here on: lr [0.0001, 1" in done.result.why
