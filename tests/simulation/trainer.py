"""What a trainer child does, without training: it counts steps, and sometimes fails, as seeds say.

It speaks with the supervisor as `tunesmith_workers.messages` has it, and checks what it is to go on from.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

from tunesmith_workers.child_process import Death

TASK = "light"
DIGEST = hashlib.sha256(b"light").hexdigest()


@dataclass(slots=True)
class Habits:
    """How often an attempt meets something, and how long an epoch takes."""

    dies: float = 0.05
    fails: float = 0.05
    diverges: float = 0.08
    snapshots: float = 0.4  # share of epochs after which one is taken
    artifacts: float = 0.2
    epoch_seconds: float = 6.0


class Trainer:
    """In the place of `ChildProcess`. `random` and `habits` are set for a run."""

    random = Random(0)
    habits = Habits()

    def __init__(self) -> None:
        self._said: asyncio.Queue[dict[str, Any] | Death] = asyncio.Queue()
        self._training: asyncio.Task[None] | None = None
        self._hand_back = False
        self._death: Death | None = None
        self.tasks = {TASK: DIGEST}
        self.pid = 1

    @classmethod
    async def start(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Self:
        await asyncio.sleep(cls.random.uniform(0.05, 3.0))
        return cls()

    @property
    def is_alive(self) -> bool:
        return self._death is None

    async def say(self, message: Mapping[str, Any]) -> None:
        if message["do"] == "run":
            self._hand_back = False
            self._training = asyncio.create_task(self._train(message))
        elif message["do"] == "hand_back":
            self._hand_back = True
        elif self._training is not None:
            self._training.cancel()
            self._end("abandoned")

    async def next(self) -> dict[str, Any] | Death:
        if self._death is not None and self._said.empty():
            return self._death
        return await self._said.get()

    async def kill(self) -> Death:
        self._die(-9)
        assert self._death is not None
        return self._death

    def _die(self, code: int) -> None:
        if self._death is None:
            self._death = Death(code, "")
            self._said.put_nowait(self._death)
        if self._training is not None:
            self._training.cancel()

    # --- one trial ---

    async def _train(self, message: Mapping[str, Any]) -> None:
        work, scratch = message["work"], Path(message["scratch"])
        first = _read(message["resume"], work) if message["resume"] else 0
        for step in range(first + 1, work["epochs"] + 1):
            await asyncio.sleep(self.random.uniform(0.3, 1.7) * self.habits.epoch_seconds)
            if self._happens(self.habits.dies):
                self._die(-9)
                return
            if self._happens(self.habits.fails):
                self._end("failed", "error", retryable=self._happens(0.5))
                return
            loss: float | str = round(abs(work["params"].get("lr", 0.1) - 0.1) + 1.0 / (step + 1), 6)
            diverged = self._happens(self.habits.diverges)
            points = [{"step": step, "metrics": {work["metric"]: "NaN" if diverged else loss}}]
            self._said.put_nowait({"say": "points", "points": points})
            self._said.put_nowait({"say": "log", "text": f"epoch {step}\n"})
            if diverged and self._happens(0.5):
                self._end("pruned", "diverged")
                return
            if diverged:  # a task that does not look at its loss
                self._end("complete", "early_stopping")
                return
            last = step == work["epochs"]
            if self._hand_back or (last and work["keep_snapshot"]) or self._happens(self.habits.snapshots):
                self._snapshot(work, step, scratch)
            if self._hand_back:
                self._end("released")
                return
        if self._happens(self.habits.artifacts):
            self._artifact(work, scratch)
        self._end("complete", "budget")

    def _snapshot(self, work: Mapping[str, Any], step: int, scratch: Path) -> None:
        content = snapshot(work["number"], step, self.random.randbytes(8))
        path = scratch / f"{step}.safetensors"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self._said.put_nowait({"say": "snapshot", "step": step, "sha256": digest, "path": str(path)})

    def _artifact(self, work: Mapping[str, Any], scratch: Path) -> None:
        content = f"a picture of trial {work['number']}, {self.random.random()}".encode()
        path = scratch / "picture"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self._said.put_nowait({"say": "artifact", "name": "picture", "sha256": digest, "path": str(path)})

    def _end(self, state: str, stop_reason: str | None = None, *, retryable: bool = False) -> None:
        error = {"kind": "Failed", "message": "as its seed says"} if state == "failed" else None
        self._said.put_nowait(
            {
                "say": "ended",
                "state": state,
                "stop_reason": stop_reason,
                "error": error,
                "retryable": retryable,
            }
        )

    def _happens(self, share: float) -> bool:
        return self.random.random() < share


def snapshot(number: int, step: int, salt: bytes) -> bytes:
    """A safetensors file with one small tensor; its metadata say what it is of."""
    head = json.dumps(
        {
            "__metadata__": {"trial": str(number), "step": str(step)},
            "w": {"dtype": "U8", "shape": [len(salt)], "data_offsets": [0, len(salt)]},
        }
    ).encode()
    return len(head).to_bytes(8, "little") + head + salt


def _read(path: str, work: Mapping[str, Any]) -> int:
    """The step of the snapshot to go on from. Raises: AssertionError if it is another than was promised."""
    content = Path(path).read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    step = int(head["__metadata__"]["step"])
    assert step == work["resume"]["step"], (head, work["resume"])
    return step
