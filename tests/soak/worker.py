"""A light worker of the soak: the real protocol, training is a counter, and the dead go on writing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import tempfile
import time
from pathlib import Path
from random import Random

import httpx
from light import LightWorker
from tunesmith_service import wire
from tunesmith_service.client import ClaimStale, Lease, Refused, TunesmithError, Unavailable

from soak.journal import Journal

CLAIM_SECONDS = 10.0


class SoakWorker(LightWorker):
    """One slot. Beats beside its training, snapshots some steps, hands some trials back. Its ids are those
    that the same number had before; its starts are numbered by the clock.

    Args:
        number: which of the workers.
        epoch_seconds: what an epoch takes, on average.
        journal: where it notes its calls; a new file.
    """

    def __init__(self, url: str, token: str, number: int, epoch_seconds: float, journal: Path) -> None:
        transport = Journal(httpx.AsyncHTTPTransport(), journal)
        super().__init__(url, token, name=f"light-{number}", transport=transport)
        self._random = Random(secrets.randbits(64))
        self._epoch_seconds = epoch_seconds
        self.worker_id, self.slot_id = id_of("worker", number), id_of("slot", number)
        self.starts = time.time_ns() // 1000

    async def work(self) -> None:
        """For ever."""
        self._beat_seconds = (await self.register()).beat_seconds
        while True:
            try:
                claimed = await self.claim(CLAIM_SECONDS)
            except ClaimStale:  # what it got has ended, before an answer came through
                continue
            if claimed is not None:
                await self._attempt(*claimed)

    async def _attempt(self, lease: Lease, work: wire.WorkOrder) -> None:
        beating = asyncio.create_task(self._beats(lease))
        try:
            await self._train(lease, work)
        except Refused:  # somebody else's by now, ended, or pruned
            await self._insist(lease, work)
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError, Refused):
                await beating

    async def _beats(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._beat_seconds * self._random.uniform(0.9, 1.1))
            with contextlib.suppress(Unavailable):
                await self.beat(lease)

    async def _train(self, lease: Lease, work: wire.WorkOrder) -> None:
        first, logged = work.resume.step if work.resume else 0, 0
        for seq, step in enumerate(range(first + 1, work.epochs + 1), start=1):
            await asyncio.sleep(self._epoch_seconds * self._random.uniform(0.5, 1.5))
            await self.report(lease, work, seq, step)
            luck = self._random.random()
            if luck < 0.15:
                await self._snapshot(lease, step)
            elif luck < 0.25:
                logged += 1
                await self.client.log(lease, wire.LogChunk(seq=logged, text=f"epoch {step}\n"))
            elif luck < 0.28:
                await self.client.release(lease, wire.Release(cause="preempted"))
                return
        await self.finish(lease)

    async def _insist(self, lease: Lease, work: wire.WorkOrder) -> None:
        """As a zombie: everything that a holder may write, once more, under a lease that is over."""
        for write in (
            self.beat(lease),
            self.report(lease, work, 1000, work.epochs),
            self._snapshot(lease, work.epochs),
            self.client.release(lease, wire.Release(cause="preempted")),
        ):
            with contextlib.suppress(TunesmithError):
                await write

    async def _snapshot(self, lease: Lease, step: int) -> None:
        content = safetensors(self._random.randbytes(64))
        digest = hashlib.sha256(content).hexdigest()
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            await self.client.put_blob(lease, Path(file.name), digest)
        await self.client.commit_snapshot(lease, wire.CommitSnapshot(step=step, sha256=digest))


def id_of(what: str, number: int) -> str:
    """The id that a worker, or its slot, has at each of its starts."""
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()[:32]


def safetensors(tensor: bytes) -> bytes:
    """A file with one tensor of bytes."""
    head = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(tensor), len(tensor))
    return len(head).to_bytes(8, "little") + head + tensor
