"""Numbers from a little training: learning by heart, the first sign of more, and the study's own rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith_workers import evaluation
from tunesmith_workers.data import Split, cut
from tunesmith_workers.losses import Called
from tunesmith_workers.probes import structure
from tunesmith_workers.probes.bench import BATCH, Bench, normalises

FIRST = 10  # steps over which gradients are looked at
_VALIDATED = 2000  # validation samples at most
_PATIENCE = 60  # steps in which the best loss must fall by a tenth, else a rate is given up
_PASSES = {10: 20, 100: 5, 1000: 2}  # over a subset of so many samples
_REGRESSED = 2000  # samples at most: a ridge regression solves a system of so many unknowns


@dataclass(slots=True)
class ByHeart:
    """A model that was trained on a few samples, and how well it knows them."""

    model: nn.Module
    loss: float
    accuracy: float | None
    steps: int
    rate: float
    tried: int = 1


def rates(bench: Bench) -> list[float]:
    return [float(text) for text in str(bench.options.get("rates", "5e-3,5e-4,3e-2")).split(",")]


def overfit(
    bench: Bench, count: int, most: int, gradients: Gradients | None = None, *, hopeless: bool = False
) -> tuple[ByHeart, dict[str, float]]:
    """Train on `count` samples with Adam until they are known by heart; the next rate if they never are.

    `hopeless`: fewer samples could not be learnt either, so the first rate for a few steps is enough.
    """
    chosen = bench.mixed(count)
    best: ByHeart | None = None
    for tried, rate in enumerate(rates(bench)[: 1 if hopeless else None], start=1):
        found = _by_heart(
            bench, chosen, _PATIENCE if hopeless else most, rate, gradients if tried == 1 else None
        )
        if best is None or not math.isfinite(best.loss) or found.loss < best.loss:
            best = found
        best.tried = tried
        if knows(bench, found):
            break
    assert best is not None, "option rates names no rate"
    numbers = {"loss": best.loss, "steps": best.steps, "rate": best.rate, "tried": best.tried}
    if best.accuracy is not None:
        numbers["accuracy"] = best.accuracy
    return best, {f"check/overfit/{len(chosen)}/{name}": float(value) for name, value in numbers.items()}


def knows(bench: Bench, learnt: ByHeart) -> bool:
    return learnt.loss < bench.option("by_heart", 0.05) and learnt.accuracy in (None, 1.0)


def _by_heart(bench: Bench, chosen: Tensor, most: int, rate: float, gradients: Gradients | None) -> ByHeart:
    learner = bench.bare_learner(rate)
    if len(chosen) == 1 and normalises(learner.model):
        chosen = chosen.repeat(2)  # batch normalisation needs two
    y = bench.train.y[chosen]
    best, before = ByHeart(learner.model, math.inf, None, 0, rate), math.inf
    for step in range(most):
        loss, outputs = bench.learn(learner, chosen, 0, step)
        if gradients and gradients.steps < FIRST:
            gradients.look(learner.model)
        if not math.isfinite(loss):
            return replace(best, loss=best.loss if step else loss, steps=step)
        if loss < best.loss:
            best = ByHeart(learner.model, loss, bench.accuracy(outputs, y), step, rate)
        if knows(bench, best) and (gradients is None or gradients.steps >= FIRST):
            break
        if step % _PATIENCE == _PATIENCE - 1:
            if best.loss > 0.9 * before:
                break
            before = best.loss
    return best


@dataclass(slots=True)
class Gradients:
    """What became of each parameter's gradient over the first steps, and of its weights."""

    steps: int = 0
    numbers: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    relative: dict[str, float] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    not_finite: set[str] = field(default_factory=set)
    frozen: dict[str, int] = field(default_factory=dict)

    def look(self, model: nn.Module) -> None:
        self.steps += 1
        for name, p in model.named_parameters():
            if not p.requires_grad:
                self.frozen[name] = p.numel()
            elif p.grad is None:
                self.missing.add(name)
            else:
                self.missing.discard(name)
                size = p.grad.detach().norm().item()
                if not math.isfinite(size):
                    self.not_finite.add(name)
                self.largest[name] = max(self.largest.get(name, 0.0), size)
                if p.dim() > 1 and (weight := p.detach().norm().item()) > 0:
                    self.relative[name] = max(self.relative.get(name, 0.0), size / weight)

    def found(self) -> dict[str, float]:
        at = "check/gradients/"
        zero = [n for n, size in self.largest.items() if size == 0]
        found = {f"{at}parameters": float(len(self.largest) + len(self.missing))}
        missing = self.missing - self.largest.keys()
        for what, offenders in (("missing", missing), ("zero", zero), ("not_finite", self.not_finite)):
            found |= {f"{at}{what}/{structure.short(n)}": 1.0 for n in sorted(offenders)}
        found |= {f"{at}frozen/{structure.short(n)}": float(size) for n, size in self.frozen.items()}
        moving = [r for r in self.relative.values() if r > 0 and math.isfinite(r)]
        if moving:
            found[f"{at}weakest"] = min(moving) / max(moving)
        return found


@torch.no_grad()
def after_overfit(bench: Bench, known: ByHeart) -> dict[str, float]:
    """Of a model that has learnt a batch: its outputs, what zeroed inputs do, units that stayed alike."""
    chosen = bench.mixed(int(bench.option("overfit_batch", 32)))
    x, y, model = bench.train.x[chosen], bench.train.y[chosen], known.model
    outputs, blind = model(x.clone()), model(torch.zeros_like(x))
    size = max(outputs.abs().max().item(), 1e-12)
    found = {
        "check/zeroed/real_loss": bench.losses(outputs, y).sum(dtype=torch.float64).item() / len(x),
        "check/zeroed/loss": bench.losses(blind, y).sum(dtype=torch.float64).item() / len(x),
        "check/zeroed/change": (outputs - blind).abs().mean().item() / size,
        "check/loss/lowest": bench.lowest,
    }
    if bench.is_classes and outputs.dim() == 2 and outputs.shape[1] > 1:
        found |= {
            "check/outputs/sum_error": (outputs.sum(1) - 1).abs().max().item(),
            "check/outputs/log_sum": outputs.logsumexp(1).abs().max().item(),
            "check/outputs/lowest": outputs.min().item(),
            "check/outputs/highest": outputs.max().item(),
        }
    with Called() as called:
        bench.losses(outputs, y)
    if called.kind == "bce_logits":
        extremes = {"lowest": outputs.min().item(), "highest": outputs.max().item(), "sigmoid": 1.0}
        found |= {f"check/outputs/{name}": value for name, value in extremes.items()}
    return found | _twins(model)


def _twins(model: nn.Module) -> dict[str, float]:
    """Of each layer, the share of units whose incoming weights another unit has too, even after training."""
    found = {}
    for name, module in model.named_modules():
        weight = structure.weights_of(module)
        if weight is not None and len(weight) > 1 and weight[0].numel() > 1:
            rows = weight.detach().reshape(len(weight), -1)
            different = len(torch.unique(rows, dim=0))
            if different < len(rows):
                found[f"check/units/twins/{structure.short(name)}"] = 1 - different / len(rows)
    return found


def determinism(bench: Bench) -> dict[str, float]:
    """Three steps at the study's own hyperparameters, twice."""
    chosen = bench.mixed(8)
    runs = [_few_losses(bench, chosen) for _ in range(2)]
    return {"check/determinism/difference": max(abs(a - b) for a, b in zip(*runs, strict=True))}


def _few_losses(bench: Bench, chosen: Tensor) -> list[float]:
    learner = bench.learner()
    return [bench.learn(learner, chosen, 0, step)[0] for step in range(3)]


def generalise(bench: Bench, rate: float, at_least: int, *, linear: bool) -> Iterator[dict[str, float]]:
    """Train on 10, 100, 1000 samples, then once on all, until validation shows that something was learnt.

    Args:
        at_least: go on up to so many samples all the same.
        linear: compare with a linear model at the end.
    """
    val = _part(bench.val, _VALIDATED)
    everything = bench.mixed(len(bench.train))
    sizes = [*(n for n in _PASSES if n < len(everything)), len(everything)]
    for n in sizes:
        model = _learnt(bench, everything[:n], _PASSES.get(n, 1 if n > 1000 else 2), rate)
        outputs = evaluation.outputs(model, val)
        found = _on_validation(bench, outputs, val, n)
        enough = n >= min(at_least, len(everything))
        over = (found[f"check/generalise/{n}/z"] > bench.option("sign", 5.0) and enough) or n == sizes[-1]
        if over:
            found |= _relabelled(bench, outputs, val)
            if linear:
                found |= _linear(bench, everything[:n], outputs, val)
        yield found
        if over:
            return


def _learnt(bench: Bench, chosen: Tensor, passes: int, rate: float) -> nn.Module:
    learner = bench.bare_learner(rate)
    most = int(bench.option("most_steps", 1500))
    for _ in range(passes):
        order = chosen[torch.randperm(len(chosen)).to(chosen.device)]
        for indices in cut(order, BATCH)[:most]:
            bench.learn(learner, indices)
    return learner.model


@torch.no_grad()
def _on_validation(bench: Bench, outputs: Tensor, val: Split, n: int) -> dict[str, float]:
    losses = bench.losses(outputs, val.y).to(torch.float64)
    dealt = torch.randperm(len(val), generator=torch.Generator().manual_seed(bench.seed)).to(outputs.device)
    gains = bench.losses(outputs[dealt], val.y).to(torch.float64) - losses
    spread = gains.std().item() / math.sqrt(len(val)) if len(val) > 1 else 0.0
    found = {"loss": losses.mean().item(), "z": gains.mean().item() / spread if spread > 0 else 0.0}
    if (accuracy := bench.accuracy(outputs, val.y)) is not None:
        found["accuracy"] = accuracy
    return {f"check/generalise/{n}/{name}": value for name, value in found.items()}


def _linear(bench: Bench, chosen: Tensor, outputs: Tensor, val: Split) -> dict[str, float]:
    """Accuracies of the network, and of a ridge regression on the classes after the first of its samples."""
    own = bench.accuracy(outputs, val.y)
    if own is None or not bench.train.x.is_floating_point():
        return {}
    chosen = chosen[:_REGRESSED]
    x, unseen = (s.reshape(len(s), -1).to(torch.float64) for s in (bench.train.x[chosen], val.x))
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-9)
    x, unseen = (x - mean) / spread, (unseen - mean) / spread
    wanted = torch.nn.functional.one_hot(bench.train.y[chosen].long(), bench.task.classes or -1).to(
        torch.float64
    )
    kernel = x @ x.T / x.shape[1]
    solved = torch.linalg.solve(
        kernel + 0.1 * torch.eye(len(x), dtype=x.dtype, device=x.device), wanted - wanted.mean(0)
    )
    said = unseen @ x.T / x.shape[1] @ solved + wanted.mean(0)
    hits = (said.argmax(1) == val.y).to(torch.float64).mean().item()
    return {"check/depth/accuracy": own, "check/depth/linear": hits, "check/depth/rows": float(len(val))}


def _relabelled(bench: Bench, outputs: Tensor, val: Split) -> dict[str, float]:
    """Accuracy if the classes that the model says were named anew, one to one, as suits validation best."""
    classes = bench.task.classes
    if classes is None or bench.accuracy(outputs, val.y) is None or outputs.shape[1] != classes:
        return {}
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow to import, and rarely needed

    said = outputs.argmax(1).cpu().numpy()
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (said, val.y.cpu().numpy()), 1)
    rows, columns = linear_sum_assignment(-table)
    hits, offsets = table[rows, columns], (columns - rows) % classes
    weights = np.bincount(offsets, weights=hits, minlength=classes)
    found = {"check/generalise/relabelled": float(hits.sum() / len(val))}
    if hits.sum() and weights.max() >= 0.8 * hits.sum():
        found["check/generalise/offset"] = float(weights.argmax())
    return found


def _part(split: Split, most: int) -> Split:
    if len(split) <= most:
        return split
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:most].to(split.x.device)
    return Split(split.x[chosen], split.y[chosen])
