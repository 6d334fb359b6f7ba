"""Numbers about how model and loss are put together: without training, on a few samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from tunesmith_workers.data import Split
from tunesmith_workers.probes.bench import Bench

NONLINEAR = frozenset({
    "relu", "relu_", "relu6", "sigmoid", "sigmoid_", "tanh", "tanh_", "gelu", "silu", "elu", "selu", "celu",
    "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "softplus", "mish",
})  # fmt: skip
"""Functions of torch whose outputs are units."""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NAME = 100  # characters of a parameter's name that fit into a metric's


def short(name: str) -> str:
    """A parameter's or module's name as the end of a metric's; its end tells more than its beginning."""
    return name if len(name) <= _NAME else "…" + name[1 - _NAME :]


@torch.no_grad()
def width(bench: Bench, x: Tensor) -> dict[str, float]:
    """How many numbers the model says of a sample, where a label is the number of a class."""
    outputs = bench.bare().eval()(x.clone())
    if not bench.is_classes or outputs.dim() > 2:
        return {}
    return {"check/labels/width": float(outputs.shape[1] if outputs.dim() == 2 else 1)}


def all_frozen(bench: Bench) -> dict[str, float]:
    """What there is to say of gradients where every parameter is frozen, else nothing."""
    parameters = dict(bench.bare().named_parameters())
    if not parameters or any(p.requires_grad for p in parameters.values()):
        return {}
    frozen = {f"check/gradients/frozen/{short(name)}": float(p.numel()) for name, p in parameters.items()}
    return frozen | {"check/gradients/parameters": 0.0}


@torch.no_grad()
def initial(bench: Bench, samples: Split) -> dict[str, float]:
    """The loss of a fresh model in training mode without dropout, over the samples in four batches."""
    model, outputs, targets = bench.bare(), [], []
    for x, y in zip(samples.x.chunk(4), samples.y.chunk(4), strict=True):
        outputs.append(model(x.clone()))
        targets.append(y)
    losses = [bench.losses(o, y).sum(dtype=torch.float64) for o, y in zip(outputs, targets, strict=True)]
    found = {"check/initial/loss": (torch.stack(losses).sum() / len(samples)).item()}
    said, truth = torch.cat(outputs), torch.cat(targets)
    if not said.is_floating_point():
        return found
    found["check/initial/guess"] = _guess(bench, said, truth)
    if bench.is_classes and said.dim() == 2 and said.shape[1] > 1:
        mean = said.softmax(1).mean(0).clamp_min(1e-30)
        found["check/initial/prior_loss"] = -mean.log()[truth.long()].mean().item()
    return found


def _guess(bench: Bench, said: Tensor, truth: Tensor) -> float:
    """The loss of saying the same of every sample and class: as scores, probabilities or their logarithms."""
    classes = max(said.shape[1] if said.dim() > 1 else 1, 1)
    alike = [0.0, 1 / classes, -math.log(classes)]
    found = [bench.losses(torch.full_like(said, value), truth).mean().item() for value in alike]
    return min((loss for loss in found if math.isfinite(loss) and loss >= 0), default=math.nan)


@torch.no_grad()
def loss_scale(bench: Bench, samples: Split) -> dict[str, float]:
    """Whether a batch's loss is its samples' mean, and whether the loss normalises outputs by itself."""
    outputs = bench.bare().eval()(samples.x.clone())
    losses = bench.losses(outputs, samples.y)
    alone = [
        bench.losses(outputs[i : i + 1], samples.y[i : i + 1]).sum(dtype=torch.float64)
        for i in range(len(samples))
    ]
    found = {
        "check/loss/batch": float(len(samples)),
        "check/loss/values": float(losses.numel()),
        "check/loss/together": losses.sum(dtype=torch.float64).item() / len(samples),
        "check/loss/alone": torch.stack(alone).mean().item(),
    }
    if bench.is_classes and outputs.is_floating_point():
        moved = bench.losses(outputs + 1, samples.y)
        found["check/loss/shifted"] = (moved - losses).abs().max().item()
    return found


@torch.no_grad()
def modes(bench: Bench, samples: Split) -> dict[str, float]:
    """Whether evaluation repeats, looks at one sample at a time, and leaves the model as it was."""
    model = bench.learner().model
    asleep = sum(isinstance(m, (*_NORMS, _DropoutNd)) and not m.training for m in model.modules())
    model.eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    first, again = model(samples.x.clone()), model(samples.x.clone())
    # in halves, not one by one: batch normalisation left in training mode refuses a single sample
    parts = torch.cat([model(half.clone()) for half in samples.x.chunk(2)])
    size = max(first.abs().max().item(), 1e-12)
    changed = [name for name, b in model.named_buffers() if not torch.equal(b, before[name])]
    return {
        "check/modes/repeat": (first - again).abs().max().item() / size,
        "check/modes/batch": (first - parts).abs().max().item() / size if first.shape == parts.shape else 1.0,
        "check/modes/buffers": float(len(changed)),
        "check/modes/stuck": float(sum(m.training for m in model.modules())),
        "check/modes/asleep": float(asleep),
    }


@torch.no_grad()
def units(bench: Bench, samples: Split) -> dict[str, float]:
    """Of each nonlinearity, the share of its units whose output is the same for all samples."""
    model = bench.bare().eval()
    with _Nonlinear(model) as seen:
        model(samples.x.clone())
    return {f"check/units/constant/{short(name)}": part for name, part in seen.constant.items()}


class _Nonlinear(TorchFunctionMode):
    """Sees the output of every nonlinearity, whether a module or a function applied it.

    A unit is a channel of an image, an entry of the last axis of anything else.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.constant: dict[str, float] = {}
        self._after = "input"
        self._hooks = [
            module.register_forward_hook(self._passed(name))
            for name, module in model.named_modules()
            if weights_of(module) is not None
        ]

    def _passed(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._after = name

        return hook

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in NONLINEAR and isinstance(output, Tensor) and output.dim() > 1:
            name = f"{func.__name__.rstrip('_')} after {self._after}"
            self.constant[name] = max(self.constant.get(name, 0.0), _constant(output))
        return output

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()


def _constant(output: Tensor) -> float:
    axis = 1 if output.dim() in (2, 4, 5) else -1
    by_unit = output.movedim(axis, -1).reshape(-1, output.shape[axis]).to(torch.float32)
    spread = by_unit.max(0).values - by_unit.min(0).values
    return (spread <= 1e-6 * by_unit.abs().max()).to(torch.float64).mean().item()


def first_inputs(bench: Bench, x: Tensor) -> dict[str, float]:
    """Mean and deviation of what the first layer with weights reads; nothing if it reads whole numbers."""
    model = bench.bare().eval()
    seen: list[tuple[bool, Tensor]] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not seen and inputs and isinstance(inputs[0], Tensor):
            seen.append((isinstance(module, _NORMS), inputs[0].detach()))

    with hooked(model, look), torch.no_grad():
        model(x.clone())
    if not seen or not seen[0][1].is_floating_point():
        return {}
    normalised, read = seen[0]
    return {
        "check/inputs/mean": read.mean(dtype=torch.float64).item(),
        "check/inputs/deviation": read.to(torch.float64).std(unbiased=False).item(),
        "check/inputs/normalised": float(normalised),
    }


@contextmanager
def hooked(model: nn.Module, look: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    """`look` before each module that has parameters of its own computes."""
    own = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    handles = [m.register_forward_pre_hook(look) for m in own]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers(bench: Bench, x: Tensor) -> int:
    """How many layers with weight matrices a forward pass goes through."""
    model, calls = bench.bare().eval(), 0

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += weights_of(module) is not None

    with hooked(model, look), torch.no_grad():
        model(x.clone())
    return calls


def weights_of(module: nn.Module) -> Tensor | None:
    """The weight matrix or kernel of a layer that mixes its inputs; None of all others."""
    weight = module._parameters.get("weight")
    return (
        weight if weight is not None and weight.dim() > 1 and not isinstance(module, nn.Embedding) else None
    )


def unregistered(model: nn.Module, loss: Tensor) -> int:
    """Numbers that get a gradient from this loss and belong to no parameter of the model."""
    own = {id(p) for p in model.parameters()}
    found: dict[int, int] = {}
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in own:
            found[id(leaf)] = leaf.numel()
        todo += [following for following, _ in node.next_functions]
    return sum(found.values())
