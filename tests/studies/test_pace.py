"""How much longer a study runs: arithmetic on trials that have ended."""

from __future__ import annotations

from typing import Any

import pytest
from tunesmith_studies.pace import Progress, seconds_left
from tunesmith_studies.study import StudySpec

GRID = {"kind": "coarse_grid", "name": "coarse", "epochs": 2, "axes": {"lr": 10}}
SEARCH = {"kind": "random", "name": "search", "epochs": 20, "trials": 6}
CHECK = {"kind": "preflight", "name": "check"}


def spec(*stages: dict[str, Any], **more: Any) -> StudySpec:
    space = {"lr": {"low": 0.01, "high": 1.0, "log": True}}
    return StudySpec.model_validate({"name": "s", "task": "t", "space": space, "stages": list(stages)} | more)


def test_what_is_left_of_a_stage_takes_as_long_as_what_has_ended():
    four = Progress(ended=4, waiting=2, took=(10.0, 14.0))
    assert seconds_left(spec(GRID), {"coarse": four}, 1) == pytest.approx(6 * 12)
    assert seconds_left(spec(GRID), {"coarse": four}, 3) == pytest.approx(2 * 12)


def test_a_later_stage_takes_what_its_epochs_ask_for_at_the_same_pace():
    half = Progress(ended=5, took=(12.0,))  # 6 s an epoch
    left = seconds_left(spec(GRID, SEARCH), {"coarse": half, "search": Progress()}, 1)
    assert left == pytest.approx(5 * 12 + 6 * 20 * 6)
    part = SEARCH | {"data_fraction": 0.5}
    left = seconds_left(spec(GRID, part), {"coarse": half, "search": Progress()}, 1)
    assert left == pytest.approx(5 * 12 + 6 * 10 * 6)


def test_preflights_forecast_weighs_stages_and_serves_alone_until_a_trial_has_ended():
    stages = {
        "check": Progress(ended=1, is_over=True),
        "coarse": Progress(forecast=50.0),
        "search": Progress(forecast=600.0),
    }
    study = spec(CHECK, GRID, SEARCH)
    assert seconds_left(study, stages, 1) == pytest.approx(650)
    twice_as_slow = stages | {"coarse": Progress(ended=10, is_over=True, took=(10.0,) * 10, forecast=50.0)}
    assert seconds_left(study, twice_as_slow, 2) == pytest.approx(3 * 200)


def test_the_last_trials_set_the_end_however_many_slots_there_are():
    running = Progress(ended=9, running=1, took=(8.0,))
    assert seconds_left(spec(GRID), {"coarse": running}, 5) == pytest.approx(4)
    waiting = Progress(ended=9, waiting=1, took=(8.0,))
    assert seconds_left(spec(GRID), {"coarse": waiting}, 5) == pytest.approx(8)


def test_trials_past_the_limit_are_not_waited_for():
    half = Progress(ended=5, took=(12.0,))
    study = spec(GRID, SEARCH, limits={"max_trials": 7})
    assert seconds_left(study, {"coarse": half, "search": Progress()}, 1) == pytest.approx(2 * 12)


def test_trials_by_hand_count_beyond_what_a_stage_plans():
    more = Progress(ended=10, waiting=4, took=(3.0,))
    assert seconds_left(spec(GRID), {"coarse": more}, 1) == pytest.approx(12)


@pytest.mark.parametrize(
    ("stages", "at_once"),
    [({"coarse": Progress(ended=4, took=(1.0,))}, 0), ({"coarse": Progress(running=3)}, 3)],
    ids=["no slot works for it", "none has ended"],
)
def test_nothing_is_said_where_nothing_tells(stages: dict[str, Progress], at_once: int):
    assert seconds_left(spec(GRID), stages, at_once) is None


def test_a_study_whose_stages_are_over_has_nothing_left():
    assert seconds_left(spec(GRID), {"coarse": Progress(ended=10, is_over=True, took=(1.0,))}, 1) == 0
