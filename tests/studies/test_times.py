"""Forecasts in seconds: arithmetic on what preflight measured of a step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tunesmith_studies.study import StudySpec
from tunesmith_studies.times import PER_EPOCH, PER_TRIAL, Place, Timing, forecast_seconds, timing_of

MEASURED = {
    "time/fixed": 0.01, "time/sample": 0.001, "time/evaluate": 0.5, "time/build": 0.2, "time/first": 0.1,
    "time/snapshot": 0.3, "time/train_samples": 1000.0, "time/waiting": 1.0,
}  # fmt: skip
TIMING = timing_of([(Place(), MEASURED)], [])
GRID = {"kind": "coarse_grid", "epochs": 2, "axes": {"lr": 3}}


def seconds(timing: Timing | None, stage: dict[str, Any], **study: Any) -> float:
    assert timing is not None
    data = {
        "name": "s",
        "task": "t",
        "space": {"lr": {"low": 0.01, "high": 1.0, "log": True}},
        "stages": [stage],
    }
    spec = StudySpec.model_validate(data | study)
    return forecast_seconds(spec, timing)[spec.stages[0].name]


def test_a_stage_takes_its_steps_evaluations_and_beginnings() -> None:
    an_epoch = 10 * 0.01 + 1000 * 0.001 + 0.5 + PER_EPOCH
    expected = 6 * an_epoch + 3 * (0.3 + PER_TRIAL)
    assert seconds(TIMING, GRID, fixed={"batch_size": 100}) == pytest.approx(expected)
    assert seconds(TIMING, GRID | {"keep_snapshots": True}, fixed={"batch_size": 100}) == pytest.approx(
        expected + 3 * 0.3
    )


def test_a_part_of_the_data_takes_a_part_of_the_steps_and_whole_evaluations() -> None:
    whole, part = (
        seconds(TIMING, GRID | {"data_fraction": f}, fixed={"batch_size": 100}) for f in (1.0, 0.1)
    )
    assert whole - part == pytest.approx(6 * 0.9 * (10 * 0.01 + 1000 * 0.001))


def test_batch_sizes_that_vary_are_averaged_and_accumulation_makes_larger_steps() -> None:
    space = {"lr": [0.1], "batch_size": [10, 100]}
    both = seconds(TIMING, {"kind": "coarse_grid", "epochs": 1}, space=space)
    alone = [
        seconds(TIMING, {"kind": "coarse_grid", "epochs": 1, "fixed": {"batch_size": b}}, space=space)
        for b in (10, 100)
    ]
    assert both == pytest.approx(sum(alone))  # two trials, one of each
    accumulated = seconds(TIMING, GRID, fixed={"batch_size": 25, "accumulation": 4})
    assert accumulated == pytest.approx(seconds(TIMING, GRID, fixed={"batch_size": 100}))


def test_what_shapes_the_model_is_averaged_or_taken_where_it_is_held() -> None:
    """Costs 1, 2 and 5 at the ends and in the middle: (1 + 4·2 + 5) / 6 over the space, √10 at 3/4 of it."""
    points = [(Place(along=a), MEASURED | {"time/fixed": c}) for a, c in ((0.5, 2.0), (0.0, 1.0), (1.0, 5.0))]
    timing = timing_of(points, ["hidden"])
    assert timing is not None
    spec = StudySpec.model_validate({
        "name": "s", "task": "t", "stages": [GRID | {"axes": {"hidden": 2}}],
        "space": {"hidden": {"type": "int", "low": 10, "high": 50}},
    })  # fmt: skip
    assert timing.of(spec.space, {}).fixed == pytest.approx(14 / 6)
    for hidden, cost in ((10, 1.0), (30, 2.0), (40, 10**0.5), (50, 5.0)):
        assert timing.of(spec.space, {"hidden": hidden}).fixed == pytest.approx(cost)


def test_choices_count_by_their_share_or_alone_where_they_are_held() -> None:
    cnn = Place(choice=("model", "cnn"), share=0.5)
    timing = timing_of([(Place(), MEASURED), (cnn, MEASURED | {"time/fixed": 0.05})], [])
    assert timing is not None
    space = StudySpec.model_validate({
        "name": "s", "task": "t", "space": {"model": ["mlp", "cnn"]}, "stages": [GRID | {"axes": {}}],
    }).space  # fmt: skip
    assert timing.of(space, {}).fixed == pytest.approx(0.03)
    assert timing.of(space, {"model": "cnn"}).fixed == pytest.approx(0.05)
    assert timing.of(space, {"model": "mlp"}).fixed == pytest.approx(0.01)


def test_a_busy_machine_stretches_what_is_computed() -> None:
    busy = timing_of([(Place(), MEASURED | {"time/waiting": 3.0})], [])
    assert busy is not None
    assert (busy.points[0][1].fixed, busy.points[0][1].evaluate) == pytest.approx((0.03, 1.5))


def test_a_pruner_and_a_usual_length_shorten_a_stage() -> None:
    stage = {"kind": "random", "epochs": 10, "trials": 20}
    pruned = stage | {"pruner": {"kind": "median"}}
    full, cut = (seconds(TIMING, s, fixed={"batch_size": 100}) for s in (stage, pruned))
    beside = 20 * (0.3 + PER_TRIAL)
    assert cut - beside == pytest.approx((full - beside) / 2)


def test_a_range_test_takes_its_steps_where_epochs_are_short_and_is_not_evaluated() -> None:
    sweep = {"kind": "lr_range_test", "steps": 300, "seeds": 2}
    expected = 600 * (0.01 + 0.001 * 100) + 2 * (0.3 + PER_TRIAL)
    assert seconds(TIMING, sweep, fixed={"batch_size": 100}) == pytest.approx(expected)


def test_a_budget_in_seconds_takes_them_and_evaluations_beside_or_its_epochs_where_they_are_fewer() -> None:
    stage = {"kind": "random", "epochs": 1000, "trials": 4, "budget": {"seconds": 22}}
    an_epoch = 10 * 0.01 + 1000 * 0.001
    evaluated = 22 / an_epoch * (0.5 + PER_EPOCH)
    found = seconds(TIMING, stage, fixed={"batch_size": 100})
    assert found == pytest.approx(4 * (22 + evaluated + 0.3 + PER_TRIAL))
    few = seconds(TIMING, stage | {"epochs": 2}, fixed={"batch_size": 100})
    assert few == pytest.approx(4 * (2 * (an_epoch + 0.5 + PER_EPOCH) + 0.3 + PER_TRIAL))


@pytest.mark.parametrize(("steps", "epochs", "points"), [(5, 0.5, 1), (30, 3, 3), (5000, 50, 50)])
def test_a_budget_in_steps_takes_them_or_its_epochs_where_they_are_fewer(
    steps: int, epochs: float, points: int
) -> None:
    stage = {"kind": "random", "epochs": 50, "trials": 4, "budget": {"steps": steps}}
    one = epochs * (10 * 0.01 + 1000 * 0.001) + points * (0.5 + PER_EPOCH)
    found = seconds(TIMING, stage, fixed={"batch_size": 100})
    assert found == pytest.approx(4 * (one + 0.3 + PER_TRIAL))


def test_evaluations_between_epochs_take_their_time() -> None:
    often, usual = (
        seconds(TIMING, GRID | {"validate_every": every}, fixed={"batch_size": 100}) for every in (5, 0)
    )
    assert often - usual == pytest.approx(6 * 2 * (0.5 + PER_EPOCH))


def test_times_survive_the_database_and_are_none_where_none_were_measured() -> None:
    points = [(Place(), MEASURED), (Place(choice=("model", "cnn"), share=0.5), MEASURED)]
    timing = timing_of(points, ["hidden"])
    assert timing is not None
    assert Timing.from_json(json.loads(json.dumps(timing.to_json()))) == timing
    assert timing_of([(Place(), {"check/labels/classes": 10.0})], []) is None
    assert timing_of([], []) is None
