"""What a value costs, and which trials no other beats in both."""

from __future__ import annotations

from tunesmith_service.charts import pareto

from .hand_made import asked, columns


def test_the_front_gets_better_as_it_gets_dearer_and_nobody_beats_it_in_both() -> None:
    found = columns([0.9, 0.5, 0.6, 0.4, 0.5], seconds=[(0, 1), (0, 4), (0, 5), (0, 9), (0, 4)])
    view = pareto.view(asked(found))
    front = view["front"]
    assert (front["number"], front["seconds"], front["value"]) == ([0, 1, 3], [1, 4, 9], [0.9, 0.5, 0.4])
    assert (view["shown"], view["total"]) == (5, 5)
    up = pareto.view(asked(found, direction="maximize"))["front"]
    assert up["number"] == [0]


def test_a_trial_that_goes_on_from_anothers_snapshot_cost_what_that_took_too() -> None:
    found = columns([0.9, 0.8, 0.7], seconds=[(0, 10), (10, 13), (13, 18)], start=[-1, 0, 1])
    assert pareto.costs(found).tolist() == [10, 13, 18]
    assert pareto.view(asked(found))["front"]["seconds"] == [10, 13, 18]


def test_what_has_no_value_or_no_end_is_left_out() -> None:
    found = columns([0.9, None, 0.7], seconds=[(0, 10), (0, 2), None])
    view = pareto.view(asked(found))
    assert view["number"] == [0]
    nothing = pareto.view(asked(columns([None])))
    assert (nothing["number"], nothing["front"]["number"], nothing["range"]) == ([], [], None)


def test_of_very_many_there_are_no_more_marks_than_asked_for_with_both_ends_of_the_front() -> None:
    n = 3000
    found = columns([1 - i / n for i in range(n)], seconds=[(0, i + 1) for i in range(n)])
    view = pareto.view(asked(found, points=100))
    front = view["front"]["number"]
    assert view["shown"] + len(front) <= 100
    assert (front[0], front[-1]) == (0, n - 1)
