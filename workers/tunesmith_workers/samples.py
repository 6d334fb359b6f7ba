"""The data as a loop reads it: rows and labels it trains on, in which order, and those it evaluates on."""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith_workers.rows import Rows, RowStore
from tunesmith_workers.watching import Batch, Watcher

MOST_BYTES = 2**28
"""Of training rows, and of rows evaluated on, that are kept to be looked into."""
_MOST_LABELS = 200_000
_NEARLY_ALL = 0.95
_ALIKE = 3  # batches after one another that must come again to call an order the same


class Samples(Watcher):
    """What stands in `train` and `val` is each row once; `labels` are those of training, as they came."""

    def __init__(self) -> None:
        self.train, self.val = RowStore(MOST_BYTES), RowStore(MOST_BYTES)
        self.labels: list[Tensor] = []
        self.val_labels: list[Tensor] = []
        self.classes: int | None = None
        self.batches: list[frozenset[int]] = []  # the rows of each training batch
        self._kept_labels = 0
        self.reads = 0  # rows read in training, counted each time
        self.batch_size = 0  # rows in the largest batch

    def trained(self, batch: Batch) -> None:
        labels = _labels(batch)
        for rows in _rows(batch):
            self.train.add(rows, labels if labels is not None and len(labels) == len(rows) else None)
            self.batches.append(frozenset(rows.hashes))
            self.reads += len(rows)
            self.batch_size = max(self.batch_size, len(rows))
        if labels is not None:
            self.classes = self.classes or next(c.classes for c in batch.losses if c.labels is not None)
            if self._kept_labels < _MOST_LABELS:
                self.labels.append(labels)
                self._kept_labels += len(labels)

    def evaluated(self, batch: Batch) -> None:
        found = [call.labels for call in batch.losses if call.labels is not None]
        read = [rows for call in batch.forwards if (rows := call.rows) is not None]
        paired = len(found) == len(read)
        for i, rows in enumerate(read):
            labels = found[i] if paired and len(found[i]) == len(rows) else None
            self.val.add(rows, labels)
        self.val_labels += found

    def facts(self) -> dict[str, float]:
        return self._labels_seen() | self._order() | self._shared()

    def _labels_seen(self) -> dict[str, float]:
        if not self.labels or self.classes is None:
            return {}
        train = torch.cat(self.labels)
        every = torch.cat([train, *self.val_labels])
        found = {
            "check/labels/classes": float(self.classes),
            "check/labels/width": float(self.classes),
            "check/labels/lowest": float(every.min()),
            "check/labels/highest": float(every.max()),
            "check/labels/outside": float(((every < 0) | (every >= self.classes)).sum()),
        }
        if self.epochs() is None:
            return found  # what was not seen yet may still come
        shares = train.clamp(min=0).bincount().double() / len(train)
        present = shares[shares > 0]
        if self.val_labels:
            val = torch.unique(torch.cat(self.val_labels))
            found["check/labels/val_only"] = float((~torch.isin(val, train)).sum())
        return found | {
            "check/labels/present": float(len(present)),
            "check/balance/entropy": float(-(present * present.log()).sum()),
            "check/balance/largest": float(present.max()),
            "check/balance/smallest": float(present.min()),
        }

    def _order(self) -> dict[str, float]:
        shuffled = self._shuffled()
        found = {} if shuffled is None else {"check/order/shuffled": float(shuffled)}
        if not self.labels or self._is_whole() or len(order := torch.cat(self.labels)) < 2:
            return found
        shares = order.clamp(min=0).bincount().double() / len(order)
        found["check/order/same"] = float((order[1:] == order[:-1]).double().mean())
        found["check/order/chance"] = float((shares**2).sum())
        return found

    def _shared(self) -> dict[str, float]:
        if not self.val.seen or not self.train.seen or self.evaluates_on_training() or not self.epochs():
            return {}
        both = sum(code in self.train.seen for code in self.val.seen)
        passes = max(1, round(self.epochs() or 1))
        twins = sum(round(n / passes) > 1 for n in self.train.seen.values())
        return {
            "check/leak/train_rows": float(len(self.train.seen)),
            "check/leak/val_rows": float(len(self.val.seen)),
            "check/leak/val_in_train": both / len(self.val.seen),
            "check/leak/train_twins": twins / len(self.train.seen),
        }

    def evaluates_on_training(self) -> bool:
        """Whether all of training is evaluated on, and other rows beside it: which of them are validation's
        is then not to be seen."""
        both = sum(code in self.train.seen for code in self.val.seen)
        return _NEARLY_ALL * len(self.train.seen) <= both < len(self.val.seen)

    def kept(self) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
        """Rows and labels of training, and of validation; either may be empty."""
        without = self.train.seen if self.evaluates_on_training() else ()
        return self.train.kept(), self.val.kept(without)

    # --- epochs, as rows tell them ------------------------------------------------------------------------

    def _came_again(self) -> float:
        """Share of the rows of training's first batch that were read again in a later one."""
        if not self.batches:
            return 0.0
        later = {code for batch in self.batches[1:] for code in batch}
        return sum(code in later for code in self.batches[0]) / max(len(self.batches[0]), 1)

    def epochs(self) -> float | None:
        """Passes over the training rows; None if few rows came again: too early, or they are made anew."""
        return self.reads / len(self.train.seen) if self._came_again() > 0.5 else None

    def _is_whole(self) -> bool:
        """Whether each step reads all there is: no order to speak of."""
        return len(self.batches) > 1 and self.batches[0] == self.batches[1]

    def _shuffled(self) -> bool | None:
        """Whether batches are made up anew each epoch; None if no second epoch was seen."""
        if self._is_whole() or self._came_again() < 0.5:
            return None
        first = self.batches[:_ALIKE]
        later = range(len(first), len(self.batches) - len(first) + 1)
        return not any(self.batches[at : at + len(first)] == first for at in later)


def _rows(batch: Batch) -> list[Rows]:
    return [call.rows for call in batch.forwards if call.rows is not None]


def _labels(batch: Batch) -> Tensor | None:
    found = [call.labels for call in batch.losses if call.labels is not None]
    return torch.cat(found) if found else None
