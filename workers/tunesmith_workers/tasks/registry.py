"""Tasks: what can be tuned. The API only ever names one by its key; the code is the worker's own.

A file of one's own (`tunesmith worker --tasks my_tasks.py`) registers tasks by decorating functions:

    from tunesmith_workers.tasks.registry import Task, register
    from tunesmith_workers.data import Split, Splits

    @register("moons")
    def moons() -> Task:
        x, y = ...                                  # tensors
        splits = Splits(train=Split(x[:600], y[:600]), val=Split(x[600:800], y[600:800]))
        return Task(splits, classes=2, build=lambda params: MyNet(width=params.get("width", 32)))

or, for people with their own training loop, with `loop.train` (see there).
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith_workers.data import Split, Splits
from tunesmith_workers.snapshots import tensors
from tunesmith_workers.weights import Weights

if TYPE_CHECKING:
    from tunesmith_workers.loop import Trial

Params: TypeAlias = Mapping[str, bool | int | float | str]
PerSample: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class TaskError(Exception):
    """A task or its data cannot be used; the message says what to do."""


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """In nats per sample, shape (n,)."""
    return functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is the target's, else 0; shape (n,)."""
    return (outputs.argmax(1) == targets).to(torch.float32)


@dataclass(frozen=True, slots=True)
class Task:
    """What the built-in trainer needs.

    Attributes:
        splits: training and validation samples, as tensors on the CPU.
        classes: number of classes, or None where the target is no class.
        build: makes a fresh model from the hyperparameters that the trainer does not take itself
            (`dropout` is the model's). It shall refuse names that it does not know.
        loss: (outputs, targets) → loss of each sample, shape (n,). With `label_smoothing` it is
            also called with `smoothing=`.
        metrics: name → (outputs, targets) → value of each sample; reported as the mean, `val/<name>`.
        weights: what a trial may start from, by the name that `init_from` gives; a worker adds those of
            its `--weights`.
    """

    splits: Splits
    classes: int | None
    build: Callable[[Params], nn.Module]
    loss: Callable[..., Tensor] = cross_entropy
    metrics: Mapping[str, PerSample] = field(default_factory=lambda: {"accuracy": accuracy})
    weights: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loop:
    """A training loop of somebody's own: `run(trial)`."""

    run: Callable[[Trial], object]


@dataclass(frozen=True, slots=True)
class Entry:
    """A task under its key. `digest` changes when its code, data, split or libraries do."""

    name: str
    task: Task | Loop
    digest: str


Function = TypeVar("Function", bound=Callable[..., object])
_MARK = "__tunesmith__"
_NEIGHBOURS: set[str] = set()  # modules that task files have imported from their own directories


def register(name: str) -> Callable[[Function], Function]:
    """Mark a function without arguments that returns a Task; it is called once, at the worker's start."""
    return _marking("task", name)


def train(name: str) -> Callable[[Function], Function]:
    """Mark a function `f(trial)` that trains by its own loop; see `loop.Trial`."""
    return _marking("loop", name)


def _marking(kind: str, name: str) -> Callable[[Function], Function]:
    if not name or len(name) > 128 or name != name.strip():
        raise TaskError(
            f"a task's name has 1 to 128 characters, none of them a blank at an end, got {name!r}"
        )

    def mark(function: Function) -> Function:
        setattr(function, _MARK, (kind, name))
        return function

    return mark


class Registry:
    """Tasks by key. A key is taken once: two tasks of one name would make results ambiguous.

    `weights`: what trials of every task may start from, by name.
    """

    def __init__(self, weights: Mapping[str, Weights] | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self._weights = weights or {}

    def add(self, name: str, task: Task | Loop, code: bytes) -> None:
        """`code`: the source that makes the task, for its digest."""
        if name in self._entries:
            raise TaskError(f"two tasks are named {name!r}; rename one of them")
        if isinstance(task, Task) and self._weights:
            task = replace(task, weights={**task.weights, **self._weights})
        self._entries[name] = Entry(name, task, digest_of(task, code))

    def add_file(self, path: Path) -> None:
        """Run a task file and add what it registers. Raises TaskError if it registers nothing."""
        module, code = _run_file(path)
        found = [(*getattr(f, _MARK), f) for f in vars(module).values() if hasattr(f, _MARK)]
        if not found:
            raise TaskError(f"{path}: registers no task; decorate a function with @register or @train")
        for kind, name, function in found:
            task: object = Loop(function) if kind == "loop" else function()
            if not isinstance(task, Task | Loop):
                raise TaskError(f"{path}: {name!r} must return a Task, it returned {type(task).__name__}")
            self.add(name, task, code)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise TaskError(f"this worker has no task {name!r}; it has {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def digests(self) -> dict[str, str]:
        return {e.name: e.digest for e in self}


def digest_of(task: Task | Loop, code: bytes) -> str:
    """sha256, in hex, over code, data, split seed, weights to start from and the versions of the libraries
    that compute."""
    digest = hashlib.sha256(repr(sorted(versions().items())).encode())
    digest.update(hashlib.sha256(code).digest())
    if isinstance(task, Task):
        digest.update(f"seed={task.splits.seed}".encode())
        for name, weights in sorted(task.weights.items()):
            digest.update(f"weights {name}={weights.sha256}".encode())
        for split in (task.splits.train, task.splits.val, task.splits.test, task.splits.train_dev):
            for tensor in tensors([split.x, split.y] if split else []):
                digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What a result depends on beside its code and data."""
    found = {
        name: metadata.version(name) for name in ("tunesmith", "torch", "numpy", "scikit-learn", "kornia")
    }
    return found | {"python": platform.python_version()}


def _run_file(path: Path) -> tuple[ModuleType, bytes]:
    """The module that a task file makes, and its source with that of its neighbours it imports."""
    path = path.resolve()
    if not path.is_file():
        raise TaskError(f"--tasks {path}: there is no such file")
    name = f"tunesmith_task_file_{path.stem}"
    if name in sys.modules:
        raise TaskError(f"--tasks {path}: another task file is called {path.name}; rename one of them")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskError(f"--tasks {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Each task file imports its neighbours anew: another directory's may have the same name, and a digest
    # shall not depend on which files were given before.
    for neighbour in _NEIGHBOURS:
        sys.modules.pop(neighbour, None)
    before = {*sys.modules, name}
    sys.path.insert(0, str(path.parent))  # as for a script: it may import its neighbours
    sys.modules[name] = module
    spec.loader.exec_module(module)
    files = {new: f for new in sys.modules.keys() - before if (f := _file_of(new))}
    own = {new: f for new, f in files.items() if path.parent in f.parents and not _is_installed(f)}
    _NEIGHBOURS.update(own)
    return module, b"".join(hashlib.sha256(f.read_bytes()).digest() for f in [path, *sorted(own.values())])


def _is_installed(file: Path) -> bool:
    """Whether it is a library's: a virtual environment may stand inside a project's directory."""
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _file_of(module: str) -> Path | None:
    file: Any = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None


__all__ = ["Entry", "Loop", "Registry", "Split", "Splits", "Task", "TaskError", "register", "train"]
