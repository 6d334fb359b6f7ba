"""For people with their own training loop: `train(trial)` in a task file.

A complete example, which trains a line through points and goes on from a snapshot after a restart,
a hand-over to another machine, or as a branch of another trial:

    import torch
    from tunesmith_workers.loop import Trial, train

    @train("line")
    def line(trial: Trial) -> None:
        x = torch.linspace(-1, 1, 64).unsqueeze(1)
        y = 3 * x + 0.1 * torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
        model = torch.nn.Linear(1, 1).to(trial.device)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=trial.params["lr"], weight_decay=trial.params["weight_decay"]
        )
        start = trial.restore(model=model, optimizer=optimizer)
        for epoch in range(start, trial.epochs):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            trial.report(epoch + 1, {"val/loss": loss.item()})
            if trial.snapshot_due():
                trial.snapshot(model=model, optimizer=optimizer)
            if trial.should_stop():
                return

All generators are seeded with the trial's seed before the function is called. What `print` writes
becomes the trial's log. An exception fails the trial. Snapshots are those of `snapshots.py`; the
built-in trainer writes the same format.
"""

from __future__ import annotations

import operator
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import rng, schedules, snapshots
from tunesmith_workers.endings import (
    ABANDONED,
    BUDGET,
    RELEASED,
    Artifact,
    Asked,
    Curve,
    Ending,
    EpochResult,
    Said,
    Saved,
)
from tunesmith_workers.gang import ALONE, Gang
from tunesmith_workers.snapshots import SnapshotCorrupt
from tunesmith_workers.tasks.registry import TaskError, train

_MAX_STEP = 2**31 - 1  # what the service takes


class Stateful(Protocol):
    """What a snapshot can hold: models, optimizers, and anything else with a state_dict."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class TrialEnded(BaseException):
    """Leaves a loop that reports into a trial that has ended; caught by the worker. Let it pass."""


class Trial:
    """What a loop of one's own sees of its trial.

    Attributes:
        params: every hyperparameter of the trial.
        epochs: train until this many are done, those before a restored snapshot included.
        seed: of weights and data order; a trial that starts from a snapshot has the snapshot's.
        data_fraction: share of the training data to use, in (0, 1].
        device: where to put model and data.
        scratch: a directory of the trial's own, removed after it; all ranks have the same.
        continues: whether it goes on from a snapshot of its own; one that starts from another's does not.
        rank, world_size: of a study with `resources: {gpus: n}`, which of n processes this is, from 0, and n;
            else 0 and 1. torch.distributed is ready for use: wrap the model in DistributedDataParallel.
    """

    def __init__(
        self,
        work: WorkOrder,
        *,
        device: torch.device,
        scratch: Path,
        say: Callable[[Said], None],
        asked: Asked = lambda: None,
        resume: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        gang: Gang = ALONE,
    ) -> None:
        _refuse_what_loops_cannot(work)
        self.params = dict(work.params)
        self.epochs, self.data_fraction = work.epochs, work.data_fraction
        self.device, self.scratch = device, scratch
        self.rank, self.world_size = gang.rank, gang.size
        self._work, self._say, self._asked, self._clock = work, say, asked, clock
        self._gang = gang
        self._resume = snapshots.load(resume, mapped="model") if resume else None
        self.seed = snapshots.seed_of(self._resume, default=work.seed)
        self.continues = self._resume is not None and self._resume.get("trial") == [work.study, work.number]
        self._curve = Curve(work, classes=None)
        self._step = 0
        self._saved_at = clock()
        self._writes = 0
        self._ending: Ending | None = None

    def report(self, step: int, metrics: Mapping[str, float] | None = None, /, **named: float) -> None:
        """Add a point to the curve: `step` epochs are done, and these are the metrics.

        Names are such as `val/loss`; the study's objective must be among them. A value of it that
        is not finite ends the trial as diverged. Raises ValueError on a step that does not rise and,
        unless the work order lets it read the test set, on a name under `test/`.

        Of several ranks the first alone reports; of the others this does nothing. There a trial that has
        diverged, or is not wanted any more, ends where the loop asks `should_stop`.
        """
        step = _whole(step)
        found = {name: _number(name, value) for name, value in {**(metrics or {}), **named}.items()}
        if step <= self._step:
            raise ValueError(f"steps must rise: report({step}) after step {self._step}")
        if not found:
            raise ValueError(f"report({step}) has no metric")
        hidden = [name for name in found if name.startswith("test/")]
        if hidden and not self._work.read_test:
            raise ValueError(f"{hidden[0]}: the test set is for the final stage; report val/ metrics instead")
        if self.rank > 0:
            self._step = step
            return
        if self._work.metric not in found:
            raise ValueError(
                f"report({step}) lacks {self._work.metric}, the study's objective; it has {', '.join(found)}"
            )
        self._step = step
        self._curve.add(step, found)
        self._say(EpochResult(step, found))
        self._ending = self._curve.ending()
        is_over = self._asked() == "abandon" or (self._ending and self._ending.stop_reason == "diverged")
        if is_over and self.world_size == 1:
            raise TrialEnded

    def should_stop(self) -> bool:
        """Whether to return now: the trial is wanted back, or its own curve ends it (plateau, patience).

        Of several ranks each must ask, after the same epochs; all get the answer of the first.
        """
        return bool(self._gang.agreed(self._asked() is not None or self._ending is not None))

    def snapshot_due(self) -> bool:
        """Whether a snapshot is wanted now: on hand-back, at the end if asked for, and every few minutes.
        Of several ranks, from the first alone."""
        if self.rank > 0:
            return False
        if (wish := self._asked()) is not None:
            return wish == "hand_back"
        if self._ending is not None or self._step >= self.epochs:
            return self._work.keep_snapshot
        return self._clock() - self._saved_at >= self._work.snapshot_every_seconds

    def snapshot(self, *, model: Stateful, optimizer: Stateful, **more: Any) -> None:
        """Save what going on needs, with the random state, as of the last reported step.

        `model` and `optimizer`: torch's, or what stands for another library's. `more`: anything with a
        `state_dict` (schedulers, scalers, a second model), or plain values (numbers, strings, tensors,
        lists, tuples and dicts of them). Of a model in DistributedDataParallel give `model.module`. On ranks
        above 0 this does nothing.
        """
        if self.rank > 0:
            return
        tree = {
            "trial": [self._work.study, self._work.number],
            "task": self._work.task,
            "params": self.params,
            "seed": self.seed,
            "epoch": self._step,
            "batch": 0,
            "curve": self._curve.save(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict() | {"kind": type(optimizer).__name__},
            "more": {name: _state_of(value) for name, value in more.items()},
            "rng": rng.state(self.device),
        }
        self._writes += 1
        file = snapshots.save(self.scratch / f"snapshot-{self._step}-{self._writes}.safetensors", tree)
        final = self._step >= self.epochs or self._ending is not None
        self._say(Saved(self._step, 0, file, final))
        self._saved_at = self._clock()

    def artifact(self, name: str, path: Path) -> None:
        """Keep a copy of a file (a plot, a confusion matrix) with the trial; the same name replaces it.

        On ranks above 0 this does nothing. Raises ValueError on a name of none or more than 128 characters,
        OSError if it cannot be read.
        """
        if self.rank > 0:
            return
        if not 0 < len(name) <= 128:
            raise ValueError(f"an artifact's name has 1 to 128 characters, got {len(name)}")
        self._writes += 1
        copy = self.scratch / f"artifact-{self._writes}"
        shutil.copyfile(path, copy)
        self._say(Artifact(name, snapshots.flushed(copy)))

    def restore(self, *, model: Stateful, optimizer: Stateful, **more: Stateful) -> int:
        """Go on from the trial's snapshot, if it has one. Returns the epochs that are done, else 0.

        Call it once, after building everything and before the first epoch. The optimizer keeps the
        hyperparameters it was built with: the snapshot may be another trial's, and a branch trains
        its own weight decay. A scheduler of torch is stepped to where it stood, for the same reason.
        Plain values that `snapshot` was given are in `restored`.
        """
        saved = self._resume
        if saved is None:
            return 0
        try:
            return self._restored(saved, model, optimizer, more)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            raise SnapshotCorrupt(f"the snapshot does not fit this trial: {type(e).__name__}: {e}") from e

    def _restored(
        self, saved: Any, model: Stateful, optimizer: Stateful, more: Mapping[str, Stateful]
    ) -> int:
        _restore_into(model, saved["model"])
        _restore_into(optimizer, saved["optimizer"])
        for name, value in more.items():
            _restore_into(value, saved["more"][name])
            if self.continues and isinstance(value, ReduceLROnPlateau):
                _set_rates(value, saved["more"][name])
        if self.continues:
            self._curve.restore(saved["curve"])
            self._ending = self._curve.ending()
        self._step = int(saved["epoch"])
        rng.restore(saved["rng"], self.device)
        self._resume = {"more": saved["more"]}  # the weights need not be held twice from now on
        return self._step

    @property
    def restored(self) -> dict[str, Any]:
        """What the snapshot holds beside model and optimizer, by name; empty without a snapshot."""
        return dict(self._resume.get("more", {})) if self._resume else {}

    def ending(self) -> Ending:
        """How the trial ended, once its function has returned or left by TrialEnded.

        Raises ValueError if it has reported nothing: there is no objective to judge it by.
        """
        if self.rank > 0:
            return BUDGET  # the first says how it ended
        wish = self._asked()
        if self._step == 0 and wish is None:
            raise ValueError("the loop returned without a report; call trial.report(epoch, {...}) each epoch")
        if wish is not None and self._ending is None and self._step < self.epochs:
            return ABANDONED if wish == "abandon" else RELEASED
        if self._ending is None and self._step < self.epochs:
            return Ending("complete", "early_stopping")  # the loop has a rule of its own
        return self._ending or BUDGET


def _refuse_what_loops_cannot(work: WorkOrder) -> None:
    """A loop counts epochs and cuts its own data: to ignore what was asked for would be a wrong result."""
    asked = {
        "a budget in steps": work.steps is not None,
        "a budget in seconds": work.seconds is not None,
        "validate_every": bool(work.validate_every),
        "a fold": work.fold is not None,
    }
    if told := [name for name, is_asked in asked.items() if is_asked]:
        raise TaskError(
            f"{work.task} trains by its own loop, which knows epochs and its own splits alone; this trial "
            f"asks for {' and '.join(told)}: leave that out, or describe it as a Task (tasks/registry.py)"
        )


def _whole(step: Any) -> int:
    try:
        number = operator.index(step)  # numpy's and torch's whole numbers too
    except TypeError:
        raise ValueError(f"a step is a whole number of epochs done, got {step!r}") from None
    if number > _MAX_STEP:
        raise ValueError(f"a step is at most {_MAX_STEP}, got {number}")
    return number


def _number(name: Any, value: Any) -> float:
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise ValueError(f"a metric's name is a text of 1 to 128 characters, got {name!r}")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be one number, got {value!r:.200}") from None


def _state_of(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _restore_into(value: Stateful, state: Any) -> None:
    if isinstance(value, nn.Module):
        snapshots.restore_model(value, state)
    elif isinstance(value, torch.optim.Optimizer):
        snapshots.restore_optimizer(value, state)
    elif isinstance(value, LRScheduler) and not isinstance(value, ReduceLROnPlateau):
        schedules.advance(value, state["last_epoch"] - value.last_epoch)
    else:
        value.load_state_dict(state)


def _set_rates(scheduler: ReduceLROnPlateau, state: Mapping[str, Any]) -> None:
    """This one's rates are no function of the epoch, and the optimizer was built with its first."""
    for group, rate in zip(scheduler.optimizer.param_groups, state["_last_lr"], strict=True):
        group["lr"] = rate


__all__ = ["Stateful", "Trial", "TrialEnded", "train"]
