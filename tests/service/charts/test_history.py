"""The history: every objective, the best so far, and what lies along the axis."""

from __future__ import annotations

import numpy as np
import pytest
from tunesmith_service.charts import history
from tunesmith_service.charts.asked import thinned

from .hand_made import asked, columns


def test_the_best_so_far_goes_down_where_a_trial_is_better_and_diverged_ones_have_no_value() -> None:
    seen = history.view(asked(columns([0.9, None, 0.5, 0.7, 0.4], stage=[0, 0, 0, 1, 1])))
    assert (seen["number"], seen["value"]) == ([0, 2, 3, 4], [0.9, 0.5, 0.7, 0.4])
    assert seen["best"] == {"number": [0, 2, 4], "at": [0, 2, 4], "value": [0.9, 0.5, 0.4]}
    assert seen["infeasible"]["number"] == [1]
    assert seen["bands"] == [{"stage": "coarse", "from": 0, "to": 2}, {"stage": "refine", "from": 3, "to": 4}]


def test_where_more_is_better_the_best_so_far_goes_up() -> None:
    seen = history.view(asked(columns([0.1, 0.3, 0.2]), direction="maximize"))
    assert seen["best"]["number"] == [0, 1]


def test_over_time_trials_stand_where_they_ended_and_over_slot_hours_after_what_was_spent() -> None:
    found = columns([0.9, 0.5, 0.7], seconds=[(10, 7210), (10, 3610), None], state=["complete"] * 3)
    by_time = history.view(asked(found, x="time"))
    assert (by_time["number"], by_time["at"]) == ([1, 0], [3600, 7200])
    by_hours = history.view(asked(found, x="gpu_hours"))
    assert (by_hours["number"], by_hours["at"]) == ([1, 0], [1, 3])


def test_what_the_filter_leaves_out_is_no_part_of_it() -> None:
    seen = history.view(asked(columns([0.9, 0.1, 0.5, None]), without=[1, 3]))
    assert (seen["number"], seen["best"]["number"], seen["infeasible"]["number"]) == ([0, 2], [0, 2], [])


def test_trials_that_measure_are_no_part_of_it() -> None:
    assert history.view(asked(columns([0.9, 0.5], trains=[False, True])))["number"] == [1]


def test_a_study_without_trials_has_an_empty_history() -> None:
    seen = history.view(asked(columns([]), x="gpu_hours"))
    assert (seen["number"], seen["best"]["number"], seen["range"]) == ([], [], None)


@pytest.mark.parametrize("size", [10, 2000, 2001, 54_321])
def test_thinning_keeps_every_buckets_extremes_and_the_order(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    kept = thinned(np.arange(size, dtype=float), 2000, values)
    assert len(kept) <= 2000
    assert (np.diff(kept) > 0).all()
    assert values[kept].min() == values.min()
    assert values[kept].max() == values.max()
