"""What a work order may ask for, and who does it. Each says on its way what a training says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import evaluate, observe, preflight, range_test, trainer
from tunesmith_workers.endings import Asked, Said
from tunesmith_workers.gang import ALONE, Gang
from tunesmith_workers.tasks.registry import Entry, Loop, TaskError


@dataclass(frozen=True, slots=True)
class Place:
    """Where and from what a work order runs.

    Attributes:
        scratch: a directory of the trial's own, removed after it.
        resume: the snapshot to go on from.
        members: of `evaluate`, the snapshots of `work.members`, in their order.
        asked: what the supervisor wants by now; read before each optimizer step.
        threads: CPU threads that torch computes with.
        gang: the ranks that train together; what measures is alone.
    """

    device: torch.device
    scratch: Path
    resume: Path | None = None
    members: Sequence[Path] = ()
    asked: Asked = lambda: None
    threads: int = 1
    gang: Gang = ALONE


def _train(entry: Entry, work: WorkOrder, place: Place) -> Iterator[Said]:
    return trainer.epochs(
        entry,
        work,
        device=place.device,
        scratch=place.scratch,
        resume=place.resume,
        asked=place.asked,
        threads=place.threads,
        gang=place.gang,
    )


Kind: TypeAlias = Callable[[Entry, WorkOrder, Place], Iterator[Said]]

_KINDS: Mapping[str, Kind] = {
    "train": _train,
    "preflight": preflight.measure,
    "evaluate": evaluate.members,
    "range_test": range_test.sweep,
}


_OF_LOOPS: Mapping[str, Kind] = {"preflight": observe.preflight}
"""What can be done with somebody's own loop by watching it; its training is `child.train`'s."""


def run(entry: Entry, work: WorkOrder, place: Place) -> Iterator[Said]:
    """Do what `work.kind` says with a task; the last thing said is an Ending.

    Raises: TaskError on a kind that this worker cannot do, and what each kind says.
    """
    if isinstance(entry.task, Loop):
        if work.kind not in _OF_LOOPS:
            raise TaskError(
                f"{entry.name} trains by its own loop, and {work.kind} needs what a loop does not show: its "
                "model, splits and loss. Leave such stages out, or describe it as a Task (tasks/registry.py)"
            )
        return _OF_LOOPS[work.kind](entry, work, place)
    if work.kind not in _KINDS:
        raise TaskError(f"this worker cannot do {work.kind} yet; it knows {', '.join(_KINDS)}: update it")
    return _KINDS[work.kind](entry, work, place)
