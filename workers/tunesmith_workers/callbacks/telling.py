"""What the callbacks of all frameworks share: how a trial is told of an epoch, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith_workers.loop import Trial, TrialEnded

PARTS = {"train_": "train/", "val_": "val/"}
"""`val_loss` is what Tunesmith calls `val/loss`."""


class Teller:
    """Tells one trial of its epochs.

    Args:
        names: what to call a metric, by the framework's name; they come before `parts`.
        parts: beginnings of names, and what stands for them. Other names stay as they are.
    """

    def __init__(
        self, trial: Trial, names: Mapping[str, str] | None = None, parts: Mapping[str, str] = PARTS
    ) -> None:
        self._trial, self._names, self._parts = trial, dict(names or {}), parts
        self._is_over = False

    def tell(self, epoch: int, metrics: Mapping[str, Any]) -> bool:
        """Report that `epoch` epochs are done. Returns: whether training must stop.

        A trial that has ended is not left by an exception, as a loop of one's own is: the framework stops
        its own way, so that loggers and other callbacks close what they have open.
        """
        try:
            self._trial.report(epoch, {self._named(name): value for name, value in metrics.items()})
        except TrialEnded:
            self._is_over = True
        return self._is_over or self._trial.should_stop() or epoch >= self._trial.epochs

    @property
    def snapshot_is_due(self) -> bool:
        return not self._is_over and self._trial.snapshot_due()

    def _named(self, name: str) -> str:
        if name in self._names:
            return self._names[name]
        begin = next((begin for begin in self._parts if name.startswith(begin)), "")
        return self._parts.get(begin, "") + name.removeprefix(begin)


def check_epochs(trial: Trial, found: int | float | None, argument: str) -> None:
    """Raises ValueError unless the framework was told the trial's budget: schedules stretch over it."""
    if found != trial.epochs:
        raise ValueError(f"the trial trains {trial.epochs} epochs, not {found}: give {argument}=trial.epochs")
