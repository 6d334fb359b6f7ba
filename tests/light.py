"""A light worker speaks the real protocol; its training is a counter.

Load, latency and fault tests use it where what is trained does not matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections import defaultdict
from collections.abc import Callable

import httpx
from tunesmith_service import wire
from tunesmith_service.client import AlreadyFinal, Lease, Unavailable, WorkerClient

TASK = "light"
DIGEST = hashlib.sha256(b"light").hexdigest()

Objective = Callable[[wire.WorkOrder, int], float]


def slope(work: wire.WorkOrder, step: int) -> float:
    """A loss that falls with the steps, and has its best at lr = 0.1."""
    lr = float(work.params.get("lr", 0.1))
    return abs(lr - 0.1) + 1.0 / (step + 1)


class LightWorker:
    """One slot. `took` holds the seconds that each call took, by its name."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        name: str = "light",
        task: str = TASK,
        objective: Objective = slope,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.client = WorkerClient(url, token, transport=transport)
        self.worker_id, self.boot_id, self.slot_id = (secrets.token_hex(16) for _ in range(3))
        self.starts = 1
        self.name, self.task, self.objective = name, task, objective
        self.took: dict[str, list[float]] = defaultdict(list)

    async def register(self) -> wire.Registered:
        slot = wire.Slot(slot_id=self.slot_id, devices=["cpu"])
        return await self.client.register(
            wire.Register(
                worker_id=self.worker_id, boot_id=self.boot_id, starts=self.starts,
                name=self.name, version="0", tasks={self.task: DIGEST}, slots=[slot],
            )
        )  # fmt: skip

    async def claim(self, wait_seconds: float = 0) -> tuple[Lease, wire.WorkOrder] | None:
        secret = secrets.token_hex(16)
        started = time.perf_counter()
        reply = await self.client.claim(
            wire.ClaimRequest(
                claim_id=secrets.token_hex(16), worker_id=self.worker_id, boot_id=self.boot_id,
                slot_id=self.slot_id, secret=secret, wait_seconds=wait_seconds,
            )
        )  # fmt: skip
        self.took["claim"].append(time.perf_counter() - started)
        if reply.grant is None:
            return None
        grant = reply.grant
        return Lease(grant.trial_id, grant.incarnation, grant.attempt, secret), grant.work

    async def report(self, lease: Lease, work: wire.WorkOrder, seq: int, step: int) -> wire.Reported:
        point = wire.ReportPoint(step=step, metrics={work.metric: self.objective(work, step)})
        started = time.perf_counter()
        reply = await self.client.report(lease, wire.Report(seq=seq, points=[point]))
        self.took["report"].append(time.perf_counter() - started)
        return reply

    async def beat(self, lease: Lease) -> None:
        started = time.perf_counter()
        await self.client.beat(lease)
        self.took["heartbeat"].append(time.perf_counter() - started)

    async def finish(self, lease: Lease) -> wire.Finished:
        started = time.perf_counter()
        reply = await self.client.finish(lease, wire.Finish(state="complete", stop_reason="budget"))
        self.took["finish"].append(time.perf_counter() - started)
        return reply

    async def run_one(self, wait_seconds: float = 0) -> bool:
        """Claim a trial and run it to its end, or until it is pruned. Returns False if there was none."""
        claimed = await self.claim(wait_seconds)
        if claimed is None:
            return False
        lease, work = claimed
        first = work.resume.step if work.resume else 0
        with contextlib.suppress(AlreadyFinal):
            for seq, step in enumerate(range(first + 1, work.epochs + 1), start=1):
                await self.report(lease, work, seq, step)
                with contextlib.suppress(Unavailable):  # one try alone; the next may be heard
                    await self.beat(lease)
            await self.finish(lease)
        return True
