"""What a range test's losses say, and how a rate follows the batch."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunesmith_studies.rates import (
    Reading,
    Suggestion,
    Sweep,
    agreed,
    batch_factor,
    read,
    smoothed,
)

SGD, ADAM = {"optimizer": "momentum"}, {"optimizer": "adam"}


def valley(begin: float, bottom: float) -> Callable[[float], float]:
    """A loss of 2.3 that falls to 0.3 between two rates, evenly on the log axis, and then blows up."""

    def loss(rate: float) -> float:
        if rate <= bottom:
            share = math.log(rate / begin) / math.log(bottom / begin)
            return 2.3 - 2.0 * min(max(share, 0.0), 1.0)
        return 0.3 * (rate / bottom) ** 3

    return loss


def sweep(
    loss: Callable[[float], float],
    *,
    points: int = 300,
    noise: float = 0.05,
    seed: int = 0,
    low: float = 1e-5,
) -> Sweep:
    """As a worker reports it: ends where the loss has broken away."""
    rng = random.Random(seed)
    rates = [low * (10 / low) ** (i / (points - 1)) for i in range(points)]
    losses: list[float] = []
    for rate in rates:
        losses.append(loss(rate) + rng.gauss(0, noise))
        if loss(rate) > 4 * loss(low):
            break
    return Sweep(rates[: len(losses)], losses)


def suggestion(losses: Sweep) -> Reading:
    found = read(losses)
    assert isinstance(found, Reading), found
    return found


@pytest.mark.parametrize("points", [60, 100, 300, 1000])
def test_the_suggestion_is_the_middle_of_where_the_loss_falls(points: int) -> None:
    for seed in range(5):
        found = suggestion(sweep(valley(1e-3, 1e-1), points=points, seed=seed))
        # A fifth of the fall is done at 0.0025, so the middle is 0.0158. Where the loss blows up as steeply
        # as here, smoothing moves the bottom to the left, which is the side to err on.
        assert 0.007 < found.lr < 0.0158
        assert 0.04 < found.turn_up < 0.1


@given(shift=st.floats(-1, 1), scale=st.floats(0.1, 10))
def test_the_suggestion_moves_with_the_curve_and_not_with_the_loss_s_unit(shift: float, scale: float) -> None:
    """On the log axis: rates are compared by ratio alone."""
    factor = 10**shift
    one = suggestion(sweep(valley(1e-3, 1e-1), noise=0.0))
    other = suggestion(sweep(lambda r: scale * valley(1e-3 * factor, 1e-1 * factor)(r), noise=0.0))
    assert math.log10(other.lr / one.lr) == pytest.approx(shift, abs=0.1)


def test_a_slow_fall_at_rates_too_small_to_learn_is_no_part_of_the_valley() -> None:
    def crawling(rate: float) -> float:
        return valley(1e-2, 1e-1)(rate) - 0.01 * math.log10(rate / 1e-5)

    alone = suggestion(sweep(valley(1e-2, 1e-1), noise=0.0)).lr
    assert suggestion(sweep(crawling, noise=0.0)).lr == pytest.approx(alone, rel=0.1)


def test_how_far_a_loss_blows_up_changes_nothing() -> None:
    mild = sweep(valley(1e-3, 1e-1))
    wild = Sweep(mild.rates, [loss if loss < 4 else 1e30 for loss in mild.losses])
    assert suggestion(wild).lr == pytest.approx(suggestion(mild).lr, rel=0.1)


def test_the_steepest_place_lies_within_the_valley_and_not_in_the_noise_before_it() -> None:
    def two_slopes(rate: float) -> float:
        return valley(1e-3, 1e-1)(rate) + valley(1e-2, 3e-2)(rate)

    for seed in range(5):
        found = suggestion(sweep(two_slopes, seed=seed))
        assert found.begun < found.steepest < found.turn_up
        assert 0.01 < found.steepest < 0.03
        assert found.lr == pytest.approx(math.sqrt(found.begun * found.turn_up))


def test_what_follows_a_loss_that_is_not_finite_is_cut_off() -> None:
    whole = sweep(valley(1e-3, 1e-1))
    until = Sweep(whole.rates, [*whole.losses[:-3], math.nan, -5.0, math.inf])
    assert suggestion(until) == suggestion(Sweep(whole.rates[:-3], whole.losses[:-3]))


def test_noise_is_not_taken_for_a_fall() -> None:
    for seed in range(40):
        found = read(sweep(lambda rate: 2.3, noise=0.3, seed=seed))
        assert isinstance(found, str), f"seed {seed}"
        assert found.startswith("the loss never fell: from 2.")


def test_a_small_fall_counts_if_the_noise_is_smaller() -> None:
    def binary_and_hard(rate: float) -> float:
        return 0.69 + 0.01 * valley(1e-3, 1e-1)(rate)

    assert isinstance(read(sweep(binary_and_hard, noise=0.002)), Reading)


def test_a_loss_that_breaks_away_at_once_suggests_nothing() -> None:
    assert read(Sweep([1e-5, 2e-5, 4e-5], [2.3, 80.0, math.inf])) == (
        "the loss broke away at once, at a rate of 4e-05"
    )


def test_smoothing_is_symmetric_and_keeps_a_straight_line() -> None:
    rates = [10 ** (i / 50) for i in range(200)]
    line, _ = smoothed(rates, [float(i) for i in range(200)])
    assert line[61:139] == pytest.approx([float(i) for i in range(61, 139)], rel=1e-4)
    peak, _ = smoothed(rates, [1.0 if i == 100 else 0.0 for i in range(200)])
    assert peak[80] == pytest.approx(peak[120], rel=1e-4)
    assert max(peak) == peak[100]


def test_seeds_agree_by_their_geometric_mean_and_show_their_spread() -> None:
    readings = [Reading(lr, 10 * lr, lr / 10, lr) for lr in (0.01, 0.04)]
    found = agreed(readings, SGD, {"batch_size": 32})
    assert found == Suggestion(
        given=SGD, lr=0.02, low=0.01, high=0.1, max=0.2, spread=4.0, seeds=2, at={"batch_size": 32}
    )
    assert Suggestion.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_rate_follows_the_batch_linearly_for_sgd_and_by_the_root_for_adam() -> None:
    small, large = {"batch_size": 32}, {"batch_size": 128}
    assert batch_factor(SGD | small, SGD | large) == 4
    assert batch_factor(ADAM | small, ADAM | large) == 2
    assert batch_factor(ADAM | small, ADAM | large, "linear") == 4
    assert batch_factor(SGD | small, SGD | large, "sqrt") == 2
    assert batch_factor(SGD | small, SGD | large, "none") == 1
    assert batch_factor(large, small) == 0.25  # without an optimizer it is the trainer's, sgd
    assert batch_factor(SGD, SGD | {"batch_size": 16, "accumulation": 4}) == 2  # 32 and 1 by default
