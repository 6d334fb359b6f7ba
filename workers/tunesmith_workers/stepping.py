"""A model and the optimizer step that trains it, for whoever drives it: the trainer, a range test, checks.

    learner = Learner(task, params, splits.train, seed=seed, device=device)
    for number, chunk in enumerate(cut(epoch_order(len(splits.train), seed, epoch), learner.step_size)):
        learner.step(chunk, epoch, number)

Rates, schedules, order and what comes between two steps are the driver's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from tunesmith_studies.vocabulary import HYPERPARAMETERS, READ_BY_MODELS

from tunesmith_workers import memory, rng
from tunesmith_workers.augment import Batch, make_augmentation
from tunesmith_workers.data import Split, pieces
from tunesmith_workers.gang import ALONE, Gang, Part
from tunesmith_workers.init import initialise
from tunesmith_workers.optim import Params, make_optimizer, real, whole, word
from tunesmith_workers.tasks.registry import Task, TaskError
from tunesmith_workers.weights import start_from

TAKEN = frozenset(HYPERPARAMETERS) - READ_BY_MODELS
"""Hyperparameters that the trainer takes; all others go to the task's model builder."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Seen:
    """What an optimizer step computed before it changed the model, of its n samples, without gradients.

    Attributes:
        losses: of each sample, shape (n,), without label smoothing.
        total: their sum.
        outputs: the model's, shape (n, …).
        targets: what they were to be, shape (n, …); None if samples were mixed, so that no single target
            is right.
    """

    losses: Tensor
    total: Tensor
    outputs: Tensor
    targets: Tensor | None

    def of_nothing(self) -> Seen:
        targets = None if self.targets is None else self.targets[:0]
        return Seen(self.losses[:0], torch.zeros_like(self.total), self.outputs[:0], targets)


class Learner:
    """A fresh model with its optimizer.

    A step takes the mean loss of a *chunk* of `step_size` samples, of which `micro_batch` at a time go
    through the model: the gradient is that of the whole chunk, whatever its pieces, and so are augmentation
    and mixing. Only a model tells the difference whose outputs for a sample depend on the others in its
    piece (batch norm) or that draws for each piece (dropout).

    When the device runs out of memory in a forward or backward pass, the step begins again with half the
    `micro_batch`, from the weights, buffers and state of torch's generators before it, and all later steps
    keep to that; with one sample at a time it raises what torch does. Batch norm then sees smaller batches
    than `batch_size` says, and cannot train on a single sample.

    Of a gang's ranks each does this with its part of the chunk, and the gradient is still that of the whole:
    to the model parts are pieces. Augmentation is of the whole chunk on each rank. Batch norm sees all parts
    together on GPUs (torch's SyncBatchNorm, with which running out of memory ends the trial), on the CPU its
    own part, and the running statistics are the parts' mean. Ranks above 0 draw dropout from a seed of theirs
    and of the step's position.

    With `precision` bf16 or fp16 forward passes compute in it, on a copy of the weights; the weights, their
    gradients and losses stay in fp32, and fp16's gradients are scaled against underflow.

    Attributes:
        model, optimizer: of the task and the hyperparameters.
        train: the split that chunks index.
        step_size: samples of a step: `batch_size` · `accumulation`, whatever the number of ranks.
        at_once: samples that go through the model of a rank at once, if there is memory: `batch_size`, or its
            share of it.
        micro_batch: samples that do.
        scaler: of fp16's gradients; its state belongs into a snapshot.
        origin: a line about the weights that `init_from` names, for a log; empty without.

    Args:
        seed: of the trial. The model builder draws from torch's global generator, which the caller seeds
            (`rng.begin`); everything else from generators of its own.

    Raises: ValueError or TaskError on hyperparameters that make no training.
    """

    def __init__(
        self, task: Task, params: Params, train: Split, *, seed: int, device: torch.device, gang: Gang = ALONE
    ) -> None:
        self.task, self.train, self._device, self._gang, self._seed = task, train, device, gang, seed
        batch_size = whole(params, "batch_size")
        self.at_once = batch_size if gang.size == 1 else max(2, -(-batch_size // gang.size))
        self.micro_batch = self.at_once
        self.step_size = batch_size * whole(params, "accumulation")
        self._smoothing, self._clip_norm = real(params, "label_smoothing"), real(params, "clip_norm")
        self._augmentation = make_augmentation(params, train.x, seed)
        self.model = task.build({k: v for k, v in params.items() if k not in TAKEN})
        initialise(self.model, params, seed)
        self.origin = start_from(self.model, params, task.weights)
        self.model.to(device)
        self._is_joint = gang.size > 1 and device.type == "cuda"  # its batch norm waits for all ranks
        if self._is_joint:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        self.optimizer = _unobserved(make_optimizer(self.model, params))
        self._autocast = _autocast(device, word(params, "precision"))
        self._is_half = word(params, "precision") != "fp32"
        self.scaler = torch.amp.GradScaler(device.type, enabled=word(params, "precision") == "fp16")
        self._parameters, self._buffers = list(self.model.parameters()), list(self.model.buffers())
        self._norm: Tensor | None = None
        self.share_weights()

    def share_weights(self) -> None:
        """Have all ranks begin with the weights of rank 0."""
        self._gang.give_weights([*(p.data for p in self._parameters), *self._buffers])

    def step(self, chunk: Tensor, *at: int) -> Seen:
        """One optimizer step on the samples `chunk`, indices of shape (n,); `at`: its epoch and number.

        The model is in the mode that the caller has put it in.
        """
        if self._gang.rank > 0:
            torch.manual_seed(rng.derive(self._seed, "rank", self._gang.rank, *at))
        seen = self.backward(self.load(chunk, *at))
        self.update()
        return seen

    def load(self, chunk: Tensor, *at: int) -> Batch:
        """The samples of a chunk as the model shall see them."""
        # As x[chunk], at half its overhead: with small models that is what an epoch's time is made of.
        x, y = self.train.x.index_select(0, chunk), self.train.y.index_select(0, chunk)
        return self._augmentation(x, y, *at) if self._augmentation else Batch(x, y)

    def backward(self, batch: Batch) -> Seen:
        """Set the gradient of the batch's mean loss; what is seen is of this rank's part."""
        seen = self._backward_with_memory(batch)
        self._gang.join_gradients(self._parameters, self._buffers)
        return seen

    def _backward_with_memory(self, batch: Batch) -> Seen:
        put_back = self._before()
        while True:
            try:
                return self._backward(batch)
            except Exception as e:
                if not memory.ran_out(e) or self.micro_batch == 1 or self._is_joint:
                    raise
            # Only here, where the error and the tensors in its frames are gone, is there memory again.
            self._halve(len(batch.x))
            put_back()

    def update(self) -> None:
        """Change the weights by the gradient, clipped if the hyperparameters say so."""
        self._norm = None
        if self._clip_norm:
            self.scaler.unscale_(self.optimizer)
            self._norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def gradient_norm(self) -> float:
        """L2 norm of the newest step's gradient, before clipping."""
        if self._norm is None:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            self._norm = nn.utils.get_total_norm([_numbers(g) for g in gradients])
        return self._norm.item()

    def _backward(self, batch: Batch) -> Seen:
        self._forget_gradient()
        targets = batch.y if batch.partner is None else None
        part = self._gang.part(len(batch.x))
        parts = self._pieces_of(part)
        if len(parts) == 1 and self._gang.size == 1:
            return Seen(*self._backward_piece(batch, None, part.divisor), targets)
        seen = [self._backward_piece(batch, rows, part.divisor) for rows in parts]
        losses, totals, outputs = zip(*seen, strict=True)
        targets = None if targets is None else targets[part.rows]
        found = Seen(torch.cat(losses), torch.stack(totals).sum(), torch.cat(outputs), targets)
        return found if part.counts else found.of_nothing()

    def _pieces_of(self, part: Part) -> list[slice]:
        """Rows that go through the model at once. Of a gang's parts, which differ in size, equally many, for
        batch norm on GPUs waits for all ranks in each."""
        parts = pieces(part.largest, self.micro_batch)
        if self._gang.size == 1:
            return parts
        first, size = part.rows.start, part.rows.stop - part.rows.start
        count = min(len(parts), size)
        return [slice(first + size * i // count, first + size * (i + 1) // count) for i in range(count)]

    def _backward_piece(
        self, batch: Batch, rows: slice | None, divisor: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add a piece's part to the gradient; its losses, their sum, and outputs."""
        with self._autocast():
            outputs = self.model(batch.x if rows is None else batch.x[rows])
            if self._is_half:
                outputs = outputs.float()
            losses = self._losses(batch, rows, outputs)
            trained = self._losses(batch, rows, outputs, smoothed=True) if self._smoothing else losses
            losses = losses.detach()
            total = losses.sum()
        share = _share(len(trained), divisor, trained.dtype, trained.device)
        self.scaler.scale(trained).backward(share)  # type: ignore[no-untyped-call]
        return losses, total, outputs.detach()

    def _losses(self, batch: Batch, rows: slice | None, outputs: Tensor, *, smoothed: bool = False) -> Tensor:
        """Of each sample, shape (n,)."""
        more = {"smoothing": self._smoothing} if smoothed else {}
        return batch.losses(lambda targets: _of_each(self.task.loss(outputs, targets, **more)), rows)

    def _forget_gradient(self) -> None:
        """As the optimizer's zero_grad, without what that does for profilers."""
        for parameter in self._parameters:
            parameter.grad = None

    def _before(self) -> Callable[[], None]:
        """Remember what a forward pass changes; returns how to put it back."""
        generator = torch.get_rng_state()
        on_device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        buffers = [b.clone() for b in self._buffers]

        def put_back() -> None:
            torch.set_rng_state(generator)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, self._device)
            for buffer, was in zip(self._buffers, buffers, strict=True):
                buffer.copy_(was)

        return put_back

    def _halve(self, samples: int) -> None:
        tried = min(self.micro_batch, samples)
        self.micro_batch = max(1, tried // 2)
        self._forget_gradient()
        memory.give_back(self._device)
        print(
            f"out of memory with {tried} samples at once: goes on with {self.micro_batch}, "
            f"{-(-self.step_size // (self.micro_batch * self._gang.size))} times a step"
        )


def _unobserved(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer with a step that calls no hooks and tells profilers nothing, as that takes a tenth of a
    small model's time."""
    step = type(optimizer).step
    bare = getattr(step, "__wrapped__", step)
    # Bound to a proxy: a cycle would hold the weights until the garbage is collected.
    optimizer.step = MethodType(bare, weakref.proxy(optimizer))  # type: ignore[method-assign]
    return optimizer


@lru_cache(maxsize=16)
def _share(losses: int, samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The gradient of a mean over `samples` with respect to each of `losses`, shape (losses,).

    With it backward passes begin at the losses: the mean itself, which nobody reads, is not computed. All its
    elements are one in memory, so nothing can write into what later steps will use."""
    return torch.tensor(1 / samples, dtype=dtype, device=device).expand(losses)


def _numbers(gradient: Tensor) -> Tensor:
    """A gradient as a dense tensor; of a sparse one, for which torch has no norm, what it holds."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _of_each(losses: Tensor) -> Tensor:
    """Losses of shape (n,); of a sample's several the sum. Raises TaskError on a loss that is one number."""
    if losses.dim() == 1:
        return losses
    if losses.dim() == 0:
        raise TaskError(
            "the task's loss gives one number for a batch; it must give one for each sample, shape (n,): "
            "with torch's losses, pass reduction='none'"
        )
    return losses.flatten(1).sum(1)


def _autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, _AUTOCAST[precision])


__all__ = ["TAKEN", "Learner", "Seen"]
