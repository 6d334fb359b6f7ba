"""The log's fold: what planning reads, and how fast."""

from __future__ import annotations

import time
from typing import Any

import pytest
from contracts import Runner
from tunesmith_studies.log import Entry, StudyLog
from tunesmith_studies.planning import Proposal, Proposals
from tunesmith_studies.stages import Random
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import StageState, TrialState, Work


def study(trials: int = 10) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "s", "task": "digits", "space": {"lr": {"low": 1e-3, "high": 1.0, "log": True}},
            "stages": [{"kind": "sampler", "epochs": 4, "trials": trials}],
        }
    )  # fmt: skip


def proposal(i: int) -> Proposal:
    return Proposal(f"point:{i}", i, {"lr": 0.1}, Work(epochs=4, seed=0))


def test_a_gap_in_the_log_is_refused() -> None:
    with pytest.raises(ValueError, match="event 3 does not follow event 0"):
        StudyLog(study().to_json()).apply(Entry(3, "study", None, None, {"state": "active"}))


def test_a_resumed_attempt_throws_away_the_points_after_its_snapshot() -> None:
    runner = Runner(study())
    number = runner.queue("sampler", proposal(0))
    runner.start(number)
    for step in (1, 2, 3):
        runner.put(
            "reported", trial=number, attempt=1, seq=step, points=[{"step": step, "metrics": {"m": step}}]
        )
        if step == 2:
            runner.put("snapshot", trial=number, step=2, attempt=1)
    runner.put("moved", trial=number, to="waiting", attempt=1, cause="expired")
    assert [p.step for p in runner.log.trial(number).curve] == [1, 2, 3]
    runner.put("moved", trial=number, to="running", attempt=2, resume_step=2)
    assert [p.step for p in runner.log.trial(number).curve] == [1, 2]
    runner.put("moved", trial=number, to="waiting", attempt=2, cause="expired")
    runner.put("moved", trial=number, to="running", attempt=3)
    assert runner.log.trial(number).curve == ()
    assert runner.log.trial(number).snapshots == (2,)


def test_numbers_that_are_not_finite_come_back_as_such() -> None:
    runner = Runner(study())
    number = runner.queue("sampler", proposal(0))
    runner.start(number)
    points = [{"step": 1, "metrics": {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1}}]
    runner.put("reported", trial=number, attempt=1, seq=1, points=points)
    metrics = runner.log.trial(number).curve[0].metrics
    assert metrics["a"] != metrics["a"]
    assert (metrics["b"], metrics["c"], metrics["d"]) == (float("inf"), float("-inf"), 1.0)


def test_a_draft_is_stale_once_a_trial_of_its_stage_ends_and_fresh_again_when_redrawn() -> None:
    runner = Runner(study())
    runner.activate("sampler")
    first = runner.queue("sampler", proposal(0), draft=True)
    second = runner.queue("sampler", proposal(1), draft=True)
    runner.start(first)
    assert runner.log.stale("sampler") == ()
    runner.end(first)
    assert [t.number for t in runner.log.stale("sampler")] == [second]
    assert [t.number for t in runner.log.history("sampler").trials] == [first]
    plan = runner.ask("sampler", 1)
    assert isinstance(plan, Proposals)
    assert plan.items[0].key == "point:1"
    runner.redraw(runner.log.trial(second), plan.items[0])
    assert runner.log.stale("sampler") == ()
    assert [t.number for t in runner.log.history("sampler").trials] == [first, second]


def test_a_stage_added_later_joins_at_the_end_and_is_planned() -> None:
    runner = Runner(study(trials=1))
    runner.run("sampler")
    added = Random(kind="random", name="more", epochs=4, trials=2)
    runner.put("stage", stage="more", state="pending", spec=added.model_dump(mode="json"))
    assert runner.log.stage_state("more") is StageState.PENDING
    assert runner.log.active_stages() == ()
    assert [s.name for s in runner.log.history("more").study.stages] == ["sampler", "more"]
    assert list(runner.log.history("more").earlier) == ["sampler"]
    done = runner.run("more")
    assert len(done.result.ranking) == 2


def test_running_trials_and_their_end_are_kept_apart_by_stage() -> None:
    runner = Runner(study())
    numbers = [runner.queue("sampler", proposal(i)) for i in range(3)]
    runner.start(numbers[1])
    assert [t.number for t in runner.log.running("sampler")] == [numbers[1]]
    runner.end(numbers[1])
    assert runner.log.running("sampler") == ()
    assert [t.state for t in runner.log.trials("sampler")] == [
        TrialState.WAITING, TrialState.COMPLETE, TrialState.WAITING,
    ]  # fmt: skip


def test_folding_an_entry_costs_the_same_after_ten_thousand_trials() -> None:
    """The planner folds every report of a study; a time that grew with the study would be quadratic."""
    log = StudyLog(study(trials=20_000).to_json())

    def add(first: int, count: int) -> float:
        began = time.process_time()
        for i in range(first, first + count):
            for entry in _life(log.at, i):
                log.apply(entry)
        return time.process_time() - began

    early = add(0, 500)
    add(500, 9_000)
    late = add(9_500, 500)
    assert len(log.history("sampler").trials) == 10_000
    assert late < 5 * early + 0.5


def _life(at: int, i: int) -> list[Entry]:
    work = Work(epochs=20, seed=0).to_json()
    events: list[tuple[Any, dict[str, Any]]] = [
        ("planned", {"key": f"point:{i}", "ordinal": i, "params": {"lr": 0.1}, "work": work, "draft": True}),
        ("moved", {"to": "running", "attempt": 1}),
        ("reported", {"points": [{"step": s, "metrics": {"val/loss": 1 / s}} for s in range(1, 21)]}),
        ("moved", {"to": "complete", "stop_reason": "budget", "value": 0.05}),
    ]
    return [Entry(at + k, kind, i, "sampler", data) for k, (kind, data) in enumerate(events, start=1)]
