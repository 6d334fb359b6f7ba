"""Two servers on one PostgreSQL, both written to at once: nothing is missed, lost or handed out twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Databases
from factories import PROJECT, WORK, Bench, hex128, report, sha256
from history import History, Recording
from invariants import look, violations
from light import TASK, LightWorker
from processes import until
from sqlalchemy import insert, select
from structlog.testing import capture_logs
from tunesmith_service import batches, db, tables, wire
from tunesmith_service import commands as c
from tunesmith_service.client import WorkerClient
from tunesmith_service.errors import Refused, Superseded
from tunesmith_service.tx import Tx

from .conftest import Served

MOST_RUNNING, TRIALS = 3, 30
SPACE = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}


@pytest.fixture
def pair(databases: Databases, tmp_path: Path) -> Iterator[tuple[Served, Served, str]]:
    url = databases.make("postgresql")
    with ExitStack() as stack:
        both = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            both.append(stack.enter_context(Served(tmp_path / name, "--database-url", url)))
        yield both[0], both[1], url
    databases.drop(url)


async def follow(server: Served, study: str, seen: list[int], over: asyncio.Event) -> None:
    """Read the log by its numbers as a reader does that remembers only the last one, until it is over."""
    bearer = {"Authorization": f"Bearer {server.token('operator')}"}
    async with httpx.AsyncClient(base_url=f"{server.url}/api/v1", headers=bearer, timeout=30) as http:
        while True:
            was_over = over.is_set()
            after = seen[-1] if seen else 0
            page = (await http.get(f"/studies/{study}/events", params={"after": after})).json()
            seen.extend(event["n"] for event in page["items"])
            if was_over and not page["items"]:
                return
            await asyncio.sleep(0)


async def work(server: Served, name: str, history: History, over: asyncio.Event) -> None:
    worker = LightWorker(server.url, server.token("worker"), name=name)
    line = Recording(httpx.AsyncHTTPTransport(), history, name)
    worker.client = WorkerClient(server.url, server.token("worker"), transport=line)
    await worker.register()
    while not over.is_set():
        await worker.run_one(wait_seconds=1)
    await worker.client.aclose()


async def watch(server: Served, studies: list[str], over: asyncio.Event) -> None:
    def ended(study: str) -> bool:
        return bool(server.people.get(f"/studies/{study}").json()["state"] == "complete")

    for study in studies:
        await asyncio.to_thread(until, partial(ended, study), 600)
    over.set()


def test_two_servers_share_a_database(pair: tuple[Served, Served, str]) -> None:
    first, second, url = pair
    studies = ["narrow", "wide"]
    for name, limits in (("narrow", {"max_concurrent": MOST_RUNNING}), ("wide", {})):
        stage = {"kind": "random", "epochs": 3, "trials": TRIALS}
        spec = {"name": name, "task": TASK, "space": SPACE, "stages": [stage], "limits": limits}
        assert first.people.post("/studies", json=spec).status_code == 201
    history = History()
    readers: list[tuple[Served, str, list[int]]] = [
        (s, name, []) for s in (first, second) for name in studies
    ]

    async def main() -> None:
        over = asyncio.Event()
        workers = [work((first, second)[i % 2], f"w{i}", history, over) for i in range(8)]
        following = [follow(server, name, seen, over) for server, name, seen in readers]
        await asyncio.wait_for(asyncio.gather(watch(second, studies, over), *workers, *following), 900)

    asyncio.run(main())
    engine = db.open_engine(url)
    found = look(engine, calls=history.calls)
    engine.dispose()
    assert violations(found) == []
    newest = {s.name: s.event_n for s in found.rows["studies"]}
    for _, name, seen in readers:
        assert seen == list(range(1, newest[name] + 1)), f"a reader of {name} missed or repeated an event"
    assert _served_by_both(history)


def _served_by_both(history: History) -> bool:
    """Whether workers of both servers were given trials."""
    return len({call.client[-1] in "02468" for call in history.calls if call.grant}) == 2


def test_two_servers_that_wait_for_each_other_both_get_through(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real deadlock: each holds one study and asks for the other's; the one that is ended tries again."""
    url = databases.make("postgresql")
    one, other = Bench(db.open_engine(url)), Bench(db.open_engine(url))
    studies = [one.study(f"study {i}") for i in range(2)]
    numbers = [one.trial(s) for s in studies]
    grants = [one.claim(), one.claim()]
    assert [g.number for g in grants] == numbers
    holding, propose, met = threading.Barrier(2, timeout=30), batches.HANDLERS[c.Propose], set[int]()

    def after_both_hold(tx: Any, commands: Any, now_us: int) -> Any:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            holding.wait()
        return propose(tx, commands, now_us)

    monkeypatch.setitem(batches.HANDLERS, c.Propose, after_both_hold)

    def write(bench: Bench, held: int, wanted: int) -> list[Any]:
        asked = c.Propose(studies[wanted], "random", "new", 5, {"lr": 0.2}, WORK, None, {}, 0, False)
        return bench.batch(report(grants[held], 1, 0.5), asked)

    with capture_logs() as logs, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(write, one, 0, 1), pool.submit(write, other, 1, 0)]
        outcomes = [f.result(60) for f in both]
    assert outcomes == [[c.Kept(), 1], [c.Kept(), 1]]
    assert "batch.again" in [line["event"] for line in logs]
    assert violations(look(one.engine, judge_decisions=False)) == []
    for bench in (one, other):
        bench.engine.dispose()
    databases.drop(url)


@pytest.fixture
def two(databases: Databases) -> Iterator[tuple[Bench, Bench]]:
    """Two writers on one PostgreSQL."""
    url = databases.make("postgresql")
    benches = Bench(db.open_engine(url)), Bench(db.open_engine(url))
    yield benches
    for bench in benches:
        bench.engine.dispose()
    databases.drop(url)


def waits(bench: Bench) -> bool:
    """Whether somebody waits for a lock in its database."""
    asked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with bench.engine.connect() as conn:
        return conn.exec_driver_sql(asked).first() is not None


def while_it_waits(first: Bench, command: c.Command, other: Bench, asked: c.Command) -> Any:
    """What becomes of `asked`, which comes while `command` is applied and not committed yet."""
    with ThreadPoolExecutor(1) as pool:
        with db.writing(first.engine).begin() as conn:
            (done,) = batches.HANDLERS[type(command)](Tx(conn), [command], first.clock.now_us())
            assert not isinstance(done, Refused)
            late = pool.submit(other.batch, asked)
            until(lambda: waits(first) or late.done(), 60)
        return late.result(60)[0]


def test_the_later_start_of_a_worker_counts_whichever_server_hears_of_it_first(
    two: tuple[Bench, Bench],
) -> None:
    one, other = two
    (slot,) = one.register()

    def started(starts: int) -> c.Register:
        slots = [wire.Slot(slot_id=slot.slot_id, devices=["cpu"])]
        return c.Register(PROJECT, one.token_id, wire.Register(
            worker_id=slot.worker_id, boot_id=hex128(), starts=starts, name="worker", version="1",
            tasks={"digits": "d1" * 32}, slots=slots,
        ))  # fmt: skip

    newest = started(slot.starts + 2)
    outcome = while_it_waits(one, newest, other, started(slot.starts + 1))
    assert isinstance(outcome, Superseded)
    (row,) = one.rows(select(tables.workers))
    assert (row.starts, row.boot_id) == (newest.body.starts, newest.body.boot_id)


def test_two_servers_that_forget_snapshots_at_once_both_get_through(two: tuple[Bench, Bench]) -> None:
    one, other = two
    one.trial(one.study(keep_best=0))
    grant = one.claim()
    one.report(grant, 1, 0.5)
    one.snapshot(grant, 1)
    one.finish(grant)
    forget = c.ForgetBlobs(one.clock.now_us() + 1)
    assert while_it_waits(one, forget, other, forget) == []
    (row,) = one.rows(select(tables.snapshots))
    assert row.forgotten_us is not None
    assert violations(look(one.engine, judge_decisions=False)) == []


def test_bytes_that_are_named_again_are_not_forgotten_by_another_server(two: tuple[Bench, Bench]) -> None:
    """What named them before is gone, so their row is about to go."""
    one, other = two
    one.trial(one.study())
    grant = one.claim()
    named = {"sha256": sha256("weights"), "size": 100}
    with db.writing(one.engine).begin() as conn:
        conn.execute(insert(tables.blobs).values(created_us=0, **named))
    commit = c.CommitSnapshot(grant.lease, 1, named["sha256"], 100)
    assert while_it_waits(one, commit, other, c.ForgetBlobs(one.clock.now_us())) == []
    (row,) = one.rows(select(tables.blobs))
    assert (row.sha256, row.size) == (named["sha256"], 100)


def test_a_slot_that_claims_by_two_servers_at_once_gets_one_trial(two: tuple[Bench, Bench]) -> None:
    """As where the answer to its first claim is late, and it has given that up."""
    one, other = two
    study = one.study()
    for _ in range(2):
        one.trial(study)
    (slot,) = one.register()
    outcome = while_it_waits(one, one.ask(slot), other, other.ask(slot))
    assert isinstance(outcome, c.Nothing)
    assert outcome.retry_at_us is not None
    (attempt,) = one.rows(select(tables.attempts))
    assert attempt.slot_id == slot.slot_id
