"""A large snapshot up and down by a worker's own client, and what a service's memory does meanwhile: with a
bucket of a real S3 server (Swift), and with the disk of its home.

    python tests/benchmarks/s3_transfer.py [--megabytes 500]

The memory is that of the serving process and its children (planner and writer), resident, looked at every
20 ms, once a small snapshot has gone the same ways, so that all is loaded. Two ways with a bucket: past the
service, as workers go, and through it, as one does that cannot reach the bucket. Fails if memory grows by
more than 50 MB in any.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from light import TASK, LightWorker
from processes import Server
from swift_server import Swift
from tunesmith_service import wire

MB = 10**6
MOST_MB = 50
STUDY = {
    "task": TASK, "space": {"lr": {"low": 1e-3, "high": 0.1, "log": True}},
    "stages": [{"kind": "coarse_grid", "epochs": 3, "axes": {"lr": 1}}],
}  # fmt: skip


@dataclass
class Memory:
    """Resident bytes of a process and its children, in all."""

    pid: int
    before: int = 0
    peak: int = 0
    after: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def now(self) -> int:
        found = psutil.Process(self.pid)
        return sum(p.memory_info().rss for p in (found, *found.children(recursive=True)))

    @contextmanager
    def watched(self):  # type: ignore[no-untyped-def]
        self.before = self.peak = self.now()
        watching = threading.Thread(target=self._watch)
        watching.start()
        try:
            yield
        finally:
            self._over.set()
            watching.join()
        self.after = self.now()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, self.now())


def snapshot(path: Path, size: int) -> str:
    """A safetensors file of one tensor. Returns its hash."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in (struct.pack("<Q", len(header)), header):
            digest.update(piece)
            file.write(piece)
        while size:
            piece = os.urandom(min(size, MB))
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
    return digest.hexdigest()


async def travel(server: Server, file: Path, sha256: str, copy: Path, *, through: bool) -> list[float]:
    """Up, then down to another attempt. Returns: seconds of each."""
    worker = LightWorker(server.url, server.worker_token)
    try:
        told = await worker.register()
        if through:
            worker.client._direct = None
        first = await worker.claim(wait_seconds=20)
        assert first is not None, told
        started = time.monotonic()
        await worker.client.put_blob(first[0], file, sha256)
        await worker.client.commit_snapshot(first[0], wire.CommitSnapshot(step=1, sha256=sha256))
        up = time.monotonic()
        await worker.client.release(first[0], wire.Release(cause="preempted"))
        second = await worker.claim(wait_seconds=20)
        assert second is not None
        assert second[1].resume is not None
        began = time.monotonic()
        await worker.client.fetch_snapshot(second[0], sha256, copy)
        return [up - started, time.monotonic() - began]
    finally:
        await worker.client.aclose()


@click.command()
@click.option("--megabytes", default=500, show_default=True)
def main(megabytes: int) -> None:
    """Print a table of seconds and megabytes."""
    missed = False
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        swift_home = home / "swift"
        swift_home.mkdir()
        swift = Swift(swift_home)
        print(f"a snapshot of {megabytes} MB | up, s | down, s | RSS before, MB | peak | after | grew by")
        try:
            for name, environ, through in (
                ("bucket, past the service", swift.service("past"), False),
                ("bucket, through the service", swift.service("through"), True),
                ("disk of the home", {}, False),
            ):
                place = home / name.replace(" ", "-").replace(",", "")
                with Server(place, ttl_seconds=600, environ=environ) as server, server.client() as people:
                    for study, size in (("small", MB), ("large", megabytes * MB)):
                        people.post("studies", json=STUDY | {"name": study})
                        file, copy = home / "snapshot", home / "copy"
                        sha256 = snapshot(file, size)
                        memory = Memory(server.pid)
                        with memory.watched():
                            seconds = asyncio.run(travel(server, file, sha256, copy, through=through))
                        assert hashlib.sha256(copy.read_bytes()).hexdigest() == sha256
                        people.post("studies", study, "stop")
                grew = (memory.peak - memory.before) / MB
                missed |= grew > MOST_MB
                rss = " | ".join(f"{n / MB:.0f}" for n in (memory.before, memory.peak, memory.after))
                print(f"{name} | {seconds[0]:.1f} | {seconds[1]:.1f} | {rss} | {grew:.1f}", flush=True)
        finally:
            swift.close()
    sys.exit(missed)


if __name__ == "__main__":
    main()
