"""Where a stage's trials lie and what put them there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from contracts import Runner
from tunesmith_studies.grounds import Grounds
from tunesmith_studies.planning import History
from tunesmith_studies.study import StudySpec

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-1, "log": True, "zero": True},
}
COARSE = {
    "kind": "coarse_grid", "name": "coarse", "epochs": 2,
    "axes": {"lr": [0.001, 0.01, 0.1], "weight_decay": [0, 1e-4, 1e-3, 1e-2]},
}  # fmt: skip
REFINE = {"kind": "refine_grid", "name": "refine", "epochs": 4, "top": 2}


def study(*stages: dict[str, Any], **more: Any) -> StudySpec:
    data = {"name": "s", "task": "t", "space": SPACE, "stages": list(stages)}
    return StudySpec.model_validate(data | more)


def before(runner: Runner, stage: str) -> History:
    """What the stage knew before its first trial: of its source no more than the ranked trials."""
    history = runner.log.history(stage)
    earlier = {
        name: replace(e, trials=e.best(runner.log.stage(stage).around)) for name, e in history.earlier.items()
    }
    return replace(history, trials=(), earlier=earlier)


def test_a_refined_grid_tells_the_cells_it_lies_around_and_its_ranges_are_those_of_its_trials():
    runner = Runner(study(COARSE, REFINE))
    ranked = runner.run("coarse").result.ranking
    result = runner.run("refine").result
    told = Grounds.from_json(result.chosen["grounds"])
    assert (told.source, told.trials) == ("coarse", (ranked[0].trial, ranked[1].trial))
    for name, ends in told.ranges.items():
        tried = [t.params[name] for t in runner.log.trials("refine")]
        assert ends == (min(tried), max(tried))
    assert set(told.ranges) == {"lr", "weight_decay"}
    assert told.steps == {"lr": "0.5 decades", "weight_decay": "0.5 decades"}
    assert f"around trials {ranked[0].trial} and {ranked[1].trial} of coarse" in told.shown()


def test_a_refined_grid_tells_the_same_before_its_first_trial():
    runner = Runner(study(COARSE, REFINE))
    runner.run("coarse")
    runner.activate("refine")
    early = runner.log.stage("refine").grounds(before(runner, "refine"))
    assert early is not None
    assert early.to_json() == runner.run("refine").result.chosen["grounds"]


def test_later_rounds_widen_what_was_tried():
    runner = Runner(study(COARSE, REFINE | {"rounds": 3, "top": 1}))
    runner.run("coarse")
    told = Grounds.from_json(runner.run("refine").result.chosen["grounds"])
    for name, ends in told.ranges.items():
        tried = [t.params[name] for t in runner.log.trials("refine")]
        assert ends == (min(tried), max(tried))


def test_what_a_refined_grid_holds_is_no_range_of_it():
    runner = Runner(study(COARSE, REFINE | {"axes": ["lr"]}))
    runner.run("coarse")
    assert set(runner.run("refine").result.chosen["grounds"]["ranges"]) == {"lr"}


def test_nothing_is_told_before_the_source_has_ended():
    runner = Runner(study(COARSE, REFINE))
    assert runner.log.stage("refine").grounds(runner.log.history("refine")) is None


@pytest.mark.parametrize(
    ("stage", "ranges"),
    [
        (COARSE, {"lr": (0.001, 0.1), "weight_decay": (0, 1e-2)}),
        ({"kind": "random", "trials": 3, "epochs": 1}, {"lr": (1e-4, 1.0), "weight_decay": (0, 1e-1)}),
        ({"kind": "random", "trials": 3, "epochs": 1, "fixed": {"lr": 0.1}}, {"weight_decay": (0, 1e-1)}),
        ({"kind": "lr_range_test", "lr_low": 1e-5, "lr_high": 10.0}, {"lr": (1e-5, 10.0)}),
    ],
    ids=["coarse grid", "random", "random, one held", "range test"],
)
def test_a_stage_that_stands_on_no_other_tells_its_own_ranges(stage: dict[str, Any], ranges: dict[str, Any]):
    spec = study(stage)
    told = spec.stages[0].grounds(History(spec))
    assert told is not None
    assert (dict(told.ranges), told.source, told.trials) == (ranges, None, ())
