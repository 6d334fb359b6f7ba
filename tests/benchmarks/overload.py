"""What is still done when ten times as much is asked: at least 80 % of the peak, and no lease expires.

    python tests/benchmarks/overload.py [--postgresql] [--seconds 30] [--times 10]

A server of its own. Its peak is what it accepts of reports in a closed loop, as light workers send them and
as raw connections do, whichever is more. Then ten times that comes in an open loop, by a process that does
not heed Retry-After: 70 % reports, 10 % each claims, pages and studies to create. Leases beat meanwhile, as
supervisors do. Printed: peak, goodput under load and their ratio, answers by kind and status, leases that
expired, and how long beats took. Exit code 1 if the ratio is below 0.8 or a lease expired.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import httpx
import numpy as np
import psutil

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from databases import Databases  # noqa: E402
from flood import Counts, Target, flood  # noqa: E402
from light import DIGEST, TASK, LightWorker  # noqa: E402
from served import Serve  # noqa: E402
from tunesmith_service import wire  # noqa: E402
from tunesmith_service.client import Client, Lease, Unavailable, WorkerClient  # noqa: E402

SHARES = {"report": 0.7, "claim": 0.1, "dashboard": 0.1, "create": 0.1}
LEASES = 192
TTL_SECONDS = 15.0
BOUND = 0.8
SPACE = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}


class Server(Serve):
    def __init__(self, home: Path, url: str) -> None:
        super().__init__(home, url, "--ttl-seconds", str(TTL_SECONDS), limited=True)

    def cpu_seconds(self) -> float:
        """Of the server process; says more than a rate where others use the machine."""
        spent = psutil.Process(self.pid).cpu_times()
        return spent.user + spent.system

    def metric(self, name: str) -> float:
        bearer = {"Authorization": f"Bearer {self.token('operator')}"}
        text = httpx.get(f"{self.url}/metrics", headers=bearer, timeout=30).text
        return float(re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[0])


def prepare(server: Server, trials: int) -> None:
    """A study whose trials stand ready, so that no claim needs the planner."""
    with Client(server.url, server.token("operator"), retry_for=60) as people:
        grid = {"kind": "coarse_grid", "epochs": 10**6, "axes": {"lr": 2}}
        people.post("studies", json={"name": "ready", "task": TASK, "space": SPACE, "stages": [grid]})
        for begin in range(0, trials, 1000):
            params = [{"lr": 0.01}] * min(1000, trials - begin)
            people.post("studies", "ready", "trials", json={"params": params, "stage": "coarse_grid"})


class Holders:
    """One worker with many slots; its leases, and the beats that keep them."""

    def __init__(self, server: Server, slots: int) -> None:
        self._client = WorkerClient(server.url, server.token("worker"))
        self._worker = LightWorker(server.url, server.token("worker"))
        self._asks = LightWorker(server.url, server.token("worker"), name="asks", task="nobody's")
        self._slots = [f"{n:032x}" for n in range(slots)]
        self.leases: list[Lease] = []
        self._beats: list[asyncio.Task[None]] = []
        self.took: list[float] = []
        self.lost = 0

    async def claim(self) -> None:
        worker = self._worker
        await self._asks.register()
        slots = [wire.Slot(slot_id=s, devices=["cpu"]) for s in self._slots]
        await self._client.register(
            wire.Register(
                worker_id=worker.worker_id, boot_id=worker.boot_id, starts=1, name="holder",
                version="0", tasks={TASK: DIGEST}, slots=slots,
            )
        )  # fmt: skip
        for slot in self._slots:
            worker.slot_id = slot
            claimed = await worker.claim()
            assert claimed is not None
            self.leases.append(claimed[0])
            self._beats.append(asyncio.create_task(self._keep(claimed[0])))

    @property
    def asking(self) -> dict[str, str]:
        """A slot that claims and gets nothing: a lease that nobody kept would expire."""
        one = self._asks
        return {"worker_id": one.worker_id, "boot_id": one.boot_id, "slot_id": one.slot_id}

    async def _keep(self, lease: Lease) -> None:
        """As the supervisor does: every third of the TTL, and again soon when one fails."""
        while True:
            started = time.perf_counter()
            try:
                await self._client.beat(lease)
                self.took.append(time.perf_counter() - started)
                await asyncio.sleep(TTL_SECONDS / 3)
            except Unavailable:
                self.lost += 1
                await asyncio.sleep(0.5)

    async def aclose(self) -> None:
        """Raises what a beat was refused with: its lease was lost."""
        for beat in self._beats:
            beat.cancel()
        for ended in await asyncio.gather(*self._beats, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        await self._client.aclose()
        await self._worker.client.aclose()
        await self._asks.client.aclose()


def light_reports(url: str, token: str, workers: int, seconds: float) -> float:
    """Reports a second that light workers get through, in a process of their own."""

    async def main() -> float:
        fleet = [LightWorker(url, token) for _ in range(workers)]
        done = 0
        for worker in fleet:
            await worker.register()

        async def work(worker: LightWorker, until: float) -> None:
            nonlocal done
            claimed = await worker.claim()
            assert claimed is not None
            seq = 0
            while time.perf_counter() < until:
                seq += 1
                await worker.report(*claimed, seq, seq)
                done += 1
            await worker.finish(claimed[0])
            await worker.client.aclose()

        until = time.perf_counter() + seconds
        await asyncio.gather(*(work(w, until) for w in fleet))
        return done / seconds

    return asyncio.run(main())


def accepted(counts: Counts) -> float:
    """What was done, a second."""
    return sum(n for (_, status), n in counts.answers.items() if status < 300) / counts.seconds


async def measure(server: Server, options: argparse.Namespace, pool: ProcessPoolExecutor) -> bool:
    loop = asyncio.get_running_loop()
    light = await loop.run_in_executor(
        pool, light_reports, server.url, server.token("worker"), options.workers, options.seconds / 2
    )
    holders = Holders(server, LEASES)
    await holders.claim()
    reporting = [(x.trial_id, f"{x.incarnation}.{x.attempt}.{x.secret}", 1) for x in holders.leases]

    def target(leases: Sequence[tuple[int, str, int]]) -> Target:
        return Target(server.port, server.token("operator"), server.token("worker"), leases, holders.asking)

    plan = {"seconds": options.seconds / 2}
    began = server.cpu_seconds()
    raw_counts = await loop.run_in_executor(pool, flood, target(reporting[: options.closed]), plan)
    raw = accepted(raw_counts)
    each = (server.cpu_seconds() - began) / (raw * raw_counts.seconds)
    print(f"the server's processor time a report, its share of all else included: {each * 1e3:.2f} ms")
    peak = max(light, raw)
    print(f"peak: {peak:.0f} reports/s (light workers {light:.0f}, raw connections {raw:.0f})", flush=True)
    holders.took.clear()
    began = server.cpu_seconds()
    plan |= {"rate": options.times * peak, "shares": SHARES, "others": 32, "seconds": options.seconds}
    found = await loop.run_in_executor(pool, flood, target(reporting[options.closed :]), plan)
    busy = (server.cpu_seconds() - began) / options.seconds
    print(f"the server's processor time under load: {busy:.2f} of a core")
    expired = server.metric('tunesmith_lease_expiries_total{cause="expired"}')
    took = list(holders.took)
    good = show(peak, found, expired, took, holders.lost)
    await holders.aclose()
    return good


def show(peak: float, found: Counts, expired: float, took: Sequence[float], lost: int) -> bool:
    goodput = accepted(found) + len(took) / found.seconds
    offered = (sum(found.answers.values()) + sum(found.busy.values())) / found.seconds
    print(f"asked under load: {offered:.0f}/s, {offered / peak:.1f} times the peak")
    print(f"of these not sent, for all connections of the kind waited for answers: {dict(found.busy)}")
    print(f"the generator was at most {found.late_seconds * 1000:.0f} ms behind")
    for kind in SHARES:
        of_kind = {status: n for (k, status), n in sorted(found.answers.items()) if k == kind}
        print(f"  {kind:>9}: " + ", ".join(f"{status} × {n}" for status, n in of_kind.items()))
    p50, p99, most = np.percentile(took, 50), np.percentile(took, 99), max(took)
    print(f"beats: {len(took)}, p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, at most {most * 1e3:.0f} ms")
    print(f"beats that were tried again: {lost}; leases that expired: {expired:.0f}")
    print(f"goodput: {goodput:.0f}/s, {goodput / peak:.2f} of the peak (at least {BOUND})")
    return goodput / peak >= BOUND and expired == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--postgresql", action="store_true", help="instead of SQLite")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load")
    parser.add_argument("--times", type=float, default=10.0, help="the peak")
    parser.add_argument("--workers", type=int, default=32, help="light workers that show the peak")
    parser.add_argument("--closed", type=int, default=64, help="raw connections that show the peak")
    options = parser.parse_args()
    databases = Databases() if options.postgresql else None
    url = databases.make("postgresql") if databases else ""
    good = False
    try:
        with tempfile.TemporaryDirectory() as home, Server(Path(home), url) as server:
            prepare(server, 1000)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                good = asyncio.run(measure(server, options, pool))
    finally:
        if databases:
            databases.close()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
