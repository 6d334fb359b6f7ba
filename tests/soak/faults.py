"""What happens to the deployment, and when: each kind of fault at random times, with what it undoes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from random import Random

import psutil
from databases import Postgres
from processes import planner_of, writer_of
from tunesmith_service.clock import SECOND

from soak.deployment import Crowd, Service, Trainers, to_all

Fault = Callable[[], Coroutine[None, None, None]]

Outage = Callable[[], Coroutine[None, None, int]]
"""Says when what was away was brought back, in µs of this machine's clock; returns once all is well."""

SERVICE_SHARE = 0.6
"""Of the time in which the service is killed; afterwards one process lives long enough to see its memory."""

START_TRIES = 5
TEND_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when something did not run, in µs of this machine's clock.

    Attributes:
        what: `service killed`, `database frozen`, … or, of a worker's, `killed`, `stopped`.
        back_us: until then it surely did not run; it may have done so before `end_us`.
    """

    what: str
    begin_us: int
    back_us: int
    end_us: int

    @property
    def seconds_away(self) -> float:
        return (self.back_us - self.begin_us) / SECOND


@dataclass
class Target:
    """What faults happen to.

    Attributes:
        services: a server, or several on one database.
        url: at which workers find them.
    """

    services: Sequence[Service]
    crowd: Crowd
    trainers: Trainers | None
    postgres: Postgres | None
    url: str
    workers: int

    @property
    def worker_token(self) -> str:
        return self.services[0].token("worker")


class Faults:
    """Args:
        ttl_seconds: how long a lease lives; some stops are longer, so that it runs out.
        pace: how many times as often as usual.
        kill_every: seconds from one kill of a server to the next; None: as the other faults come.

    Attributes:
        counts: how often what happened.
        outages: of service or database.
        harmed: number of a light worker → when it did not run.
        recovery_seconds: from the database's return to a service that is ready, each time.
    """

    def __init__(
        self, target: Target, random: Random, ttl_seconds: float, pace: float = 1.0,
        kill_every: float | None = None,
    ) -> None:  # fmt: skip
        self.target, self._random, self._ttl_seconds, self._pace = target, random, ttl_seconds, pace
        self._kill_every = kill_every
        self.counts: Counter[str] = Counter()
        self.outages: list[Span] = []
        self.harmed: dict[int, list[Span]] = {}
        self.recovery_seconds: list[float] = []
        self._well = set(range(target.workers))
        self._one_outage, self._one_end = asyncio.Lock(), asyncio.Lock()

    async def rage(self, seconds: float) -> None:
        """Returns when that is over and everything runs again."""
        now = time.monotonic()
        late, early = now + seconds, now + seconds * SERVICE_SHARE
        often = 128.0 / self.target.workers
        await asyncio.gather(
            self._again_and_again(self._kill_a_worker, often, late),
            self._again_and_again(self._stop_a_worker, often, late),
            self._kills(late) if self._kill_every else self._again_and_again(self._end_a_server, 30.0, early),
            self._again_and_again(self._stop_a_server, 45.0, late),
            self._again_and_again(self._kill_the_planner, 60.0, late),
            self._again_and_again(self._kill_the_writer, 60.0, late),
            *(self._again_and_again(f, s, late) for f, s in self._on_trainers().items()),
            *(self._again_and_again(f, s, late) for f, s in self._on_the_database().items()),
        )

    def _on_trainers(self) -> dict[Fault, float]:
        if self.target.trainers is None:
            return {}
        return {self._end_the_supervisor: 40.0, self._kill_a_trainer: 25.0, self._stop_a_trainer: 40.0}

    def _on_the_database(self) -> dict[Fault, float]:
        return {} if self.target.postgres is None else {self._end_the_database: 20.0}

    async def _again_and_again(self, fault: Fault, mean: float, stop: float) -> None:
        """`mean` seconds apart, give or take half of it; a second one may begin before the first is over."""
        under_way: list[asyncio.Task[None]] = []
        while True:
            rest = self._random.uniform(0.5, 1.5) * mean / self._pace
            if time.monotonic() + rest > stop:
                break
            await asyncio.sleep(rest)
            for task in under_way:
                if task.done():
                    task.result()  # what went wrong ends the soak
            under_way = [task for task in under_way if not task.done()]
            under_way.append(asyncio.create_task(fault()))
        await asyncio.gather(*under_way)

    # --- light workers ---

    async def _kill_a_worker(self) -> None:
        await self._harm("killed", signal.SIGKILL, (0.0, 0.0, 1.0, self._ttl_seconds * 1.3))

    async def _stop_a_worker(self) -> None:
        """Briefly, or for so long that its lease runs out, and another may have its trial."""
        await self._harm("stopped", signal.SIGSTOP, (1.0, self._ttl_seconds * 1.4, self._ttl_seconds * 1.6))

    async def _harm(self, what: str, by: signal.Signals, seconds: tuple[float, ...]) -> None:
        if not self._well:
            return
        number = self._random.choice(sorted(self._well))
        self._well.remove(number)
        self.counts[f"workers {what}"] += 1
        begin_us = _now_us()
        self.target.crowd.signal(number, by)
        await asyncio.sleep(self._random.choice(seconds))
        if by == signal.SIGKILL:
            self.target.crowd.start(number, self.target.url, self.target.worker_token)
        else:
            self.target.crowd.signal(number, signal.SIGCONT)
        self.harmed.setdefault(number, []).append(Span(what, begin_us, back_us := _now_us(), back_us))
        self._well.add(number)

    # --- the service ---

    async def _end_a_server(self) -> None:
        how = self._random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        what = "service killed" if how == signal.SIGKILL else "service restarted"
        await self._outage(what, partial(self._end, self._a_server(), how))

    async def _kills(self, late: float) -> None:
        """A server, and so on in turn, on the minute; one waits for an outage that is under way."""
        assert self._kill_every is not None
        for server in cycle(self.target.services):
            if time.monotonic() + self._kill_every > late:
                return
            began = time.monotonic()
            await self._outage("service killed", partial(self._end, server, signal.SIGKILL), waits=True)
            await asyncio.sleep(max(0.0, began + self._kill_every - time.monotonic()))

    async def _end(self, server: Service, how: signal.Signals) -> int:
        await asyncio.to_thread(server.end, how)
        await asyncio.sleep(self._random.choice((0.0, 0.0, 2.0, 8.0)))
        back_us = _now_us()
        await server.start()
        return back_us

    def _a_server(self) -> Service:
        return self._random.choice(self.target.services)

    async def _stop_a_server(self) -> None:
        server = self._a_server()

        async def stop() -> int:
            server.process.signal(signal.SIGSTOP)
            await asyncio.sleep(self._random.choice((1.0, 4.0, 15.0)))
            back_us = _now_us()
            server.process.signal(signal.SIGCONT)
            await server.until_ready()
            return back_us

        await self._outage("service stopped", stop)

    async def _kill_the_planner(self) -> None:
        async with self._one_outage:
            self.counts["planner killed"] += self._a_server().kill_part(planner_of)

    async def _kill_the_writer(self) -> None:
        async with self._one_outage:
            self.counts["writer killed"] += self._a_server().kill_part(writer_of)

    async def _outage(self, what: str, do: Outage, *, waits: bool = False) -> None:
        """One at a time; what would come meanwhile does not, unless it waits."""
        if self._one_outage.locked() and not waits:
            return
        async with self._one_outage:
            self.counts[what] += 1
            begin_us = _now_us()
            back_us = await do()
            self.outages.append(Span(what, begin_us, back_us, _now_us()))

    # --- the database ---

    async def _end_the_database(self) -> None:
        postgres = self.target.postgres
        assert postgres is not None
        what, end, back = self._random.choice(
            (
                ("database killed", postgres.kill, postgres.start),
                ("database restarted", postgres.stop, postgres.start),
                ("database stopped", postgres.freeze, postgres.thaw),
            )
        )

        async def away() -> int:
            await asyncio.to_thread(end)
            await asyncio.sleep(self._random.choice((0.0, 2.0, 5.0, 10.0)))
            back_us = _now_us()
            await _bring_back(back)
            ready = [server.until_ready() for server in self.target.services]
            self.recovery_seconds.append(max(await asyncio.gather(*ready)))
            return back_us

        await self._outage(what, away)

    # --- the real worker ---

    async def _end_the_supervisor(self) -> None:
        how = self._random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        async with self._one_end:
            self.counts["supervisor killed" if how == signal.SIGKILL else "supervisor restarted"] += 1
            await self._end_and_start(how)

    async def tend(self) -> None:
        """What a service manager does for the real worker, until cancelled."""
        trainers = self.target.trainers
        while trainers is not None:
            async with self._one_end:
                if trainers.has_ended():
                    self.counts["supervisor started again"] += 1
                    await self._end_and_start(signal.SIGKILL)
            await asyncio.sleep(TEND_SECONDS)

    async def _end_and_start(self, how: signal.Signals) -> None:
        assert self.target.trainers is not None
        await asyncio.to_thread(self.target.trainers.end, how)
        self.target.trainers.start(self.target.url, self.target.worker_token)

    async def _kill_a_trainer(self) -> None:
        assert self.target.trainers is not None
        self.counts["trainer killed"] += to_all(self.target.trainers.children(), psutil.Process.kill)

    async def _stop_a_trainer(self) -> None:
        assert self.target.trainers is not None
        children = self.target.trainers.children()
        self.counts["trainer stopped"] += to_all(children, psutil.Process.suspend)
        await asyncio.sleep(self._random.choice((1.0, self._ttl_seconds * 1.3)))
        to_all(children, psutil.Process.resume)


async def _bring_back(start: Callable[[], None]) -> None:
    """A PostgreSQL that was killed may find its memory still in use a moment later."""
    for left in reversed(range(START_TRIES)):
        try:
            return await asyncio.to_thread(start)
        except Exception:
            if not left:
                raise
            await asyncio.sleep(0.5)


def _now_us() -> int:
    return time.time_ns() // 1000
