"""Requests that arrive together commit together, and nothing ends the writer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from factories import PROJECT, Bench, report, spec
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from tunesmith_service import batches, tables, writer
from tunesmith_service import commands as c
from tunesmith_service.errors import Conflict, LeaseLost, Unavailable
from tunesmith_service.writer import Writer


def run(bench: Bench, body: Callable[[Writer], Awaitable[Any]]) -> Any:
    """Run `body` with a started writer."""

    async def go() -> Any:
        served = Writer(bench.engine, bench.clock)
        await served.start()
        try:
            return await body(served)
        finally:
            await served.stop()

    return asyncio.run(go())


def create(name: str) -> c.CreateStudy:
    return c.CreateStudy(PROJECT, spec(name), "test")


def commits(bench: Bench) -> list[str]:
    """Grows by one with each COMMIT."""
    seen: list[str] = []
    event.listen(bench.engine, "commit", lambda conn: seen.append("commit"))
    return seen


def held_up(bench: Bench) -> threading.Event:
    """The first transaction waits until this is set, so that what follows arrives together."""
    go = threading.Event()
    event.listen(bench.engine, "begin", lambda conn: go.wait(10), once=True, insert=True)
    return go


def test_what_arrives_together_commits_together(bench: Bench) -> None:
    done, go = commits(bench), held_up(bench)

    async def body(served: Writer) -> list[Any]:
        first = await occupied(served, create("first"))
        others = await submitted(served, *(create(f"study {i}") for i in range(20)))
        go.set()
        return [await first, *[await task for task in others]]

    ids = run(bench, body)
    assert len(set(ids)) == 21
    assert len(done) == 2


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - the writer's thread tells no event what it has taken
            await asyncio.sleep(0)


async def submitted(served: Writer, *commands: c.Command) -> list[asyncio.Task[Any]]:
    """While the first transaction is held up: each command's task, all of them in the queue."""
    before = served.depth
    tasks = [asyncio.create_task(served.submit(command)) for command in commands]
    await until(lambda: served.depth == before + len(commands))
    return tasks


async def occupied(served: Writer, command: c.Command) -> asyncio.Task[Any]:
    """The command that the writer's thread has taken and is held up with."""
    task = asyncio.create_task(served.submit(command))
    await asyncio.sleep(0)
    await until(lambda: served.depth == 0)
    return task


def test_an_answer_means_committed(bench: Bench) -> None:
    async def body(served: Writer) -> None:
        study = await served.submit(create("one"))
        assert bench.study_row(study).name == "one"

    run(bench, body)


def test_a_refusal_is_raised_to_its_own_caller_alone(bench: Bench) -> None:
    async def body(served: Writer) -> None:
        same = [served.submit(create("one")) for _ in range(2)]
        outcomes = await asyncio.gather(*same, return_exceptions=True)
        assert [type(o) for o in outcomes] == [int, Conflict]

    run(bench, body)


def test_a_broken_command_breaks_no_other(bench: Bench) -> None:
    broken = c.CreateStudy(PROJECT, {"name": "broken"}, "test")
    go = held_up(bench)

    async def body(served: Writer) -> list[Any]:
        first = await occupied(served, create("zero"))
        tasks = await submitted(served, create("one"), broken, create("two"))
        go.set()
        return list(await asyncio.gather(first, *tasks, return_exceptions=True))

    outcomes = run(bench, body)
    assert [type(o) for o in outcomes] == [int, int, KeyError, int]
    names = bench.rows(select(tables.studies.c.name).order_by(tables.studies.c.name))
    assert [row.name for row in names] == ["one", "two", "zero"]


@pytest.mark.parametrize("point", ["begin", "commit"])
def test_a_database_that_fails_at_begin_or_commit_is_told_and_does_not_end_the_writer(
    bench: Bench, point: str
) -> None:
    def fail(_: object) -> None:
        raise OperationalError(point, {}, Exception("the disk is gone"))

    async def body(served: Writer) -> None:
        event.listen(bench.engine, point, fail, insert=True)
        with pytest.raises(Unavailable, match="send the same request again"):
            await served.submit(create("one"))
        event.remove(bench.engine, point, fail)
        assert await served.submit(create("one"))

    run(bench, body)
    assert len(bench.rows(select(tables.studies))) == 1


def test_a_lost_connection_is_told_and_the_next_command_gets_a_new_one(bench: Bench) -> None:
    lost: list[object] = []

    def lose(conn: Any, cursor: Any, *_: object) -> None:
        if not lost:
            lost.append(conn)
            conn.connection.dbapi_connection.close()

    async def body(served: Writer) -> None:
        event.listen(bench.engine, "before_cursor_execute", lose)
        with pytest.raises(Unavailable):
            await served.submit(create("one"))
        assert await served.submit(create("one"))

    run(bench, body)


def test_a_cancelled_caller_harms_nobody(bench: Bench) -> None:
    go = held_up(bench)

    async def body(served: Writer) -> None:
        first = await occupied(served, create("first"))
        gone, other = await submitted(served, create("gone"), create("other"))
        gone.cancel()
        go.set()
        assert isinstance(await other, int)
        assert isinstance(await first, int)

    run(bench, body)
    assert len(bench.rows(select(tables.studies))) == 3  # a commit is not taken back


def test_a_deadlock_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"

    handler, tries = batches.HANDLERS[c.CreateStudy], []

    def unlucky(tx: Any, commands: Any, now_us: int) -> Any:
        tries.append(now_us)
        if len(tries) < 3:
            raise OperationalError("deadlock", {}, Deadlock())
        return handler(tx, commands, now_us)

    monkeypatch.setitem(batches.HANDLERS, c.CreateStudy, unlucky)
    assert isinstance(run(bench, lambda served: served.submit(create("one"))), int)
    assert len(tries) == 3


def test_a_write_that_deadlocks_each_time_is_to_be_sent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"

    def unlucky(tx: Any, commands: Any, now_us: int) -> Any:
        raise OperationalError("deadlock", {}, Deadlock())

    monkeypatch.setitem(batches.HANDLERS, c.CreateStudy, unlucky)
    with pytest.raises(Unavailable, match="nothing was written, send it again"):
        run(bench, lambda served: served.submit(create("one")))


def test_the_clock_is_read_once_a_batch(bench: Bench) -> None:
    read: list[int] = []

    class Counted:
        def now_us(self) -> int:
            read.append(bench.clock.now_us() + len(read))
            return read[-1]

    go = held_up(bench)

    async def body() -> None:
        served = Writer(bench.engine, Counted())
        await served.start()
        first = await occupied(served, create("first"))
        tasks = await submitted(served, create("one"), create("two"))
        go.set()
        await asyncio.gather(first, *tasks)
        await served.stop()

    asyncio.run(body())
    assert len(read) == 2
    made = bench.rows(select(tables.studies.c.created_us).where(tables.studies.c.name != "first"))
    assert made[0] == made[1]


def test_overload_sheds_reports_and_never_a_heartbeat(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CAPACITY", 4)
    monkeypatch.setattr(writer, "RESERVED", 1)
    bench.trial(bench.study())
    grant = bench.claim()
    go = held_up(bench)

    async def body(served: Writer) -> None:
        first = await occupied(served, c.Renew(grant.lease))
        queued = await submitted(served, *(report(grant, i) for i in (1, 2, 3)))
        with pytest.raises(Unavailable, match="3 writes wait already"):
            await served.submit(report(grant, 4))
        (beat,) = await submitted(served, c.Renew(grant.lease))
        go.set()
        assert await beat == await first == c.Kept()
        await asyncio.gather(*queued)

    run(bench, body)


def test_whoever_listens_hears_which_studies_changed_after_the_commit(bench: Bench) -> None:
    heard: list[set[int]] = []

    async def body(served: Writer) -> int:
        def broken(_: set[int]) -> None:
            raise ValueError("a listener's own fault")

        served.on_commit(broken)
        served.on_commit(heard.append)
        study = await served.submit(create("one"))
        with pytest.raises(LeaseLost):
            await served.submit(c.Renew(c.Lease(1, 1, 1, b"x" * 32)))
        assert isinstance(study, int)
        return study

    assert [run(bench, body)] == [study for studies in heard for study in studies]


def test_a_stopped_writer_has_written_what_it_took_and_takes_no_more(bench: Bench) -> None:
    async def go() -> None:
        served = Writer(bench.engine, bench.clock)
        await served.start()
        last = asyncio.create_task(served.submit(create("last")))
        await asyncio.sleep(0)
        await served.stop()
        assert isinstance(await last, int)
        with pytest.raises(Unavailable, match="stopping"):
            await served.submit(create("late"))

    asyncio.run(go())


def test_two_servers_on_one_postgresql_claim_different_trials(bench: Bench) -> None:
    if bench.engine.dialect.name == "sqlite":
        pytest.skip("SQLite serves one server")
    study = bench.study()
    for _ in range(20):
        bench.trial(study)
    slots = bench.register(20)
    asked = [bench.ask(slot) for slot in slots]

    async def go() -> list[Any]:
        servers = [Writer(bench.engine, bench.clock) for _ in range(4)]
        for served in servers:
            await served.start()
        try:
            return list(await asyncio.gather(*(servers[i % 4].submit(a) for i, a in enumerate(asked))))
        finally:
            for served in servers:
                await served.stop()

    granted = asyncio.run(go())
    assert len({g.trial_id for g in granted}) == 20
    assert bench.study_row(study).running == 20
    numbers = bench.rows(
        select(tables.events.c.n).where(tables.events.c.study_id == study).order_by(tables.events.c.n)
    )
    assert [row.n for row in numbers] == list(range(1, bench.event_n(study) + 1))
