"""A worker whose every word a script says: what it asks it asks once, and nothing goes on by itself."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from tunesmith_service.wire import LEASE_HEADER

from simulation.network import Line
from simulation.trainer import DIGEST, TASK, snapshot
from simulation.worker import URL

if TYPE_CHECKING:
    from simulation.run import World

WAIT_SECONDS = 20.0
PATIENCE_SECONDS = 300.0
"""A trial must have come, or all must have ended, within so long: a TTL, the longest backoff, and room."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease and its work order."""

    trial_id: int
    lease: str
    work: dict[str, Any]


@dataclass
class Hand:
    """One worker with one slot. Answers are None where none came."""

    world: World
    name: str
    worker_id: str = field(default_factory=lambda: secrets.token_hex(16))
    starts: int = 0

    async def start(self) -> Hand:
        """Register, with a slot and a boot of its own; again: as after a crash that lost its slot's id."""
        self.boot_id, self.slot_id = secrets.token_hex(16), secrets.token_hex(16)
        self.starts += 1
        slots = [{"slot_id": self.slot_id, "devices": ["cpu"]}]
        body = {"name": self.name, "version": "0", "tasks": {TASK: DIGEST}, "slots": slots}
        body |= {"worker_id": self.worker_id, "boot_id": self.boot_id, "starts": self.starts}
        await self.ask("PUT", f"workers/{self.worker_id}", body)
        return self

    async def ask(
        self, method: str, path: str, body: Any = None, *, grant: Grant | None = None
    ) -> httpx.Response | None:
        headers = {
            "Authorization": f"Bearer {self.world.host.settings.worker_token_file.read_text().strip()}"
        }
        if grant is not None:
            path, headers[LEASE_HEADER] = f"leases/{grant.trial_id}/{path}", grant.lease
        line = Line(self.world.network, self.name)
        what = {"content": body} if isinstance(body, bytes) else {"json": body}
        async with httpx.AsyncClient(transport=line, base_url=f"{URL}/api/v1/", headers=headers) as client:
            try:
                return await client.request(method, path, timeout=WAIT_SECONDS + 10, **what)
            except httpx.TransportError:
                return None

    async def look(self, wait_seconds: float = WAIT_SECONDS) -> Grant | None:
        """Claim once."""
        secret = secrets.token_hex(16)
        body = {"claim_id": secrets.token_hex(16), "secret": secret, "wait_seconds": wait_seconds}
        body |= {"worker_id": self.worker_id, "boot_id": self.boot_id, "slot_id": self.slot_id}
        response = await self.ask("POST", "claims", body)
        if response is None or not response.is_success or (got := response.json()["grant"]) is None:
            return None
        return Grant(got["trial_id"], f"{got['incarnation']}.{got['attempt']}.{secret}", got["work"])

    async def claim(self) -> Grant:
        """Claim until there is a trial. Raises: TimeoutError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (grant := await self.look()) is None:  # noqa: ASYNC110  (the clock costs nothing)
                await asyncio.sleep(1.0)
        return grant

    # --- with a lease ---

    async def beat(self, grant: Grant) -> httpx.Response | None:
        return await self.ask("POST", "heartbeat", {}, grant=grant)

    async def report(self, grant: Grant, seq: int, loss: float | str) -> httpx.Response | None:
        """The point of one epoch; `seq` counts an attempt's reports and so, for who trains it all, epochs."""
        resume = grant.work["resume"]
        step = seq + (resume["step"] if resume else 0)
        point = {"step": step, "metrics": {grant.work["metric"]: loss}}
        return await self.ask("POST", "reports", {"seq": seq, "points": [point]}, grant=grant)

    async def publish(self, grant: Grant, step: int) -> httpx.Response | None:
        """Put a snapshot's bytes, and commit it if they were taken."""
        content = snapshot(grant.work["number"], step, secrets.token_bytes(8))
        sha256 = hashlib.sha256(content).hexdigest()
        put = await self.ask("PUT", f"blobs/{sha256}", content, grant=grant)
        if put is None or not put.is_success:
            return put
        return await self.ask("POST", "snapshots", {"step": step, "sha256": sha256}, grant=grant)

    async def finish(self, grant: Grant) -> httpx.Response | None:
        body = {"state": "complete", "stop_reason": "budget"}
        return await self.ask("POST", "finish", body, grant=grant)

    async def release(self, grant: Grant) -> httpx.Response | None:
        return await self.ask("POST", "release", {"cause": "preempted"}, grant=grant)

    async def train(self, grant: Grant) -> None:
        """Report one more point, as attempts do that have reported nothing yet, and finish."""
        await self.report(grant, 1, 0.5)
        await self.finish(grant)

    async def work_off(self) -> None:
        """Train whatever is left until all studies have ended. Raises: TimeoutError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.world.people.all_is_done():
                if (grant := await self.look()) is not None:
                    await self.train(grant)
                else:
                    await asyncio.sleep(1.0)
