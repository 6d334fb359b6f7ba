"""The stream that keeps a page up to date: every event once, in order, and again after a break."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from tunesmith_service import overviews, trial_store
from tunesmith_service.blobs import BlobStore
from tunesmith_service.commands import CreateToken
from tunesmith_service.errors import NotFound
from tunesmith_service.ui import live
from ui.conftest import Dashboard
from ui.seeding import Seeder


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """`changes` of a stream, with their id."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields.get("event") == "changes":
            yield {"id": fields["id"], **json.loads(fields["data"])}
            fields = {}
        else:
            fields = {}


def test_a_stream_replays_the_log_from_where_the_browser_was(dashboard: Dashboard, person: httpx.Client):
    url = f"/ui/studies/{dashboard.study}/stream"
    with person.stream("GET", f"{url}?after=10") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        first = next(messages(answer))
    numbers = [e["n"] for e in first["entries"]]
    assert first["id"] == str(first["n"])
    assert numbers == list(range(11, first["n"] + 1))
    assert len(numbers) > 100
    with person.stream("GET", f"{url}?after=0", headers={"Last-Event-ID": "40"}) as answer:
        again = next(messages(answer))
    assert again["entries"][: len(numbers) - 30] == first["entries"][30:]


def test_a_change_reaches_an_open_stream(dashboard: Dashboard, person: httpx.Client):
    study = {
        "name": "streamed", "task": "light", "space": {"lr": [0.1]},
        "stages": [{"kind": "coarse_grid", "epochs": 1}],
    }  # fmt: skip
    made = dashboard.api("POST", "/studies", json=study).json()["id"]
    with person.stream("GET", f"/ui/studies/{made}/stream") as answer:
        stream = messages(answer)
        before = next(stream)
        dashboard.api("POST", f"/studies/{made}/pause")
        after = next(stream)
    assert [e["n"] for e in before["entries"]] == list(range(1, before["n"] + 1))
    assert after["entries"] == [{"n": before["n"] + 1, "kind": "study", "trial": None, "stage": None}]


def test_an_open_stream_does_not_hold_up_a_shutdown(dashboard: Dashboard, person: httpx.Client):
    with person.stream("GET", f"/ui/studies/{dashboard.study}/stream") as answer:
        stream = messages(answer)
        next(stream)
        dashboard.process.signal(15)
        list(stream)  # the server ends it, long before the 30 s that it gives to others
    assert dashboard.process.ends() == 0
    dashboard.start()


def collect(after: int, log: list[dict[str, Any]], limit: int) -> list[str]:
    """Messages for a log that is all there, until the stream would wait."""

    async def run() -> list[str]:
        looks = 0

        async def newest() -> int | None:
            nonlocal looks
            looks += 1
            return len(log) if looks <= limit else None

        async def entries(n: int, most: int) -> list[dict[str, Any]]:
            return log[n : n + most]

        return [m async for m in live.messages(after, asyncio.Event(), newest, entries)]

    return asyncio.run(run())


def test_a_reader_that_is_far_behind_is_told_to_load_anew(monkeypatch: pytest.MonkeyPatch):
    log = [{"n": n} for n in range(1, live.FAR + 3)]
    hello, message = collect(1, log, 1)
    assert hello.startswith("retry: ")
    assert json.loads(message.partition("data: ")[2]) == {
        "n": live.FAR + 2,
        "skipped": live.FAR + 1,
        "entries": [],
    }


def test_a_long_log_comes_in_pieces_and_without_gaps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "GAP_SECONDS", 0)
    log = [{"n": n} for n in range(1, 2 * live.MOST + 2)]
    found = [json.loads(m.partition("data: ")[2]) for m in collect(0, log, 3)[1:]]
    assert [len(m["entries"]) for m in found] == [live.MOST, live.MOST, 1]
    assert [e["n"] for m in found for e in m["entries"]] == list(range(1, len(log) + 1))


def test_a_quiet_stream_has_a_heartbeat(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.02)
    assert ": beat\n\n" in collect(0, [], 4)


def test_screens_read_the_same_on_both_databases(engine: Engine, tmp_path):
    blobs = BlobStore(tmp_path)
    blobs.prepare()
    seeder = Seeder(engine, blobs)
    token = seeder.do(CreateToken(None, "seed", "operator", "5eed" * 4, b"0" * 32, None, "seed"))
    study_id = seeder.some_of_everything(token)
    with engine.connect() as conn:
        study = overviews.visible_study(conn, None, study_id)
        with pytest.raises(NotFound):
            overviews.visible_study(conn, 2, study_id)
        assert [(t.stage, t.number) for t in overviews.stage_bests(conn, study)] == [
            ("refine", 24),
            ("coarse", 9),
        ]
        for sort in ("-number", "-lr", "value"):
            seen: list[int] = []
            while page := trial_store.trials(
                conn, study, sort=sort, after=seen[-1] if seen else None, limit=7
            ):
                seen += [t.number for t in page]
            whole = trial_store.trials(conn, study, sort=sort, limit=100)
            assert seen == [t.number for t in whole]
        ranked = [math.inf if t.value is None else t.value for t in whole]
        assert ranked == sorted(ranked)  # those without a value come last
        (running,) = overviews.running_trials(conn, study, limit=5)
        attempts = overviews.attempts_of(conn, running.id)
        assert [(a.attempt, a.worker, a.ending) for a in attempts] == [
            (1, "gpu-a", "expired"),
            (2, "gpu-a", None),
        ]
        best = trial_store.best_trials(conn, study)[0]
        assert [c.seq for c in overviews.log_tail(conn, best.id, chunks=4)] == [1]
        entries = overviews.entries_after(conn, study_id, 0, 10_000)
        assert [e["n"] for e in entries] == list(range(1, study.event_n + 1))
        assert {"moved", "reported", "planned", "stage", "study"} <= {e["kind"] for e in entries}
        assert next(e for e in entries if e["kind"] == "moved")["to"] == "running"
