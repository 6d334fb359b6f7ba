"""Which parts of a model are trained: transfer learning's `freeze` and `unfreeze_epoch`.

| freeze | trained |
|---|---|
| none | everything |
| all_but_head | the head |
| all_but_ends | the head and the input layer |

Layers are found from the order in which the model registers its modules. A layer is a module that owns a
weight of two or more dimensions and has no such module inside. The head is the last layer, with all that is
registered after it; the input layer is the first, with all before it. A parameter that is tied into a
trained part is trained.

Frozen layers that keep running statistics (batch norm) stay in evaluation mode, so that these keep what
they learnt elsewhere. The optimizer knows every parameter from the start and skips those without a
gradient, weight decay included; so nothing about it, or about snapshots, changes when `unfreeze_epoch`
epochs are done and all is trained (0: never).
"""

from __future__ import annotations

from torch import nn

from tunesmith_workers.optim import Params, whole, word


class Freezing:
    """Holds for one model. Raises ValueError on words that it cannot follow."""

    def __init__(self, model: nn.Module, params: Params) -> None:
        self._how, self._until = word(params, "freeze"), whole(params, "unfreeze_epoch")
        self._model = model
        trained = _trained(model, self._how)
        kept = {id(p) for module in trained for p in module.parameters(recurse=False)}
        self._frozen = [p for p in model.parameters() if id(p) not in kept and p.requires_grad]
        self._still = [m for m in model.modules() if m not in trained and _has_statistics(m)]

    def train(self, epoch: int) -> None:
        """Put the model in training mode for epoch `epoch` (from 0), all but what is frozen in it."""
        self._model.train()
        is_on = self.is_on(epoch)
        for parameter in self._frozen:
            parameter.requires_grad_(not is_on)
        if is_on:
            for module in self._still:
                module.eval()

    def is_on(self, epoch: int) -> bool:
        """Whether something is frozen in this epoch."""
        return bool(self._frozen) and (self._until == 0 or epoch < self._until)

    def described(self) -> str:
        """For the trial's log; empty where nothing is frozen."""
        if not self._frozen:
            return ""
        size = sum(p.numel() for p in self._model.parameters())
        trained = size - sum(p.numel() for p in self._frozen)
        until = f"up to epoch {self._until}" if self._until else "throughout"
        return f"{self._how}: {trained:,} of {size:,} parameters are trained {until}, the rest is frozen"


def _trained(model: nn.Module, how: str) -> set[nn.Module]:
    modules = list(model.modules())
    layers = [i for i, module in enumerate(modules) if _is_layer(module)]
    if how == "none" or not layers:
        return set(modules)
    found = set(modules[layers[-1] :])
    if how == "all_but_ends":
        found |= set(modules[: layers[0] + 1])
    return found


def _is_layer(module: nn.Module) -> bool:
    inside = (m for m in module.modules() if m is not module)
    return _has_weight(module) and not any(map(_has_weight, inside))


def _has_weight(module: nn.Module) -> bool:
    return any(p.dim() >= 2 for p in module.parameters(recurse=False))


def _has_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None
