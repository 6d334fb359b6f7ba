"""The map: cells as measured, on the axes' own scales, a layer a stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tunesmith_service.charts import axes
from tunesmith_service.charts import map as chart
from tunesmith_service.errors import Unprocessable

from .hand_made import asked, columns

SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True, "zero": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
}
STAGES = [{"name": "coarse", "kind": "coarse_grid"}, {"name": "refine", "kind": "random"}]
NUMBERS = {
    "lr": [0.001, 0.1, 0.001, 0.1, 0.1, 0.01],
    "weight_decay": [0.0, 0.0, 1e-4, 1e-4, 1e-4, 1e-3],
    "dropout": [0.0, 0.0, 0.0, 0.0, 0.1, 0.2],
}


def seen(**query: Any) -> dict[str, Any]:
    found = columns([0.9, 0.5, 0.7, None, 0.3, 0.4], stage=[0, 0, 0, 0, 0, 1], numbers=NUMBERS)
    question = asked(found, space=SPACE, **query)
    question.study.spec["stages"] = STAGES  # type: ignore[index]
    return chart.view(question)


def test_a_grid_is_tiles_that_reach_half_way_to_their_neighbours() -> None:
    coarse = seen()["layers"][0]
    assert coarse["tiles"]
    assert coarse["number"] == [0, 2, 1, 4]
    assert coarse["xs"] == ["0.001", "0.001", "0.1", "0.1"]
    zero, some = 0.0, 0.125 + 0.875 * 0.5
    middle = round((zero + some) / 2, 6)
    assert coarse["box"][0] == pytest.approx([-1 / 3, 1 / 3, -middle, middle], abs=1e-5)
    assert coarse["box"][3] == pytest.approx([1 / 3, 1.0, middle, 2 * some - middle], abs=1e-5)


def test_trials_at_one_place_are_one_with_the_best_of_them_and_their_count() -> None:
    coarse = seen()["layers"][0]
    assert (coarse["value"][3], coarse["count"][3]) == (0.3, 2)  # the other of the two diverged


def test_a_place_where_all_diverged_has_no_value() -> None:
    coarse = seen(without=[4])["layers"][0]
    assert (coarse["number"][3], coarse["value"][3], coarse["count"][3]) == (3, None, 1)


def test_what_is_no_grid_is_marks_and_the_best_of_all_is_named() -> None:
    view = seen()
    assert [(layer["stage"], layer["tiles"], layer["box"] == []) for layer in view["layers"]] == [
        ("coarse", True, False),
        ("refine", False, True),
    ]
    assert view["best"] == 4
    assert view["choices"] == ["lr", "weight_decay", "dropout"]


def test_other_axes_are_asked_for_by_name_and_unknown_ones_refused() -> None:
    view = seen(across="dropout", up="lr")
    assert (view["x"]["name"], view["y"]["name"]) == ("dropout", "lr")
    assert seen(up="lr")["x"]["name"] == "weight_decay"
    with pytest.raises(Unprocessable, match="'width' is no number that trials here have; there are lr, "):
        seen(across="width")


def test_one_number_that_varies_makes_no_map() -> None:
    view = chart.view(asked(columns([0.5, 0.4], numbers={"lr": [0.1, 0.2]}), space=SPACE))
    assert (view["layers"], view["x"]) == ([], None)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("lr", [(0.0, "0.001"), (1 / 3, "0.01"), (2 / 3, "0.1"), (1.0, "1")]),
        ("dropout", [(0.0, "0"), (0.2, "0.1"), (0.4, "0.2"), (0.6, "0.3"), (0.8, "0.4"), (1.0, "0.5")]),
        (
            "weight_decay",
            [(0, "0"), (0.125, "1e-6"), (0.34375, "1e-5"), (0.5625, "1e-4"), (0.78125, "0.001"), (1, "0.01")],
        ),
    ],
)  # fmt: skip
def test_labels_stand_on_round_numbers_of_the_axis(name: str, labels: list[tuple[float, str]]) -> None:
    found = axes.axis(SPACE, columns([0.5], numbers={n: [0.1] for n in SPACE}), name).to_json()
    assert [text["text"] for text in found["labels"]] == [text for _, text in labels]
    assert [text["at"] for text in found["labels"]] == pytest.approx([at for at, _ in labels], abs=1e-5)


def test_a_value_past_the_space_lies_past_its_end() -> None:
    rate = axes.axis(SPACE, columns([0.5], numbers={"lr": [0.1]}), "lr")
    assert rate.places(np.array([10.0, np.nan, 0.0]))[0] == pytest.approx(4 / 3)
    assert np.isnan(rate.places(np.array([np.nan, 0.0]))).all()  # zero has no place on this axis


def test_a_filter_may_leave_a_grid_without_cells_and_then_it_is_no_layer() -> None:
    found = columns([0.9, 0.5, 0.7, None, 0.3, 0.4], stage=[0, 0, 0, 0, 0, 1], numbers=NUMBERS)
    question = asked(found, space=SPACE, without=[0, 1, 2, 3, 4])
    question.study.spec["stages"] = STAGES  # type: ignore[index]
    (refine,) = chart.view(question)["layers"]
    assert (refine["stage"], refine["number"]) == ("refine", [5])


def test_all_layers_together_get_no_more_marks_than_were_asked_for_and_the_best_is_among_them() -> None:
    numbers = {"lr": [0.001 + 0.001 * n for n in range(90)], "dropout": [0.005 * n for n in range(90)]}
    found = columns([1.0 - n / 100 for n in range(90)], stage=[n % 2 for n in range(90)], numbers=numbers)
    question = asked(found, space=SPACE, points=40)
    question.study.spec["stages"] = STAGES  # type: ignore[index]
    view = chart.view(question)
    shown = [n for layer in view["layers"] for n in layer["number"]]
    assert 30 <= len(shown) <= 40
    assert (view["shown"], view["total"], view["best"]) == (len(shown), 90, 89)
    assert {87, 88, 89} <= set(shown)
