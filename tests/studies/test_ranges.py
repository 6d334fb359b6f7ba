"""Ranges of a stage's own: narrower than the space's, past it, and what later stages see of them."""

from __future__ import annotations

from typing import Any

import pytest
from contracts import Runner
from pydantic import ValidationError
from tunesmith_studies.decisions import differences
from tunesmith_studies.space import Space
from tunesmith_studies.study import StudySpec, forecast

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True, "values": [1e-3, 1e-2, 1e-1, 1.0]},
    "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True, "zero": True},
    "width": {"type": "int", "low": 16, "high": 64},
    "optimizer": ["momentum", "adam"],
}
RANDOM = {"kind": "random", "epochs": 2, "trials": 5}


def study(*stages: dict[str, Any], **changes: Any) -> StudySpec:
    return StudySpec.model_validate(
        {"name": "s", "task": "digits", "space": SPACE, "stages": stages} | changes
    )


def test_a_range_stands_instead_of_the_spaces_and_nothing_beside_it():
    space = Space(SPACE).within({"lr": [0.05, 5.0], "weight_decay": [1e-3, 0.1], "gone": [0, 1]})
    assert (space["lr"].low, space["lr"].high, space["lr"].values) == (0.05, 5.0, (0.1, 1.0))
    assert not space["weight_decay"].contains(0)
    assert Space(SPACE)["weight_decay"].contains(0)


def test_a_stage_draws_from_its_own_ranges_and_later_ones_see_the_wider_space():
    spec = study(
        RANDOM | {"name": "far", "ranges": {"lr": [2.0, 20.0]}}, RANDOM | {"name": "after", "trials": 30}
    )
    runner = Runner(spec)
    runner.run("far")
    assert all(2.0 <= t.params["lr"] <= 20.0 for t in runner.log.trials("far"))
    assert runner.log.study.space["lr"].high == 20.0
    runner.run("after")
    rates = [t.params["lr"] for t in runner.log.trials("after")]
    assert min(rates) < 0.1
    assert max(rates) > 1.0, "the space of later stages reaches as far"
    assert not list(differences(spec.to_json(), runner.entries))


def test_the_space_widens_when_the_stage_begins_and_not_before():
    runner = Runner(study(RANDOM, RANDOM | {"name": "far", "ranges": {"lr": [2.0, 20.0]}}))
    runner.activate("random")
    assert runner.log.study.space["lr"].high == 1.0
    runner.activate("far")
    assert runner.log.study.space["lr"].high == 20.0


def test_a_grids_axes_lie_in_its_ranges():
    grid = {"kind": "coarse_grid", "epochs": 2, "axes": {"lr": [2, 4]}, "ranges": {"lr": [1, 5]},
            "fixed": {"weight_decay": 0.0, "width": 16, "optimizer": "adam"}}  # fmt: skip
    assert forecast(study(grid))["coarse_grid"].trials == 2
    with pytest.raises(ValidationError, match=r"axis lr holds 8, which is outside \[1, 5\]"):
        study(grid | {"axes": {"lr": [2, 8]}})


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (RANDOM | {"ranges": {"lr": [2, 1]}}, "low end above its high one: [2, 1]"),
        (RANDOM | {"ranges": {"lr": [0, 1]}}, "lr is on a log scale, so its range must begin above 0"),
        (RANDOM | {"ranges": {"momentum": [0, 1]}}, "momentum, which is not in the space"),
        (RANDOM | {"ranges": {"optimizer": [0, 1]}}, "optimizer, which is a choice without an order"),
        (RANDOM | {"ranges": {"width": [16, 99.5]}}, "width is a whole number, so both ends"),
        (RANDOM | {"ranges": {"lr": [1, 2]}, "fixed": {"lr": 1.0}}, "ranges names lr, which is fixed"),
        ({"kind": "preflight", "ranges": {"lr": [1, 2]}}, "a preflight looks around what"),
    ],
)  # fmt: skip
def test_a_range_that_cannot_be_is_refused_with_what_to_do(stage: dict[str, Any], sentence: str):
    with pytest.raises(ValidationError) as refused:
        study(stage)
    assert sentence in str(refused.value)
