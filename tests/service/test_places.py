"""Who is worked on, who waits, and who is sent away first. No time passes here: places are given by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tunesmith_service.errors import TooMany
from tunesmith_service.places import Place, Places, Priority

DASHBOARD, CREATE, CLAIM, REPORT, KEEP = Priority


def run(scene: Callable[[Places], Awaitable[Any]], in_flight: int = 8, waiting: int = 16) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(10):
            return await scene(Places(in_flight, waiting, waiting_seconds=60))

    return asyncio.run(main())


async def arrive(places: Places, *priorities: Priority) -> list[asyncio.Task[Place]]:
    """Requests that come one after the other; each has a place, waits, or was sent away."""
    came = []
    for priority in priorities:
        came.append(asyncio.create_task(places.enter(priority)))
        await asyncio.sleep(0)
    return came


def held(came: list[asyncio.Task[Place]]) -> int:
    return sum(task.done() and task.exception() is None for task in came)


def sent_away(came: list[asyncio.Task[Place]]) -> int:
    return sum(task.done() and isinstance(task.exception(), TooMany) for task in came)


async def end(*came: asyncio.Task[Place]) -> None:
    for task in came:
        task.cancel()
    await asyncio.gather(*came, return_exceptions=True)


def test_a_quarter_of_the_places_is_kept_for_what_keeps_a_lease():
    async def scene(places: Places) -> None:
        others = await arrive(places, *[REPORT] * 7)
        assert held(others) == 6
        keeping = await arrive(places, *[KEEP] * 3)
        assert held(keeping) == 2
        assert (places.in_flight, places.waiting) == (8, 2)
        await end(*others, *keeping)

    run(scene)


def test_what_keeps_a_lease_takes_reserved_places_last():
    async def scene(places: Places) -> None:
        keeping = await arrive(places, *[KEEP] * 6)
        other = await arrive(places, DASHBOARD)
        assert (held(keeping), held(other)) == (6, 0)
        assert held(await arrive(places, KEEP, KEEP)) == 2
        await end(*other)

    run(scene)


def test_the_least_is_sent_away_first_and_what_keeps_a_lease_last():
    """Sixteen may wait: 3 of them dashboards, 6 with what is created, 9 with claims, 12 with reports."""

    async def scene(places: Places) -> dict[Priority, int]:
        working = await arrive(places, *[KEEP] * 8)
        waits: dict[Priority, int] = {}
        lines = []
        for priority in Priority:
            lines += await arrive(places, *[priority] * 20)
            waits[priority] = places.waiting
            assert [p for p in Priority if places.refuses(p)] == [p for p in Priority if p <= priority]
        assert (held(working), held(lines), sent_away(lines)) == (8, 0, 100 - 16)
        await end(*lines)
        return waits

    assert run(scene) == {DASHBOARD: 3, CREATE: 6, CLAIM: 9, REPORT: 12, KEEP: 16}


def test_a_place_that_is_given_back_goes_to_the_most_urgent_and_among_equals_to_the_first():
    async def scene(places: Places) -> None:
        working = await arrive(places, *[REPORT] * 6, KEEP, KEEP)
        waiting = await arrive(places, DASHBOARD, CLAIM, REPORT, KEEP, REPORT, KEEP)
        turns: list[str] = []
        names = ("dashboard", "claim", "report", "keep", "report 2", "keep 2")
        for task, name in zip(waiting, names, strict=True):
            task.add_done_callback(lambda _, name=name: turns.append(name))
        for task in working[:6]:
            task.result().leave()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert turns == ["keep", "keep 2", "report", "report 2", "claim", "dashboard"]

    run(scene)


def test_a_reserved_place_that_is_given_back_goes_to_nobody_else():
    async def scene(places: Places) -> None:
        working = await arrive(places, *[REPORT] * 6, KEEP)
        waiting = await arrive(places, REPORT)
        working[6].result().leave()
        await asyncio.sleep(0)
        assert held(waiting) == 0
        await end(*waiting)

    run(scene)


def test_a_place_is_given_back_once_however_often():
    async def scene(places: Places) -> None:
        (first,) = await arrive(places, REPORT)
        for _ in range(3):
            first.result().leave()
        assert places.in_flight == 0

    run(scene)


def test_who_stops_waiting_takes_no_place():
    async def scene(places: Places) -> None:
        working = await arrive(places, *[REPORT] * 6)
        gone, stays = await arrive(places, REPORT, REPORT)
        await end(gone)
        assert places.waiting == 1
        working[0].result().leave()
        assert isinstance(await stays, Place)
        assert (places.in_flight, places.waiting) == (6, 0)

    run(scene)


def test_a_turn_that_comes_while_its_waiter_leaves_is_not_lost():
    async def scene(places: Places) -> None:
        working = await arrive(places, *[REPORT] * 6)
        gone, stays = await arrive(places, REPORT, REPORT)
        working[0].result().leave()  # its turn
        gone.cancel()  # in the same moment
        await asyncio.gather(gone, return_exceptions=True)
        assert isinstance(await stays, Place)
        assert places.in_flight == 6

    run(scene)


def test_who_waits_too_long_is_sent_away_and_counted():
    async def main() -> None:
        places = Places(4, 16, waiting_seconds=0.001)
        await arrive(places, *[REPORT] * 3)
        with pytest.raises(TooMany, match="more requests than it can work on") as told:
            await places.enter(DASHBOARD)
        assert told.value.retry_after_seconds == 5
        assert (places.waiting, places.shed) == (0, {DASHBOARD: 1})

    asyncio.run(main())
