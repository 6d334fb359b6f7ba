"""What people ask for, and the sentences they read when it cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import PROJECT, WORK, Bench, spec, stage
from sqlalchemy import select
from tunesmith_service import commands as c
from tunesmith_service import event_log, session_store, store, tables
from tunesmith_service.errors import Conflict, KeyReused, LoginCodeInvalid, NotFound, Unprocessable

KEY = c.Idempotency("token:route", "key", b"h" * 32)


def create(name: str = "study", **changed: object) -> c.CreateStudy:
    return c.CreateStudy(PROJECT, spec(name, **changed), "ann")


def test_a_study_begins_with_its_first_stage_active(bench: Bench) -> None:
    study = bench.study(stages=[stage("coarse"), stage("fine")])
    with bench.engine.connect() as conn:
        assert [(s.name, s.state) for s in store.stages(conn, study)] == [
            ("coarse", "active"),
            ("fine", "pending"),
        ]
        log = event_log.entries_since(conn, study, 0)
    assert [(e.kind, e.stage, e.data["state"]) for e in log] == [
        ("study", None, "active"),
        ("stage", "coarse", "active"),
    ]


def test_a_name_stands_once_in_a_project(bench: Bench) -> None:
    first, second = bench.batch(create(), create())
    assert isinstance(first, int)
    assert isinstance(second, Conflict)
    assert "choose another name, such as study-2" in second.detail


def test_two_stages_of_one_name_are_refused(bench: Bench) -> None:
    told = bench.do(create(stages=[stage("a"), stage("a")]))
    assert isinstance(told, Unprocessable)
    assert "Two stages are named a" in told.detail
    assert bench.rows(select(tables.studies)) == []


def test_the_same_idempotency_key_gets_the_stored_answer(bench: Bench) -> None:
    first, again = bench.batch(replace(create(), idempotency=KEY), replace(create(), idempotency=KEY))
    assert first == again == bench.do(replace(create(), idempotency=KEY))
    other = bench.do(replace(create("other"), idempotency=replace(KEY, body_hash=b"o" * 32)))
    assert isinstance(other, KeyReused)


def test_an_answer_is_forgotten_after_a_week(bench: Bench) -> None:
    keyed = replace(create(), idempotency=KEY)
    bench.do(keyed)
    bench.do(c.ForgetBlobs(0))
    bench.seconds(7 * 86_400)
    bench.do(c.ForgetBlobs(0))
    assert isinstance(bench.do(keyed), int)
    bench.seconds(1)
    bench.do(c.ForgetBlobs(0))
    assert "exists already" in bench.do(keyed).detail


def test_limits_are_read_from_the_specification(bench: Bench) -> None:
    limits = {"max_trials": 7, "max_gpu_hours": 0.5, "max_concurrent": 3, "deadline": "2026-01-01T00:00:00"}
    row = bench.study_row(bench.study(limits=limits))
    assert (row.max_trials, row.max_gpu_us, row.max_concurrent) == (7, 1_800_000_000, 3)
    assert row.deadline_us == 1_767_225_600_000_000


def test_a_stage_may_be_added_to_a_complete_study(bench: Bench) -> None:
    study = bench.study()
    bench.do(c.FailStage(study, "random", "why"))
    assert bench.study_row(study).state == "complete"
    assert bench.do(c.AddStage(study, stage("more"), "ann")) is None
    assert bench.study_row(study).state == "active"
    assert bench.stage_row(study, "more").state == "active"
    with bench.engine.connect() as conn:
        added = [e for e in event_log.entries_since(conn, study, 0) if e.stage == "more"]
    assert [e.data["state"] for e in added] == ["pending", "active"]
    assert added[0].data["spec"] == stage("more")


def test_no_stage_is_added_to_a_stopped_study_or_under_a_taken_name(bench: Bench) -> None:
    study = bench.study()
    assert "give the new one another name" in bench.do(c.AddStage(study, stage(), "ann")).detail
    bench.do(c.MoveStudy(study, "stopped", "ann", "enough"))
    assert "was stopped (enough)" in bench.do(c.AddStage(study, stage("more"), "ann")).detail


def test_skipping_cancels_what_waits_and_lets_run_what_runs(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next")])
    bench.trial(study)
    bench.trial(study)
    grant = bench.claim()
    assert bench.do(c.SkipStage(study, "random", "ann", "seen enough")) is None
    assert [bench.row(study, n).state for n in (0, 1)] == ["running", "cancelled"]
    assert bench.stage_row(study, "next").state == "active"
    bench.report(grant, 1, 0.5)
    assert bench.finish(grant).state == "complete"


def test_a_trial_that_comes_back_after_its_study_has_ended_is_cancelled(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    grant = bench.claim()
    bench.do(c.SkipStage(study, "random", "ann", "seen enough"))
    assert bench.study_row(study).state == "complete"
    assert bench.do(c.Release(grant.lease, "preempted")).state == "waiting"
    bench.sweep()
    assert bench.row(study, 0).state == "cancelled"


def test_a_stage_that_is_not_there_is_answered_with_those_that_are(bench: Bench) -> None:
    study = bench.study(stages=[stage("coarse"), stage("fine")])
    told = bench.do(c.SkipStage(study, "final", "ann", ""))
    assert isinstance(told, NotFound)
    assert "it has coarse, fine" in told.detail


def test_stopping_cancels_all_and_skips_the_rest(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("next")])
    bench.trial(study)
    bench.trial(study)
    grant = bench.claim()
    assert bench.do(c.MoveStudy(study, "stopped", "ann", "enough")) == "stopped"
    assert [bench.row(study, n).state for n in (0, 1)] == ["cancelled", "cancelled"]
    assert [bench.stage_row(study, s).state for s in ("random", "next")] == ["skipped", "skipped"]
    assert bench.do(c.Renew(grant.lease)).outcome == {"state": "cancelled", "stop_reason": "cancelled"}
    assert bench.do(c.MoveStudy(study, "stopped", "ann", "again")) == "stopped"
    assert isinstance(bench.do(c.MoveStudy(study, "active", "ann", "")), Conflict)


def test_trials_are_enqueued_all_or_none(bench: Bench) -> None:
    study = bench.study(limits={"max_trials": 3})
    asked = c.Enqueue(study, "random", ({"lr": 0.1}, {"lr": 0.2}), WORK, "ann", KEY)
    assert bench.do(asked) == bench.do(asked) == [0, 1]
    assert [bench.row(study, n).key for n in (0, 1)] == ["hand:0", "hand:1"]
    told = bench.do(replace(asked, idempotency=None))
    assert isinstance(told, Conflict)
    assert "of which 1 are left; got 2 more" in told.detail
    assert bench.study_row(study).trial_n == 2


@pytest.mark.parametrize("n", [0, 1001])
def test_too_few_or_too_many_at_once_are_refused(bench: Bench, n: int) -> None:
    told = bench.do(c.Enqueue(bench.study(), "random", ({"lr": 0.1},) * n, WORK, "ann"))
    assert isinstance(told, Unprocessable)
    assert f"got {n}" in told.detail


def test_cancelling_again_changes_nothing(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    grant = bench.claim()
    assert bench.do(c.CancelTrial(study, 0, "ann")) == c.Ended("cancelled", "cancelled")
    events = bench.event_n(study)
    assert bench.do(c.CancelTrial(study, 0, "ann")) == c.Ended("cancelled", "cancelled")
    assert bench.event_n(study) == events
    assert bench.do(c.Renew(grant.lease)).type == "already_final"


def test_an_unknown_worker_or_trial_is_told(bench: Bench) -> None:
    assert isinstance(bench.do(c.DrainWorker(PROJECT, "f" * 32, draining=True)), NotFound)
    assert isinstance(bench.do(c.CancelTrial(bench.study(), 9, "ann")), NotFound)


def token(bench: Bench, key: str = "key", expires_us: int | None = None) -> int:
    made = bench.do(c.CreateToken(PROJECT, "ann", "researcher", key, b"s" * 32, expires_us, "ann"))
    assert isinstance(made, int)
    return made


def test_a_token_is_found_by_its_key_and_revoked_with_its_sessions(bench: Bench) -> None:
    token_id, later = token(bench), bench.clock.now_us() + 1000
    bench.do(c.CreateLoginCode(b"c" * 32, token_id, later))
    bench.do(c.RedeemLoginCode(b"c" * 32, b"e" * 32, later))
    with bench.engine.connect() as conn:
        found, session = store.token_by_key(conn, "key"), session_store.behind(conn, b"e" * 32)
    assert found is not None
    assert session is not None
    assert (found.secret_hash, found.role) == (b"s" * 32, "researcher")
    assert (session.id, session.session_hash, session.expires_us) == (token_id, b"e" * 32, later)
    assert bench.do(c.RevokeToken("key", "ann")) is None
    assert bench.do(c.RevokeToken("key", "ann")) is None
    with bench.engine.connect() as conn:
        revoked = store.token_by_key(conn, "key")
        assert session_store.behind(conn, b"e" * 32) is None
    assert revoked is not None
    assert revoked.revoked_us == bench.clock.now_us()


def test_a_session_ends_with_its_token_at_the_latest(bench: Bench) -> None:
    now = bench.clock.now_us()
    token_id = token(bench, expires_us=now + 5)
    bench.do(c.CreateLoginCode(b"c" * 32, token_id, now + 1000))
    bench.do(c.RedeemLoginCode(b"c" * 32, b"e" * 32, now + 1000))
    with bench.engine.connect() as conn:
        session = session_store.behind(conn, b"e" * 32)
    assert session is not None
    assert session.expires_us == now + 5


def test_a_login_link_works_once_and_for_a_short_time(bench: Bench) -> None:
    token_id, soon = token(bench), bench.clock.now_us() + 1000
    for code in (b"c", b"d"):
        bench.do(c.CreateLoginCode(code * 32, token_id, soon))
    assert bench.do(c.RedeemLoginCode(b"c" * 32, b"e" * 32, soon)) is None
    assert isinstance(bench.do(c.RedeemLoginCode(b"c" * 32, b"f" * 32, soon)), LoginCodeInvalid)
    bench.clock.advance(1001)
    told = bench.do(c.RedeemLoginCode(b"d" * 32, b"g" * 32, soon))
    assert "`tunesmith login` prints a new one" in told.detail


def test_last_use_is_noted_at_most_once_a_minute(bench: Bench) -> None:
    token_id, now = token(bench), bench.clock.now_us()
    for at in (now, now + 30_000_000, now + 61_000_000):
        bench.do(c.TouchTokens({token_id: at}))
        with bench.engine.connect() as conn:
            found = store.token_by_key(conn, "key")
        assert found is not None
        assert found.last_used_us == (now if at < now + 60_000_000 else at)
