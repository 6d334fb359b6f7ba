"""The test set is read by the final stage alone, and every read of it is counted."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from factories import WORK, Bench, Grant
from tunesmith_service import batches, db, event_log, reporting
from tunesmith_service import commands as c
from tunesmith_service.errors import Unprocessable
from tunesmith_service.tx import Tx

READS = WORK | {"kind": "evaluate", "read_test": True}


def granted(bench: Bench, study: int, work: dict[str, Any] = READS) -> Grant:
    bench.trial(study, work=work)
    return bench.claim()


def says(grant: Grant, seq: int = 1, metric: str = "test/accuracy") -> c.Report:
    return c.Report(grant.lease, seq, ((seq, {metric: 0.9}),))


def reads(bench: Bench, study: int) -> list[tuple[int, int]]:
    """(trial, nth) of each read in the study's log."""
    with bench.engine.connect() as conn:
        entries = event_log.entries_since(conn, study, 0)
    return [(e.trial or 0, e.data["nth"]) for e in entries if e.kind == "test_read"]


def test_a_trial_of_any_other_stage_is_refused_with_the_metric_and_what_may_read_it(bench: Bench) -> None:
    study = bench.study()
    told = bench.do(says(granted(bench, study, WORK)))
    assert isinstance(told, Unprocessable)
    assert "test/accuracy" in told.detail
    assert "`final` stage" in told.detail
    assert reads(bench, study) == []


def test_the_first_report_of_the_test_set_is_a_read_and_the_next_of_the_same_trial_is_none(
    bench: Bench,
) -> None:
    study = bench.study()
    grant = granted(bench, study)
    bench.do(says(grant, 1, "val/loss"))
    assert reads(bench, study) == []
    for seq in (2, 3):
        assert bench.do(says(grant, seq)) == c.Kept()
    assert bench.do(says(grant, 3)) == c.Kept(duplicate=True)
    assert reads(bench, study) == [(grant.number, 1)]
    assert bench.row(study, grant.number).test_read == 1


def test_a_second_attempt_of_the_same_trial_is_no_second_read(bench: Bench) -> None:
    study = bench.study()
    bench.do(says(granted(bench, study)))
    bench.expire()
    assert bench.do(says(bench.claim())) == c.Kept()
    assert [nth for _, nth in reads(bench, study)] == [1]


def test_reads_are_counted_over_the_studies_of_a_project_and_task(bench: Bench) -> None:
    first, second = bench.study("first"), bench.study("second")
    bench.do(says(granted(bench, first)))
    grants = [granted(bench, second), granted(bench, second)]
    assert bench.batch(*(says(g) for g in grants)) == [c.Kept(), c.Kept()]
    other = bench.study("other", task="spam")
    bench.trial(other, work=READS)
    bench.do(says(bench.claim(bench.register(tasks={"spam": "5a" * 32})[0])))
    assert [nth for _, nth in reads(bench, first)] == [1]
    assert reads(bench, second) == [(grants[0].number, 2), (grants[1].number, 3)]
    assert [nth for _, nth in reads(bench, other)] == [1]


def test_two_servers_that_hear_of_a_first_read_at_once_count_two(bench: Bench) -> None:
    studies = [bench.study("first"), bench.study("second")]
    one, other = (granted(bench, s) for s in studies)
    now_us = bench.clock.now_us()
    told: list[Any] = []

    def second_server() -> None:
        told.extend(batches.commit(bench.engine, [says(other)], now_us).outcomes)

    with db.writing(bench.engine).begin() as conn:
        assert reporting.apply_report(Tx(conn), [says(one)], now_us) == [c.Kept()]
        waiting = threading.Thread(target=second_server)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive(), "it waits for the count, though not for the other study"
    waiting.join(10)
    assert told == [c.Kept()]
    assert [reads(bench, s)[0][1] for s in studies] == [1, 2]


@pytest.mark.parametrize("work", [{"read_test": True}, {"kind": "evaluate"}])
def test_people_enqueue_nothing_but_training(bench: Bench, work: dict[str, Any]) -> None:
    study = bench.study()
    told = bench.do(c.Enqueue(study, "random", ({"lr": 0.1},), WORK | work, "test"))
    assert isinstance(told, Unprocessable)
    assert "by hand" in told.detail
