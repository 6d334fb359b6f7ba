"""The same training by the built-in trainer, by the plainest loop and by Lightning's Trainer, each in a
process of its own: what `plain_loop.py` compares.

All three build the same model from the same seed, see the same samples in the same order, validate once an
epoch, and keep the losses of every epoch, so that they can be held against each other.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch._dynamo  # else the first step of an optimizer imports it
from torch.nn import functional
from tunesmith_service.wire import WorkOrder
from tunesmith_workers import trainer
from tunesmith_workers.data import epoch_order
from tunesmith_workers.endings import EpochResult
from tunesmith_workers.evaluation import AT_ONCE
from tunesmith_workers.tasks import builtin
from tunesmith_workers.tasks.registry import Entry, Task

SEED = 1
CPU = torch.device("cpu")

Losses: TypeAlias = list[tuple[float, float]]
"""Of each epoch, training and validation loss."""


@dataclass(frozen=True)
class Job:
    """A training with SGD and momentum 0.9. `model`: what is left to the task's builder."""

    task: str
    model: dict[str, Any]
    batch: int
    lr: float
    epochs: int


JOBS = {
    "digits MLP": Job("digits", {}, 32, 0.05, 60),
    "digits CNN": Job("digits", {"model": "cnn"}, 32, 0.05, 20),
    "mnist10k CNN": Job("mnist10k", {"model": "cnn"}, 128, 0.05, 1),
}


def built_in(entry: Entry, job: Job) -> Losses:
    params = {"optimizer": "momentum", "lr": job.lr, "batch_size": job.batch, **job.model}
    work = WorkOrder(
        study="speed", stage="speed", number=0, task=job.task, params=params, epochs=job.epochs, seed=SEED,
        metric="val/loss", direction="minimize",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        said = list(trainer.epochs(entry, work, device=CPU, scratch=Path(scratch)))
    points = [one.metrics for one in said if isinstance(one, EpochResult)]
    return [(metrics["train/loss"], metrics["val/loss"]) for metrics in points]


def plain(entry: Entry, job: Job) -> Losses:
    assert isinstance(entry.task, Task)
    train, val = entry.task.splits.train, entry.task.splits.val
    torch.manual_seed(SEED)
    model = entry.task.build(job.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=job.lr, momentum=0.9)
    losses = []
    for epoch in range(job.epochs):
        model.train()
        total = 0.0
        for chunk in epoch_order(len(train), SEED, epoch).split(job.batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(train.x[chunk]), train.y[chunk])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chunk)
        model.eval()
        val_total = 0.0
        with torch.no_grad():
            for x, y in zip(val.x.split(AT_ONCE), val.y.split(AT_ONCE), strict=True):
                val_total += functional.cross_entropy(model(x), y, reduction="sum").item()
        losses.append((total / len(train), val_total / len(val)))
    return losses


def lightning(entry: Entry, job: Job) -> Losses:
    """With whole batches from the loader, without logger, progress bar and checkpoints."""
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    assert isinstance(entry.task, Task)
    task = entry.task
    torch.manual_seed(SEED)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.build(job.model)
            self.total, self.losses = 0.0, Losses()

        def training_step(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
            x, y = batch
            loss = functional.cross_entropy(self.model(x), y)
            self.total += loss.item() * len(x)
            return loss

        def validation_step(self, batch: Sequence[torch.Tensor]) -> None:
            x, y = batch
            found = functional.cross_entropy(self.model(x), y).item()
            self.losses.append((self.total / len(task.splits.train), found))
            self.total = 0.0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=job.lr, momentum=0.9)

    class Chunks:
        """The order of each epoch, in batches."""

        def __init__(self) -> None:
            self.epoch = 0

        def __iter__(self) -> Any:
            order = epoch_order(len(task.splits.train), SEED, self.epoch)
            self.epoch += 1
            return iter(order.split(job.batch))

        def __len__(self) -> int:
            return math.ceil(len(task.splits.train) / job.batch)

    def loader(split: Any, sampler: Any) -> Any:
        return DataLoader(TensorDataset(split.x, split.y), batch_size=None, sampler=sampler)

    fit = Trainer(
        accelerator="cpu", devices=1, max_epochs=job.epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    module = Module()
    whole = [torch.arange(len(task.splits.val))]
    fit.fit(module, loader(task.splits.train, Chunks()), loader(task.splits.val, whole))
    return module.losses


KINDS: dict[str, Callable[[Entry, Job], Losses]] = {
    "Tunesmith": built_in,
    "plain loop": plain,
    "Lightning": lightning,
}


def serve(kind: str, data: dict[str, Path]) -> None:
    """Run the job that each line of input names; print its seconds of CPU time and its losses."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # Lightning's advice
    tasks = builtin.registry(data_files=data)
    for line in sys.stdin:
        job = JOBS[line.strip()]
        began = time.process_time()
        losses = KINDS[kind](tasks[job.task], job)
        print(json.dumps([time.process_time() - began, losses]), flush=True)


class Trains:
    """A process that trains by one of the kinds."""

    def __init__(self, kind: str, data: Path | None) -> None:
        more = [f"mnist10k={data / 'mnist10k.npz'}"] if data else []
        self.losses: dict[str, Losses] = {}
        self._process = subprocess.Popen(
            [sys.executable, __file__, kind, *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def epochs_per_second(self, job: str) -> float:
        """Of CPU time, of which one that trains on one thread never waits."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{job}\n")
        self._process.stdin.flush()
        seconds, losses = json.loads(self._process.stdout.readline())
        self.losses[job] = [(train, val) for train, val in losses]
        return JOBS[job].epochs / float(seconds)

    def close(self) -> None:
        self._process.communicate()


if __name__ == "__main__":
    serve(sys.argv[1], {name: Path(file) for name, _, file in (a.partition("=") for a in sys.argv[2:])})
