"""The study's curves: which trials get a line, and what stands behind them."""

from __future__ import annotations

from typing import Any

import pytest
from tunesmith_service.charts import curves
from tunesmith_studies.trial import Point

from .hand_made import asked, columns


class Row:
    """What the view reads of a trial."""

    def __init__(self, number: int, state: str, points: list[Point]) -> None:
        self.id = self.number = number
        self.state, self.stop_reason = state, "pruned" if state == "pruned" else None
        self.stage, self.work, self.step = "coarse", {"epochs": 3, "seed": 0}, len(points)
        self.last_metrics = points[-1].metrics if points else None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A view of trials by (state, values of val/loss by epoch); train/loss is a tenth lower."""

    def view(trials: list[tuple[str, list[float]]], **query: Any) -> dict[str, Any]:
        points = [
            [
                Point(i + 1, {"val/loss": v, "train/loss": v - 0.1, "sys/lr": 1.0})
                for i, v in enumerate(values)
            ]
            for _, values in trials
        ]
        rows = [Row(n, state, points[n]) for n, (state, _) in enumerate(trials)]
        monkeypatch.setattr(curves.trial_store, "numbered", lambda _c, _s, ns: [rows[n] for n in ns])
        monkeypatch.setattr(curves.reading, "curves", lambda _c, ids: {i: points[i] for i in ids})
        value = [values[-1] if state == "complete" else None for state, values in trials]
        states = [state for state, _ in trials]
        reasons = ["pruned" if s == "pruned" else "" for s in states]
        return curves.view(asked(columns(value, state=states, reason=reasons), **query))

    return view


SOME = [("complete", [0.9, 0.5]), ("pruned", [1.0]), ("complete", [0.8, 0.3]), ("running", [0.7])]


def test_the_best_come_first_then_what_runs_then_what_was_pruned_where_it_ended(seen: Any) -> None:
    view = seen(SOME, train=False)
    drawn = [(c["number"], c["rank"], c["at"], c["value"], c["pruned_at"]) for c in view["curves"]]
    assert drawn == [
        (2, 0, [1, 2], [0.8, 0.3], None),
        (0, 1, [1, 2], [0.9, 0.5], None),
        (3, None, [1], [0.7], None),
        (1, None, [1], [1.0], 1),
    ]
    assert view["said"] == "Lines: 2 best; 1 running; 1 pruned, faded."
    assert (view["metrics"], view["shown"], view["total"], view["band"]) == (
        ["val/loss", "train/loss"], 4, 4, None,
    )  # fmt: skip


def test_training_stands_behind_validation_of_all_but_the_pruned(seen: Any) -> None:
    splits = [(c["number"], c["split"]) for c in seen(SOME, top=1)["curves"]]
    assert splits == [(2, "val"), (2, "train"), (3, "val"), (3, "train"), (1, "val")]


def test_the_filter_and_the_direction_choose_who_is_best(seen: Any) -> None:
    assert [c["number"] for c in seen(SOME, train=False, without=[2, 3])["curves"]] == [0, 1]
    assert seen(SOME, train=False, direction="maximize")["curves"][0]["number"] == 0


def test_of_more_than_fifty_the_best_ten_stand_before_the_middle_half_and_the_median(seen: Any) -> None:
    view = seen([("complete", [float(i), float(i)]) for i in range(61)], top=0, train=False)
    assert [c["number"] for c in view["curves"]] == list(range(10))
    assert view["band"] == {
        "at": [1, 2], "low": [15.0, 15.0], "median": [30.0, 30.0], "high": [45.0, 45.0], "trials": 61,
    }  # fmt: skip
    few = seen([("complete", [float(i)]) for i in range(50)], top=0, train=False)
    assert (len(few["curves"]), few["band"]) == (50, None)


def test_pruned_ones_do_not_set_the_axis(seen: Any) -> None:
    assert seen([*SOME, ("pruned", [50.0])], train=False)["range"] == (0.3, 0.9)
