"""Several processes that train one trial, each on a device of its own: rank 0 leads, the others follow.

A gang has one rank for each device that the study asks for. All ranks hold the same weights and the same
optimizer. Of the samples of an optimizer step each takes its part, and the parts' gradients are summed: what
changes the weights is the gradient of the whole step, as one process computes it, whatever sizes the parts
have. Everything else (points, evaluations, snapshots, when to stop) is decided and done by rank 0, which
tells the others what comes next; they need no clock, no curve and no wish of the supervisor's.

Gradients travel by NCCL between GPUs and by gloo on the CPU; words of the leader by gloo, for which no GPU
waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum, auto

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from tunesmith_workers.tasks.registry import TaskError

_PATIENT = timedelta(days=365)
"""Followers wait as long as the leader evaluates or writes; the supervisor sees at once if a rank is lost."""


class Word(IntEnum):
    """What the leader tells the others to do with it."""

    STEP = auto()  # one optimizer step
    POINT = auto()  # gather what was counted; the leader evaluates meanwhile
    SAVE = auto()  # gather what was counted, for a snapshot
    WEIGHTS = auto()  # take the leader's weights
    END = auto()


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank computes of a step's samples.

    Attributes:
        rows: of the samples.
        divisor: of the sum of their losses, so that the gradients of all ranks sum to that of the mean.
        largest: samples of the largest part.
        counts: whether their losses are not another rank's as well.
    """

    rows: slice
    divisor: int
    largest: int
    counts: bool = True


class Gang:
    """The ranks of one trial, as one of them sees it.

    Attributes:
        rank: this process's, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, words: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._words = rank, size, words

    def part(self, samples: int) -> Part:
        """This rank's part of so many samples. Parts differ by one sample at most. Of fewer than two for
        each, which batch norm could not train on, each rank computes all, and the sum is their mean."""
        if samples < 2 * self.size and self.size > 1:
            return Part(slice(0, samples), samples * self.size, samples, counts=self.rank == 0)
        start, stop = (samples * r // self.size for r in (self.rank, self.rank + 1))
        return Part(slice(start, stop), samples, -(-samples // self.size))

    def agreed(self, word: int = 0) -> int:
        """The leader's word, on every rank; each must ask in its turn."""
        if self._words is None:
            return word
        said = torch.tensor([word])
        dist.broadcast(said, src=0, group=self._words)
        return int(said)

    def gather(self, numbers: Tensor) -> None:
        """Make `numbers`, on the CPU, the sum over the ranks on rank 0, and zero on the others."""
        if self.size > 1:
            dist.all_reduce(numbers, group=self._words)
            if self.rank > 0:
                numbers.zero_()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor the sum of those that all ranks have in its place. They must be dense."""
        if self.size > 1:
            for alike in _by_kind(tensors):
                flat = torch.cat([t.reshape(-1) for t in alike])
                dist.all_reduce(flat)
                sums = torch.split(flat, [t.numel() for t in alike])
                for tensor, summed in zip(alike, sums, strict=True):
                    tensor.copy_(summed.view(tensor.shape))

    def give_weights(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor what it is on rank 0."""
        if self.size > 1:
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    @torch.no_grad()
    def join_gradients(self, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor]) -> None:
        """Sum the gradients over the ranks, and take the mean of floating-point buffers, such as the running
        statistics of batch norm: so all ranks hold the same model after each step.

        A parameter without a gradient on every rank keeps none, as in one process.

        Raises: TaskError on a sparse gradient.
        """
        if self.size == 1:
            return
        own = [p for p in parameters if p.requires_grad]
        if any(p.grad is not None and p.grad.is_sparse for p in own):
            raise TaskError(
                "this model's embeddings have sparse gradients, which are not summed over several GPUs: "
                "build them with sparse=False, or leave resources.gpus out"
            )
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        given = torch.tensor([float(p.grad is not None) for p in own]).to(own[0]) if own else torch.zeros(0)
        means = [b for b in buffers if b.is_floating_point()]
        for buffer in means:
            buffer.div_(self.size)
        self.sum([*gradients, given, *means])
        lacking = [i for i, p in enumerate(own) if p.grad is None]
        for i in lacking:  # only here: to look at numbers is to wait for the GPU
            if given[i] > 0:
                own[i].grad = gradients[i]


ALONE = Gang()


def _by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    found: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(found.values())


@contextmanager
def joined(size: int, name: str, device: torch.device) -> Iterator[Gang]:
    """The gang of `size` ranks that this process is one of, for one trial.

    Args:
        name: of the meeting; the same on all its ranks, and on no others.
        device: this rank's.

    Raises: TaskError if torchrun has started fewer processes.
    """
    if size == 1:
        yield ALONE
        return
    if size > (started := int(os.environ.get("WORLD_SIZE", "1"))):
        raise TaskError(f"the study asks for {size} devices a trial, and this slot has {started}")
    rank = int(os.environ["RANK"])
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=PrefixStore(name, store), rank=rank, world_size=size)
    words = dist.new_group(backend="gloo", timeout=_PATIENT)
    dist.barrier(group=words)  # or a leader with little to do would be gone before all have come
    yield Gang(rank, size, words)
    # Not after an error: others may wait in the middle of a sum, and this process is replaced anyway.
    dist.destroy_process_group()


def is_of_a_lost_rank(error: BaseException) -> bool:
    """Whether torch says that another rank does not answer any more."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)
