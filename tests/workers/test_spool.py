"""The queue of an attempt's writes, in memory and on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tunesmith_service import wire
from tunesmith_service.client import Lease
from tunesmith_workers.spool import LOG_CHARACTERS, POINTS_PER_REPORT, Entry, Spool, leftovers

LEASE = Lease(trial_id=7, incarnation=1, attempt=3, secret="a" * 32)
URL = "http://127.0.0.1:8787"
Make = Callable[..., Spool]


def points(*steps: int) -> list[dict[str, Any]]:
    return [{"step": step, "metrics": {"val/loss": 1 / step}} for step in steps]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes spools in `tmp_path`, and closes them."""
    made: list[Spool] = []

    def make(**options: Any) -> Spool:
        made.append(Spool.create(tmp_path, LEASE, URL, **options))
        return made[-1]

    yield make
    for spool in made:
        spool.close()


def drained(spool: Spool) -> list[Entry]:
    async def drain() -> list[Entry]:
        entries = []
        while len(spool):
            entries.append(entry := await (spool.log_head() if spool.has_logs else spool.head()))
            spool.accepted(entry)
        return entries

    return asyncio.run(drain())


def test_writes_leave_in_the_order_in_which_they_came_and_logs_beside_them(make: Make):
    spool = make()
    spool.add_points(points(1))
    spool.add_log("epoch 1\n")
    spool.add_file("snapshot", {"step": 1, "sha256": "0" * 64, "path": "/s"})
    spool.add_points(points(2))
    spool.close_with("finish", {"state": "complete", "stop_reason": "budget"})
    assert [(e.kind, e.body.get("seq")) for e in drained(spool)] == [
        ("log", 1), ("report", 1), ("snapshot", None), ("report", 2), ("finish", None),
    ]  # fmt: skip


def test_the_last_word_waits_for_the_log(make: Make):
    async def story() -> tuple[bool, str]:
        spool = make()
        spool.add_log("said")
        spool.close_with("finish", {"state": "complete", "stop_reason": "budget"})
        word = asyncio.create_task(spool.head())
        chunk = await spool.log_head()
        await asyncio.sleep(0)
        waited = not word.done()
        spool.accepted(chunk)
        return waited, (await word).kind

    assert asyncio.run(story()) == (True, "finish")


def test_points_join_a_report_that_waits_but_not_one_that_was_sent(make: Make):
    async def story() -> list[Entry]:
        spool = make()
        spool.add_points(points(1))
        spool.add_points(points(2))
        first = await spool.head()  # sent: from here on number 1 means these two points
        spool.add_points(points(3))
        spool.add_points(points(4))
        spool.accepted(first)
        return [first, await spool.head()]

    assert [[p["step"] for p in e.body["points"]] for e in asyncio.run(story())] == [[1, 2], [3, 4]]


def test_a_report_never_holds_more_points_than_the_service_takes(make: Make):
    spool = make()
    spool.add_points(points(*range(1, 400)))
    spool.add_points(points(*range(400, 1302)))
    reports = [e.body for e in drained(spool)]
    assert [len(r["points"]) for r in reports] == [POINTS_PER_REPORT, POINTS_PER_REPORT, 301]
    assert [r["seq"] for r in reports] == [1, 2, 3]
    assert [p["step"] for r in reports for p in r["points"]] == list(range(1, 1302))


def test_a_long_log_is_cut_into_numbered_chunks(make: Make):
    spool = make()
    spool.add_log("x" * (LOG_CHARACTERS + 1))
    assert [(e.body["seq"], len(e.body["text"])) for e in drained(spool)] == [(1, LOG_CHARACTERS), (2, 1)]


def test_a_spool_left_behind_says_the_same_to_the_next_supervisor(tmp_path: Path, make: Make):
    spool = make()
    spool.add_points(points(1, 2))
    spool.add_points(points(3))
    spool.add_log("said")
    spool.close_with("release", {"cause": "shutdown"})
    spool.close(keep=True)
    (path,) = leftovers(tmp_path)
    loaded = Spool.load(path)
    assert (loaded.lease, loaded.url) == (LEASE, URL)
    assert [(e.kind, e.body) for e in drained(loaded)] == [
        ("log", {"seq": 1, "text": "said"}),
        ("report", {"seq": 1, "points": points(1, 2, 3)}),
        ("release", {"cause": "shutdown"}),
    ]


def test_a_torn_last_line_is_dropped(tmp_path: Path, make: Make):
    spool = make()
    spool.add_points(points(1))
    spool.close(keep=True)
    (path,) = leftovers(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"kind": "report", "body": {"seq": 2, "poi')
    assert [e.body["seq"] for e in drained(Spool.load(path))] == [1]


def test_a_file_that_is_no_spool_is_refused_by_name(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl is no spool"):
        Spool.load(tmp_path / "x.jsonl")


def test_the_file_is_cut_back_when_all_is_accepted_and_gone_at_the_end(tmp_path: Path, make: Make):
    spool = make()
    (path,) = leftovers(tmp_path)
    empty = path.stat().st_size
    spool.add_points(points(1, 2, 3))
    assert path.stat().st_size > empty
    drained(spool)
    assert path.stat().st_size == empty
    spool.add_points(points(4))
    assert json.loads(path.read_text().splitlines()[1])["body"]["seq"] == 2
    spool.close()
    assert leftovers(tmp_path) == []


def test_only_its_owner_may_read_a_spool_for_it_holds_the_lease_s_secret(tmp_path: Path, make: Make):
    make()
    assert leftovers(tmp_path)[0].stat().st_mode & 0o777 == 0o600


def test_a_spool_says_when_it_is_full_and_still_loses_nothing(make: Make):
    spool = make(limit=2000)
    step = 0
    while not spool.full:
        step += 1
        spool.add_points(points(step))
    spool.add_points(points(step + 1))
    assert [p["step"] for e in drained(spool) for p in e.body["points"]] == list(range(1, step + 2))
    assert not spool.full


def test_accepted_reports_can_be_had_again_for_a_service_that_asks(make: Make):
    spool = make()
    for step in (1, 2, 3):
        spool.add_points(points(step))
        drained(spool)
    assert [r["seq"] for r in spool.reports_from(2)] == [2, 3]
    with pytest.raises(KeyError):
        spool.reports_from(0)


def test_a_disk_without_room_leaves_the_spool_in_memory(tmp_path: Path):
    (tmp_path / "7.1.3.jsonl").symlink_to("/dev/full")
    spool = Spool.create(tmp_path, LEASE, URL)
    spool.add_points(points(1))
    spool.close_with("finish", {"state": "complete"})
    assert [e.kind for e in drained(spool)] == ["report", "finish"]
    spool.close()


def test_points_of_many_metrics_fill_a_report_before_its_body_is_too_long_for_the_service(make: Make):
    spool = make()
    many = [{"step": s, "metrics": {f"val/metric-{i}": s + i / 7 for i in range(256)}} for s in range(1, 301)]
    for point in many:
        spool.add_points([point])
    reports = [wire.Report.model_validate(e.body) for e in drained(spool)]
    assert [p.step for r in reports for p in r.points] == list(range(1, 301))
    assert [r.seq for r in reports] == list(range(1, len(reports) + 1))
    assert max(len(r.model_dump_json()) for r in reports) < 2**20


def test_many_points_at_once_fill_several_reports_of_a_bearable_length(make: Make):
    spool = make()
    spool.add_points([{"step": s, "metrics": {f"m{i}": 1 / 7 for i in range(256)}} for s in range(1, 301)])
    assert max(len(json.dumps(e.body)) for e in drained(spool)) < 2**20
