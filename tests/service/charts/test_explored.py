"""Parallel axes and slices: hyperparameters on their own scales, and what the filter picks of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tunesmith_service.charts import parallel, slices
from tunesmith_service.charts.explored import drawn

from .hand_made import asked, columns

SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "optimizer": {"type": "choice", "values": ["sgd", "adam", "lion"]},
    "fixed_one": {"type": "float", "low": 0.0, "high": 1.0},
}
FOUND = columns(
    [0.9, 0.5, None, 0.4],
    numbers={"lr": [0.001, 0.01, 1.0, 0.1], "fixed_one": [0.5] * 4},
    words={"optimizer": ["adam", "sgd", "adam", None]},
)


def test_each_trial_is_a_line_of_places_and_what_does_not_vary_is_no_axis() -> None:
    view = parallel.view(asked(FOUND, space=SPACE))
    assert [a["name"] for a in view["axes"]] == ["lr", "optimizer"]
    assert view["axes"][1]["words"] == ["sgd", "adam"]
    assert view["number"] == [0, 1, 3]  # the one that diverged has no objective
    assert view["lines"] == [
        [0.0, 1.0],
        pytest.approx([1 / 3, 0.0], abs=1e-5),
        [pytest.approx(2 / 3, abs=1e-5), None],
    ]
    assert view["on"] == [True, True, True]


def test_what_the_filter_leaves_out_stays_behind_the_rest() -> None:
    view = parallel.view(asked(FOUND, space=SPACE, without=[0]))
    assert (view["number"], view["on"]) == ([0, 1, 3], [False, True, True])
    assert (view["picked"], view["total"]) == (2, 3)


def test_a_slice_has_the_best_of_each_part_and_crosses_for_what_diverged() -> None:
    found = columns([0.9, 0.5, 0.7, None], numbers={"lr": [0.001, 0.00101, 0.1, 1.0]})
    (one,) = slices.view(asked(found, space=SPACE))["slices"]
    assert (one["number"], one["lost"]["number"]) == ([0, 1, 2], [3])
    assert one["best"]["value"] == [0.5, 0.7]
    assert one["lost"]["at"] == [1.0]


def test_where_more_is_better_the_best_is_the_highest() -> None:
    found = columns([0.9, 0.5], numbers={"lr": [0.001, 0.00101]})
    (one,) = slices.view(asked(found, space=SPACE, direction="maximize"))["slices"]
    assert one["best"]["value"] == [0.9]


def test_numeric_choices_stand_in_the_order_of_numbers() -> None:
    space = {"batch_size": {"type": "choice", "values": [128, 32, 64]}}
    found = columns([0.1, 0.2, 0.3], numbers={"batch_size": [32, 64, 128]})
    (axis,) = parallel.view(asked(found, space=space))["axes"]
    assert [label["text"] for label in axis["labels"]] == ["32", "64", "128"]
    assert [label["at"] for label in axis["labels"]] == pytest.approx([0, 1 / 3, 1], abs=1e-5)


def test_of_too_many_trials_the_best_that_the_filter_picks_are_drawn_and_a_share_of_the_rest() -> None:
    values = np.random.default_rng(0).permutation(10_000) / 10_000
    found = columns(values.tolist(), numbers={"lr": [0.1] * 10_000})
    worst = set(np.argsort(values)[:10].tolist())
    trials = drawn(asked(found, space=SPACE, without=sorted(worst)), 1000)
    assert len(trials) <= 1000
    best = [n for n in np.argsort(values).tolist() if n not in worst][:500]
    assert set(best) <= set(trials.tolist())


def test_a_study_without_trials_has_neither() -> None:
    assert parallel.view(asked(columns([]), space=SPACE))["axes"] == []
    assert slices.view(asked(columns([]), space=SPACE))["slices"] == []
