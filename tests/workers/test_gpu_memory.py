"""A slot waits for its GPU's memory. The driver's tool is a script of ours; all else is real."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
import structlog
from tunesmith_service.client import WorkerClient
from tunesmith_workers import gpu_memory
from tunesmith_workers.devices import CPU, Device
from tunesmith_workers.errands import Patience, Tools

from .test_devices import driver
from .test_slot import Time

GPU = Device("cuda:0", "GPU-a")


def test_the_driver_is_asked_for_the_slots_own_devices(tmp_path: Path):
    environ = driver(tmp_path, f"echo $@ > {tmp_path}/asked; echo 300; echo 12")
    assert gpu_memory.of([GPU, Device("cuda:1", "GPU-b")], [GPU], environ).ask is not None
    own = [GPU, Device("cuda:1", "GPU-b")]
    assert gpu_memory.of(own, own, environ).ask() == 312
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--id=GPU-a,GPU-b", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]


@pytest.mark.parametrize("script", ["exit 6", "echo '[N/A]'"])
def test_a_driver_that_does_not_know_keeps_nobody_waiting(tmp_path: Path, script: str):
    assert gpu_memory.of([GPU], [GPU], driver(tmp_path, script)).ask() is None


def test_what_is_shared_or_no_gpu_is_not_watched(tmp_path: Path):
    environ = driver(tmp_path, "echo 300")
    assert gpu_memory.of([GPU], [GPU, GPU], environ).ask() is None
    assert gpu_memory.of([CPU], [CPU], environ).ask() is None
    assert gpu_memory.of([GPU], [GPU], {"PATH": str(tmp_path / "nowhere")}).ask() is None


class Gpu:
    """Memory in use that a test sets, and time that it lets pass."""

    def __init__(self, directory: Path) -> None:
        self.used: int | None = 100
        self.time = Time()
        self.memory = gpu_memory.GpuMemory(lambda: self.used)
        client = WorkerClient("http://127.0.0.1:1", "t")
        self.tools = Tools(
            client, "http://127.0.0.1:1", directory, Patience(), Random(1), self.time.clock, self.time.sleep
        )

    async def trainer_ends(self, leaves: int) -> asyncio.Task[None]:
        """A trainer has run and was reaped; the slot waits for its memory."""
        await self.memory.starting()
        self.used = leaves
        self.memory.ended()
        return asyncio.create_task(self.memory.settled(self.tools, structlog.get_logger()))

    async def pass_(self, seconds: float) -> None:
        """Looks happen in threads: let each come back before more time passes."""
        for _ in range(round(seconds / 0.5)):
            for _ in range(20):
                await asyncio.sleep(0.001)
            await self.time.pass_(0.5)


def test_the_next_trainer_waits_until_the_memory_is_back(tmp_path: Path):
    async def scene() -> None:
        gpu = Gpu(tmp_path)
        waiting = await gpu.trainer_ends(leaves=900)
        await gpu.pass_(3)
        assert not waiting.done()
        gpu.used = 120  # another program's context
        await gpu.pass_(1)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scene())


def test_memory_that_does_not_come_back_within_ten_seconds_makes_the_slot_unhealthy(tmp_path: Path):
    async def scene() -> None:
        gpu = Gpu(tmp_path)
        with structlog.testing.capture_logs() as said:
            waiting = await gpu.trainer_ends(leaves=900)
            await gpu.pass_(9)
            assert said == []
            await gpu.pass_(3)
            assert [line["event"] for line in said] == ["slot_unhealthy"]
            assert (said[0]["gpu_mib"], said[0]["before_mib"]) == (900, 100)
            assert not waiting.done()
            gpu.used = 100
            await gpu.pass_(6)
            await asyncio.wait_for(waiting, 5)
            assert said[-1]["event"] == "slot_healthy_again"

    asyncio.run(scene())


@pytest.mark.parametrize("used", [100, None])
def test_nobody_waits_where_nothing_is_kept_or_nothing_known(tmp_path: Path, used: int | None):
    async def scene() -> None:
        gpu = Gpu(tmp_path)
        gpu.used = used
        waiting = await gpu.trainer_ends(leaves=used)  # type: ignore[arg-type]
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scene())
