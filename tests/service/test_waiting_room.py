"""How claims wait: woken by what may concern them, first come first served, and never a herd."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from tunesmith_service import waiting_room
from tunesmith_service.commands import Claim, Granted, Nothing
from tunesmith_service.waiting_room import WAKE_AT_LEAST, Demand, WaitingRoom

PROJECT = 1


@dataclass
class Trials:
    """A store of trials to hand out, by the task that each needs."""

    due: list[str] = field(default_factory=list)
    tries: list[str] = field(default_factory=list)
    stale: bool = False
    fresh_wait_us: int = 0
    now_us: int = 0
    retry_at_us: int | None = None

    async def submit(self, claim: Claim) -> Granted | Nothing:
        self.tries.append(claim.worker_id)
        task = claim.worker_id.partition(":")[0]
        if self.stale and self.due and not claim.accept_stale:
            return Nothing(stale=True, fresh_wait_us=self.fresh_wait_us)
        if self.retry_at_us is not None and self.now_us < self.retry_at_us:
            return Nothing(retry_at_us=self.retry_at_us)
        if task not in self.due:
            return Nothing()
        self.due.remove(task)
        return Granted(1, 1, 1, {})

    async def look(self) -> dict[int, Demand]:
        return {7: Demand(PROJECT, len(self.due), 0, None)}


def claim(worker: str) -> Claim:
    return Claim(PROJECT, 1, "c" * 32, worker, "b" * 32, "s" * 32, b"")


def run(play) -> None:
    """Run a play with a room over a store of trials."""

    async def main() -> None:
        trials = Trials()
        room = WaitingRoom(trials.submit, trials.look, lambda: trials.now_us)
        await room.start()
        try:
            async with asyncio.timeout(60):
                await play(room, trials)
        finally:
            await room.stop()

    asyncio.run(main())


async def arrive(room: WaitingRoom, worker: str, wait_seconds: float = 20) -> asyncio.Task:
    """A claim that has tried once and now waits."""
    gone = asyncio.get_running_loop().create_future()
    before = len(room)
    task = asyncio.create_task(room.claim(claim(worker), wait_seconds=wait_seconds, watch=lambda: gone))
    task.leave = lambda: gone.set_result(None)
    while len(room) == before and not task.done():  # noqa: ASYNC110  (a turn of the loop or two)
        await asyncio.sleep(0)
    return task


def test_a_trial_goes_to_who_came_first():
    async def play(room, trials):
        waiting = [await arrive(room, f"digits:{i}") for i in range(3)]
        trials.due.append("digits")
        room.changed({7})
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert done == {waiting[0]}
        assert isinstance(waiting[0].result(), Granted)
        room.close()
        assert [isinstance(await w, Granted) for w in waiting] == [True, False, False]

    run(play)


def test_who_cannot_serve_the_trial_lets_the_next_try_until_one_can():
    async def play(room, trials):
        others = [await arrive(room, f"spam:{i}") for i in range(3 * WAKE_AT_LEAST)]
        last = await arrive(room, "digits:0")
        trials.due.append("digits")
        room.changed({7})
        assert isinstance(await last, Granted)
        assert not any(o.done() for o in others)

    run(play)


def test_what_changes_while_a_claim_is_tried_wakes_it_once_it_waits(monkeypatch):
    monkeypatch.setattr(waiting_room, "POLL_SECONDS", 3600.0)
    monkeypatch.setattr(waiting_room, "SPACING_SECONDS", 0.0)

    async def play(room, trials):
        answered, looks = asyncio.Event(), 0
        real = room._look

        async def tried(_: Claim) -> Nothing:
            room._submit = trials.submit
            await answered.wait()
            return Nothing()

        async def counted():
            nonlocal looks
            looks += 1
            return await real()

        room._submit, room._look = tried, counted
        trying = await arrive(room, "digits:0")
        trials.due.append("digits")  # too late for this try
        room.changed({7})
        for _ in range(20):
            await asyncio.sleep(0)
        assert looks == 0  # nobody waits
        answered.set()
        assert isinstance(await trying, Granted)

    run(play)


def test_reports_wake_nobody():
    async def play(room, trials):
        waiting = await arrive(room, "digits:0")
        looks = 0
        real = room._look

        async def counted():
            nonlocal looks
            looks += 1
            return await real()

        room._look = counted
        trials.due.append("spam")  # a trial that nobody here serves is seen once
        while looks < 5:
            room.changed({7})
            await asyncio.sleep(0)
        assert len(trials.tries) <= 2
        assert not waiting.done()

    run(play)


def test_one_trial_costs_a_few_tries_however_many_wait():
    async def play(room, trials):
        waiting = [await arrive(room, f"digits:{i}") for i in range(64)]
        assert len(trials.tries) == 64
        for given in range(4):
            trials.due.append("digits")
            room.changed({7})
            await waiting[given]
        assert len(trials.tries) <= 64 + 4 * 2 * WAKE_AT_LEAST
        room.close()
        await asyncio.wait(waiting)

    run(play)


def test_a_claim_is_answered_when_its_time_is_up():
    async def play(room, trials):
        assert await (await arrive(room, "digits:0", wait_seconds=0.01)) == Nothing()
        assert len(room) == 0

    run(play)


def test_a_client_that_goes_away_leaves_the_queue_and_takes_no_trial():
    async def play(room, trials):
        first, second = await arrive(room, "digits:0"), await arrive(room, "digits:1")
        first.leave()
        assert await first == Nothing()
        trials.due.append("digits")
        room.changed({7})
        assert isinstance(await second, Granted)

    run(play)


def test_closing_answers_all_at_once():
    async def play(room, trials):
        waiting = [await arrive(room, f"digits:{i}") for i in range(10)]
        room.close()
        assert await asyncio.gather(*waiting) == [Nothing()] * 10

    run(play)


def test_a_stale_draft_is_taken_only_after_the_wait_for_a_fresh_one():
    async def play(room, trials):
        trials.due, trials.stale, trials.fresh_wait_us = ["digits"], True, 30_000
        waiting = await arrive(room, "digits:0")
        assert not waiting.done()
        assert isinstance(await waiting, Granted)
        assert len(trials.tries) >= 2

    run(play)


def test_a_draft_that_is_redrawn_in_time_is_taken_fresh():
    async def play(room, trials):
        trials.due, trials.stale, trials.fresh_wait_us = ["digits"], True, 20_000_000
        waiting = await arrive(room, "digits:0")
        trials.stale = False
        room.changed({7})
        assert isinstance(await waiting, Granted)

    run(play)


def test_a_study_that_waits_for_ever_for_fresh_drafts_hands_out_no_stale_one():
    async def play(room, trials):
        trials.due, trials.stale, trials.fresh_wait_us = ["digits"], True, 10**12
        outcome = await (await arrive(room, "digits:0", wait_seconds=0.01))
        assert outcome.stale
        assert trials.due == ["digits"]

    run(play)


def test_the_end_of_a_backoff_wakes_who_waits_for_it():
    async def play(room, trials):
        trials.due, trials.retry_at_us = ["digits"], 20_000
        waiting = await arrive(room, "digits:0")
        trials.now_us = 20_000
        assert isinstance(await waiting, Granted)

    run(play)


@pytest.mark.parametrize(
    ("demand", "open_"),
    [
        (Demand(1, 5, 0, None), 5),
        (Demand(1, 5, 2, 3), 1),
        (Demand(1, 5, 3, 3), 0),
        (Demand(1, 0, 0, 3), 0),
    ],
)
def test_demand_is_what_waits_within_the_room_under_max_concurrent(demand, open_):
    assert demand.open == open_
