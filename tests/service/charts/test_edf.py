"""The share of trials that came out at least so good."""

from __future__ import annotations

import pytest
from tunesmith_service.charts import edf

from .hand_made import asked, columns


def test_shares_are_of_all_that_ended_and_a_line_a_stage() -> None:
    found = columns([0.5, None, 0.3, 0.4, 0.9], stage=[0, 0, 0, 0, 1])
    view = edf.view(asked(found))
    assert [(one["name"], one["at"], one["share"]) for one in view["lines"]] == [
        ("coarse", [0.3, 0.4, 0.5], [0.25, 0.5, 0.75]),
        ("refine", [0.9], [1.0]),
    ]
    assert [(one["n"], one["ended"]) for one in view["lines"]] == [(3, 4), (1, 1)]


def test_where_more_is_better_the_best_is_the_highest() -> None:
    view = edf.view(asked(columns([0.5, 0.7]), direction="maximize"))
    assert (view["lines"][0]["at"], view["lines"][0]["share"]) == ([0.7, 0.5], [0.5, 1.0])


def test_failed_and_running_trials_say_nothing_and_a_stage_without_values_has_no_line() -> None:
    found = columns(
        [0.5, None, None], state=["complete", "failed", "running"], reason=["budget", "error", ""]
    )
    assert edf.view(asked(found))["lines"][0]["share"] == [1.0]
    lost = columns([None, None])
    assert edf.view(asked(lost)) == {
        "metric": "val/loss", "direction": "minimize", "lines": [], "range": None, "shown": 0,
    }  # fmt: skip


def test_of_very_many_the_kept_places_are_exact_with_the_best_and_the_worst() -> None:
    found = columns([i / 10_000 for i in range(10_000)])
    line = edf.view(asked(found, points=100))["lines"][0]
    assert len(line["at"]) == 50
    assert (line["at"][0], line["at"][-1], line["share"][-1]) == (0.0, 0.9999, 1.0)
    assert line["share"] == pytest.approx([(at * 10_000 + 1) / 10_000 for at in line["at"]])
