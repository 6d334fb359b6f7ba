"""Numbers about what training costs, and whether it gets anywhere at the study's own rate."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from statistics import fmean, median, quantiles, stdev
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith_workers import evaluation, snapshots
from tunesmith_workers.data import cut, epoch_order
from tunesmith_workers.freezing import Freezing
from tunesmith_workers.memory import give_back, ran_out
from tunesmith_workers.optim import real
from tunesmith_workers.probes.bench import Bench

WINDOW = 8  # steps whose losses are averaged
_WARM = 2  # first steps, which allocate
_FEWEST = 12  # steps at a rate, however large the batch
_TIMED = 5  # steps of a second, larger batch
_TIMED_SMALL = 20  # of a smaller one, whose steps are short and vary more
_BLOCK = 4  # steps that are timed as one
_APART = 8  # the second batch has so many times fewer samples, or more
_LARGEST = 2**16  # samples in a batch that is tried


class Training:
    """A model that trains at the study's own hyperparameters, as the trainer would, step by step and watched.

    Attributes:
        losses: mean of each step's samples, before the step.
        steps: seconds of each step, by part.
        computed: seconds of each step in which this thread computed.
        built: seconds that building model and optimizer took.
    """

    def __init__(self, bench: Bench, lr: float, batch: int | None = None) -> None:
        self.bench, self.lr = bench, lr
        self.losses: list[float] = []
        self.steps: list[dict[str, float]] = []
        self.computed: list[float] = []
        begun = self._now()
        self.learner = (
            bench.learner(lr=lr) if batch is None else bench.learner(lr=lr, batch_size=batch, accumulation=1)
        )
        Freezing(self.learner.model, bench.params).train(0)
        self.built = self._now() - begun
        self._forward = self._entered = 0.0
        self.learner.model.register_forward_pre_hook(self._enter)
        self.learner.model.register_forward_hook(self._leave)
        self._chunks: list[Tensor] = []
        self._epoch = -1

    @property
    def batch(self) -> int:
        return self.learner.step_size

    def step(self) -> float:
        """Returns the mean loss."""
        if not self._chunks:
            self._epoch += 1
            order = epoch_order(len(self.bench.train), self.bench.seed, self._epoch).to(self.bench.device)
            self._chunks = cut(order, self.batch)
        chunk, learner, self._forward = self._chunks.pop(0), self.learner, 0.0
        begun, computed = self._now(), time.thread_time()
        batch = learner.load(chunk, self._epoch, len(self.losses))
        loaded = self._now()
        seen = learner.backward(batch)
        passed = self._now()
        learner.update()
        self.steps.append({
            "loading": loaded - begun,
            "forward": self._forward,
            "backward": passed - loaded - self._forward,
            "step": self._now() - passed,
        })  # fmt: skip
        self.computed.append(time.thread_time() - computed)
        self.bench.count(seen.losses)
        self.losses.append(seen.losses.mean().item())
        return self.losses[-1]

    def warm(self) -> list[dict[str, float]]:
        """Its steps without the first, which allocate."""
        return self.steps[_WARM:] or self.steps

    def totals(self) -> list[float]:
        return [sum(parts.values()) for parts in self.warm()]

    def weights(self) -> list[Tensor]:
        own = self.learner.model.parameters()
        return [p.detach().clone() for p in own if p.requires_grad and p.dim() > 1]

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._entered = self._now()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._forward += self._now() - self._entered

    def _now(self) -> float:
        if self.bench.device.type == "cuda":
            torch.cuda.synchronize(self.bench.device)
        return time.perf_counter()


def own_rate(bench: Bench) -> tuple[Training, dict[str, float]]:
    """The study's own rate; where the loss hardly falls there, `rate_low` and `rate_high` as well."""
    training, found = _at(bench, real(bench.params, "lr"))
    first, last = found["check/rate/first"], found["check/rate/last"]
    if not last < bench.option("clearly_fell", 0.7) * first:
        for prefix in ("low_", "high_"):
            if other := bench.option(f"rate_{prefix[:-1]}", 0.0):
                found |= _at(bench, other, prefix, steps=0.5)[1]
    return training, found


def _at(bench: Bench, lr: float, prefix: str = "", steps: float = 1.0) -> tuple[Training, dict[str, float]]:
    """Train a share of `rate_steps` steps at a rate, or until the loss is not finite.

    Of large batches fewer: no more than `rate_epochs` passes, but a few steps.
    """
    training = Training(bench, lr)
    before, update = training.weights(), 0.0
    passes = bench.option("rate_epochs", 3.0) * len(bench.train) / training.batch
    most = min(bench.option("rate_steps", 100), max(passes, _FEWEST))
    for step in range(max(int(steps * most), 2)):
        loss = training.step()
        if step == 0:
            update = _update(before, training.weights())
        if not math.isfinite(loss):
            break
    losses = training.losses
    begin, end = losses[:WINDOW], losses[-WINDOW:]
    found = {"lr": lr, "steps": len(losses), "first": losses[0], "last": fmean(end)}
    if len(losses) >= 2 * WINDOW:
        means = [fmean(losses[i : i + WINDOW]) for i in range(len(losses) - WINDOW + 1)]
        found["lowest"] = min(means)
        found["begin"], found["noise"] = fmean(begin), _noise(begin, end)
    if not prefix:
        found["update"] = update
    return training, {f"check/rate/{prefix}{name}": float(value) for name, value in found.items()}


def _noise(begin: list[float], end: list[float]) -> float:
    """Standard error of the difference of two windows' means."""
    if not all(map(math.isfinite, begin + end)):
        return math.nan
    return math.sqrt((stdev(begin) ** 2 + stdev(end) ** 2) / WINDOW)


def _update(before: list[Tensor], after: list[Tensor]) -> float:
    """Median over weights of step norm / weight norm."""
    pairs = zip(before, after, strict=True)
    moved = [float((b - a).norm() / a.norm()) for a, b in pairs if a.norm() > 0]
    return median(moved) if moved else 0.0


def times(bench: Bench, training: Training, scratch: Path, waited: float = 1.0) -> dict[str, float]:
    """What a step, an evaluation, a fresh model and a snapshot take.

    A second batch size, far from the first, tells which part of a step grows with its samples.

    Args:
        waited: seconds by the clock over seconds computed, of all that was measured so far. On a machine that
            others use as well the quickest step tells what a step takes when nobody comes between, and
            this how often somebody does.
    """
    totals, batch = training.totals(), training.batch
    usual, least = median(totals), _least(totals)
    other = batch // _APART if batch >= 2 * _APART else min(_APART * batch, len(bench.train))
    second = Training(bench, training.lr, other)
    for _ in range(_WARM + (_TIMED if other > batch else _TIMED_SMALL)):
        second.step()
    slope = (_least(second.totals()) - least) / (other - batch) if other != batch else 0.0
    slope = min(max(slope, 0.0), least / batch)
    found = {
        "batch": float(batch),
        "median": usual,
        "p95": quantiles(totals, n=20)[-1] if len(totals) > 1 else usual,
        "fixed": least - slope * batch,
        "sample": slope,
        "build": min(training.built, second.built),
        "first": max(sum(training.steps[0].values()) - usual, 0.0),
        "evaluate": _evaluating(bench, training.learner.model),
        "snapshot": _saving(training, scratch),
        "waiting": _waiting(training, waited),
        "train_samples": float(len(bench.train)),
        "val_samples": float(len(bench.val)),
    }
    found |= {part: median(step[part] for step in training.warm()) for part in training.steps[0]}
    return {f"time/{name}": value for name, value in found.items()}


def _least(totals: list[float]) -> float:
    """Mean of the quickest few steps that follow each other: what a step takes while nobody comes between."""
    count = min(_BLOCK, len(totals))
    return min(fmean(totals[i : i + count]) for i in range(len(totals) - count + 1))


def _waiting(training: Training, waited: float) -> float:
    """How much longer a step takes for others on the machine, who come between.

    A step's own waiting, as for a disk, is in its seconds. On a GPU nobody else comes between, but its queue
    runs unevenly.
    """
    totals, computed = training.totals(), training.computed[_WARM:] or training.computed
    if training.bench.device.type == "cuda":
        return median(totals) / _least(totals)
    own = max(min(totals) / max(min(computed), 1e-9), 1.0)
    return max(waited / own, 1.0)


def _evaluating(bench: Bench, model: nn.Module) -> float:
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        evaluation.evaluate(bench.task, model, bench.val)  # its numbers are read, so a GPU is waited for
        found.append(time.perf_counter() - begun)
    return min(found)


def _saving(training: Training, scratch: Path) -> float:
    learner, begun = training.learner, time.perf_counter()
    tree = {"model": learner.model.state_dict(), "optimizer": learner.optimizer.state_dict()}
    snapshots.save(scratch / "timed.safetensors", tree)
    return time.perf_counter() - begun


def memory(bench: Bench, training: Training) -> dict[str, float]:
    """The largest batch that fits: tried by doubling on a GPU, worked out from free memory on a CPU."""
    if bench.device.type == "cuda":
        return _tried(bench, training.lr)
    state = sum(p.numel() * p.element_size() for p in training.learner.model.parameters())
    per_sample = _kept_for_backward(bench)
    fixed, free = 4.0 * state, float(_free_bytes())  # weights, gradients, two numbers a weight of Adam's
    return {
        "memory/free": free,
        "memory/fixed": fixed,
        "memory/sample": per_sample,
        "memory/largest": float(max(int((free - fixed) / max(per_sample, 1.0)), 0)),
        "memory/tried": 0.0,
    }


def _kept_for_backward(bench: Bench) -> float:
    """Bytes that a forward pass keeps for each sample, and as much again for the gradients of them."""
    sizes, model = [], bench.bare()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for count in (4, 8):
        kept: list[int] = []

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                kept.append(tensor.numel() * tensor.element_size())
            return tensor

        chosen = torch.arange(min(count, len(bench.train)), device=bench.device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            bench.losses(model(bench.train.x[chosen]), bench.train.y[chosen])
        sizes.append((len(chosen), sum(kept)))
    (few, small), (more, large) = sizes
    return 2.0 * (large - small) / (more - few) if more > few else 2.0 * small / few


def _tried(bench: Bench, lr: float) -> dict[str, float]:
    batch, largest = 32, 0
    while batch <= _LARGEST:
        chosen = torch.arange(batch, device=bench.device) % len(bench.train)
        learner = bench.learner(lr=lr, batch_size=batch, accumulation=1)
        try:
            bench.learn(learner, chosen)
        except Exception as e:
            if not ran_out(e):
                raise
        give_back(bench.device)
        if learner.micro_batch < batch:  # it went on in halves
            break
        largest, batch = batch, 2 * batch
    free = torch.cuda.mem_get_info(bench.device)[0]
    return {"memory/free": float(free), "memory/largest": float(largest), "memory/tried": 1.0}


def _free_bytes() -> int:
    """Memory that programs may still take on this machine."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
