"""A short soak on each database (`make soak` runs longer ones), and whether its judges see what is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from history import Call, Held
from invariants import Seen
from soak.chaos import Plan, soak
from soak.faults import Span
from soak.requeues import of_the_living, requeued
from soak.table import HEADING, put
from soak.worker import id_of
from soak.zombies import zombies
from tunesmith_service.clock import SECOND

SHORT = {"workers": 24, "ttl_seconds": 4.0, "epoch_seconds": 0.4, "pace": 2.5}
LEASE = Held(7, 1, 1, "hash")
LOST = {"type": "urn:tunesmith:lease_lost"}


@pytest.mark.chaos
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_minute_of_chaos_breaks_no_promise(database: str) -> None:
    summary, said = soak(Plan(0.75, database, **SHORT))
    assert summary.violations == [], said[-3000:]
    assert (summary.zombie_writes_accepted, summary.lost) == (0, 0)
    assert summary.settled is not None
    # All of it has happened, or the zeros would say nothing.
    counts = summary.counts
    assert summary.trials_done > 0
    assert summary.acknowledged > 0
    assert sum(n for by, n in summary.zombie_writes.items() if by.startswith("workers")) > 0
    for what in ("workers killed", "workers stopped", "requests replayed", "requests dropped"):
        assert counts[what] > 0, counts
    assert counts.get("service killed", 0) + counts.get("service restarted", 0) > 0, counts
    if database == "postgres":
        assert any(n for what, n in counts.items() if what.startswith("database ")), counts


@pytest.mark.chaos
def test_two_servers_of_which_one_is_killed_again_and_again_lose_and_double_nothing() -> None:
    calm = {"workers": 16, "ttl_seconds": 12.0, "epoch_seconds": 0.5, "trainers": False}
    summary, said = soak(Plan(0.5, "postgres", servers=2, kill_every=8.0, **calm))
    assert summary.violations == [], said[-3000:]
    assert (summary.zombie_writes_accepted, summary.lost, summary.finished_twice) == (0, 0, 0)
    assert summary.limited
    assert all(0 < one["polled"] <= one["most"] for one in summary.limited)
    assert all(one["logged"] <= one["most"] for one in summary.limited)
    assert summary.counts["service killed"] >= 2
    assert summary.settled is not None


def seen(calls: list[Call] = [], **attempt: Any) -> Seen:  # noqa: B006
    """A trial whose first attempt was claimed at 100 s and had ended at 140 s."""
    row = {
        "trial_id": 7, "attempt": 1, "claimed_us": 100 * SECOND, "ended_us": 140 * SECOND,
        "ending": "expired", "said": None, "worker_id": id_of("worker", 3),
    }  # fmt: skip
    event = {
        "kind": "moved",
        "cause": "expired",
        "trial_id": 7,
        "at_us": 140 * SECOND,
        "data": {"attempt": 1},
    }
    rows = {"attempts": [SimpleNamespace(**row | attempt)], "events": [SimpleNamespace(**event)]}
    return Seen(rows, {}, calls)  # type: ignore[arg-type]


def write(what: str, begin: float, status: int | None, client: str = "worker") -> Call:
    reply = LOST if status == 409 else {}
    return Call(client, "POST", what, {}, begin, LEASE, begin + 0.1, status, reply, int(begin * SECOND))


def test_a_write_after_the_end_of_its_lease_is_counted_by_what_became_of_it() -> None:
    found = zombies(
        seen(
            [
                write("reports", 139.0, 200),
                write("reports", 141.0, 409),
                write("heartbeat", 142.0, 409, "copy of worker"),
                write("heartbeat", 143.0, None),
                write("heartbeat", 144.0, 503),
                write("finish", 145.0, 200),
            ]
        )
    )
    assert found.tried == {"workers, expired": 2, "copies, expired": 1}
    assert (found.refused, found.undecided, found.told_again, len(found.accepted)) == (2, 2, 0, 1)


def test_an_end_that_was_said_before_is_no_zombie() -> None:
    found = zombies(seen([write("finish", 145.0, 200)], ending="finish", said="digest"))
    assert (found.told_again, found.accepted, found.tried) == (1, [], {})


def test_a_requeue_is_timed_from_the_last_word_and_from_the_expiry_without_outages() -> None:
    calls = [write("heartbeat", 105.0, 200), write("reports", 139.0, 409)]
    (quiet,) = requeued(seen(calls), {(7, 1): 137 * SECOND}, [])
    assert (quiet.after_sign_seconds, quiet.after_expiry_seconds, quiet.is_quiet) == (35.0, 3.0, True)
    (other,) = requeued(
        seen(calls), {(7, 1): 137 * SECOND}, [Span("killed", 130 * SECOND, 138 * SECOND, 139 * SECOND)]
    )
    assert (other.after_expiry_seconds, other.is_quiet) == (1.0, False)
    for end, is_quiet in ((96, False), (94, True)):  # the last word was at 105, a third of a TTL is 10 s
        outage = Span("killed", 90 * SECOND, end * SECOND, end * SECOND)
        assert [one.is_quiet for one in requeued(seen(calls), {}, [outage])] == [is_quiet]


def test_a_lease_of_the_living_that_was_taken_back_is_told() -> None:
    grant = {"grant": {"trial_id": 7, "attempt": 1}}
    noted = [Call("light-3", "POST", "claims", {}, 100.0, None, 100.1, 200, grant)]
    assert len(of_the_living(seen(), noted, {})) == 1
    assert of_the_living(seen(), noted, {3: [Span("killed", 120 * SECOND, 121 * SECOND, 121 * SECOND)]}) == []
    assert of_the_living(seen(), [], {}) == []  # a grant that nobody has heard of


def test_the_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    document = tmp_path / "measured.md"
    document.write_text(f"# M\n\n## {HEADING}\nSaid.\n\n## Next\nrest\n")
    told = {
        "database": "sqlite", "minutes": 1.0, "seeded": 0, "workers": 2, "servers": 1,
        "finished_twice": 0, "limited": [], "ttl_seconds": 4.0, "trials_done": 5,
        "attempts": 6, "requests": 7, "counts": {"workers killed": 2}, "lost": 0, "violations": [],
        "zombie_writes": {"copies, expired": 1}, "zombie_writes_refused": 1, "zombie_writes_accepted": 0,
        "acknowledged": 3, "expired": 1, "taken_alive": [], "requeue_after_sign": 5.0,
        "requeue_after_expiry": None, "ready": None, "starts": 0, "recovery": None,
        "settled": None, "memory": {"highest": 100.0},
    }  # fmt: skip
    put(document, [told])
    put(document, [told | {"minutes": 9.0}])
    text = document.read_text()
    assert text.startswith(f"# M\n\n## {HEADING}\nSaid.\n\n| | SQLite |\n")
    assert "| 9.0 |" in text
    assert "| 1.0 |" not in text
    assert text.endswith("MiB |\n\n## Next\nrest\n")
