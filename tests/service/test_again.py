"""Trials tried again or pruned by hand: new trials that name the old, and refusals that say what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from factories import Bench, stage
from tunesmith_service import commands as c
from tunesmith_service import event_log
from tunesmith_service.errors import Conflict, NotFound
from tunesmith_service.wishes import PruneNow, Retry

ERROR = {"kind": "RuntimeError", "message": "shapes", "traceback": ""}
KEY = c.Idempotency("token:route", "key", b"h" * 32)


def failed(bench: Bench, study: int, **changed: Any) -> int:
    number = bench.trial(study, **changed)
    grant = bench.claim()
    assert grant.number == number
    bench.finish(grant, "failed", "error", error=ERROR)
    return number


def events(bench: Bench, study: int) -> list[Any]:
    with bench.engine.connect() as conn:
        return list(event_log.page(conn, study, 0, 100))


def test_a_failed_trial_is_tried_again_as_a_new_trial_that_names_it(bench: Bench) -> None:
    study = bench.study()
    old = failed(bench, study)
    (new,) = bench.do(Retry(study, (old,), "ann"))
    first, second = bench.row(study, old), bench.row(study, new)
    assert (second.state, second.retry_of, second.key) == ("waiting", old, f"{first.key}/retry:1")
    assert (second.params, second.work, second.stage_id) == (first.params, first.work, first.stage_id)
    assert first.state == "failed"
    assert second.ordinal > first.ordinal
    row = bench.study_row(study)
    assert (row.waiting, row.finished, row.trial_n) == (1, 1, 2)
    (told,) = [e for e in events(bench, study) if e.data.get("retry_of") is not None]
    assert (told.kind, told.actor, told.trial_number, told.data["retry_of"]) == ("planned", "ann", new, old)


def test_a_retry_that_fails_is_tried_again_under_the_next_number(bench: Bench) -> None:
    study = bench.study()
    old = failed(bench, study)
    (second,) = bench.do(Retry(study, (old,), "ann"))
    told = bench.do(Retry(study, (old,), "ann"))
    assert isinstance(told, Conflict)
    assert f"being tried again already, as #{second}" in told.detail
    bench.finish(bench.claim(), "failed", "error", error=ERROR)
    (third,) = bench.do(Retry(study, (second,), "ann"))
    row = bench.row(study, third)
    assert row.key == f"{bench.row(study, old).key}/retry:2"
    assert row.retry_of == second


def test_only_what_failed_or_was_cancelled_is_tried_again(bench: Bench) -> None:
    study = bench.study()
    number = bench.trial(study)
    assert "is waiting; only failed and cancelled" in bench.do(Retry(study, (number,), "ann")).detail
    bench.do(c.CancelTrial(study, number, "ann"))
    assert bench.do(Retry(study, (number,), "ann")) == [number + 1]
    assert isinstance(bench.do(Retry(study, (77,), "ann")), NotFound)


def test_one_that_cannot_be_tried_again_holds_back_all(bench: Bench) -> None:
    study = bench.study()
    bad, waiting = failed(bench, study), bench.trial(study)
    assert isinstance(bench.do(Retry(study, (bad, waiting), "ann")), Conflict)
    assert bench.study_row(study).trial_n == 2


def test_a_stage_that_has_ended_says_where_to_queue_the_settings(bench: Bench) -> None:
    study = bench.study(stages=[stage("coarse"), stage("fine")])
    old = failed(bench, study, stage="coarse")
    bench.do(c.SkipStage(study, "coarse", "ann", "enough"))
    told = bench.do(Retry(study, (old,), "ann"))
    assert isinstance(told, Conflict)
    assert "Stage coarse is skipped" in told.detail
    assert f"tunesmith trial enqueue study --like {old}" in told.detail


def test_rerunning_a_study_takes_each_failed_trial_once(bench: Bench) -> None:
    study = bench.study()
    first, second = failed(bench, study), failed(bench, study)
    new = bench.do(Retry(study, None, "ann"))
    assert [bench.row(study, n).retry_of for n in new] == [first, second]
    assert len({bench.row(study, n).ordinal for n in new}) == 2
    assert isinstance(bench.do(Retry(study, None, "ann")), Conflict)
    for _ in new:
        bench.finish(bench.claim(), "failed", "error", error=ERROR)
    again = bench.do(Retry(study, None, "ann"))
    assert [bench.row(study, n).retry_of for n in again] == new


def test_the_same_key_tries_once(bench: Bench) -> None:
    study = bench.study()
    asked = Retry(study, (failed(bench, study),), "ann", KEY)
    assert bench.do(asked) == bench.do(asked)
    assert bench.study_row(study).trial_n == 2
    assert bench.do(replace(asked, idempotency=replace(KEY, body_hash=b"o" * 32))).status == 422


def test_a_stage_waits_for_what_is_tried_again(bench: Bench) -> None:
    study = bench.study()
    bench.do(Retry(study, (failed(bench, study),), "ann"))
    result = {"ranking": [], "chosen": {}, "numbers": {}, "failed": False, "why": "enough"}
    assert bench.do(c.EndStage(study, "random", result, bench.event_n(study))) is False


def test_limits_hold_for_what_is_tried_again(bench: Bench) -> None:
    study = bench.study(limits={"max_trials": 1})
    told = bench.do(Retry(study, (failed(bench, study),), "ann"))
    assert "may have 1 trials, of which 0 are left" in told.detail


def test_a_running_trial_is_pruned_by_hand_and_its_worker_is_told(bench: Bench) -> None:
    study = bench.study()
    number = bench.trial(study)
    grant = bench.claim()
    bench.report(grant, 1, 0.9)
    assert bench.do(PruneNow(study, number, "ann")) == c.Ended("pruned", "pruned")
    assert bench.row(study, number).state == "pruned"
    assert bench.report(grant, 2, 0.8).type == "already_final"
    assert bench.do(PruneNow(study, number, "ann")) == c.Ended("pruned", "pruned")
    moved = [e for e in events(bench, study) if e.kind == "moved"][-1]
    assert (moved.actor, moved.cause, moved.data["step"]) == ("ann", "by_hand", 1)


def test_a_trial_that_waits_is_cancelled_rather_than_pruned(bench: Bench) -> None:
    study = bench.study()
    number = bench.trial(study)
    assert "Cancel it instead" in bench.do(PruneNow(study, number, "ann")).detail
    assert isinstance(bench.do(PruneNow(study, 77, "ann")), NotFound)
