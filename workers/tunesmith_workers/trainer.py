"""One trial on one slot: a generator of epoch results that never heard of HTTP.

What a trial computes depends on its work order, its task and the snapshot it goes on from, and on
nothing else: every generator is seeded by it, the order of samples is a function of seed and epoch,
and after a restore the trial's own hyperparameters rule. A snapshot therefore holds what cannot be
computed from a work order: weights, the optimizer's state of each parameter, random state, position,
seed, running sums and the curve. The rates and decays of its optimizer are in it for the reader
alone; a branch never gets its trunk's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tunesmith_service.wire import WorkOrder
from tunesmith_studies.vocabulary import HYPERPARAMETERS, READ_BY_MODELS

from tunesmith_workers import rng, snapshots
from tunesmith_workers.data import cut, epoch_order, fraction_of, steps_per_epoch
from tunesmith_workers.endings import (
    ABANDONED,
    BUDGET,
    RELEASED,
    Asked,
    Curve,
    Ending,
    EpochResult,
    Said,
    Saved,
    Wish,
)
from tunesmith_workers.evaluation import evaluate
from tunesmith_workers.optim import make_optimizer, real, whole
from tunesmith_workers.schedules import Length, make_schedule
from tunesmith_workers.snapshots import SnapshotCorrupt
from tunesmith_workers.tasks.registry import Entry, Task

TAKEN = frozenset(HYPERPARAMETERS) - READ_BY_MODELS
"""Hyperparameters that the trainer takes; all others go to the task's model builder."""


def epochs(
    entry: Entry,
    work: WorkOrder,
    *,
    device: torch.device,
    scratch: Path,
    resume: Path | None = None,
    asked: Asked = lambda: None,
    threads: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Said]:
    """Train until `work.epochs` epochs are done or a rule of the trial's own ends it.

    Yields an EpochResult after each epoch, a Saved after each snapshot (at the end if
    `work.keep_snapshot`, every `work.snapshot_every_seconds` at the next end of an epoch, and on
    hand-back), and an Ending last. `asked` is read before each optimizer step. What it prints, a line
    at the start and one at the end, is the trial's log.

    Raises: ValueError or TaskError on hyperparameters that make no training, SnapshotCorrupt on a
        snapshot that cannot be gone on from, and whatever torch raises.
    """
    run = _Run(entry, work, device, resume, threads)
    print(run.described())
    saved_at = clock()
    ending = run.curve.ending()
    while ending is None and run.epoch < work.epochs:
        started = clock()
        wish = run.train(asked)
        if wish == "abandon":
            yield ABANDONED
            return
        if wish == "hand_back":
            yield run.save(scratch, final=False)
            print(run.summed_up(RELEASED))
            yield RELEASED
            return
        metrics = run.end_epoch() | {"sys/epoch_seconds": clock() - started}
        yield EpochResult(run.epoch, metrics)
        ending = run.curve.ending()
        going_on = ending is None and run.epoch < work.epochs
        if going_on and clock() - saved_at >= work.snapshot_every_seconds:
            yield run.save(scratch, final=False)
            saved_at = clock()
    ending = ending or BUDGET
    if work.keep_snapshot and ending.state == "complete":
        yield run.save(scratch, final=True)
    print(run.summed_up(ending))
    yield ending


class _Run:
    """The state of a training: what a snapshot saves and restores, and the step that changes it."""

    def __init__(
        self, entry: Entry, work: WorkOrder, device: torch.device, resume: Path | None, threads: int
    ) -> None:
        if not isinstance(entry.task, Task):
            raise TypeError(f"{entry.name} trains by its own loop")
        self.task, self.name, self.work, self.device = entry.task, entry.name, work, device
        params = work.params
        self.batch_size = whole(params, "batch_size")
        self.step_size = self.batch_size * whole(params, "accumulation")
        self.smoothing = real(params, "label_smoothing")
        self.clip_norm = real(params, "clip_norm")
        saved = snapshots.load(resume) if resume else None
        self.seed = snapshots.seed_of(saved, default=work.seed)
        rng.begin(self.seed, threads)
        self.train_split = fraction_of(self.task.splits.train, work.data_fraction, self.seed).to(device)
        self.val_split = self.task.splits.val.to(device)
        steps = steps_per_epoch(len(self.train_split), self.step_size)
        self.length = Length(work.epochs, steps)
        self.model = self.task.build({k: v for k, v in params.items() if k not in TAKEN}).to(device)
        self.optimizer = make_optimizer(self.model, params)
        self.schedule = make_schedule(self.optimizer, params, self.length)
        self.curve = Curve(work, self.task.classes)
        self.epoch = 0  # whole epochs done
        self.batch = 0  # optimizer steps done of the next one
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        if saved is not None:
            _refusing(self._restore, saved)

    def train(self, asked: Asked) -> Wish | None:
        """Go on to the end of the epoch, or stop before a step because the supervisor asks."""
        order = epoch_order(len(self.train_split), self.seed, self.epoch).to(self.device)
        self.model.train()
        for chunk in cut(order, self.step_size)[self.batch :]:
            if wish := asked():
                return wish
            self._step(chunk)
            self.batch += 1
        return None

    def _step(self, chunk: Tensor) -> None:
        """One optimizer step on the mean loss of a chunk, its gradient summed over batches."""
        self.optimizer.zero_grad()
        for indices in cut(chunk, self.batch_size):
            targets = self.train_split.y[indices]
            outputs = self.model(self.train_split.x[indices])
            losses = self.task.loss(outputs, targets)
            self.loss_sum += losses.detach().sum(dtype=torch.float64)
            if self.smoothing:
                losses = self.task.loss(outputs, targets, smoothing=self.smoothing)
            (losses.sum() / len(chunk)).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.rate = float(self.optimizer.param_groups[0]["lr"])
        self.schedule.after("step")

    def end_epoch(self) -> dict[str, float]:
        """Evaluate, move on to the next epoch, and note the point; `train/loss` is without regularisation."""
        metrics = {"train/loss": self.loss_sum.item() / len(self.train_split)}
        val = evaluate(self.task, self.model, self.val_split)
        metrics |= {f"val/{name}": value for name, value in val.items()}
        metrics["sys/lr"] = self.rate
        self.schedule.after("epoch")
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self.curve.add(self.epoch, metrics)
        return metrics

    def save(self, scratch: Path, *, final: bool) -> Saved:
        tree = {
            "trial": [self.work.study, self.work.number],
            "task": self.name,
            "params": dict(self.work.params),
            "seed": self.seed,
            "epoch": self.epoch,
            "batch": self.batch,
            "shape": self._shape(),
            "loss_sum": self.loss_sum,
            "curve": self.curve.save(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict() | {"kind": type(self.optimizer).__name__},
            "rng": rng.state(self.device),
        }
        path = scratch / f"snapshot-{self.epoch}-{self.batch}.safetensors"
        return Saved(self.epoch, self.batch, snapshots.save(path, tree), final)

    def described(self) -> str:
        """The training in a line, for its log."""
        size = sum(p.numel() for p in self.model.parameters())
        going_on = (
            f"; goes on after epoch {self.epoch}, step {self.batch}" if self.epoch or self.batch else ""
        )
        return (
            f"{type(self.model).__name__} of {size:,} parameters on {self.device}; {len(self.train_split):,} "
            f"samples to train, {len(self.val_split):,} to validate; {self.length.steps:,} steps an epoch"
            f"{going_on}"
        )

    def summed_up(self, ending: Ending) -> str:
        """How it ended, in a line."""
        why = f" ({ending.stop_reason})" if ending.stop_reason else ""
        best = self.curve.best()
        found = f"; best {self.work.metric} {best[1]:.6g} in epoch {best[0]}" if best else ""
        return f"{ending.state}{why} after {self.epoch} of {self.work.epochs} epochs{found}"

    def _shape(self) -> list[int]:
        """What a position in the middle of an epoch counts in."""
        return [len(self.train_split), self.step_size]

    def _restore(self, saved: Mapping[str, Any]) -> None:
        snapshots.restore_model(self.model, saved["model"])
        snapshots.restore_optimizer(self.optimizer, saved["optimizer"])
        self.epoch = saved["epoch"]
        if saved["batch"] and saved["shape"] == self._shape():
            self.batch = saved["batch"]
            self.loss_sum.copy_(saved["loss_sum"])
        # Else its steps are not ours (another batch size): the epoch begins again with these weights.
        self.schedule.replay(self.epoch, self.batch, self.length)
        if saved["trial"] == [self.work.study, self.work.number]:
            self.curve.restore(saved["curve"])
        rng.restore(saved["rng"], self.device)


def _refusing(restore: Callable[[Mapping[str, Any]], None], saved: Mapping[str, Any]) -> None:
    """Restore; whatever a damaged tree makes fail is the snapshot's fault, not the trial's."""
    try:
        restore(saved)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise SnapshotCorrupt(f"the snapshot does not fit this trial: {type(e).__name__}: {e}") from e
