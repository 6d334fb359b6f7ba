"""A real worker whose snapshots go to a bucket and come from there."""

from __future__ import annotations

import signal
from pathlib import Path

import obstore
from processes import Server, is_alive, until
from swift_server import Swift

from .test_supervisor import ALL, EPOCHS, House


def test_a_killed_trial_is_resumed_from_a_snapshot_in_the_bucket(swift: Swift, tmp_path: Path) -> None:
    with Server(tmp_path / "home", environ=swift.service("resumed")) as server, server.client() as client:
        house = House(tmp_path, server, client)
        house.study()
        house.let(3)
        with house.worker() as first:
            child = first.child_pid()
            first.says("event=snapshot_committed", "step=3")
            first.signal(signal.SIGKILL)
            until(lambda: not is_alive(child))
        with house.worker() as second:
            second.says("event=claimed", "attempt=2", "resume=3")
            house.let(EPOCHS)
            house.trial_is(state="complete", attempt=2, seconds=120)
        assert house.steps() == ALL
        kept = [meta["path"] for page in obstore.list(swift.store("resumed")) for meta in page]
        assert len(kept) >= 4  # three of the first attempt at least, and whose bucket it is
        assert [p for p in (tmp_path / "home" / "blobs").rglob("*") if p.is_file()] == []
        for said in (first.said, second.said, server.said):
            assert "X-Amz" not in said
            assert "service_away" not in said  # nothing went around
