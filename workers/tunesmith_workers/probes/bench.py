"""What the probes work with: fresh models of the trial's, its splits, and a count of what they train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from tunesmith_studies.space import Scalar

from tunesmith_workers import rng
from tunesmith_workers.data import Split
from tunesmith_workers.stepping import TAKEN, Learner
from tunesmith_workers.tasks.registry import Params, Task

BATCH = 32  # samples of a step where a probe sets its own
_KEPT = frozenset({"init", "init_from", "batch_norm"})
"""Words of the vocabulary that say what the model is; the others say how it is trained."""


@dataclass(slots=True)
class Bench:
    """A task at one point of its space.

    Attributes:
        train, val: the splits on `device`, as the trainer would see them.
        options: thresholds at which probes may end early; from the stage, which judges by them.
        trained: samples that a gradient was computed for, so far.
        lowest: the smallest loss of a sample that training has seen.
    """

    task: Task
    params: Params
    train: Split
    val: Split
    device: torch.device
    seed: int
    threads: int = 1
    options: Mapping[str, Scalar] = field(default_factory=dict)
    trained: int = 0
    lowest: float = 0.0

    def option(self, name: str, usual: float) -> float:
        return float(self.options.get(name, usual))

    def learner(self, **changes: Scalar) -> Learner:
        """A fresh model with the trial's own optimizer, the same each time, in training mode."""
        return self._learner({**self.params, **changes})

    def bare_learner(self, rate: float) -> Learner:
        """A fresh model with Adam, and nothing that hinders learning by heart: no dropout, no augmentation,
        no other regularisation."""
        own = {k: v for k, v in self.params.items() if k not in TAKEN or k in _KEPT}
        if "dropout" in own:
            own["dropout"] = 0.0
        learner = self._learner({**own, "optimizer": "adam", "lr": rate, "batch_size": BATCH})
        for module in learner.model.modules():
            if isinstance(module, _DropoutNd):
                module.p = 0.0
        return learner

    def bare(self) -> nn.Module:
        """The model of a bare learner."""
        return self.bare_learner(1e-3).model

    def _learner(self, params: Params) -> Learner:
        rng.begin(self.seed, self.threads)
        learner = Learner(self.task, params, self.train, seed=self.seed, device=self.device)
        learner.model.train()
        return learner

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """One a sample, if the task keeps its word; of a sample's several their sum."""
        losses = self.task.loss(outputs, y)
        return losses.flatten(1).sum(1) if losses.dim() > 1 else losses

    def learn(self, learner: Learner, chunk: Tensor, *at: int) -> tuple[float, Tensor]:
        """One step as the trainer takes it. Returns the mean loss before it, and the outputs."""
        seen = learner.step(chunk, *at)
        self.count(seen.losses)
        return seen.losses.mean().item(), seen.outputs

    def count(self, losses: Tensor) -> None:
        """Keep account of samples that were trained on, of whose losses shape (n,) these are."""
        self.trained += len(losses)
        self.lowest = min(self.lowest, losses.min().item())

    @property
    def is_classes(self) -> bool:
        """Whether a label is the number of a class."""
        return self.task.classes is not None and self.train.y.dim() == 1

    def accuracy(self, outputs: Tensor, y: Tensor) -> float | None:
        """Share of samples whose largest output is their class's; None where that means nothing."""
        if not self.is_classes or outputs.dim() != 2 or outputs.shape[1] < 2:
            return None
        return (outputs.argmax(1) == y).to(torch.float64).mean().item()

    def samples(self, count: int) -> Split:
        chosen = self.mixed(count)
        return Split(self.train.x[chosen], self.train.y[chosen])

    def mixed(self, count: int) -> Tensor:
        """Indices of at most `count` training samples that differ, of all classes in turn."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))
        if self.is_classes:
            y = self.train.y.cpu()[order]
            place = torch.empty(len(y), dtype=torch.int64)  # within its class
            for label in torch.unique(y):
                members = (y == label).nonzero().flatten()
                place[members] = torch.arange(len(members))
            order = order[torch.argsort(place, stable=True)]
        return self._different(order, count)

    def _different(self, order: Tensor, count: int) -> Tensor:
        """The first `count` indices in this order whose samples differ.

        Of equal ones with different labels only one can be learnt by heart.
        """
        seen: set[int] = set()
        found: list[int] = []
        for i in order.tolist():
            row = hash(self.train.x[i].cpu().numpy().tobytes())
            if row not in seen:
                seen.add(row)
                found.append(i)
                if len(found) == count:
                    break
        return torch.tensor(found, device=self.train.x.device)


def normalises(model: nn.Module) -> bool:
    """Whether it has batch normalisation, which cannot train on a single sample."""
    return any(isinstance(m, _BatchNorm) for m in model.modules())
