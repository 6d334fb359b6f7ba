"""A slot takes its next trial only once its GPUs' memory is what it was before the last trainer.

A trainer that was killed is reaped before its memory is free: the driver takes a moment, and a stuck
kernel may keep it. The next trial would then die of too little memory that nobody seems to use.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from tunesmith_workers.devices import NVIDIA_SMI_SECONDS, Device
from tunesmith_workers.errands import Tools

SLACK_MIB = 64
"""What other programs' contexts may differ by."""
PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 0.5
LOOK_UNHEALTHY_SECONDS = 5.0


@dataclass
class GpuMemory:
    """The memory in use on a slot's own GPUs.

    Args:
        ask: MiB in use on all of them; None if nobody knows.
    """

    ask: Callable[[], int | None]
    _before: int | None = None
    _dirty: bool = False

    async def starting(self) -> None:
        """A trainer is about to start: what is in use now is not its own."""
        self._before = await asyncio.to_thread(self.ask)

    def ended(self) -> None:
        """That trainer was reaped."""
        self._dirty = self._before is not None

    async def settled(self, tools: Tools, log: structlog.stdlib.BoundLogger) -> None:
        """Return once the memory of the trainer that ended is back."""
        if not self._dirty or self._before is None:
            return
        since, unhealthy = tools.clock(), False
        while (used := await asyncio.to_thread(self.ask)) is not None and used > self._before + SLACK_MIB:
            if not unhealthy and tools.clock() - since >= PATIENCE_SECONDS:
                unhealthy = True
                log.error(
                    "slot_unhealthy", gpu_mib=used, before_mib=self._before,
                    detail="its last trainer is gone and its GPU memory is not; no trial is taken. Find who "
                    "holds it with nvidia-smi; if another program needs it, start this worker anew",
                )  # fmt: skip
            await tools.sleep(LOOK_UNHEALTHY_SECONDS if unhealthy else LOOK_SECONDS)
        self._dirty = False
        if unhealthy:
            log.info("slot_healthy_again", gpu_mib=used)


def of(own: Sequence[Device], all_: Sequence[Device], environ: Mapping[str, str]) -> GpuMemory:
    """What to watch of a slot's devices: nothing of those that it shares with other slots, whose trainers
    come and go, and nothing without NVIDIA's tool."""
    names = [d.visible for d in own if d.visible is not None and list(all_).count(d) == 1]
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None or len(names) < len(own):
        return GpuMemory(lambda: None)
    command = [program, f"--id={','.join(names)}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return GpuMemory(lambda: _sum_of(command, environ))


def _sum_of(command: Sequence[str], environ: Mapping[str, str]) -> int | None:
    try:
        answer = subprocess.run(  # noqa: S603  (a fixed question to the driver's own tool)
            command, capture_output=True, text=True, check=True,
            timeout=NVIDIA_SMI_SECONDS, env=dict(environ),
        )  # fmt: skip
        return sum(int(line) for line in answer.stdout.split())
    except (subprocess.SubprocessError, OSError, ValueError):  # part of a GPU (MIG) has no such figure
        return None
