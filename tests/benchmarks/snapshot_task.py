"""What `snapshots.py` has trained: a model whose frozen part makes its snapshots large and its steps short.

A first attempt trains, saves and trains on until the file `uploaded` lies beside this one; what happened
stands in `attempt-1.json`, and it waits to be killed. The next attempt goes on from the snapshot, writes
`attempt-2.json` and ends once there is a file `measured`. Times are of `time.time()`, so that they can be set
beside another process's.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tunesmith_workers.loop import Trial
from tunesmith_workers.tasks.registry import train

HERE = Path(__file__).parent
PART_FLOATS = 2_500_000
QUIET_SECONDS = 4.0


class Model(nn.Module):
    def __init__(self, megabytes: int) -> None:
        super().__init__()
        parts = (torch.rand(PART_FLOATS) for _ in range(megabytes * 1_000_000 // (4 * PART_FLOATS)))
        self.frozen = nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in parts)
        self.head = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
        )


@train("large")
def large(trial: Trial) -> None:
    entered = time.time()
    model = Model(int(trial.params["megabytes"]))
    optimizer = torch.optim.SGD(model.head.parameters(), lr=1e-4)
    restoring = time.time()
    if trial.restore(model=model, optimizer=optimizer):
        _tell("attempt-2.json", entered=entered, restoring=restoring, restored=time.time())
        while not (HERE / "measured").exists():
            time.sleep(0.05)
        trial.report(2, {"val/loss": 0.5})
        return
    steps = Steps(model, optimizer)
    steps.run_until(lambda: time.time() - restoring >= QUIET_SECONDS)
    quiet = steps.taken()
    trial.report(1, {"val/loss": 1.0})
    before = _resident_megabytes("VmRSS")
    saving = time.time()
    trial.snapshot(model=model, optimizer=optimizer)
    saved = time.time()
    held = _resident_megabytes("VmHWM") - before
    steps.run_until((HERE / "uploaded").exists)
    _tell("attempt-1.json", saving=saving, saved=saved, held=held, quiet=quiet, uploading=steps.taken())
    time.sleep(600)


class Steps:
    """Of training; `taken` gives the seconds of each since it was last asked."""

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._x = torch.rand(256, 64)
        self._seconds: list[float] = []

    def run_until(self, is_over: Any) -> None:
        began = time.perf_counter()
        while not is_over():
            loss = self._model.head(self._x).square().mean()
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            now = time.perf_counter()
            self._seconds.append(now - began)
            began = now

    def taken(self) -> list[float]:
        taken, self._seconds = self._seconds, []
        return taken


def _resident_megabytes(line: str) -> float:
    found = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(line))
    return int(found.split()[1]) * 1024 / 1e6


def _tell(name: str, **what: Any) -> None:
    part = HERE / f"{name}.part"
    part.write_text(json.dumps(what))
    part.rename(HERE / name)
