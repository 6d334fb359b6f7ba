"""A finish that brings the last report and the slot's next claim: all three in one transaction, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import Bench, Grant, Slot, report
from tunesmith_service import commands as c
from tunesmith_service.errors import AlreadyFinal, LeaseLost, SeqGap, Unprocessable


@pytest.fixture
def study(bench: Bench) -> int:
    made = bench.study()
    for _ in range(3):
        bench.trial(made)
    return made


@pytest.fixture
def slot(bench: Bench) -> Slot:
    return bench.register()[0]


@pytest.fixture
def grant(bench: Bench, study: int, slot: Slot) -> Grant:
    return bench.claim(slot)


def finish(grant: Grant, *, last: c.Report | None = None, claim: c.Claim | None = None) -> c.Finish:
    return c.Finish(grant.lease, "complete", "budget", report=last, claim=claim)


def test_the_report_counts_for_the_objective_and_the_slot_has_its_next_trial(
    bench: Bench, study: int, slot: Slot, grant: Grant
) -> None:
    claim = bench.ask(slot)
    ended = bench.do(finish(grant, last=report(grant, 1, 0.25), claim=claim))
    assert (ended.state, ended.stop_reason) == ("complete", "budget")
    assert bench.row(study, 0).value == 0.25
    assert bench.granted(claim, ended.claim).work["number"] == 1


def test_said_again_it_gets_the_same_trial_and_changes_nothing(
    bench: Bench, slot: Slot, grant: Grant
) -> None:
    said = finish(grant, last=report(grant, 1, 0.25), claim=bench.ask(slot))
    first = bench.do(said)
    assert bench.do(said) == first
    assert bench.batch(said, said) == [first, first]


def test_twice_in_one_batch_it_counts_once(bench: Bench, slot: Slot, grant: Grant) -> None:
    said = finish(grant, last=report(grant, 1, 0.25), claim=bench.ask(slot))
    first, second = bench.batch(said, said)
    assert first == second
    assert first.claim.work["number"] == 1


def test_without_it_what_was_brought_is_answered_as_before(bench: Bench, grant: Grant) -> None:
    assert bench.do(finish(grant, last=report(grant, 1, 0.25))) == c.Ended("complete", "budget")


def test_a_refused_report_refuses_the_finish_and_its_claim(
    bench: Bench, study: int, slot: Slot, grant: Grant
) -> None:
    gap = bench.do(finish(grant, last=report(grant, 3, 0.25), claim=bench.ask(slot)))
    assert isinstance(gap, SeqGap)
    assert gap.outcome == {"expected_seq": 1}
    unfit = replace(report(grant, 1, 0.25), points=((1, {"test/accuracy": 0.5}),))
    assert isinstance(bench.do(finish(grant, last=unfit)), Unprocessable)
    assert [bench.row(study, n).state for n in range(3)] == ["running", "waiting", "waiting"]


def test_a_refused_one_spoils_no_other_of_its_batch(
    bench: Bench, study: int, slot: Slot, grant: Grant
) -> None:
    another = bench.register()[0]
    other, claim = bench.claim(another), bench.ask(slot)
    gap, ended = bench.batch(
        finish(other, last=report(other, 2, 0.5), claim=bench.ask(another)),
        finish(grant, last=report(grant, 1, 0.25), claim=claim),
    )
    assert isinstance(gap, SeqGap)
    assert bench.granted(claim, ended.claim).work["number"] == 2


def test_under_a_lease_that_is_over_nothing_is_taken_and_nothing_given(
    bench: Bench, study: int, slot: Slot, grant: Grant
) -> None:
    bench.expire()
    told = bench.do(finish(grant, last=report(grant, 1, 0.25), claim=bench.ask(slot)))
    assert isinstance(told, LeaseLost)
    assert [bench.row(study, n).state for n in range(3)] == ["waiting"] * 3


def test_an_end_that_was_said_otherwise_is_refused_whatever_it_brings(
    bench: Bench, slot: Slot, grant: Grant
) -> None:
    bench.finish(grant, "pruned", "diverged")
    told = bench.do(finish(grant, last=report(grant, 1, 0.25), claim=bench.ask(slot)))
    assert isinstance(told, AlreadyFinal)


def test_a_claim_that_is_refused_keeps_no_trial_from_its_end(bench: Bench, study: int, grant: Grant) -> None:
    unknown = replace(bench.ask(bench.register()[0]), slot_id="0" * 32)
    bench.report(grant, 1, 0.25)
    assert bench.do(finish(grant, claim=unknown)) == c.Ended("complete", "budget")
    assert bench.row(study, 0).state == "complete"


def test_with_nothing_left_the_claim_is_told_so(bench: Bench, slot: Slot) -> None:
    bench.trial(bench.study())
    grant = bench.claim(slot)
    bench.report(grant, 1, 0.25)
    assert bench.do(finish(grant, claim=bench.ask(slot))).claim == c.Nothing()


def test_a_draining_worker_is_told_so(bench: Bench, study: int, slot: Slot, grant: Grant) -> None:
    bench.do(c.DrainWorker(1, slot.worker_id, True))
    bench.report(grant, 1, 0.25)
    assert bench.do(finish(grant, claim=bench.ask(slot))).claim == c.Nothing(draining=True)
