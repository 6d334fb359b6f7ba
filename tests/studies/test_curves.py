"""Curves: what a trial's objective is, and when a curve has plateaued."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from tunesmith_studies.curves import epochs_since_best, objective_value, plateaued, smoothed
from tunesmith_studies.study import Objective
from tunesmith_studies.trial import Point


def curve(*values: float) -> list[Point]:
    return [Point(i, {"val/loss": v}) for i, v in enumerate(values, start=1)]


def test_the_objective_is_the_last_the_best_or_the_mean_of_the_last_values() -> None:
    points = [*curve(3.0, 1.0, 2.0), Point(4, {"train/loss": 9.0})]
    assert objective_value(points, Objective()) == 2.0
    assert objective_value(points, Objective(reduce="best")) == 1.0
    assert objective_value(points, Objective(reduce="best", direction="maximize")) == 3.0
    assert objective_value(points, Objective(reduce="mean", k=2)) == 1.5
    assert objective_value(points, Objective(reduce="mean", k=9)) == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_decides_nothing(bad: float) -> None:
    assert objective_value(curve(1.0, bad), Objective()) is None
    assert objective_value(curve(1.0, bad), Objective(reduce="mean")) is None
    assert objective_value(curve(1.0, bad), Objective(reduce="best")) == 1.0
    assert objective_value(curve(bad), Objective(reduce="best")) is None
    assert objective_value([], Objective()) is None
    assert objective_value(curve(1.0), Objective(metric="val/accuracy")) is None


def test_smoothing_averages_neighbours() -> None:
    assert smoothed([1, 2, 3, 6], 3) == [2, 11 / 3]
    assert smoothed([1, 2], 3) == []
    with pytest.raises(ValueError, match="at least one value, got 0"):
        smoothed([1], 0)


def test_a_plateau_needs_five_means_of_five_without_one_percent() -> None:
    assert not plateaued([1.0] * 9)
    assert plateaued([1.0] * 10)
    slow = [0.999**i for i in range(40)]  # 0.1 % an epoch: 0.5 % in five
    quick = [0.99**i for i in range(40)]
    assert plateaued(slow)
    assert not plateaued(quick)


def test_a_plateau_is_told_the_same_upside_down_and_never_over_a_nan() -> None:
    falling = [1 / (1 + i) + 0.3 for i in range(60)]
    first = next(n for n in range(60) if plateaued(falling[:n]))
    assert first == next(n for n in range(60) if plateaued([-v for v in falling[:n]], "maximize"))
    assert not plateaued([*falling[:first], math.nan])


def test_epochs_since_the_best_ignore_tiny_gains() -> None:
    assert epochs_since_best([3, 2, 2, 2 - 1e-6]) == 2
    assert epochs_since_best([1, 2, 3], "maximize") == 0
    assert epochs_since_best([math.nan, math.nan]) == 2


def test_curves_and_vocabulary_come_without_optuna_and_numpy() -> None:
    code = (
        "import sys, tunesmith_studies.curves, tunesmith_studies.vocabulary, tunesmith_studies.trial\n"
        "print([m for m in ('optuna', 'numpy', 'scipy', 'torch', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_study_is_read_without_importing_optuna() -> None:
    code = "import sys, tunesmith_studies.study, tunesmith_studies.log\nprint('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
