"""Means, intervals and paired comparisons against their textbook values."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from scipy import stats
from tunesmith_studies.statistics import Paired, interval, paired, spread


def test_a_spread_is_the_mean_and_the_deviation_of_n_less_one() -> None:
    values = [0.1, 0.3, 0.2, 0.6]
    found = spread(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.sd == pytest.approx(statistics.stdev(values))
    assert found.error == pytest.approx(statistics.stdev(values) / 2)
    assert math.isnan(spread([1.0]).sd)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_a_mean_of_nothing_or_of_what_is_not_finite_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value and finite ones only"):
        spread(values)


def test_a_confidence_interval_is_that_of_scipy() -> None:
    values = [0.081, 0.092, 0.088, 0.085, 0.09]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((theirs.low, theirs.high))


def test_an_interval_for_the_mean_of_more_seeds_is_wider_and_holds_it_as_often_as_it_says() -> None:
    values = [0.081, 0.092, 0.088, 0.085, 0.09]
    low, high = interval(values)
    wide_low, wide_high = interval(values, ahead=10)
    assert (wide_high - wide_low) / (high - low) == pytest.approx(math.sqrt(1.5))
    rng = random.Random(0)
    held = narrow = 0
    for _ in range(2000):
        seen = [rng.gauss(1, 0.1) for _ in range(5)]
        mean = statistics.fmean(rng.gauss(1, 0.1) for _ in range(10))
        low, high = interval(seen, ahead=10)
        held += low <= mean <= high
        low, high = interval(seen)
        narrow += low <= mean <= high
    assert held / 2000 == pytest.approx(0.95, abs=0.015)
    assert narrow / 2000 < 0.93


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least two values, got 1"):
        interval([0.1])


def test_pairs_are_compared_over_what_both_have_run() -> None:
    found = paired({0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0}, {0: 0.9, 1: 1.8, 2: 2.7, 8: 0.0})
    assert found.n == 3
    assert found.difference == pytest.approx(0.2)
    theirs = stats.ttest_rel([1.0, 2.0, 3.0], [0.9, 1.8, 2.7])
    assert found.errors == pytest.approx(theirs.statistic)
    assert not found.is_tie


@pytest.mark.parametrize(
    ("found", "tie"),
    [
        (Paired(0.2, 0.1, 2), True),  # two pairs tell nothing
        (Paired(0.2, 0.1, 3), False),
        (Paired(-0.2, 0.1, 3), False),
        (Paired(0.1, 0.1, 3), True),
        (Paired(0.0, 0.0, 3), True),
        (Paired(0.1, 0.0, 3), False),
    ],
)
def test_fewer_than_three_pairs_or_two_standard_errors_are_a_tie(found: Paired, tie: bool) -> None:
    assert found.is_tie is tie
