"""The background loop takes back what has run out, whatever else fails, and never for an outage of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from factories import TTL, Bench
from processes import until
from tunesmith_service import db
from tunesmith_service.clock import SECOND, SystemClock
from tunesmith_service.errors import Unavailable
from tunesmith_service.sweeper import Sweeper

from .conftest import Api

HOUR = 3600 * SECOND


async def nothing() -> None:
    pass


def sweeper(bench: Bench, clock: Any, **changed: Callable[..., Any]) -> Sweeper:
    """A sweeper over the bench's database, with this clock."""

    async def submit(command: Any) -> Any:
        bench.clock = clock
        return bench.do(command)

    async def none() -> list[int]:
        return []

    parts: dict[str, Any] = {"submit": submit, "run_out": none, "resync": lambda: 0}
    parts |= dict.fromkeys(("tend", "note_use", "collect"), nothing)
    return Sweeper(**parts | changed, ttl_seconds=TTL / SECOND, sweep_seconds=2, collect_seconds=3600)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_is_set_by_an_hour_expires_nothing_and_delays_by_one_ttl_at_most(
    bench: Bench, jump: int
) -> None:
    wall = [bench.clock.now_us()]
    clock = SystemClock(wall=lambda: wall[0])
    bench.clock = clock  # type: ignore[assignment]
    made = bench.study()
    bench.trial(made)
    bench.claim()
    wall[0] = clock.now_us() + jump
    asyncio.run(sweeper(bench, clock, resync=clock.resync).tick())
    row = bench.row(made, 0)
    assert row.state == "running"
    assert 0 < row.lease_expires_us - clock.now_us() <= 2 * TTL


def test_an_error_in_one_round_does_not_end_the_loop(bench: Bench) -> None:
    asked: list[object] = []

    async def scene() -> None:
        enough = asyncio.Event()

        async def submit(command: object) -> Any:
            asked.append(command)
            if len(asked) < 4:
                raise (Unavailable("away") if len(asked) % 2 else RuntimeError("a fault of ours"))
            enough.set()
            return bench.do(command)  # type: ignore[arg-type]

        made = sweeper(bench, bench.clock, submit=submit)
        made._sweep_seconds = 0.001
        await made.start()
        await asyncio.wait_for(enough.wait(), 10)
        await made.stop()

    asyncio.run(scene())
    assert len(asked) >= 4


def test_rounds_go_on_while_bytes_are_collected_which_is_done_once_at_a_time(bench: Bench) -> None:
    now, begun, ended = [0.0], 0, 0

    async def scene() -> None:
        free = asyncio.Event()

        async def collect() -> None:
            nonlocal begun, ended
            begun += 1
            try:
                await free.wait()
                raise Unavailable("away")
            finally:
                ended += 1

        made = sweeper(bench, bench.clock, collect=collect, monotonic=lambda: now[0])

        async def rounds(n: int) -> None:
            for _ in range(n):
                now[0] += 3600
                await asyncio.wait_for(made.tick(), 10)
                await asyncio.sleep(0)
                assert made.age_seconds == 0

        await rounds(3)
        assert (begun, ended) == (1, 0)
        free.set()
        with structlog.testing.capture_logs() as said:
            assert made._collecting is not None
            await made._collecting
        assert [line["event"] for line in said] == ["sweeper.failed"]
        free.clear()
        await rounds(1)
        assert (begun, ended) == (2, 1)
        await made.stop()
        assert (begun, ended) == (2, 2)

    asyncio.run(scene())


def test_a_service_that_stops_does_not_wait_until_all_is_collected(play, monkeypatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def collect(is_named: object, *, older_than_seconds: float, is_stopped: Callable[[], bool]) -> int:
        begun.set()
        until(is_stopped)
        ended.set()
        return 0

    async def scene(api: Api) -> None:
        monkeypatch.setattr(api.service.blobs, "collect", collect)
        await asyncio.wait_for(api.service.sweeper.tick(), 10)
        assert await asyncio.to_thread(begun.wait, 60)
        assert not ended.is_set()

    play(scene, collect_seconds=1e-9)
    assert ended.is_set()


def test_a_trial_that_cannot_be_taken_back_keeps_no_other_from_it(play) -> None:
    """As a row that breaks a constraint would; here a trigger of the test's own refuses the first trial."""

    async def scene(api: Api) -> None:
        stuck, others = await api.lease(), [await api.lease() for _ in range(2)]
        refuses = (
            f"CREATE TRIGGER stuck BEFORE UPDATE OF state ON trials WHEN NEW.id = {stuck.trial_id} "
            "BEGIN SELECT RAISE(ABORT, 'stuck'); END"
        )
        with db.writing(api.service.engine).begin() as conn:
            conn.exec_driver_sql(refuses)
        api.clock.advance(31 * SECOND)
        with structlog.testing.capture_logs() as said:
            await api.service.sweeper.tick()
        told = [line["event"] for line in said if line["log_level"] == "error"]
        assert told == ["command.failed", "sweeper.one_by_one", "command.failed", "sweeper.trial_failed"]
        for lease in others:
            assert (await api.say(lease, "heartbeat", {})).json()["type"] == "urn:tunesmith:lease_lost"
        assert (await api.say(stuck, "heartbeat", {})).status_code == 200

    play(scene)
