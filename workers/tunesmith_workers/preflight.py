"""The work order `preflight`: what is measured before money is spent.

One probe after the other, each a point of the curve; what is asked for stands in `work.options`, and
`tunesmith_studies.checks` has the names of the numbers and judges them. Probes that need sound data are
left out when labels, inputs or the loss are unusable, so that what is wrong with them is still told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tunesmith_service.wire import WorkOrder

from tunesmith_workers import rng
from tunesmith_workers.data import epoch_order
from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, EpochResult, Said
from tunesmith_workers.preparation import prepared
from tunesmith_workers.probes import costs, data, learning, structure
from tunesmith_workers.probes.bench import Bench
from tunesmith_workers.tasks.registry import Entry, Task

if TYPE_CHECKING:
    from tunesmith_workers.kinds import Place

Found = dict[str, float]

_MANY, _FEW = 256, 32  # samples that go through a model without training, at most


def measure(entry: Entry, work: WorkOrder, place: Place) -> Iterator[Said]:
    """Yields an EpochResult for each probe, whose `step` counts probes, and an Ending last.

    Raises: TypeError on a loop of somebody's own, which is observed instead; and whatever building or
        running the model raises: the trial then fails with that error.
    """
    if not isinstance(entry.task, Task):
        raise TypeError(f"{entry.name} trains by its own loop")
    preflight = Preflight(entry.task, work, place)
    bench, begun, before = preflight.bench, time.monotonic(), 0
    for step, (name, found) in enumerate(preflight.probes(), start=1):
        now = time.monotonic()
        cost = {"seconds": now - begun, "samples": float(bench.trained - before)}
        print(f"{name}: {cost['seconds']:.2f} s, trained on {cost['samples']:,.0f} samples")
        begun, before = now, bench.trained
        share = bench.trained / len(bench.train)
        yield EpochResult(
            step, found | {f"cost/{name}/{k}": v for k, v in cost.items()} | {"sys/epoch": share}
        )
        if wish := place.asked():
            yield ABANDONED if wish == "abandon" else RELEASED
            return
    yield BUDGET


class Preflight:
    """The probes in their order: data, structure, training a little, costs."""

    def __init__(self, task: Task, work: WorkOrder, place: Place) -> None:
        rng.begin(work.seed, place.threads)
        self.task, self.place, self.only_times = task, place, bool(work.options.get("only_times"))
        self._began, self._computed = time.monotonic(), time.thread_time()
        splits = prepared(task, work, seed=work.seed, device=place.device)
        self.bench = Bench(
            task, work.params, splits.train, splits.val, place.device, work.seed, place.threads, work.options
        )

    def probes(self) -> Iterator[tuple[str, Found]]:
        """What each probe found, under the probe's name."""
        if not self.only_times:
            found = self._data()
            yield "data", found
            if not _can_be_read(found):
                return
            found = self._structure()
            yield "structure", found
            if not _can_be_trained(found, self.bench):
                return
            yield from self._learning()
        training, found = costs.own_rate(self.bench)
        yield "rate", {} if self.only_times else found
        waited = (time.monotonic() - self._began) / max(time.thread_time() - self._computed, 1e-9)
        found = costs.times(self.bench, training, self.place.scratch, waited)
        yield "times", found | costs.memory(self.bench, training)

    def _data(self) -> Found:
        """Rows are compared as the task gives them, columns as the model reads them."""
        bench, splits = self.bench, self.task.splits
        x, val_x = bench.train.x.cpu(), bench.val.x.cpu()
        found = data.inputs(x[: data.ROWS]) | {"check/inputs/not_finite": float(_bad(x) + _bad(val_x))}
        y, val_y = bench.train.y.cpu(), bench.val.y.cpu()
        if bench.is_classes and self.task.classes is not None:
            found |= data.labels(y, val_y, self.task.classes) | data.balance(y) | data.label_shift(y, val_y)
            found |= data.order(y[epoch_order(len(y), bench.seed, 0)]) | {"check/order/shuffled": 1.0}
        if found["check/inputs/not_finite"]:
            return found
        rows = {"train": splits.train.x, "val": splits.val.x}
        rows |= {"test": splits.test.x} if splits.test is not None else {}
        found |= data.leak(rows, splits.train.y if bench.is_classes else None) | data.shift(x, val_x)
        found |= data.neighbours((x, y), (val_x, val_y)) if bench.is_classes else {}
        self.related = abs(found.get(data.NEIGHBOURS, math.inf)) > bench.option("related", 3.0)
        return found

    def _structure(self) -> Found:
        bench = self.bench
        many, few = bench.samples(_MANY), bench.samples(_FEW)
        found = structure.first_inputs(bench, many.x) | structure.width(bench, few.x)
        if not _has_outputs(found, bench):
            return found
        found |= structure.loss_scale(bench, few) | structure.all_frozen(bench)
        if not _can_be_trained(found, bench):
            return found
        found |= structure.initial(bench, many) | structure.modes(bench, few) | structure.units(bench, many)
        return found | {"check/depth/layers": float(structure.layers(bench, few.x[:2]))}

    def _learning(self) -> Iterator[tuple[str, Found]]:
        bench, gradients = self.bench, learning.Gradients()
        steps = int(bench.option("overfit_steps", 300))
        known, found = learning.overfit(bench, 1, int(bench.option("first_steps", 50)))
        yield "overfit_1", found
        hopeless = not learning.knows(bench, known)
        known, found = learning.overfit(bench, 4, steps, hopeless=hopeless)
        yield "overfit_4", found
        hopeless = hopeless or not learning.knows(bench, known)
        batch = int(bench.option("overfit_batch", 32))
        known, found = learning.overfit(bench, batch, steps, gradients, hopeless=hopeless)
        found |= gradients.found() | {"check/gradients/unregistered": float(self._unregistered())}
        yield "overfit_batch", found | learning.after_overfit(bench, known)
        yield "determinism", learning.determinism(bench)
        deep = structure.layers(bench, bench.train.x[:2]) >= bench.option("deep", 8)
        patient = deep or not self.related  # a few samples may be right by luck
        for found in learning.generalise(bench, known.rate, at_least=1000 if patient else 0, linear=deep):
            size = next(name.split("/")[2] for name in found if name.endswith("/loss"))
            yield f"generalise_{size}", found | {"check/loss/lowest": bench.lowest}

    def _unregistered(self) -> int:
        model, few = self.bench.bare(), self.bench.samples(4)
        return structure.unregistered(model, self.bench.losses(model(few.x), few.y).sum())


def _can_be_read(found: Found) -> bool:
    """Whether a model can be run on these data at all."""
    return not found["check/inputs/not_finite"] and not found.get("check/labels/outside", 0)


def _has_outputs(found: Found, bench: Bench) -> bool:
    """Whether every label has an output, without which no loss can be computed."""
    width = found.get("check/labels/width", 0)
    return not bench.is_classes or width in (0, 1) or int(bench.train.y.max()) < width


def _can_be_trained(found: Found, bench: Bench) -> bool:
    """Whether the loss is one that the trainer takes, and a gradient can flow from it."""
    if found.get("check/gradients/parameters") == 0:
        return False
    return _has_outputs(found, bench) and found["check/loss/values"] == found["check/loss/batch"]


def _bad(x: Tensor) -> int:
    return int((~torch.isfinite(x)).sum()) if x.is_floating_point() else 0
