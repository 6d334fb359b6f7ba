"""Rows of data as a loop reads them: which they are, by a hash of each, and a bounded number to look into."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Samples that were given to a model at once.

    Attributes:
        hashes: one a sample; equal samples have equal ones, within this process.
        values: shape (n, …), on the CPU.
    """

    hashes: tuple[int, ...]
    values: Tensor

    def __len__(self) -> int:
        return len(self.hashes)


def rows_of(batch: Tensor) -> Rows:
    """`batch`: shape (n, …), n > 0."""
    values = batch.detach().cpu().contiguous()
    flat = values.reshape(len(values), -1)
    return Rows(tuple(hash(row.tobytes()) for row in flat.view(torch.uint8).numpy()), values)


class RowStore:
    """Each row once, up to `most_bytes` of them, with its label where it had one.

    Attributes:
        seen: how often each row was read, by its hash; of all rows.
    """

    def __init__(self, most_bytes: int) -> None:
        self.seen: dict[int, int] = {}
        self._room = most_bytes
        self._kept: list[Tensor] = []
        self._codes: list[int] = []
        self._labels: list[int | None] = []

    def add(self, rows: Rows, labels: Tensor | None) -> None:
        for i, code in enumerate(rows.hashes):
            before = self.seen.get(code, 0)
            self.seen[code] = before + 1
            row = rows.values[i]
            if not before and self._room >= row.nbytes and self._fits(row):
                self._room -= row.nbytes
                self._kept.append(row.clone())
                self._codes.append(code)
                self._labels.append(None if labels is None else int(labels[i]))

    def _fits(self, row: Tensor) -> bool:
        return not self._kept or (row.shape == self._kept[0].shape and row.dtype == self._kept[0].dtype)

    def kept(self, without: Container[int] = ()) -> tuple[Tensor, Tensor | None]:
        """Rows that are not among `without`, shape (n, …), and their labels, shape (n,), if each had one."""
        chosen = [i for i, code in enumerate(self._codes) if code not in without]
        labels = [label for i in chosen if (label := self._labels[i]) is not None]
        x = torch.stack([self._kept[i] for i in chosen]) if chosen else torch.empty(0)
        return x, torch.tensor(labels) if labels and len(labels) == len(chosen) else None
