"""What curves and stages show. Curves are written out; `tests/benchmarks/diagnosis.py` has real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter
from tunesmith_studies.diagnosis import decomposed, of_stage, of_trial
from tunesmith_studies.findings import GRAVEST_FIRST, Finding, gravest_first
from tunesmith_studies.planning import History, Ranked, StageResult
from tunesmith_studies.stages import AnyStage
from tunesmith_studies.study import Objective, StudySpec
from tunesmith_studies.trial import Point, Start, StopReason, Trial, TrialState, Work

CHANCE = math.log(10)


def study(**changes: Any) -> StudySpec:
    described = {
        "name": "d",
        "task": "digits",
        "space": {"lr": {"low": 1e-3, "high": 1.0, "log": True}},
        "stages": [{"kind": "random", "epochs": 10, "trials": 8}],
    }
    return StudySpec.model_validate(described | changes)


def trial(
    train: Sequence[float],
    val: Sequence[float],
    *,
    params: dict[str, Any] | None = None,
    number: int = 0,
    **changes: Any,
) -> Trial:
    """`train` is what the trainer reports: means over each epoch."""
    points = tuple(
        Point(i + 1, {"train/loss": t, "val/loss": v})
        for i, (t, v) in enumerate(zip(train, val, strict=True))
    )
    usual: dict[str, Any] = {
        "state": TrialState.COMPLETE, "stop_reason": StopReason.BUDGET, "value": val[-1] if val else None,
    }  # fmt: skip
    return Trial(
        number, "random", f"point:{number}", number, params or {"lr": 0.1}, Work(len(train) or 1, 0),
        curve=points, **(usual | changes),
    )  # fmt: skip


def kinds(found: Sequence[Finding]) -> list[str]:
    return [f.kind for f in found]


def falling(start: float, end: float, n: int, rate: float = 0.5) -> list[float]:
    """From `start` towards `end`, by a constant factor a point."""
    return [end + (start - end) * math.exp(-rate * i) for i in range(n)]


def test_a_sound_curve_is_told_to_be_horizontal():
    found = of_trial(trial(falling(2, 0.1, 20), falling(2, 0.12, 20)), study(), chance=CHANCE)
    assert kinds(found) == ["horizontal"]
    assert "0.12" in found[0].sentence


def test_a_curve_that_still_gains_is_told_to_go_on():
    found = of_trial(trial(falling(2, 0.1, 10, 0.2), falling(2, 0.15, 10, 0.2)), study(), chance=CHANCE)
    assert kinds(found) == ["still_improving"]


def test_validation_that_rises_while_training_falls_is_overfitting():
    train = falling(2, 0.01, 20)
    val = [*falling(2, 0.2, 10), *(0.22 + 0.02 * i for i in range(10))]
    found = of_trial(trial(train, val), study(), chance=CHANCE)
    assert kinds(found)[0] == "overfit"
    assert found[0].numbers["best_step"] == 10
    assert found[0].numbers["gl_percent"] > 5


def test_validation_just_below_the_bound_is_not_overfitting():
    train = falling(2, 0.01, 20)
    val = [*falling(2, 0.2, 17), 0.207, 0.208, 0.209]
    assert "overfit" not in kinds(of_trial(trial(train, val), study(), chance=CHANCE))


def test_a_straight_slow_fall_asks_for_a_higher_rate_with_the_numbers():
    loss = [2.3 - 0.03 * i for i in range(12)]
    found = of_trial(trial(loss, loss, params={"lr": 0.001}), study(), chance=CHANCE)
    assert kinds(found)[0] == "rate_too_low"
    assert found[0].next_step.startswith("Raise the rate from 0.001 to 0.003")


@pytest.mark.parametrize(
    ("train", "val", "why"),
    [
        ([9.0, *[2.33, 2.36] * 7], [2.31] * 15, "after it had begun at"),
        ([0.6, 0.4, 1.2, 2.1, *[2.3] * 8], [0.5, 0.8, *[2.3] * 10], "after it had been at"),
        ([2.5, *[2.37, 2.39] * 7], [2.31] * 15, "held above"),
        ([2.35, *[2.30, 2.31] * 7], [2.3, *[2.2, 2.6] * 7], "while validation jumps"),
        ([1.1] * 12, [14.0] * 12, "a constant prediction costs"),
        ([1.2, *[0.8, 1.4] * 6], [1.0] * 13, "jumps by"),
    ],
)
def test_a_rate_that_is_too_high_shows_in_several_ways(train, val, why):
    found = of_trial(trial(train, val, params={"lr": 0.3}), study(), chance=CHANCE)
    assert kinds(found)[0] == "rate_too_high"
    assert why in found[0].sentence
    assert found[0].next_step.startswith("Lower the rate from 0.3 to 0.1 or 0.03")


def test_a_loss_that_begins_above_chance_and_creeps_down_is_slow_not_fast():
    loss = [0.70 - 0.001 * i for i in range(15)]
    assert kinds(of_trial(trial(loss, loss), study(), chance=0.67))[0] == "rate_too_low"


def test_a_loss_that_rests_at_chance_learns_nothing():
    loss = [2.31, 2.306, *[CHANCE] * 10]
    assert kinds(of_trial(trial(loss, loss), study(), chance=CHANCE))[0] == "no_learning"


def test_a_high_plateau_with_a_small_gap_is_underfitting():
    loss = falling(2, 1.2, 20)
    assert kinds(of_trial(trial(loss, loss), study(), chance=CHANCE))[0] == "underfit"


def test_a_plateau_at_the_studys_target_is_no_underfitting():
    loss = falling(2, 1.2, 20)
    told = study(objective={"target": 1.19})
    assert kinds(of_trial(trial(loss, loss), told, chance=CHANCE)) == ["horizontal"]


def test_a_diverged_trial_says_when_and_at_which_rate():
    broken = trial([2.0, math.nan], [2.0, math.nan], state=TrialState.PRUNED, stop_reason=StopReason.DIVERGED)
    (found,) = of_trial(broken, study(), chance=CHANCE)
    assert found.kind == "diverged"
    assert "at step 2" in found.sentence
    assert "lr 0.1" in found.sentence


def test_validation_better_than_training_is_said_unless_something_makes_training_harder():
    train, val = falling(2, 0.5, 20), falling(2, 0.3, 20)
    assert "validation_better" in kinds(of_trial(trial(train, val), study(), chance=CHANCE))
    harder = trial(train, val, params={"lr": 0.1, "dropout": 0.3})
    assert "validation_better" not in kinds(of_trial(harder, study(), chance=CHANCE))


def test_a_young_curve_is_not_told_that_validation_is_better():
    """The reported training loss is a mean over the epoch and lags behind."""
    end_of_epoch = [2 * 0.7**i for i in range(1, 9)]
    means = [2 * 0.7 ** (i - 0.5) for i in range(1, 9)]
    assert "validation_better" not in kinds(of_trial(trial(means, end_of_epoch), study(), chance=CHANCE))


def test_a_training_loss_that_rises_smoothly_is_told():
    train = [*falling(2, 0.5, 6), *(0.6 + 0.05 * i for i in range(10))]
    assert "training_rises" in kinds(of_trial(trial(train, train), study(), chance=CHANCE))


def test_a_best_in_the_first_half_is_told_of_whole_runs_alone():
    loss = falling(2, 0.12, 20, 2.0)
    assert "saturated_early" in kinds(of_trial(trial(loss, loss), study(), chance=CHANCE))
    branch = trial(loss, loss, start=Start(1, 5))
    assert "saturated_early" not in kinds(of_trial(branch, study(), chance=CHANCE))


def test_trials_that_measure_and_short_curves_are_left_alone():
    assert of_trial(trial([2.0] * 3, [2.0] * 3), study(), chance=CHANCE) == ()
    measuring = trial([], [], value=None)
    assert of_trial(measuring, study()) == ()


def test_every_finding_says_what_to_do_and_survives_json():
    found = of_trial(trial([9.0, *[2.33] * 14], [2.31] * 15), study(), chance=CHANCE)
    for finding in found:
        assert finding.rule
        assert finding.next_step
        assert Finding.from_json(finding.to_json()) == finding


def test_findings_come_gravest_first():
    found = [Finding("a", level, "a") for level in ("info", "pass", "fail", "warn")]
    assert [f.level for f in gravest_first(found)] == list(GRAVEST_FIRST)


# --- stages -------------------------------------------------------------------------------------------


def stage_of(
    trials: Sequence[Trial], ranges: dict[str, Any] | None = None, **result: Any
) -> tuple[Finding, ...]:
    """Findings of a stage with these trials, ranked by their values."""
    ranked = sorted((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0)
    ranking = tuple(Ranked(t.number, t.value) for t in ranked if t.value is not None)
    done = StageResult(ranking, "because", **result)
    spec = study(stages=[{"kind": "random", "epochs": 10, "trials": 8, "ranges": ranges or {}}])
    spec = spec.model_copy(update={"space": spec.space.widened(ranges or {})})
    return of_stage(spec.stages[0], History(spec, tuple(trials)), done)


def grid(rates: Sequence[float], best: float) -> list[Trial]:
    """One trial a rate; the loss grows with the distance from `best` on a log scale."""
    found = []
    for i, lr in enumerate(rates):
        end = 0.2 + 0.3 * abs(math.log10(lr / best))
        found.append(trial(falling(2, end, 12, 2), falling(2, end, 12, 2), params={"lr": lr}, number=i))
    return found


RATES = (1e-3, 1e-2, 1e-1, 1.0)


def test_a_best_value_on_the_end_of_a_grid_is_told():
    (found,) = [
        f for f in stage_of(grid(RATES, 1.0), chosen={"axes": {"lr": RATES}}) if f.kind == "best_at_edge"
    ]
    assert found.numbers == {"parameter": "lr", "best": 1.0, "side": "high", "tried": list(RATES)}


def edge_of(trials: Sequence[Trial], **result: Any) -> Finding:
    (found,) = [f for f in stage_of(trials, **result) if f.kind == "best_at_edge"]
    return found


def test_a_best_value_on_an_edge_proposes_a_stage_that_runs_beyond_it():
    proposes = edge_of(grid(RATES, 1.0), chosen={"axes": {"lr": RATES}}).proposes
    assert proposes == {
        "kind": "coarse_grid", "name": "lr_beyond", "source": "random", "epochs": 10, "around_best": True,
        "axes": {"lr": 3}, "ranges": {"lr": [1.0, 10.0]},
    }  # fmt: skip
    stage = study().with_stage(TypeAdapter(AnyStage).validate_python(proposes)).stages[-1]
    assert [round(v, 3) for v in stage.axis_values(study())["lr"]] == [1.0, 3.162, 10.0]


@pytest.mark.parametrize(
    ("rates", "best", "ranges"),
    [
        ((1.2e-3, 5e-3, 0.02, 0.3), 1.2e-3, [1e-4, 1.2e-3]),  # no grid: a decade past the end
        ((1e-3, 5e-3, 0.02, 0.9), 0.9, [0.9, 10.0]),
    ],
)
def test_where_there_is_no_grid_a_step_is_a_decade(rates, best, ranges):
    assert edge_of(grid(rates, best)).proposes["ranges"] == {"lr": ranges}


def test_no_stage_is_proposed_where_trials_diverge_or_the_hyperparameter_ends():
    lost = trial([2.0, math.nan], [2.0, math.nan], params={"lr": 1.0}, number=9, state=TrialState.PRUNED,
                 stop_reason=StopReason.DIVERGED, value=None)  # fmt: skip
    found = edge_of([*grid(RATES, 1.0), lost], chosen={"axes": {"lr": RATES}})
    assert found.proposes is None
    below = edge_of([*grid(RATES, 1e-3), lost], chosen={"axes": {"lr": RATES}})
    assert below.proposes is not None, "what diverges at the other end says nothing"


def test_the_inner_end_of_a_stages_own_range_is_no_edge():
    rates, beyond = (1.0, 3.0, 10.0), {"lr": [1.0, 10.0]}
    axes = {"axes": {"lr": rates}}
    assert "best_at_edge" not in kinds(stage_of(grid(rates, 1.0), beyond, chosen=axes))
    assert "best_at_edge" in kinds(stage_of(grid(rates, 10.0), beyond, chosen=axes))


def test_a_best_value_within_a_grid_is_not():
    assert "best_at_edge" not in kinds(stage_of(grid(RATES, 0.1), chosen={"axes": {"lr": RATES}}))


def test_a_best_value_in_the_outer_tenth_of_a_range_is_told():
    rates = (1.2e-3, 5e-3, 0.02, 0.3)
    assert "best_at_edge" in kinds(stage_of(grid(rates, 1.2e-3)))
    assert "best_at_edge" not in kinds(stage_of(grid(rates, 5e-3)))


def test_many_diverged_trials_name_the_rate_from_which_all_did():
    fine = grid((1e-3, 1e-2), 1e-2)
    lost = [
        trial([2.0, math.nan], [2.0, math.nan], params={"lr": lr}, number=n, state=TrialState.PRUNED,
              stop_reason=StopReason.DIVERGED, value=None)
        for n, lr in ((2, 0.1), (3, 1.0))
    ]  # fmt: skip
    (found,) = [f for f in stage_of([*fine, *lost]) if f.kind == "many_infeasible"]
    assert "2 of 4 trials diverged. Every rate from 0.1 up diverged, none below did." in found.sentence


def test_one_diverged_trial_of_four_is_no_finding():
    lost = trial(
        [math.nan], [math.nan], number=3, state=TrialState.PRUNED, stop_reason=StopReason.DIVERGED, value=None
    )
    assert "many_infeasible" not in kinds(stage_of([*grid((1e-3, 1e-2, 0.1), 1e-2), lost]))


def wobbly(end: float, number: int) -> Trial:
    """A curve that moves by about 0.02 and ends at `end`."""
    val = [end + (0.02 if i % 2 else -0.02) for i in range(11)] + [end]
    return trial([0.1] * 12, val, number=number)


def test_trials_closer_than_their_curves_move_are_ties():
    (found,) = [
        f
        for f in stage_of([wobbly(0.300, 0), wobbly(0.301, 1), wobbly(0.9, 2)])
        if f.kind == "ties_within_noise"
    ]
    assert found.trials == (0, 1)


def test_a_lead_of_less_than_two_wobbles_ties_the_second_with_the_first():
    (found,) = [
        f
        for f in stage_of([wobbly(0.300, 0), wobbly(0.345, 1), wobbly(0.9, 2)])
        if f.kind == "ties_within_noise"
    ]
    assert found.numbers["noise"] < found.numbers["lead"]
    assert (found.trials, found.numbers["tied"]) == ((0, 1), 2)


def test_two_trials_of_one_value_are_said_to_be_equal():
    same = [trial([0.1] * 12, [0.3, 0.34] * 6, number=n) for n in range(3)]
    (found,) = [f for f in stage_of(same) if f.kind == "ties_within_noise"]
    assert found.sentence.endswith("; the first two are equal.")


def test_trials_of_another_length_are_no_ties():
    whole = [
        trial([0.1] * 12, [0.3 + (0.02 if i % 2 else -0.02) for i in range(12)], number=n) for n in (0, 1)
    ]
    shorter = trial([0.1] * 6, [0.3 + (0.02 if i % 2 else -0.02) for i in range(6)], number=2)
    assert "ties_within_noise" not in kinds(stage_of([*whole, shorter]))


def test_a_best_value_in_a_range_that_its_stage_has_widened_is_within_it():
    rates = (0.01, 0.1, 1.0, 3.0)
    edges = [f for f in stage_of(grid(rates, 3.0)) if f.kind == "best_at_edge"]
    assert edges
    widened = stage_of(grid(rates, 3.0), chosen={"widened": {"lr": [1e-3, 10.0]}})
    assert "best_at_edge" not in kinds(widened)


def test_a_clear_lead_is_no_tie():
    assert "ties_within_noise" not in kinds(stage_of(grid(RATES, 0.1)))


def test_the_best_trials_own_trouble_is_lifted_to_its_stage():
    over = trial(
        falling(2, 0.01, 20), [*falling(2, 0.2, 10), *(0.22 + 0.02 * i for i in range(10))], value=0.1
    )
    (found,) = [f for f in stage_of([over]) if f.kind == "overfit"]
    assert found.sentence.startswith("The best trial, 0: it overfits")


def test_a_stage_of_failed_trials_says_how_many():
    failed = trial([], [], state=TrialState.FAILED, stop_reason=StopReason.ERROR, value=None)
    (found,) = stage_of([failed])
    assert found.sentence.startswith("1 of 1 trials failed")


@pytest.mark.parametrize(
    ("levels", "kind"),
    [
        ({"target": 0.1, "train": 0.5, "val": 0.55}, "bias"),
        ({"target": 0.1, "train": 0.12, "val": 0.5}, "variance"),
        ({"target": 0.1, "train": 0.12, "train_dev": 0.4, "val": 0.45}, "variance"),
        ({"target": 0.1, "train": 0.12, "train_dev": 0.15, "val": 0.6}, "mismatch"),
        ({"train": 0.12, "val": 0.15, "test": 0.5}, "overfit_validation"),
    ],
)
def test_the_largest_gap_between_neighbours_names_the_error(levels, kind):
    found = decomposed(levels, Objective())
    assert found is not None
    assert found.kind == kind


def test_an_error_rate_that_is_maximised_has_its_gaps_the_other_way_round():
    found = decomposed(
        {"target": 0.99, "train": 0.98, "val": 0.80}, Objective(metric="val/accuracy", direction="maximize")
    )
    assert found is not None
    assert found.kind == "variance"


def test_small_gaps_and_levels_without_target_or_test_say_nothing():
    assert decomposed({"target": 0.100, "train": 0.101, "val": 0.102}, Objective()) is None
    assert decomposed({"train": 0.1, "val": 0.9}, Objective()) is None
