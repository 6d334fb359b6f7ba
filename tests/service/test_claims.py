"""Which trial a slot is given, and what a repeated or late claim is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import BACKOFF, DIGEST, ONE_US, TTL, WORK, Bench, hex128, sha256, stage
from tunesmith_service import claims, wire
from tunesmith_service import commands as c
from tunesmith_service.errors import ClaimStale, Conflict, NotFound


@pytest.fixture(autouse=True, params=["few", "many"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies with few and with many waiting trials are asked in two ways."""
    if request.param == "many":
        monkeypatch.setattr(claims, "FEW", 0)


def test_a_grant_holds_a_whole_work_order(bench: Bench) -> None:
    bench.trial(bench.study(), params={"lr": 0.125})
    grant = bench.claim()
    order = wire.WorkOrder.model_validate(grant.work)
    assert order.params == {"lr": 0.125}
    assert (order.study, order.stage, order.number, order.task) == ("study", "random", 0, "digits")
    assert (order.epochs, order.metric, order.direction, order.resume) == (3, "val/loss", "minimize", None)


def test_the_same_claim_again_gets_the_same_lease(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    bench.trial(study)
    claim = bench.ask(bench.register()[0])
    first, together = bench.batch(claim, claim)
    assert first == together == bench.do(claim)
    assert bench.study_row(study).running == 1


def test_the_same_claim_with_another_secret_is_refused(bench: Bench) -> None:
    bench.trial(bench.study())
    grant = bench.claim()
    assert isinstance(bench.do(replace(grant.claim, secret_hash=b"z" * 32)), Conflict)


def test_a_claim_whose_lease_has_ended_is_told_so(bench: Bench) -> None:
    bench.trial(bench.study())
    grant = bench.claim()
    bench.finish(grant, "pruned", "diverged")
    told = bench.do(grant.claim)
    assert isinstance(told, ClaimStale)
    assert "claim with a new id" in told.detail


def test_a_slot_that_nobody_registered_is_told_to_register(bench: Bench) -> None:
    slot = bench.register()[0]
    told = bench.do(bench.ask(replace(slot, slot_id=hex128())))
    assert isinstance(told, NotFound)
    assert "register it first" in told.detail


def test_a_slot_has_one_trial_at_a_time(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    bench.trial(study)
    slot = bench.register()[0]
    bench.claim(slot)
    assert bench.do(bench.ask(slot)) == c.Nothing(retry_at_us=bench.clock.now_us() + TTL)


def test_a_worker_without_the_task_gets_nothing(bench: Bench) -> None:
    bench.trial(bench.study())
    slot = bench.register(tasks={"another": DIGEST})[0]
    assert bench.do(bench.ask(slot)) == c.Nothing()


def test_the_first_claim_pins_the_tasks_digest(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    bench.trial(study)
    bench.claim()
    assert bench.study_row(study).task_digest == DIGEST
    other = bench.register(tasks={"digits": sha256("edited")})[0]
    assert bench.do(bench.ask(other)) == c.Nothing()


def test_claims_of_two_digests_in_one_batch_pin_one(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    bench.trial(study)
    slots = (bench.register()[0], bench.register(tasks={"digits": sha256("edited")})[0])
    outcomes = bench.batch(*(bench.ask(slot) for slot in slots))
    assert [type(o) for o in outcomes] == [c.Granted, c.Nothing]


def test_who_names_a_study_gets_its_trials_alone_and_answers_for_the_code(bench: Bench) -> None:
    bench.trial(bench.study("more urgent", priority=5))
    named = bench.study("named")
    bench.trial(named)
    slot = bench.register(tasks={"another": DIGEST})[0]
    assert bench.claim(slot, study="named").work["study"] == "named"
    assert bench.study_row(named).task_digest is None
    other = bench.register(tasks={"another": DIGEST})[0]
    assert bench.do(bench.ask(other, study="named")) == c.Nothing()


def test_a_claim_for_a_study_that_gives_no_more_is_told_so(bench: Bench) -> None:
    study, slot = bench.study("named"), bench.register()[0]
    assert bench.do(bench.ask(slot, study="named")) == c.Nothing()
    bench.do(c.MoveStudy(study, "stopped", "test", ""))
    assert bench.do(bench.ask(slot, study="named")) == c.Nothing(ended=True)
    assert isinstance(bench.do(bench.ask(slot, study="no such")), NotFound)


def test_a_paused_study_gives_no_trials(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    bench.do(c.MoveStudy(study, "paused", "test", ""))
    assert bench.do(bench.ask(bench.register()[0])) == c.Nothing()
    bench.do(c.MoveStudy(study, "active", "test", ""))
    assert bench.claim().number == 0


def test_a_draining_worker_is_told_so(bench: Bench) -> None:
    bench.trial(bench.study())
    slot = bench.register()[0]
    bench.do(c.DrainWorker(1, slot.worker_id, draining=True))
    assert bench.do(bench.ask(slot)) == c.Nothing(draining=True)


def test_max_concurrent_holds_within_one_batch(bench: Bench) -> None:
    study = bench.study(limits={"max_concurrent": 2})
    for _ in range(5):
        bench.trial(study)
    outcomes = bench.batch(*(bench.ask(slot) for slot in bench.register(5)))
    assert [type(o) for o in outcomes].count(c.Granted) == 2
    assert bench.study_row(study).running == 2


def test_equal_studies_share_the_slots_and_a_higher_priority_goes_first(bench: Bench) -> None:
    first, second = bench.study("first"), bench.study("second")
    urgent = bench.study("urgent", priority=5)
    for study in (first, second, urgent):
        for _ in range(2):
            bench.trial(study)
    order = [bench.claim(slot).work["study"] for slot in bench.register(6)]
    assert order == ["urgent", "urgent", "first", "second", "first", "second"]


def test_within_a_study_come_stage_then_hand_then_planned_order(bench: Bench) -> None:
    study = bench.study(stages=[stage(), stage("later")])
    bench.trial(study, ordinal=1)
    bench.trial(study, ordinal=0)
    bench.do(c.Enqueue(study, "later", ({"lr": 0.3},), WORK, "test"))
    bench.do(c.Enqueue(study, "random", ({"lr": 0.2},), WORK, "test"))
    assert [bench.claim(slot).number for slot in bench.register(4)] == [3, 1, 0, 2]


def test_a_stale_draft_waits_for_its_redraw_unless_stale_ones_will_do(bench: Bench) -> None:
    study = bench.study(fresh_wait_seconds=0.5)
    bench.trial(study)
    slot, other = bench.register(2)
    running = bench.claim(slot)
    bench.trial(study, draft=True, params={"lr": 0.1})
    bench.report(running, 1, 0.5)
    bench.finish(running)
    wants_fresh = bench.ask(other, accept_stale=False)
    assert bench.do(wants_fresh) == c.Nothing(stale=True, fresh_wait_us=500_000)
    bench.do(c.Redraw(study, 1, {"lr": 0.9}, {}, bench.event_n(study)))
    assert bench.granted(wants_fresh, bench.do(wants_fresh)).work["params"] == {"lr": 0.9}


def test_nobody_waits_for_a_redraw_while_an_equal_study_has_a_trial(bench: Bench) -> None:
    modelled = bench.study("modelled", fresh_wait_seconds=1e9)
    bench.trial(modelled)
    bench.trial(modelled, draft=True, ordinal=1)
    slot = bench.register()[0]
    bench.finish(bench.claim(slot), "pruned", "diverged")
    bench.trial(bench.study("grid"))
    assert bench.claim(slot, accept_stale=False).work["study"] == "grid"


def test_a_stale_draft_is_taken_when_time_is_up(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    bench.trial(study, draft=True, ordinal=1)
    slot = bench.register()[0]
    bench.finish(bench.claim(slot), "pruned", "diverged")
    assert bench.claim(slot, accept_stale=True).number == 1


def test_a_backoff_says_when_it_ends(bench: Bench) -> None:
    bench.trial(bench.study())
    slot = bench.register()[0]
    bench.finish(bench.claim(slot), "failed", "error", retryable=True)
    waits = bench.do(bench.ask(slot))
    assert waits == c.Nothing(retry_at_us=bench.clock.now_us() + 2_000_000)
    bench.seconds(2)
    assert bench.claim(slot).attempt == 2


def test_a_trial_resumes_from_its_own_newest_snapshot(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    first = bench.claim()
    bench.snapshot(first, 1, "one")
    bench.snapshot(first, 2, "two")
    bench.expire()
    again = bench.claim()
    assert again.work["resume"] == {"sha256": sha256("two"), "step": 2, "size": 100}


def test_a_branch_starts_from_another_trials_snapshot(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    trunk = bench.claim()
    bench.snapshot(trunk, 2, "trunk")
    bench.trial(study, start={"trial": 0, "step": 2})
    branch = bench.claim()
    assert branch.work["resume"]["sha256"] == sha256("trunk")
    bench.snapshot(branch, 3, "its own")
    bench.do(c.Release(branch.lease, "preempted"))
    assert bench.claim().work["resume"]["sha256"] == sha256("its own")


def test_a_worker_that_starts_anew_hands_back_what_its_slots_ran(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    slot = bench.register()[0]
    bench.claim(slot)
    bench.register(worker_id=slot.worker_id, slot_ids=[slot.slot_id])
    row = bench.row(study, 0)
    assert (row.state, row.losses) == ("waiting", 1)


def test_a_late_word_of_an_earlier_start_takes_nothing_from_the_start_that_counts(bench: Bench) -> None:
    study = bench.study()
    bench.trial(study)
    old = bench.register()[0]
    same = {"worker_id": old.worker_id, "slot_ids": [old.slot_id]}
    new = bench.register(**same, starts=1_000_000)[0]
    lease = bench.claim(new).lease
    for late in (old.boot_id, hex128()):  # one that was heard before, and one that never was
        with pytest.raises(AssertionError, match="has started 1000000 times, this was start 999999"):
            bench.register(**same, boot_id=late, starts=999_999)
    assert bench.do(c.Renew(lease)) == c.Kept()
    bench.register(**same, boot_id=new.boot_id, starts=1_000_000)
    assert bench.row(study, 0).state == "running"


def test_two_starts_that_bear_the_same_number_are_told_apart(bench: Bench) -> None:
    """As of a worker whose state directory was put back from a copy."""
    first = bench.register(starts=1_000_000)[0]
    with pytest.raises(AssertionError, match="register with a higher number and a new boot id"):
        bench.register(worker_id=first.worker_id, slot_ids=[first.slot_id], starts=1_000_000)


def test_a_slot_of_another_worker_cannot_be_registered(bench: Bench) -> None:
    slot = bench.register()[0]
    with pytest.raises(AssertionError, match="share a state directory"):
        bench.register(slot_ids=[slot.slot_id])


def test_a_late_worker_cannot_renew_a_trial_given_to_another(bench: Bench) -> None:
    bench.trial(bench.study())
    first = bench.claim()
    bench.clock.advance(TTL + ONE_US)
    bench.sweep()
    bench.clock.advance(BACKOFF)
    second = bench.claim()
    assert second.attempt == 2
    assert bench.do(c.Renew(first.lease)).type == "lease_lost"
    assert bench.do(c.Renew(second.lease)) == c.Kept()


def test_a_slot_is_offered_no_trial_that_asks_for_more_devices_than_it_has(bench: Bench) -> None:
    pair = bench.study("pair", resources={"gpus": 2}, priority=1)
    bench.trial(pair)
    one, two, four = (bench.register(devices=[f"cuda:{i}" for i in range(n)])[0] for n in (1, 2, 4))
    assert bench.do(bench.ask(one)) == c.Nothing()
    grant = bench.claim(two)
    assert (grant.work["study"], grant.work["gpus"]) == ("pair", 2)
    bench.trial(pair)
    bench.trial(bench.study("plain"))  # less urgent: who can take both takes the other
    small, large = bench.batch(bench.ask(one), bench.ask(four))
    assert (small.work["study"], small.work["gpus"]) == ("plain", None)
    assert large.work["study"] == "pair"
