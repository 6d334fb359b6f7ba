"""The checker on histories that are known to be good or bad, then on what 32 clients of a real server saw."""

from __future__ import annotations

import math

import pytest
from linearizability import Op, Queue, TrialState, check, queue_step, trial_step

ENDS = (("complete", "budget"), ("failed", "error"))
BACK = (("waiting", None),)


def op(begin: float, end: float, *do: object, said: object = "ok") -> Op:
    return Op(begin, end, do, said)


GOOD = {
    "one lease": [
        op(0, 1, "claim", 1, "a"), op(2, 3, "beat", 1), op(4, 5, "report", 1, 1),
        op(6, 7, "end", 1, "done", ENDS, said=("complete", "budget")),
    ],
    "a late beat is refused once the lease is another's": [
        op(0, 1, "claim", 1, "a"), op(0, math.inf, "reap", 1), op(4, 5, "claim", 2, "b"),
        op(6, 7, "beat", 1, said="lease_lost"), op(6, 7, "beat", 2),
    ],
    "a beat beside a reap may come first": [
        op(0, 1, "claim", 1, "a"), op(0, math.inf, "reap", 1), op(2, 5, "beat", 1),
        op(3, 4, "beat", 1, said="lease_lost"),
    ],
    "a report without an answer was carried out, and is a duplicate": [
        op(0, 1, "claim", 1, "a"), op(2, math.inf, "report", 1, 1, said=None),
        op(3, 4, "report", 1, 1, said="duplicate"),
    ],
    "a report without an answer was never carried out": [
        op(0, 1, "claim", 1, "a"), op(2, math.inf, "report", 1, 1, said=None),
        op(3, 4, "report", 1, 2, said="seq_gap"), op(5, 6, "report", 1, 1),
    ],
    "an end said again is answered again, after another's claim too": [
        op(0, 1, "claim", 1, "a"), op(2, 3, "end", 1, "back", BACK, said=("waiting", None)),
        op(4, 5, "claim", 2, "b"), op(6, 7, "end", 1, "back", BACK, said=("waiting", None)),
    ],
    "a claim said again gets its lease again": [op(0, 1, "claim", 1, "a"), op(2, 3, "claim", 1, "a")],
    "cancelled, then told so": [
        op(0, 1, "claim", 1, "a"), op(2, 3, "cancel"), op(4, 5, "beat", 1, said="already_final"),
    ],
}  # fmt: skip
BAD = {
    "a zombie's report is accepted": [
        op(0, 1, "claim", 1, "a"), op(0, math.inf, "reap", 1), op(4, 5, "claim", 2, "b"),
        op(6, 7, "report", 1, 1),
    ],
    "two leases of one attempt": [op(0, 1, "claim", 1, "a"), op(2, 3, "claim", 1, "b")],
    "a lease that nobody took back is another's": [op(0, 1, "claim", 1, "a"), op(2, 3, "claim", 2, "b")],
    "an acknowledged report is forgotten": [
        op(0, 1, "claim", 1, "a"), op(2, 3, "report", 1, 1), op(4, 5, "report", 1, 2, said="seq_gap"),
    ],
    "a report counts twice": [op(0, 1, "claim", 1, "a"), op(2, 3, "report", 1, 1), op(4, 5, "report", 1, 1)],
    "two ends": [
        op(0, 1, "claim", 1, "a"), op(2, 3, "end", 1, "done", ENDS, said=("complete", "budget")),
        op(4, 5, "end", 1, "back", BACK, said=("waiting", None)),
    ],
    "a cancelled trial is claimed": [op(0, 1, "cancel"), op(2, 3, "claim", 1, "a")],
    "a beat is refused while nobody else can have the lease": [
        op(0, 1, "claim", 1, "a"), op(2, 3, "beat", 1, said="lease_lost"), op(4, 5, "beat", 1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_one_lease_after_another_gives_is_linearizable(name: str) -> None:
    assert check(GOOD[name], TrialState(), trial_step) == "linearizable"


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_order_gives_is_an_anomaly(name: str) -> None:
    assert check(BAD[name], TrialState(), trial_step) == "anomaly"


GOOD_QUEUES = {
    "the least number first": [
        op(0, 1, "put", (0, 1)), op(2, 3, "take", 0), op(4, 5, "take", 1), op(6, 7, "nothing")
    ],
    "claims at the same time": [op(0, 1, "put", (0, 1)), op(2, 5, "take", 1), op(2, 5, "take", 0)],
    "nothing, beside what comes": [op(0, 5, "put", (0,)), op(1, 2, "nothing"), op(3, 6, "take", 0)],
    "handed back": [op(0, 1, "put", (0,)), op(2, 3, "take", 0), op(4, 5, "back", 0), op(6, 7, "take", 0)],
    "after its backoff": [
        op(0, 1, "put", (0, 1)), op(2, 3, "take", 0), op(6, 7, "take", 1), op(8, 9, "retake", 0),
    ],
}  # fmt: skip
BAD_QUEUES = {
    "taken twice": [op(0, 1, "put", (0, 1)), op(2, 3, "take", 0), op(4, 5, "take", 0)],
    "the later one first": [op(0, 1, "put", (0, 1)), op(2, 3, "take", 1), op(4, 5, "take", 0)],
    "nothing although one waits": [op(0, 1, "put", (0,)), op(2, 3, "nothing"), op(4, 5, "take", 0)],
    "taken although dropped": [op(0, 1, "put", (0,)), op(2, 3, "drop", 0), op(4, 5, "take", 0)],
    "taken again although dropped": [
        op(0, 1, "put", (0,)), op(2, 3, "take", 0), op(4, 5, "drop", 0), op(6, 7, "retake", 0),
    ],
    "taken again although never taken": [op(0, 1, "put", (0,)), op(2, 3, "retake", 0)],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_QUEUES)
def test_a_queue_gives_the_least_number_that_waits(name: str) -> None:
    assert check(GOOD_QUEUES[name], Queue(), queue_step) == "linearizable"


@pytest.mark.parametrize("name", BAD_QUEUES)
def test_a_queue_that_gives_anything_else_is_an_anomaly(name: str) -> None:
    assert check(BAD_QUEUES[name], Queue(), queue_step) == "anomaly"


def test_a_search_that_takes_too_long_is_undecided() -> None:
    beside = [op(0, 100, "claim", 1, "a"), *(op(0, 100, "report", 1, n) for n in range(20, 0, -1))]
    assert check([*beside, op(0, 100, "beat", 2)], TrialState(), trial_step, seconds=0.0) == "undecided"
