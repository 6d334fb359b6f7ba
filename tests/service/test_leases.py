"""Reports, ends and expiries: what the reference model leaves out, and the sentences behind it."""

from __future__ import annotations

import math

import pytest
from factories import TTL, Bench, Grant, report, sha256
from sqlalchemy import select
from tunesmith_service import commands as c
from tunesmith_service import tables, trial_store
from tunesmith_service.errors import AlreadyFinal, SeqGap, SeqReused, Unprocessable


@pytest.fixture
def grant(bench: Bench) -> Grant:
    bench.trial(bench.study())
    return bench.claim()


def curve(bench: Bench, grant: Grant) -> list[tuple[int, float]]:
    with bench.engine.connect() as conn:
        return [(p.step, p.metrics["val/loss"]) for p in trial_store.curve(conn, grant.trial_id)]


def test_a_gap_in_reports_names_the_one_expected(bench: Bench, grant: Grant) -> None:
    told = bench.report(grant, 3, 0.5)
    assert isinstance(told, SeqGap)
    assert told.outcome == {"expected_seq": 1}


def test_a_report_again_counts_once_and_with_other_points_is_refused(bench: Bench, grant: Grant) -> None:
    assert bench.report(grant, 1, 0.5) == c.Kept()
    assert bench.report(grant, 1, 0.5) == c.Kept(duplicate=True)
    assert isinstance(bench.report(grant, 1, 0.4), SeqReused)
    assert curve(bench, grant) == [(1, 0.5)]


def test_points_must_rise_in_step(bench: Bench, grant: Grant) -> None:
    bench.report(grant, 1, 0.5, 0.4)
    told = bench.report(grant, 2, 0.3, step=2)
    assert isinstance(told, Unprocessable)
    assert "step 2 of report 2 follows step 2" in told.detail


def test_the_test_set_is_not_for_reports(bench: Bench, grant: Grant) -> None:
    told = bench.do(c.Report(grant.lease, 1, ((1, {"test/accuracy": 0.9}),)))
    assert isinstance(told, Unprocessable)
    assert "test/accuracy" in told.detail


def test_a_resumed_attempt_throws_away_what_it_trains_again(bench: Bench, grant: Grant) -> None:
    for seq, loss in enumerate((0.9, 0.8, 0.7), start=1):
        bench.report(grant, seq, loss)
    bench.snapshot(grant, 1)
    bench.expire()
    assert curve(bench, grant) == [(1, 0.9), (2, 0.8), (3, 0.7)]
    second = bench.claim()
    assert curve(bench, grant) == [(1, 0.9)]
    bench.report(second, 1, 0.6, step=2)
    assert curve(bench, grant) == [(1, 0.9), (2, 0.6)]


def test_non_finite_metrics_are_kept_as_they_came(bench: Bench, grant: Grant) -> None:
    bench.report(grant, 1, math.inf, -math.inf, math.nan)
    assert repr([loss for _, loss in curve(bench, grant)]) == "[inf, -inf, nan]"


def test_the_objective_is_worked_out_from_the_reports(bench: Bench) -> None:
    objective = {"metric": "val/loss", "direction": "minimize", "reduce": "mean", "k": 2}
    study = bench.study(objective=objective)
    bench.trial(study)
    grant = bench.claim()
    bench.report(grant, 1, 0.9, 0.5, 0.25)
    assert bench.finish(grant) == c.Ended("complete", "budget")
    assert bench.row(study, 0).value == 0.375


def test_a_value_is_stored_to_the_last_bit(bench: Bench, grant: Grant) -> None:
    bench.report(grant, 1, 0.1 + 0.2)
    bench.finish(grant)
    (row,) = bench.rows(select(tables.trials.c.value))
    assert row.value == 0.1 + 0.2


def test_a_non_finite_objective_is_diverged_and_never_complete(bench: Bench, grant: Grant) -> None:
    bench.report(grant, 1, 0.5, math.nan)
    assert bench.finish(grant) == c.Ended("pruned", "diverged")


def test_an_objective_that_was_never_reported_fails_with_what_was(bench: Bench, grant: Grant) -> None:
    bench.do(c.Report(grant.lease, 1, ((1, {"loss": 0.5}),)))
    assert bench.finish(grant) == c.Ended("failed", "error")
    (row,) = bench.rows(select(tables.trials.c.error))
    assert row.error["kind"] == "objective_missing"
    assert "val/loss" in row.error["message"]
    assert "it reported loss" in row.error["message"]


def test_the_first_finish_wins_and_says_so_to_a_second(bench: Bench, grant: Grant) -> None:
    bench.report(grant, 1, 0.5)
    first, again, other = bench.batch(
        c.Finish(grant.lease, "complete", "budget"),
        c.Finish(grant.lease, "complete", "budget"),
        c.Finish(grant.lease, "failed", "error"),
    )
    assert first == again == c.Ended("complete", "budget")
    assert isinstance(other, AlreadyFinal)
    later = bench.finish(grant, "failed", "error")
    assert isinstance(later, AlreadyFinal)
    assert later.outcome == {"state": "complete", "stop_reason": "budget"}


def test_the_last_report_beside_the_finish_counts(bench: Bench, grant: Grant) -> None:
    study = bench.rows(select(tables.studies.c.id))[0].id
    ended, kept = bench.batch(c.Finish(grant.lease, "complete", "budget"), report(grant, 1, 0.25))
    assert (ended.state, kept) == ("complete", c.Kept())
    assert bench.row(study, 0).value == 0.25


def test_a_claim_beside_the_finish_of_its_slots_trial_gets_the_next(bench: Bench) -> None:
    study = bench.study()
    for _ in range(3):
        bench.trial(study)
    slot = bench.register()[0]
    first, early, beside = bench.claim(slot), bench.ask(slot), bench.ask(slot)
    held = bench.do(early)
    assert isinstance(held, c.Nothing)  # a slot has one trial at a time
    assert held.retry_at_us == bench.row(study, 0).lease_expires_us
    bench.report(first, 1, 0.5)
    granted, ended = bench.batch(beside, c.Finish(first.lease, "complete", "budget"))
    assert ended == c.Ended("complete", "budget")
    assert bench.granted(beside, granted).work["number"] == 1


def test_faults_of_the_machine_are_tried_again_as_often_as_the_study_says(bench: Bench) -> None:
    study = bench.study(retries=2)
    bench.trial(study)
    slot = bench.register()[0]
    error = {"kind": "out_of_memory", "message": "CUDA out of memory", "traceback": ""}
    for wanted in ("waiting", "waiting", "failed"):
        bench.seconds(60)
        assert bench.finish(bench.claim(slot), "failed", "error", error=error, retryable=True).state == wanted
    assert bench.row(study, 0).error == error


def test_a_fault_of_the_trial_is_not_tried_again(bench: Bench, grant: Grant) -> None:
    assert bench.finish(grant, "failed", "error").state == "failed"


def test_handing_back_costs_no_retry_and_no_wait(bench: Bench, grant: Grant) -> None:
    assert bench.do(c.Release(grant.lease, "preempted")) == c.Ended("waiting", None)
    assert bench.do(c.Release(grant.lease, "preempted")) == c.Ended("waiting", None)
    assert bench.claim().attempt == 2
    (row,) = bench.rows(select(tables.trials))
    assert (row.preemptions, row.losses, row.failures) == (1, 0, 0)


def test_a_trial_that_keeps_losing_its_worker_fails_with_advice(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    slot = bench.register()[0]
    for _ in range(6):
        bench.claim(slot)
        bench.expire()
    row = bench.row(study, 0)
    assert (row.state, row.losses) == ("failed", 6)
    assert "lost 6 times without progress" in row.error["message"]


def test_progress_forgives_losses(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    slot = bench.register()[0]
    for step in range(1, 9):
        grant = bench.claim(slot)
        bench.snapshot(grant, step)
        bench.expire()
    assert bench.row(study, 0).losses == 1


def test_training_the_same_steps_again_is_no_progress(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    slot = bench.register()[0]
    for _ in range(3):
        bench.report(bench.claim(slot), 1, 0.5)
        bench.expire()
    assert bench.row(study, 0).losses == 3


def test_a_late_renewal_counts_until_the_sweeper_has_come(bench: Bench, grant: Grant) -> None:
    bench.clock.advance(TTL * 10)
    assert bench.do(c.Renew(grant.lease)) == c.Kept()
    assert bench.sweep() == ()


def test_our_own_outage_ends_no_lease(bench: Bench, grant: Grant) -> None:
    bench.seconds(600)
    assert bench.do(c.Grace(600_000_000)) == 1
    assert bench.sweep() == ()
    bench.clock.advance(TTL + 1)
    assert bench.sweep() == (grant.trial_id,)


def test_gpu_time_counts_devices_and_reaching_the_limit_stops_the_study(bench: Bench) -> None:
    study = bench.study(limits={"max_gpu_hours": 1.0})
    for _ in range(3):
        bench.trial(study)
    slot = bench.register(devices=["cuda:0", "cuda:1"])[0]
    grant = bench.claim(slot)
    bench.seconds(900)
    bench.do(c.Renew(grant.lease))
    bench.finish(grant, "pruned", "diverged")
    assert bench.study_row(study).gpu_us == 1_800_000_000
    grant = bench.claim(slot)
    bench.seconds(900)
    bench.do(c.Renew(grant.lease))
    bench.sweep()
    row = bench.study_row(study)
    assert (row.state, row.reason) == ("stopped", "its 1 GPU-hours are used up")
    assert [bench.row(study, n).state for n in range(3)] == ["pruned", "cancelled", "cancelled"]


def test_a_deadline_stops_the_study(bench: Bench) -> None:
    study = bench.study(limits={"deadline": "2025-06-15T15:07:00+00:00"})
    bench.trial(study)
    bench.sweep()
    assert bench.study_row(study).state == "active"
    bench.seconds(60)
    bench.sweep()
    assert bench.study_row(study).reason == "its deadline has passed"


def test_another_snapshot_for_the_same_step_is_refused(bench: Bench, grant: Grant) -> None:
    assert bench.snapshot(grant, 1, "one") == c.Kept()
    assert bench.snapshot(grant, 1, "one") == c.Kept(duplicate=True)
    assert bench.snapshot(grant, 1, "other").type == "snapshot_reused"


def test_a_zombie_may_not_publish(bench: Bench, grant: Grant) -> None:
    bench.expire()
    assert bench.snapshot(grant, 1).type == "lease_lost"
    assert bench.do(c.AppendLog(grant.lease, 1, sha256("log"), 3)).type == "lease_lost"
    assert bench.do(c.CommitArtifact(grant.lease, "a", sha256("a"), 3)).type == "lease_lost"
    assert bench.rows(select(tables.blobs)) == []


def test_logs_and_artifacts_renew_the_lease(bench: Bench, grant: Grant) -> None:
    bench.seconds(20)
    bench.do(c.AppendLog(grant.lease, 1, sha256("log"), 3))
    bench.seconds(20)
    bench.do(c.CommitArtifact(grant.lease, "a", sha256("a"), 3))
    bench.seconds(20)
    assert bench.sweep() == ()


def test_an_artifact_of_the_same_name_replaces_the_first(bench: Bench, grant: Grant) -> None:
    for text in ("one", "two"):
        bench.do(c.CommitArtifact(grant.lease, "plot.png", sha256(text), 3))
    with bench.engine.connect() as conn:
        (shown,) = trial_store.artifacts(conn, grant.trial_id)
    assert shown.sha256 == sha256("two")
