"""Splits, and the order in which their samples are seen.

A position in training is (epoch, step): the order of an epoch is a permutation that depends on the
seed and the epoch alone, so nothing but these two numbers is needed to go on in the middle of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith_workers import rng


@dataclass(frozen=True, slots=True)
class Split:
    """Samples `x`, shape (n, …), and their targets `y`, shape (n,) of class numbers or (n, …)."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise ValueError(
                f"a split has as many x as y, and at least one, got {len(self.x)}, {len(self.y)}"
            )

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Split:
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, slots=True)
class Splits:
    """Training reads `train`, judges by `val`, and never touches `test`.

    `seed` says how the file was cut into splits; it is part of the task's digest. `train_dev` are samples
    like those of `train` that nothing is trained on: where validation is of another kind (photographs of
    users beside those of a shop), its loss tells what is variance and what is mismatch.
    """

    train: Split
    val: Split
    test: Split | None = None
    seed: int = 0
    train_dev: Split | None = None


def stratified(
    y: NDArray[np.generic], shares: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Indices of a random cut that keeps each class's share.

    Args:
        y: shape (n,), class of each sample.
        shares: part of each named split, such as {"val": .2, "test": .2}; what is left is "train",
            which also gets the classes too rare to be shared.
        seed: of the cut.
    """
    generator = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (*shares, "train")}
    for label in np.unique(y):
        members = generator.permutation(np.flatnonzero(y == label))
        start = 0
        for name, share in shares.items():
            count = round(share * len(members))
            parts[name].append(members[start : start + count])
            start += count
        parts["train"].append(members[start:])
    return {name: np.sort(np.concatenate(found)) for name, found in parts.items()}


def fraction_of(train: Split, fraction: float, seed: int) -> Split:
    """The share of the training split that a trial with `data_fraction` sees.

    Of class numbers, every class keeps its share (at least one sample). A larger fraction with the
    same seed holds all samples of a smaller one.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"data_fraction must be in (0, 1], got {fraction:g}")
    if fraction == 1:
        return train
    order = torch.randperm(len(train), generator=_generator(seed, "fraction"))
    labels = _labels(train.y.cpu()[order])
    keep = torch.zeros(len(train), dtype=torch.bool)
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        keep[members[: max(1, round(fraction * len(members)))]] = True
    chosen = order[keep].sort().values.to(train.x.device)
    return Split(train.x[chosen], train.y[chosen])


def epoch_order(samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which epoch `epoch` (from 0) sees its samples; shape (samples,), on the CPU."""
    return torch.randperm(samples, generator=_generator(seed, "order", epoch))


def cut(indices: Tensor, size: int) -> list[Tensor]:
    """`indices` in pieces of `size`, as `pieces` has them."""
    return list(torch.split(indices, [rows.stop - rows.start for rows in pieces(len(indices), size)]))


def pieces(samples: int, size: int) -> list[slice]:
    """Rows of each piece of `size`; a last piece of one joins its neighbour.

    Batch normalisation cannot train on a batch of one sample.
    """
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    if samples <= size:
        return [slice(0, samples)]
    starts = list(range(0, samples, size))
    if size > 1 and samples - starts[-1] == 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


def steps_per_epoch(samples: int, size: int) -> int:
    return len(pieces(samples, size))


def folded(splits: Splits, fold: int, folds: int) -> Splits:
    """The splits of one fold: training and validation samples joined and cut anew into `folds` parts.

    It validates on part `fold`, from 0, and trains on the others. The parts depend on the splits and
    their seed alone, so every trial sees the same. Of class numbers, every part has its share: parts,
    and the samples of a class in them, differ by one at most. The test split is what it was.

    Raises: ValueError on a fold that there is not, on fewer samples than folds, and on splits whose
        samples differ in shape or kind, so that they cannot be joined.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise ValueError(f"fold counts from 0 to {folds - 1} of at least 2, got {fold} of {folds}")
    x, y = _joined(splits, "x"), _joined(splits, "y")
    if len(x) < folds:
        raise ValueError(f"{folds} folds need at least as many samples, there are {len(x)}")
    order = torch.randperm(len(x), generator=_generator(splits.seed, "folds"))
    order = order[torch.argsort(_labels(y.cpu())[order], stable=True)]
    part = torch.empty(len(x), dtype=torch.int64)
    part[order] = torch.arange(len(x)) % folds
    held, rest = ((part == fold).nonzero().flatten(), (part != fold).nonzero().flatten())
    return Splits(
        Split(x[rest], y[rest]), Split(x[held], y[held]), splits.test, splits.seed, splits.train_dev
    )


def _joined(splits: Splits, name: str) -> Tensor:
    train, val = getattr(splits.train, name), getattr(splits.val, name)
    if train.shape[1:] != val.shape[1:] or train.dtype != val.dtype:
        raise ValueError(
            f"folds join the training and the validation split, whose {name} differ: {train.dtype} "
            f"{list(train.shape[1:])} and {val.dtype} {list(val.shape[1:])} a sample"
        )
    return torch.cat([train, val])


def _labels(y: Tensor) -> Tensor:
    """What a cut keeps the shares of: class numbers; other targets count as one class."""
    return y if y.dim() == 1 and not y.is_floating_point() else torch.zeros(len(y), dtype=torch.int64)


def in_order(split: Split, size: int) -> Iterator[Split]:
    """The whole split in pieces, for evaluation."""
    for x, y in zip(torch.split(split.x, size), torch.split(split.y, size), strict=True):
        yield Split(x, y)


def _generator(seed: int, *path: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(rng.derive(seed, *path))
