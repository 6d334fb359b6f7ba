"""What the tests of the training side share: work orders, a small task, and runs of the trainer."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tunesmith_service.wire import WorkOrder
from tunesmith_workers import snapshots, trainer
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.endings import Ending, EpochResult, Said, Saved, Wish
from tunesmith_workers.tasks import models
from tunesmith_workers.tasks.registry import Entry, Task

CPU = torch.device("cpu")


def make_work(**changes: Any) -> WorkOrder:
    order = {
        "study": "s", "stage": "grid", "number": 0, "task": "blobs", "params": {}, "epochs": 3, "seed": 7,
        "metric": "val/loss", "direction": "minimize",
    }  # fmt: skip
    return WorkOrder.model_validate(order | changes)


def blobs(samples: int = 60, classes: int = 3, *, test: Split | None = None, **changes: Any) -> Entry:
    """Overlapping clouds of points: small, quick, and not learnt to perfection."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(samples) % classes
    x = torch.randn(samples, 4, generator=generator)
    x[:, 0] += y
    cut = samples * 2 // 3
    shape = models.Shape(sample=(4,), classes=classes)
    settings: dict[str, Any] = {
        "splits": Splits(Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:]), test),
        "classes": classes,
        "build": lambda params: models.build("blobs", shape, params),
    }
    return Entry("blobs", Task(**(settings | changes)), "0" * 64)


class Ticking:
    """A clock that goes on when the model of its `task` computes: `training` seconds for a piece that it is
    trained on, `evaluating` for one that it is evaluated on."""

    def __init__(self, *, training: float, evaluating: float) -> None:
        self.now, self._training, self._evaluating = 0.0, training, evaluating

    def __call__(self) -> float:
        return self.now

    def task(self, **changes: Any) -> Entry:
        shape = models.Shape(sample=(4,), classes=3)

        def build(params: Any) -> torch.nn.Module:
            model = models.build("blobs", shape, params)
            model.register_forward_pre_hook(self._tick)
            return model

        return blobs(build=build, **changes)

    def _tick(self, model: torch.nn.Module, inputs: Any) -> None:
        self.now += self._training if model.training else self._evaluating


def run(
    entry: Entry,
    work: WorkOrder,
    scratch: Path,
    *,
    resume: Path | None = None,
    asked: Callable[[], Wish | None] = lambda: None,
    clock: Callable[[], float] = lambda: 0.0,
) -> list[Said]:
    """All that a trial says; it writes into a directory of its own under `scratch`."""
    own = Path(tempfile.mkdtemp(dir=scratch))
    return list(trainer.epochs(entry, work, device=CPU, scratch=own, resume=resume, asked=asked, clock=clock))


def wish_at(step: int, wish: Wish = "hand_back") -> Callable[[], Wish | None]:
    """A supervisor that wants the trial back before its optimizer step number `step`, from 0."""
    asked = 0

    def ask() -> Wish | None:
        nonlocal asked
        asked += 1
        return wish if asked > step else None

    return ask


def points(said: list[Said]) -> list[EpochResult]:
    return [s for s in said if isinstance(s, EpochResult)]


def ending(said: list[Said]) -> Ending:
    last = said[-1]
    assert isinstance(last, Ending)
    return last


def saved(said: list[Said]) -> list[Saved]:
    return [s for s in said if isinstance(s, Saved)]


def tree(said: list[Said]) -> dict[str, Any]:
    """What the last snapshot holds."""
    file = saved(said)[-1].file
    assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256, "written over by another run"
    found = snapshots.load(file.path)
    assert isinstance(found, dict)
    return found


def same_bits(one: Any, other: Any) -> bool:
    """Whether two trees are equal to the bit, strides included."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.stride() == other.stride()
            and torch.equal(one.nan_to_num(), other.nan_to_num())
            and torch.equal(one.isnan(), other.isnan())
        )
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and list(one) == list(other)
            and all(same_bits(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(same_bits(a, b) for a, b in zip(one, other, strict=True))
        )
    return type(one) is type(other) and repr(one) == repr(other)
