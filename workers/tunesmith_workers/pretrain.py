"""Pre-training without labels: each hidden layer learns to reconstruct its input from its output.

A layer's code is ReLU(W·h + b), its reconstruction Wᵀ·code + c: an autoencoder with tied weights (Vincent
et al. 2010, JMLR 11, without their noise), of a convolution with the transposed convolution. All
layers learn at the same time, each from what the one below gives by now, and no gradient passes between
them (Bengio et al. 2006, Greedy Layer-Wise Training of Deep Networks, which trains one after the other,
or all continuously). So an epoch here is one pass over the training split, whatever the depth. torch's
Adam at its own rate of 1e-3, batches of `batch_size`; the training proper starts with an optimizer of its
own, and with the c thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith_workers import rng, snapshots
from tunesmith_workers.data import cut, epoch_order
from tunesmith_workers.endings import Asked, Wish
from tunesmith_workers.optim import Params, whole

Layer: TypeAlias = nn.Linear | nn.Conv2d


class Pretraining:
    """Of one model, which is a plain sequence of layers as those of the built-in tasks are.

    Attributes:
        epoch: passes done.
        batch: steps done of the next one.

    Raises: ValueError if the model is no such sequence, or has no hidden layer.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, *, epochs: int, batch_size: int, seed: int) -> None:
        self.epoch = self.batch = 0
        self._epochs, self._batch_size, self._seed = epochs, batch_size, rng.derive(seed, "pretrain")
        self._model, self._inputs = model, inputs
        self._hidden = _hidden_layers(model)
        self._biases = [_visible_bias(layer) for layer in self._hidden]
        self._optimizer = torch.optim.Adam([*nn.ModuleList(self._hidden).parameters(), *self._biases])
        self._error = torch.zeros((), dtype=torch.float64, device=inputs.device)  # summed over this pass
        self._errors: list[float] = []  # of each pass: mean over its samples, summed over layers

    def train(self, asked: Asked) -> Wish | None:
        """Go on to the end, or stop before a step because the supervisor asks."""
        self._model.eval()  # dropout off; batch norm neither used nor changed
        while self.epoch < self._epochs:
            order = epoch_order(len(self._inputs), self._seed, self.epoch).to(self._inputs.device)
            for indices in cut(order, self._batch_size)[self.batch :]:
                if wish := asked():
                    return wish
                self._step(self._inputs[indices])
                self.batch += 1
            self._errors.append(self._error.item() / len(self._inputs))
            self._error.zero_()
            self.epoch, self.batch = self.epoch + 1, 0
        self._optimizer.state.clear()  # neither the device nor a snapshot needs to keep it
        return None

    def _step(self, x: Tensor) -> None:
        self._optimizer.zero_grad()
        errors = reconstruction_errors(self._model, self._hidden, self._biases, x)
        self._error += errors.detach().double() * len(x)
        errors.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()

    def described(self) -> str:
        """What it did, for the trial's log."""
        first, last = self._errors[0], self._errors[-1]
        return (
            f"hidden layers pre-trained ({len(self._hidden)}) to epoch {self.epoch}, which sys/epoch counts: "
            f"squared error of the reconstructions {first:.4g} in the first, {last:.4g} in the last"
        )

    def save(self) -> dict[str, Any]:
        """What going on in the middle of it needs, beside the model and the random state."""
        return {
            "epoch": self.epoch, "batch": self.batch, "error": self._error, "errors": list(self._errors),
            "biases": [b.detach() for b in self._biases], "optimizer": self._optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `save` gave. The model is restored by the caller."""
        self.epoch, self.batch, self._errors = saved["epoch"], saved["batch"], list(saved["errors"])
        self._error.copy_(saved["error"])
        with torch.no_grad():
            for own, was in zip(self._biases, saved["biases"], strict=True):
                own.copy_(was)
        snapshots.restore_optimizer(self._optimizer, saved["optimizer"])


def pretraining(model: nn.Module, inputs: Tensor, params: Params, seed: int) -> Pretraining | None:
    """What `pretrain_epochs` asks for; None if that is nothing."""
    epochs = whole(params, "pretrain_epochs")
    if epochs == 0:
        return None
    return Pretraining(model, inputs, epochs=epochs, batch_size=whole(params, "batch_size"), seed=seed)


def reconstruction_errors(
    model: nn.Module, hidden: Sequence[Layer], biases: Sequence[nn.Parameter], x: Tensor
) -> Tensor:
    """Mean squared error of each hidden layer's reconstruction of its input, summed over the layers.

    Args:
        hidden: layers of `model` to train; biases: c of each.
        x: inputs of the model, shape (n, …).
    """
    total = x.new_zeros(())
    bias_of: Mapping[nn.Module, nn.Parameter] = dict(zip(hidden, biases, strict=True))
    for module in model.children():
        if isinstance(module, Layer) and module in bias_of:
            code = functional.relu(module(x))
            total = total + functional.mse_loss(_decoded(module, code, bias_of[module]), x)
        with torch.no_grad():
            x = module(x)
    return total


def _decoded(layer: Layer, code: Tensor, bias: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return functional.linear(code, layer.weight.T, bias)
    assert not isinstance(layer.padding, str)  # the built-in convolutions pad by numbers
    return functional.conv_transpose2d(code, layer.weight, bias, layer.stride, layer.padding)


def _hidden_layers(model: nn.Module) -> list[Layer]:
    if not isinstance(model, nn.Sequential) or any(next(m.children(), None) for m in model.children()):
        raise ValueError(
            f"pretrain_epochs is for the models of built-in tasks, plain sequences of layers; this one is a "
            f"{type(model).__name__}: pre-train it in a task of its own and name its snapshot in init_from"
        )
    layers = [m for m in model.children() if isinstance(m, Layer)]
    if len(layers) < 2:
        raise ValueError("pretrain_epochs needs a model with a hidden layer; this one has none")
    return layers[:-1]


def _visible_bias(layer: Layer) -> nn.Parameter:
    size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    return nn.Parameter(torch.zeros(size, dtype=layer.weight.dtype, device=layer.weight.device))
