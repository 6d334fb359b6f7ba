"""The time that a run spends in training, over all its attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds while it runs; it stands in evaluations and while a snapshot is written.

    Attributes:
        before: seconds of earlier laps, and of earlier attempts as their snapshot says.
    """

    def __init__(self, clock: Callable[[], float], device: torch.device) -> None:
        self._clock, self._device = clock, device
        self.before = 0.0
        self._started: float | None = None

    @property
    def spent(self) -> float:
        """Seconds so far. While it runs on a GPU, work that still waits in the queue is not in them."""
        return self.before + (0.0 if self._started is None else self._clock() - self._started)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._started = self._clock()
        try:
            yield
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        finally:
            self.before, self._started = self.spent, None
