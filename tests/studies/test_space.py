"""The search space: scales, zeros, conditions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tunesmith_studies.space import Choice, Float, Int, Space, canonical

unit = st.floats(0, 1)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    log = draw(st.booleans())
    low = draw(st.floats(1e-8, 1e3)) if log else draw(st.floats(-1e3, 1e3))
    high = low * draw(st.floats(1.001, 1e6)) if log else low + draw(st.floats(1e-3, 1e3))
    return Float(low=low, high=high, log=log, zero=log and draw(st.booleans()))


@given(floats(), unit)
def test_a_float_is_inside_and_comes_back_from_its_position(parameter: Float, place: float) -> None:
    value = parameter.value(place)
    assert parameter.contains(value)
    again = parameter.value(parameter.position(value))
    assert math.isclose(again, value, rel_tol=1e-6, abs_tol=1e-6 * (parameter.high - parameter.low))


@given(floats(), unit, unit)
def test_positions_keep_the_order_of_values(parameter: Float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert parameter.value(low) <= parameter.value(high)


@given(floats(), st.integers(2, 30))
def test_a_grid_spans_its_range_and_a_zero_comes_extra(parameter: Float, points: int) -> None:
    grid = parameter.grid(points)
    assert len(grid) == points + parameter.zero
    assert all(parameter.contains(v) for v in grid)
    assert math.isclose(grid[-1], parameter.high, rel_tol=1e-9, abs_tol=1e-9)
    assert (grid[0] == 0) == parameter.zero or parameter.low == 0


@given(st.integers(1, 50), st.integers(0, 500), st.integers(1, 7), st.booleans(), unit)
def test_an_int_is_a_whole_number_inside(low: int, span: int, step: int, log: bool, place: float) -> None:
    parameter = Int(low=low, high=low + span, log=log, step=1 if log else step)
    value = parameter.value(place)
    assert parameter.contains(value)
    grid = parameter.grid(5)
    assert len(set(grid)) == len(grid) <= 5


def test_the_first_eighth_of_a_log_axis_with_a_zero_is_zero() -> None:
    decay = Float(low=1e-6, high=1e-2, log=True, zero=True)
    assert [decay.value(p) for p in (0, 0.1249, 0.125, 1)] == pytest.approx([0, 0, 1e-6, 1e-2])
    assert decay.position(0) == 0
    assert decay.grid(3) == (0, 1e-6, 1e-4, 1e-2)


def test_conditions_switch_parameters_on_and_settle_when_a_choice_is_held() -> None:
    space = Space.model_validate(
        {
            "optimizer": ["sgd", "adam"],
            "beta1": {"low": 0.5, "high": 0.99, "when": {"optimizer": "adam"}},
            "lr": {"low": 0.1, "high": 1.0},
        }
    )
    assert space.active({"optimizer": "sgd"}) == ("optimizer", "lr")
    assert space.switched_on({"optimizer": "sgd", "beta1": 0.9, "lr": 0.2, "batch": 1}) == {
        "optimizer": "sgd", "lr": 0.2, "batch": 1,
    }  # fmt: skip
    assert space.without({"optimizer": "sgd"}).names() == ("lr",)
    left = space.without({"optimizer": "adam"})
    assert left.names() == ("beta1", "lr")
    assert not left["beta1"].when


def test_presets_give_weight_decay_by_depth_and_data() -> None:
    space = Space.model_validate({"a": {"preset": "shallow"}, "b": {"preset": "complex"}})
    assert space["a"].values == (1e-4, 1e-3, 1e-2)
    assert space["b"].values == (0, 1e-6, 1e-5, 1e-4)
    with pytest.raises(ValidationError, match="preset must be shallow, deep or complex, got 'huge'"):
        Space.model_validate({"a": {"preset": "huge"}})


def test_one_number_written_two_ways_is_one_cell_and_true_is_not_one() -> None:
    assert canonical({"a": 0.1 + 0.2}) == canonical({"a": 0.3})
    assert canonical({"a": -0.0}) == canonical({"a": 0.0})
    assert canonical({"a": True}) != canonical({"a": 1})
    assert not Choice(values=(1, 2)).contains(True)


def test_the_middle_of_a_space_is_a_complete_point_that_keeps_what_is_held() -> None:
    space = Space.model_validate({
        "lr": {"low": 1e-4, "high": 1.0, "log": True},
        "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
        "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
        "optimizer": ["momentum", "adam"],
        "beta1": {"low": 0.8, "high": 1.0, "when": {"optimizer": "adam"}},
    })  # fmt: skip
    usual = {"lr": 0.01, "weight_decay": 1e-4, "batch_size": 64}
    assert space.middle({}) == usual | {"optimizer": "momentum"}
    held = {"optimizer": "adam", "epochs": 3}
    assert space.middle(held) == usual | held | {"beta1": 0.9}
    assert not space.problems({n: v for n, v in space.middle(held).items() if n in space})
