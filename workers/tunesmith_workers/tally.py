"""What the steps since the newest point saw: losses, their spread, and how many samples were right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tunesmith_workers.gang import Gang
from tunesmith_workers.stepping import Seen
from tunesmith_workers.tasks.registry import PerSample

_PENDING = 1 << 20  # numbers in outputs that wait to be counted together; bounds memory
_LOOSE = 1024  # sums that stand alone, each in an allocation of its own


class Tally:
    """Sums on the device, read once a point: a step only adds to lists.

    Numbers do not depend on when they are read or saved, so a trial that goes on from the middle of an
    epoch reports what it would have reported.

    Args:
        accuracy: of each sample, from outputs and targets, if the task has such a metric.
    """

    def __init__(self, accuracy: PerSample | None) -> None:
        self._accuracy = accuracy
        self.clear()

    def clear(self) -> None:
        self._sums: list[Tensor] = []  # loss of each step, summed over its samples
        self._packed: list[Tensor] = []  # those of earlier steps, shapes (k,)
        self._sizes: list[int] = []
        self._pending: list[Seen] = []
        self._waiting = 0  # numbers in their outputs
        self._judged, self._right = 0, 0.0

    def add(self, seen: Seen) -> None:
        self._sums.append(seen.total)
        if len(self._sums) == _LOOSE:
            self._packed.append(torch.stack(self._sums))
            self._sums = []
        self._sizes.append(len(seen.losses))
        if self._accuracy and seen.targets is not None:
            self._pending.append(seen)
            self._waiting += seen.outputs.numel()
            if self._waiting > _PENDING:
                self._count()

    @property
    def samples(self) -> int:
        return sum(self._sizes)

    def gather(self, gang: Gang) -> None:
        """Have rank 0 hold what all ranks saw of these steps, and the others nothing of it. Each rank does it
        after the same steps."""
        if gang.size == 1:
            return
        self._count()
        sums = self._all_sums()
        counts = torch.tensor([*self._sizes, self._judged, self._right], dtype=torch.float64)
        for numbers in (sums, counts):
            gang.gather(numbers)
        device = (self._sums or self._packed or [sums])[0].device
        self._sums, self._packed = [], [sums.to(device)]
        *sizes, judged, self._right = counts.tolist()
        self._sizes, self._judged = list(map(int, sizes)), int(judged)

    def metrics(self) -> dict[str, float]:
        """`train/loss`, the mean over samples; `train/noise`, the standard deviation of the steps' mean
        losses, of two or more steps; `train/accuracy` of tasks that have it, if no samples were mixed.
        All are of the model as it was when it saw them, in training. Empty if there was no step."""
        if not self._sizes:
            return {}
        sums = self._all_sums().double()
        found = {"train/loss": sums.sum().item() / self.samples}
        if len(sums) > 1:
            found["train/noise"] = (sums / torch.tensor(self._sizes)).std().item()
        self._count()
        if self._judged and self._judged == self.samples:
            found["train/accuracy"] = self._right / self._judged
        return found

    def _count(self) -> None:
        if not self._pending or self._accuracy is None:
            return
        outputs = torch.cat([seen.outputs for seen in self._pending])
        targets = torch.cat([seen.targets for seen in self._pending if seen.targets is not None])
        self._right += self._accuracy(outputs, targets).sum(dtype=torch.float64).item()
        self._judged += len(targets)
        self._pending, self._waiting = [], 0

    def save(self) -> dict[str, Any]:
        self._count()
        return {
            "sums": self._all_sums(),
            "sizes": list(self._sizes),
            "right": self._right,
            "judged": self._judged,
        }

    def _all_sums(self) -> Tensor:
        loose = [torch.stack(self._sums)] if self._sums else []
        parts = [*self._packed, *loose]
        if len(parts) == 1:
            return parts[0].cpu()
        return torch.cat(parts).cpu() if parts else torch.zeros(0)

    def restore(self, saved: Mapping[str, Any], device: torch.device, *, rank: int = 0) -> None:
        """Go on from what `save` gave; in a gang it is rank 0 that has it."""
        self.clear()
        self._packed, self._sizes = [saved["sums"].to(device)], list(saved["sizes"])
        self._right, self._judged = saved["right"], saved["judged"]
        if rank > 0:
            self._packed[0].zero_()
            self._sizes, self._right, self._judged = [0] * len(self._sizes), 0.0, 0
