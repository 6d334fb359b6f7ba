"""One trial on one slot: a generator of points that never heard of HTTP.

What a trial computes depends on its work order, its task and the snapshot it goes on from, and on
nothing else; see `training`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tunesmith_service.wire import WorkOrder

from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, Asked, EpochResult, Said
from tunesmith_workers.gang import ALONE, Gang, Word
from tunesmith_workers.tasks.registry import Entry
from tunesmith_workers.training import Training

if TYPE_CHECKING:
    from tunesmith_workers.kinds import Place


def epochs(
    entry: Entry,
    work: WorkOrder,
    *,
    device: torch.device,
    scratch: Path,
    resume: Path | None = None,
    asked: Asked = lambda: None,
    threads: int = 1,
    clock: Callable[[], float] = time.monotonic,
    gang: Gang = ALONE,
) -> Iterator[Said]:
    """Train until the work order's budget is spent or a rule of the trial's own ends it.

    Yields an EpochResult after each epoch, after every `work.validate_every` optimizer steps and when the
    budget is spent; a Saved after each snapshot (at the end if `work.keep_snapshot`, every
    `work.snapshot_every_seconds` at the next point, and on hand-back); with `work.inspect` the artifacts of
    `inspection` at the end of a complete training; and an Ending last. Points and snapshots count epochs,
    or optimizer steps where a budget or `validate_every` does. `asked` is read before each optimizer step.
    What it prints, a line at the start and one at the end, is the trial's log.

    Early stopping counts points. It gives the model back the weights of its best point, unless
    `restore_best` is off: the last snapshot has them, and the last point has the objective and all `val/`
    metrics of that best point, with `sys/restored_step` to say which it was. So an objective that reads the
    last value judges the model that is kept, as people expect of Keras's
    EarlyStopping(restore_best_weights=True). A trial that ends otherwise keeps its newest weights: another
    may go on from them.

    In a gang this is what rank 0 does; the others `follow`.

    Raises: ValueError or TaskError on hyperparameters that make no training, SnapshotCorrupt on a
        snapshot that cannot be gone on from, and whatever torch raises.
    """
    training = Training(entry, work, device, resume=resume, threads=threads, clock=clock, gang=gang)
    print(training.described())
    saved_at = clock()
    ending = training.curve.ending()
    while ending is None and not training.is_spent():
        started = clock()
        wish = training.train(asked)
        if wish == "abandon":
            gang.agreed(Word.END)
            yield ABANDONED
            return
        if wish == "hand_back":
            yield training.save(scratch, final=False)
            gang.agreed(Word.END)
            print(training.summed_up(RELEASED))
            yield RELEASED
            return
        metrics = training.point() | {"sys/epoch_seconds": clock() - started}
        ending = training.curve.ending()
        going_on = ending is None and not training.is_spent()
        is_last = not (going_on or work.keep_snapshot or work.inspect)
        yield EpochResult(training.at, metrics | training.restored(ending), is_last)
        if going_on and clock() - saved_at >= work.snapshot_every_seconds:
            yield training.save(scratch, final=False)
            saved_at = clock()
    ending = ending or BUDGET
    if work.keep_snapshot and ending.state == "complete":
        yield training.save(scratch, final=True)
    if work.inspect and ending.state == "complete":
        yield from training.inspected(scratch)
    gang.agreed(Word.END)
    print(training.summed_up(ending))
    yield ending


def follow(entry: Entry, work: WorkOrder, place: Place) -> None:
    """Train beside rank 0, as it says, until it says that the trial has ended here."""
    training = Training(
        entry, work, place.device, resume=place.resume, threads=place.threads, clock=time.monotonic,
        gang=place.gang,
    )  # fmt: skip
    training.follow()
