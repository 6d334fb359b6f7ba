import math

from hypothesis import given, settings
from hypothesis import strategies as st
from tunesmith_service.charts.curves import by_epoch, line_of
from tunesmith_service.ui.curves import decimate, robust_range
from tunesmith_studies.trial import Point
from ui.test_views import trial

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=60)
@given(values=st.lists(finite, min_size=1, max_size=300), most=st.integers(4, 60))
def test_a_decimated_curve_is_short_ordered_and_keeps_ends_and_extremes(values, most):
    points = list(enumerate(values))
    kept = decimate(points, most)
    assert len(kept) <= max(most, 4)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert min(v for _, v in kept) == min(values)
    assert max(v for _, v in kept) == max(values)


def test_a_runaway_value_does_not_set_the_axis():
    values = [0.5 + 0.001 * i for i in range(100)]
    bounds = robust_range([*values, 1e9])
    assert bounds is not None
    assert bounds[0] == 0.5
    assert bounds[1] < 1


def test_one_value_still_has_an_axis():
    assert robust_range([2.0]) == (1.9, 2.1)
    assert robust_range([0.0]) == (-1.0, 1.0)
    assert robust_range([]) is None


def test_what_was_not_finite_is_marked_and_drawn_nowhere():
    line = line_of([(1, 0.9), (2, math.inf), (3, math.nan)])
    assert line == {"at": [1], "value": [0.9], "lost": [2, 3]}


def test_a_trial_that_counts_steps_is_drawn_over_its_epochs_beside_others():
    points = [Point(20, {"val/loss": 1.0, "sys/epoch": 0.5}), Point(40, {"val/loss": 0.9, "sys/epoch": 1.0})]
    counted = {"epochs": 2, "seed": 0, "steps": 80}
    assert by_epoch(trial(work=counted), points, "val/loss") == [(0.5, 1.0), (1.0, 0.9)]
    assert by_epoch(trial(), points, "val/loss") == [(20, 1.0), (40, 0.9)]
