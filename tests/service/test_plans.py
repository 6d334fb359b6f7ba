"""What the planner says arrives late or twice, and still counts once."""

from __future__ import annotations

from typing import Any

import pytest
from factories import WORK, Bench, stage
from tunesmith_service import commands as c
from tunesmith_service import event_log, store
from tunesmith_service.errors import Unprocessable

RESULT: dict[str, Any] = {
    "ranking": [{"trial": 0, "value": 0.5}],
    "why": "0.5 is best",
    "chosen": {},
    "numbers": {},
    "failed": False,
}
NOTHING = {**RESULT, "ranking": [], "why": "all 3 trials failed", "failed": True}


def proposals(study: int, *keys: str) -> list[c.Propose]:
    return [
        c.Propose(study, "random", key, i, {"lr": 0.1}, WORK, None, {}, 2, draft=False)
        for i, key in enumerate(keys)
    ]


def end(bench: Bench, study: int, name: str, result: dict[str, Any] = RESULT) -> bool:
    done = bench.do(c.EndStage(study, name, result, bench.event_n(study)))
    assert isinstance(done, bool)
    return done


def states(bench: Bench, study: int) -> list[str]:
    with bench.engine.connect() as conn:
        return [s.state for s in store.stages(conn, study)]


def test_a_key_is_proposed_once_and_burns_no_number_again(bench: Bench) -> None:
    study = bench.study()
    assert bench.batch(*proposals(study, "a", "b", "a")) == [0, 1, None]
    assert bench.batch(*proposals(study, "b", "c")) == [None, 2]
    assert bench.study_row(study).trial_n == 3


def test_one_key_may_stand_in_two_stages(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next")])
    assert bench.trial(study, key="a") == 0
    bench.finish(bench.claim(), "pruned", "diverged")
    end(bench, study, "random")
    assert bench.trial(study, key="a", stage="next") == 1


def test_max_trials_ends_the_proposals(bench: Bench) -> None:
    study = bench.study(limits={"max_trials": 2})
    assert bench.batch(*proposals(study, "a", "b", "c")) == [0, 1, None]
    assert bench.batch(*proposals(study, "d")) == [None]


def test_a_study_whose_trials_are_used_up_stops_once_the_last_has_ended(bench: Bench) -> None:
    study = bench.study(limits={"max_trials": 2})
    assert [bench.propose(study, key) for key in "abc"] == [0, 1, None]
    bench.finish(bench.claim(), "pruned", "diverged")
    assert bench.propose(study, "c") is None
    assert bench.study_row(study).state == "active", "one trial has still to end"
    seen = bench.event_n(study)
    bench.finish(bench.claim(), "pruned", "diverged")
    assert bench.propose(study, "c", planned_at=seen) is None
    assert bench.study_row(study).state == "active", "with the last trial its stage may be done"
    assert bench.propose(study, "c") is None
    assert bench.study_row(study).state == "stopped"
    assert bench.study_row(study).reason == "its 2 trials are used up"


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_an_ended_study_takes_no_proposals_and_a_paused_one_does(bench: Bench, state: str) -> None:
    study = bench.study()
    bench.do(c.MoveStudy(study, state, "test", "why"))
    assert bench.batch(*proposals(study, "a")) == [0 if state == "paused" else None]


def test_a_pending_stage_takes_no_proposals(bench: Bench) -> None:
    study = bench.study(stages=[stage("first"), stage()])
    assert bench.batch(*proposals(study, "a")) == [None]


def test_a_start_that_was_never_committed_is_refused(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    told = bench.propose(study, "branch", start={"trial": 0, "step": 3})
    assert isinstance(told, Unprocessable)
    assert "trial 0 at step 3, which was never committed" in told.detail


def test_what_was_proposed_is_read_back_to_the_byte(bench: Bench) -> None:
    study = bench.study()
    params = {"z": 1e16, "a": 0.1, "tiny": 5e-324, "flag": True, "n": 3, "s": "ü"}
    bench.trial(study, params=params, sampler_state={"g": 1e22})
    row = bench.row(study, 0)
    assert repr(row.params) == repr(params)
    assert repr(row.sampler_state) == repr({"g": 1e22})
    with bench.engine.connect() as conn:
        planned = event_log.entries_since(conn, study, 2)[0]
    assert repr(planned.data["params"]) == repr(params)


def test_a_redraw_keeps_the_number_and_the_log_keeps_the_old_values(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study, draft=True, params={"lr": 0.1}, planned_at=2)
    assert bench.do(c.Redraw(study, 0, {"lr": 0.2}, {"g": 1}, 3)) is True
    row = bench.row(study, 0)
    assert (row.number, row.params, row.planned_at) == (0, {"lr": 0.2}, 3)
    with bench.engine.connect() as conn:
        redrawn = event_log.entries_since(conn, study, 3)[0]
    assert (redrawn.data["old_params"], redrawn.data["old_planned_at"]) == ({"lr": 0.1}, 2)


def test_a_trial_that_runs_or_ever_ran_is_not_redrawn(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study, draft=True)
    grant = bench.claim()
    assert bench.do(c.Redraw(study, 0, {"lr": 0.2}, {}, 99)) is False
    bench.do(c.Release(grant.lease, "preempted"))
    assert bench.do(c.Redraw(study, 0, {"lr": 0.2}, {}, 99)) is False
    assert bench.row(study, 0).params == {"lr": 0.1}


def test_a_verdict_ends_the_trial_at_once_and_the_worker_is_told(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    grant = bench.claim()
    assert bench.do(c.Prune(study, 0, 4, 1)) is True
    told = bench.report(grant, 1, 0.5)
    assert told.type == "already_final"
    assert told.outcome == {"state": "pruned", "stop_reason": "pruned"}
    with bench.engine.connect() as conn:
        moved = event_log.entries_since(conn, study, 4)[-1]
    assert (moved.data["planned_at"], moved.data["step"]) == (4, 1)


def test_a_finish_beside_a_verdict_wins(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    grant = bench.claim()
    bench.report(grant, 1, 0.5)
    pruned, ended = bench.batch(c.Prune(study, 0, 4, 1), c.Finish(grant.lease, "complete", "budget"))
    assert (pruned, ended) == (False, c.Ended("complete", "budget"))


def test_stages_follow_one_another_and_the_last_completes_the_study(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next")])
    assert states(bench, study) == ["active", "pending"]
    assert end(bench, study, "random")
    assert states(bench, study) == ["done", "active"]
    assert end(bench, study, "next")
    assert bench.study_row(study).state == "complete"
    assert end(bench, study, "next") is False


def test_a_stage_whose_source_ranked_nothing_fails_with_the_reason(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next", source="random"), stage("own")])
    end(bench, study, "random", NOTHING)
    assert states(bench, study) == ["failed", "failed", "active"]
    assert "all 3 trials failed" in bench.stage_row(study, "next").reason


def test_a_stage_that_planning_broke_fails_and_the_study_goes_on(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next")])
    assert bench.do(c.FailStage(study, "random", "ValueError: no cells")) is True
    assert states(bench, study) == ["failed", "active"]
    assert bench.stage_row(study, "random").reason == "ValueError: no cells"


def test_what_still_waits_when_its_stage_ends_is_cancelled(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study, draft=True)
    end(bench, study, "random")
    assert bench.row(study, 0).state == "cancelled"


def test_a_trial_enqueued_by_hand_keeps_its_stage_open_until_it_has_ended(bench: Bench) -> None:
    study = bench.study()
    bench.do(c.Enqueue(study, "random", ({"lr": 0.5},), WORK, "test"))
    assert end(bench, study, "random") is False
    assert bench.row(study, 0).state == "waiting"
    grant = bench.claim()
    assert end(bench, study, "random") is False
    seen = bench.event_n(study)
    bench.finish(grant, "pruned", "diverged")
    assert bench.do(c.EndStage(study, "random", RESULT, seen)) is False, "its ranking lacks that trial"
    assert end(bench, study, "random")


def test_a_trial_enqueued_ahead_of_a_stage_that_cannot_run_is_cancelled(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next", source="random")])
    bench.do(c.Enqueue(study, "next", ({"lr": 0.5},), WORK, "test"))
    end(bench, study, "random", NOTHING)
    assert bench.row(study, 0).state == "cancelled"
    assert bench.study_row(study).state == "complete"
