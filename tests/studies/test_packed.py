"""A packed curve is the curve."""

from __future__ import annotations

import math

import pytest
from tunesmith_studies.log import Entry, StudyLog
from tunesmith_studies.packed import PackedCurve, packed
from tunesmith_studies.trial import Point

CURVE = tuple(Point(step, {"val/loss": 1 / step, "train/loss": 0.5 / step}) for step in range(1, 6))


def test_a_packed_curve_has_the_points_that_went_in() -> None:
    curve = packed(CURVE)
    assert isinstance(curve, PackedCurve)
    assert list(curve) == list(CURVE)
    assert curve == CURVE
    assert (curve[-1], curve[:2], curve[::-1]) == (CURVE[-1], CURVE[:2], CURVE[::-1])
    assert list(curve[0].metrics) == ["val/loss", "train/loss"]  # in the order of the report
    with pytest.raises(IndexError):
        curve[5]


def test_what_is_not_finite_survives() -> None:
    odd = (Point(1, {"val/loss": math.inf}), Point(2, {"val/loss": math.nan}))
    first, second = packed(odd)
    assert first.metrics["val/loss"] == math.inf
    assert math.isnan(second.metrics["val/loss"])


def test_a_curve_whose_points_differ_in_their_metrics_stays_as_it_is() -> None:
    mixed = (*CURVE, Point(6, {"val/loss": 0.1}))
    assert packed(mixed) is mixed
    assert packed(()) == ()


def test_a_trial_that_has_ended_keeps_its_curve_packed() -> None:
    log = StudyLog({"name": "s", "task": "t", "space": {"lr": {"low": 0.1, "high": 1.0}},
                    "stages": [{"kind": "random", "name": "random", "epochs": 5, "trials": 2}]})  # fmt: skip
    points = [{"step": p.step, "metrics": dict(p.metrics)} for p in CURVE]
    told = [
        ("stage", None, {"state": "active"}),
        ("planned", 0, {"key": "a", "ordinal": 0, "params": {"lr": 0.1}, "work": {"epochs": 5, "seed": 1}}),
        ("moved", 0, {"from": "waiting", "to": "running", "attempt": 1}),
        ("reported", 0, {"attempt": 1, "seq": 1, "points": points}),
        ("moved", 0, {"from": "running", "to": "complete", "stop_reason": "budget", "value": 0.2}),
    ]
    for n, (kind, trial, data) in enumerate(told, 1):
        log.apply(Entry(n, kind, trial, "random", data))
    trial = log.trial(0)
    assert isinstance(trial.curve, PackedCurve)
    assert trial.metric("val/loss") == [(p.step, p.metrics["val/loss"]) for p in CURVE]
    assert trial.epochs_run == 5
