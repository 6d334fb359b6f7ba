"""What goes wrong, when: a seed picks some of the faults, and how often they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from simulation.network import Weather

if TYPE_CHECKING:
    from simulation.run import World

LOOK_SECONDS = 1.0


class Faults:
    """`rage`, then `calm_down`."""

    def __init__(self, world: World, random: Random) -> None:
        self._world, self._random = world, random
        self.seconds = random.choice((60.0, 120.0, 300.0))
        every: dict[Callable[[], Awaitable[None]], float] = {
            self.kill_the_server: 60.0,
            self.kill_the_server_at_an_await: 90.0,
            self.stop_the_server_for_a_while: 90.0,
            self.kill_a_worker: 30.0,
            self.kill_a_worker_at_an_await: 30.0,
            self.stop_a_worker_for_a_while: 40.0,
            self.ask_a_worker_to_leave: 40.0,
            self.cut_a_worker_off: 60.0,
            self.change_the_weather: 20.0,
            self.wear_the_disk: 40.0,
            self.set_the_clock: 150.0,
            self.end_the_planner: 90.0,
            self.listen_to_people: 15.0,
            self.go_back_to_a_copy: 200.0,
        }
        chosen = random.sample(list(every), random.randint(2, len(every)))
        self._chosen = {fault: every[fault] * random.choice((0.5, 1.0, 2.0)) for fault in chosen}
        self._raging = True
        self._tasks: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        self._gone: set[str] = set()  # machines that will not come back
        self.overdue: list[str] = []

    async def rage(self) -> None:
        """Let the chosen faults come at random for some minutes, or until there is nothing left to do, while
        what was killed comes back."""
        self._tasks = [asyncio.create_task(self._again_and_again(f, s)) for f, s in self._chosen.items()]
        self._watching.append(asyncio.create_task(self._bring_back()))
        self.watch()
        with contextlib.suppress(TimeoutError):
            await self.until(self._world.people.all_is_done, self.seconds, every=10.0)

    def watch(self) -> None:
        """From here on look for leases that nobody takes back."""
        self._watching.append(asyncio.create_task(self._watch_leases()))

    async def calm_down(self) -> None:
        """End every fault; what is down comes back."""
        self._raging = False
        world = self._world
        world.note("calm")
        world.network.weather = Weather()
        world.disk.calm()
        for machine in world.machines:
            world.network.join(machine.name)
            if machine.process is not None:
                machine.process.fuel = None
        if world.host.process is not None:
            world.host.process.fuel = None
        await asyncio.gather(*self._tasks)
        await self.until(lambda: world.host.is_serving and world.host.is_up)
        await world.people.set_right()

    def stop_watching(self) -> None:
        """From here on nobody brings back what is down."""
        for task in self._watching:
            task.cancel()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def until(self, holds: Callable[[], bool], seconds: float = 1800.0, *, every: float = 0.5) -> None:
        """Raises: TimeoutError."""
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110  (it looks at many things, on a clock that costs nothing)
                await asyncio.sleep(every)

    # --- when ---

    async def _again_and_again(self, fault: Callable[[], Awaitable[None]], mean_seconds: float) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1.0 / mean_seconds))
            if not self._raging:
                return
            await fault()

    async def _bring_back(self) -> None:
        """Whoever watches over processes starts them again: soon, or after minutes."""
        back_at: dict[str, float] = {}
        world = self._world
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = world.loop.time()
            for name, thing in (("server", world.host), *((m.name, m) for m in world.machines)):
                if thing.is_up or name in self._gone:
                    back_at.pop(name, None)
                elif now >= back_at.setdefault(name, now + self._rest()):
                    del back_at[name]
                    world.note(f"start {name}", "starts")
                    thing.start()

    async def _watch_leases(self) -> None:
        """I6 all along: while the server can sweep, no lease stands that ran out two ticks ago."""
        host = self._world.host
        tick = host.settings.sweep_seconds
        undisturbed, before = 0, set[str]()
        while True:
            await asyncio.sleep(tick)
            undisturbed = undisturbed + 1 if host.can_sweep and self._world.disk.is_calm else 0
            late = set(self._world.people.overdue(2 * tick)) if undisturbed > 3 else set[str]()
            self.overdue += sorted(late & before - set(self.overdue))
            before = late

    def _rest(self) -> float:
        if not self._raging:
            return 0.0
        return self._random.choice(
            (0.0, 2.0, 10.0, 45.0, 200.0, 700.0) if self._random.random() < 0.3 else (0.0, 2.0)
        )

    # --- what ---

    async def kill_the_server(self) -> None:
        if self._world.host.process is not None:
            self._world.note("kill the server", "server kills")
            self._world.host.process.kill()

    async def kill_the_server_at_an_await(self) -> None:
        if self._world.host.process is not None:
            self._world.note("kill the server soon", "server kills")
            self._world.host.process.fuel = self._random.randrange(400)

    async def stop_the_server_for_a_while(self) -> None:
        host = self._world.host
        if host.is_serving and host.is_up:
            self._world.note("stop the server", "server stops")
            with host.stopped():
                await asyncio.sleep(self._random.choice((1.0, 10.0, 60.0, 90.0)))
            self._world.note("continue the server")

    async def kill_a_worker(self) -> None:
        machine = self._random.choice(self._world.machines)
        if machine.process is not None:
            self._world.note(f"kill {machine.name}", "worker kills")
            machine.process.kill()
            others = {m.name for m in self._world.machines} - self._gone - {machine.name}
            if others and self._random.random() < 0.3:
                self._world.note(f"{machine.name} will not come back", "lost machines")
                self._gone.add(machine.name)

    async def kill_a_worker_at_an_await(self) -> None:
        machine = self._random.choice(self._world.machines)
        if machine.process is not None:
            self._world.note(f"kill {machine.name} soon", "worker kills")
            machine.process.fuel = self._random.randrange(200)

    async def stop_a_worker_for_a_while(self) -> None:
        process = self._random.choice(self._world.machines).process
        if process is not None and process.is_alive and not process.is_stopped:
            self._world.note(f"stop {process.name}", "worker stops")
            process.stop()
            await asyncio.sleep(self._random.choice((1.0, 20.0, 60.0, 90.0)))
            self._world.note(f"continue {process.name}")
            process.go_on()

    async def ask_a_worker_to_leave(self) -> None:
        machine = self._random.choice(self._world.machines)
        self._world.note(f"ask {machine.name} to leave", "signals")
        machine.ask_to_leave(self._random.choice(("shutdown", "preempted")))
        if self._random.random() < 0.3:
            await asyncio.sleep(self._random.uniform(0.0, 10.0))
            machine.ask_to_leave("shutdown")

    async def cut_a_worker_off(self) -> None:
        machine = self._random.choice(self._world.machines)
        self._world.note(f"cut {machine.name} off", "partitions")
        self._world.network.cut_off(machine.name)
        await asyncio.sleep(self._random.choice((5.0, 40.0, 100.0, 700.0)))
        self._world.network.join(machine.name)

    async def change_the_weather(self) -> None:
        share = self._random.choice((0.0, 0.02, 0.1, 0.3))
        self._world.note(f"weather {share}", "weathers")
        self._world.network.weather = Weather(
            drop_request=share * self._random.random(),
            drop_answer=share * self._random.random(),
            repeat=self._random.choice((0.0, 0.1, 0.4)),
            slow=self._random.choice((0.0, 0.1, 0.5)),
            slow_seconds=self._random.choice((0.3, 5.0, 60.0)),
        )

    async def wear_the_disk(self) -> None:
        disk = self._world.disk
        self._world.note("wear the disk", "disks")
        for name in ("begin", "commit", "silence", "crash"):
            setattr(disk, name, self._random.choice((0.0, 0.0, 0.05, 0.2)))
        disk.statement = self._random.choice((0.0, 0.0, 0.01, 0.05))
        await asyncio.sleep(self._random.uniform(1.0, 30.0))
        disk.calm()

    async def set_the_clock(self) -> None:
        self._world.note("set the clock", "clock jumps")
        self._world.host.jump_us += self._random.choice(
            (-3_600_000_000, -6_000_000, 6_000_000, 3_600_000_000)
        )

    async def go_back_to_a_copy(self) -> None:
        """The database is lost, and what was acknowledged since its backup with it."""
        world = self._world
        if not world.host.is_serving:
            return
        copied_at, copy = world.loop.time(), world.host.copy_database()
        await asyncio.sleep(self._random.choice((1.0, 15.0, 60.0)))
        if world.host.process is not None and copy.exists():
            self.put_back(copy, copied_at)

    def put_back(self, copy: Path, copied_at: float) -> None:
        """Kill the server, and let the next one go on from a copy of this time."""
        world = self._world
        assert world.host.process is not None
        world.note("go back to a copy", "restores")
        world.host.process.kill()
        world.people.close()
        world.host.put_back(copy)
        world.lost.append((copied_at, world.loop.time()))

    async def end_the_planner(self) -> None:
        service = self._world.host.service
        if service is not None and service.planner is not None:
            self._world.note("end the planner", "planner kills")
            await service.planner._end_process()

    async def listen_to_people(self) -> None:
        self._world.note("people", "wishes")
        await self._world.people.something()
