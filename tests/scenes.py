"""Scenes: what must happen for a bug to show, played by a few hands on the simulation's deployment.

The sound service keeps every promise in each of them. `mutants` says which bug breaks which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from simulation.hand import Grant, Hand
from simulation.people import SPACE
from simulation.run import World
from simulation.trainer import TASK
from sqlalchemy import select
from tunesmith_service.tables import instance, trials

Scene = Callable[[World], Awaitable[None]]

AWAY_SECONDS = 100.0
STUDY = "studies/scene"
EVEN, ODD = "00" * 16, "01" * 16
"""Ids of workers; see `mutants.worker_clock_expiry`."""


async def a_zombie_writes_on(world: World) -> None:
    """A worker is not heard of until its trial is another's, then it reports."""
    await _study(world, trials=1)
    a, b = await _hands(world)
    old = await a.claim()
    new = await b.claim()
    await a.report(old, 1, 0.9)
    await a.beat(old)
    await b.train(new)
    await b.work_off()


async def a_restore_forgets_a_lease(world: World) -> None:
    """A trial is claimed after the backup that the database goes back to, and claimed again after that."""
    await _study(world, trials=1)
    a, b = await _hands(world)
    copied_at, copy = world.loop.time(), world.host.copy_database()
    old = await a.claim()
    world.faults.put_back(copy, copied_at)
    await _start(world)
    new = await b.claim()
    await a.report(old, 1, 0.9)
    await b.train(new)
    await b.work_off()


async def killed_while_a_trial_is_taken_back(world: World) -> None:
    """The server dies at once after the sweeper has touched a lease that ran out."""
    await _study(world, trials=1)
    a, b = await _hands(world)
    await a.claim()
    until = _expires_us(world)
    await world.faults.until(lambda: _expires_us(world) != until, every=0.05)
    await _restart(world)
    await b.work_off()


async def handed_back_late(world: World) -> None:
    """A lease has run out and the sweeper has come; then its holder hands back, and another claims."""
    await _study(world, trials=1)
    a, b = await _hands(world)
    old = await a.claim()
    until = _expires_us(world)
    await world.faults.until(lambda: _swept_us(world) > until, every=0.05)
    await a.release(old)
    new = await b.claim()
    await _beats(b, new, 3)
    await b.train(new)
    await b.work_off()


async def the_disk_fails_while_the_sweeper_is_at_it(world: World) -> None:
    """No commit comes through for some rounds of the sweeper; then a worker is lost."""
    await _study(world, trials=1)
    a, b = await _hands(world)
    await a.claim()
    world.disk.commit = 1.0
    await asyncio.sleep(3 * world.host.settings.sweep_seconds)
    world.disk.calm()
    await b.work_off()


async def a_machine_is_lost(world: World) -> None:
    await _study(world, trials=1)
    a, b = await _hands(world)
    await a.claim()
    await b.work_off()


async def two_beat_and_one_is_lost(world: World) -> None:
    """Two workers beat for longer than a lease; one trains to its end, the other is lost."""
    await _study(world, trials=2)
    a, b = await Hand(world, "a", EVEN).start(), await Hand(world, "b", ODD).start()
    first, second = await a.claim(), await b.claim()
    await asyncio.gather(_beats(a, first, 6), _beats(b, second, 6))
    await a.train(first)
    await a.work_off()


async def the_server_is_away(world: World) -> None:
    """For longer than a lease; its holder is heard of again once the sweeper has come."""
    await _study(world, trials=1)
    a, _ = await _hands(world)
    grant = await a.claim()
    await a.report(grant, 1, 0.9)
    assert world.host.process is not None
    world.host.process.kill()
    await asyncio.sleep(AWAY_SECONDS)
    await _start(world)
    since = world.host.now_us()
    await world.faults.until(lambda: _swept_us(world) > since, every=0.05)
    await a.beat(grant)
    await a.finish(grant)
    await a.work_off()


async def a_worker_starts_anew(world: World) -> None:
    """It holds a trial, dies, and comes back under its old name, with another slot, and works on."""
    await _study(world, trials=2)
    a, _ = await _hands(world)
    await a.claim()
    await a.start()
    await a.work_off()


async def two_claim_one_after_the_other(world: World) -> None:
    await _study(world, trials=2)
    a, b = await _hands(world)
    first, second = await a.claim(), await b.claim()
    await a.train(first)
    await b.train(second)
    await b.work_off()


async def two_queue_trials(world: World) -> None:
    """People queue trials in a study whose planner has queued one."""
    await _study(world, trials=1)
    a, _ = await _hands(world)
    first = await a.claim()
    for _ in range(2):
        await world.people.ask("POST", f"{STUDY}/trials", {"params": [{"lr": 0.1}]})
    await a.train(first)
    await a.work_off()


async def paused_and_resumed(world: World) -> None:
    """A study that may run one trial at a time is paused and resumed while it runs one."""
    await _study(world, trials=2, max_concurrent=1)
    a, b = await _hands(world)
    first = await a.claim()
    for wish in ("pause", "resume"):
        await world.people.ask("POST", f"{STUDY}/{wish}")
    second = await b.look(1.0)
    await a.train(first)
    if second is not None:
        await b.train(second)
    await b.work_off()


async def killed_after_a_snapshot(world: World) -> None:
    """The server dies as soon as it has acknowledged a snapshot."""
    await _study(world, trials=1)
    a, b = await _hands(world)
    grant = await a.claim()
    await a.report(grant, 1, 0.9)
    await a.publish(grant, 1)
    await _restart(world)
    await b.work_off()


async def a_report_comes_twice(world: World) -> None:
    """The answer of a report is lost, so that it is sent again."""
    await _study(world, trials=1)
    a, _ = await _hands(world)
    grant = await a.claim()
    await a.report(grant, 1, 0.9)
    await a.report(grant, 1, 0.9)
    await a.report(grant, 2, 0.8)
    await a.finish(grant)
    await a.work_off()


async def a_training_diverges(world: World) -> None:
    """Its task does not look at its loss and says that it is complete."""
    await _study(world, trials=1)
    a, _ = await _hands(world)
    grant = await a.claim()
    await a.report(grant, 1, 0.9)
    await a.report(grant, 2, "NaN")
    await a.finish(grant)
    await a.work_off()


# --- what they are made of ------------------------------------------------------------------------


async def _study(world: World, *, trials: int, **limits: int) -> None:
    stage = {"kind": "random", "name": "random", "epochs": 3, "trials": trials}
    spec = {"name": "scene", "task": TASK, "space": SPACE, "limits": limits, "stages": [stage], "seed": 1}
    await world.people.ask("POST", "studies", spec)


async def _hands(world: World) -> tuple[Hand, Hand]:
    return await Hand(world, "a").start(), await Hand(world, "b").start()


async def _beats(hand: Hand, grant: Grant, times: int) -> None:
    """Each a third of a lease after the one before."""
    for _ in range(times):
        await asyncio.sleep(hand.world.ttl_seconds / 3)
        await hand.beat(grant)


async def _start(world: World) -> None:
    world.host.start()
    await world.faults.until(lambda: world.host.is_serving)


async def _restart(world: World) -> None:
    assert world.host.process is not None
    world.host.process.kill()
    await _start(world)


def _expires_us(world: World) -> int | None:
    """Of the first trial's lease; None if it runs under none."""
    first = select(trials.c.lease_expires_us).order_by(trials.c.id).limit(1)
    return world.people.read(first)[0].lease_expires_us


def _swept_us(world: World) -> int:
    """When the sweeper last came."""
    return world.people.read(select(instance.c.last_tick_us))[0].last_tick_us
