"""What a study must be, and the messages that a person reads when it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from tunesmith_service.cli.study_file import examples, read
from tunesmith_service.problems import from_validation
from tunesmith_studies.study import StudySpec, forecast

LR = {"low": 1e-3, "high": 1.0, "log": True}
GRID = {"kind": "coarse_grid", "epochs": 2}


def wrong(**changes: Any) -> list[tuple[str, str]]:
    """Pointer and message of everything that is wrong with a small study after these changes."""
    data = {"name": "s", "task": "digits", "space": {"lr": LR}, "stages": [GRID]} | changes
    with pytest.raises(ValidationError) as caught:
        StudySpec.model_validate(data)
    return [(e["pointer"], e["message"]) for e in from_validation(caught.value, data).errors]


def test_an_unknown_stage_is_told_with_the_known_ones() -> None:
    ((pointer, message),) = wrong(stages=[{"kind": "corse_grid", "epochs": 1}])
    assert pointer == "/stages/0"
    assert message.startswith("unknown kind 'corse_grid'; it is one of ")
    assert "'coarse_grid', 'refine_grid'" in message


def test_an_empty_grid_says_what_to_add() -> None:
    assert wrong(space={}) == [
        (
            "/stages/0",
            "stage coarse_grid: the grid is empty: nothing in the space is left to vary; "
            "add a parameter to space",
        )
    ]
    assert wrong(stages=[GRID | {"axes": {"lr": []}}]) == [
        (
            "/stages/0",
            "stage coarse_grid: the grid is empty: axis lr has no values; give some, or a number of points",
        )
    ]


def test_a_log_range_from_zero_says_how_to_allow_zero() -> None:
    ((pointer, message),) = wrong(space={"lr": {"low": 0, "high": 1, "log": True}})
    assert pointer == "/space/lr"
    assert message.startswith("log: true needs low > 0, got low=0; to allow 0 beside a log range")


def test_a_space_that_misses_what_a_stage_needs_is_told_by_both_names() -> None:
    stage = {"kind": "weight_decay_restarts", "epochs": 10}
    assert (
        "/stages/1",
        "stage weight_decay_restarts: the space misses weight_decay, which this stage varies; "
        "add it to space, or give the stage values",
    ) in wrong(stages=[GRID, stage])
    assert wrong(stages=[GRID | {"axes": {"lr": 3, "momentum": 2}}]) == [
        (
            "/stages/0",
            "stage coarse_grid: axis momentum is not in the space; add it there, or use one of: lr",
        )
    ]


def test_values_outside_the_space_and_parameters_left_open_are_told() -> None:
    space = {"lr": LR, "dropout": {"low": 0, "high": 0.5}}
    found = wrong(space=space, stages=[GRID | {"axes": {"lr": [5.0, 0.1]}}])
    assert [message for _, message in found] == [
        "stage coarse_grid: axis lr holds 5.0, which is outside [0.001, 1]; move it in, or widen the space",
        "stage coarse_grid: it leaves dropout open; name it under axes, or hold it under the stage's fixed",
    ]


def test_a_source_must_come_earlier_and_names_must_differ() -> None:
    refine = {"kind": "refine_grid", "epochs": 3, "source": "later"}
    ((pointer, message),) = wrong(stages=[GRID, refine])
    assert pointer == "/stages/1"
    assert (
        message == "stage refine_grid: its source 'later' is no earlier stage; earlier ones are: coarse_grid"
    )
    named = GRID | {"name": "same"}
    assert wrong(stages=[named, named]) == [
        ("/stages/1", "stage same: two stages are named same; give one of them another name")
    ]


def test_fixed_and_space_do_not_overlap_and_misspelt_fields_are_told_at_their_place() -> None:
    assert wrong(fixed={"lr": 0.1}, space={"lr": LR, "momentum": {"low": 0, "high": 0.9}}) == [
        ("/fixed/lr", "lr stands in space and in fixed; leave it in one of them")
    ]
    assert [pointer for pointer, _ in wrong(stages=[GRID | {"epoch": 3}])] == ["/stages/0/epoch"]
    assert wrong(stages=[{"kind": "coarse_grid"}]) == [("/stages/0/epochs", "is missing")]


def test_restarts_refuse_what_cannot_change_in_mid_training_and_rates_that_know_the_end() -> None:
    restarts = {"kind": "weight_decay_restarts", "epochs": 10, "values": [1, 2, 3], "param": "batch_size"}
    messages = [m for _, m in wrong(stages=[GRID, restarts])]
    assert any(
        "batch_size cannot change in mid-training; use param: one of lr, momentum" in m for m in messages
    )
    restarts |= {"param": "weight_decay", "fixed": {"schedule": "one_cycle"}}
    ((_, message),) = wrong(stages=[GRID, restarts])
    assert message.endswith("the schedule is one_cycle; hold schedule: constant under fixed")


def test_continuing_from_snapshots_needs_more_epochs_than_the_source_had() -> None:
    refine = {"kind": "refine_grid", "epochs": 2, "continue_snapshots": True}
    ((_, message),) = wrong(stages=[GRID, refine])
    assert "needs more epochs than its source's 2, got 2; raise epochs" in message


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"retries": "2"}, "/retries"),
        ({"retries": True}, "/retries"),
        ({"retries": 2.5}, "/retries"),
        ({"snapshot_every_seconds": "600"}, "/snapshot_every_seconds"),
        ({"stages": [GRID | {"inspect": 1}]}, "/stages/0/inspect"),
        ({"stages": [GRID | {"validate_every": False}]}, "/stages/0/validate_every"),
        ({"stages": [GRID | {"pruner": {"kind": "patient", "patience": "1"}}]}, "/stages/0/pruner/patience"),
        ({"space": {"lr": LR | {"log": "yes"}}}, "/space/lr/log"),
        ({"space": {"lr": LR | {"values": ["0.1"]}}}, "/space/lr/values/0"),
        ({"limits": {"deadline": 1_800_000_000}}, "/limits/deadline"),
        ({"limits": {"deadline": "1800000000"}}, "/limits/deadline"),
    ],
)  # fmt: skip
def test_nothing_is_guessed_that_was_written_as_something_else(changes: dict[str, Any], pointer: str) -> None:
    assert pointer in [where for where, _ in wrong(**changes)]


def test_json_has_one_kind_of_number_and_a_deadline_says_its_zone_or_is_utc() -> None:
    limits = {"max_trials": 9.0, "max_gpu_hours": 2, "deadline": "2026-01-31T18:00:00"}
    halving = {"kind": "halving", "epochs": 9.0, "rungs": [1.0, 3.0]}
    space = {"lr": LR, "width": {"type": "int", "low": 1.0, "high": 4.0}}
    spec = StudySpec.model_validate(
        {"name": "s", "task": "digits", "space": space, "stages": [halving], "limits": limits}
    )
    assert spec.limits.model_dump(mode="json") == {
        "max_trials": 9, "max_gpu_hours": 2.0, "deadline": "2026-01-31T18:00:00Z", "max_concurrent": None,
    }  # fmt: skip
    assert (spec.stages[0].epochs, spec.stages[0].rungs) == (9, (1, 3))
    assert isinstance(spec.space["width"].low, int)


def test_stages_without_a_name_get_their_kind_and_a_number() -> None:
    spec = StudySpec.model_validate(
        {
            "name": "s",
            "task": "t",
            "space": {"lr": LR},
            "stages": [GRID, GRID, GRID | {"name": "coarse_grid_3"}, GRID],
        }
    )
    assert [s.name for s in spec.stages] == ["coarse_grid", "coarse_grid_2", "coarse_grid_3", "coarse_grid_4"]


def test_accuracy_is_not_minimized_by_an_oversight() -> None:
    ((pointer, message),) = wrong(objective={"metric": "val/accuracy"})
    assert pointer == "/objective"
    assert message.endswith("add direction: maximize")
    spec = {"name": "s", "task": "digits", "space": {"lr": LR}, "stages": [GRID]}
    StudySpec.model_validate(spec | {"objective": {"metric": "val/accuracy", "direction": "maximize"}})
    stored = StudySpec.model_validate(spec).to_json() | {"objective": {"metric": "val/accuracy"}}
    assert StudySpec.from_json(stored).objective.direction == "minimize"


def test_choices_written_as_another_tool_wants_them_are_told_how_to_be_written() -> None:
    ((pointer, message),) = wrong(space={"lr": LR, "optimizer": {"choices": ["sgd", "adam"]}})
    assert pointer == "/space"
    assert "optimizer: write low and high of a range, or its choices as a list such as [a, b]" in message
    assert message.endswith("got choices")


def test_what_cannot_be_refined_is_named_with_its_kind() -> None:
    refined = {"kind": "refine_grid", "epochs": 4}
    ((_, message),) = wrong(stages=[{"kind": "random", "epochs": 2, "trials": 4}, refined])
    assert "it refines a coarse_grid or a refine_grid, and random is of kind random" in message


@pytest.mark.parametrize("name", sorted(examples()))
def test_every_example_is_a_study_that_survives_json(name: str) -> None:
    spec = StudySpec.model_validate(read(name))
    assert spec.name == name
    again = StudySpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.to_json() == spec.to_json()


def test_the_demo_plans_all_four_stages_and_at_least_forty_trials() -> None:
    spec = StudySpec.model_validate(read("digits-demo"))
    planned = forecast(spec)
    assert list(planned) == ["coarse_grid", "refine_grid", "random", "weight_decay_restarts"]
    assert planned["coarse_grid"].trials == planned["coarse_grid"].snapshots == 12
    assert sum(f.trials for f in planned.values()) >= 40
