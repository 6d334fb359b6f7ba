"""Sees what somebody's own training loop does, without a line of it changed.

A `Watch` stands on hooks that torch has for everybody: before and after each optimizer's step, around each
module's forward, and a function mode around losses, dropout, normalisation, ReLU and `Tensor.backward`. It
turns them into a few events, in the loop's own order, and tells them to `Watcher`s:

    Batch(trained)   what was computed since the last backward, told as the next one begins
    Batch(evaluated) what was computed after the last backward, told at a report
    backward, step   with what they took

What is computed under `no_grad` between two training steps (a teacher's targets, a generator's samples) is
neither: it is dropped. So is everything that other threads and processes compute, and what torch.func
transforms.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.nn import functional
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tunesmith_workers.losses import LOSSES, LossCall, look_at
from tunesmith_workers.rows import Rows, rows_of


@dataclass(frozen=True, slots=True)
class Forward:
    """One call of an outermost module that has parameters.

    `rows`: what it read, if that was data (no module of the loop had computed it). `inputs` and `output`
    are the loop's own tensors, and live no longer than the telling.
    """

    module: nn.Module
    training: bool
    grad: bool
    rows: Rows | None
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    output: Any


@dataclass(frozen=True, slots=True)
class Switch:
    """A layer that computes differently in training was called: `on` as in training."""

    kind: Literal["dropout", "norm"]
    on: bool
    grad: bool


@dataclass(frozen=True, slots=True)
class Rectified:
    """What a ReLU gave; `site` tells the ReLUs of one forward apart."""

    site: tuple[int, int]
    output: Tensor


@dataclass(slots=True)
class Batch:
    """What a loop computed for one backward pass, or for one report."""

    forwards: list[Forward] = field(default_factory=list)
    losses: list[LossCall] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)

    def trained(self) -> Batch:
        """Of it, what a gradient can flow through."""
        return Batch(
            [f for f in self.forwards if f.grad],
            [loss for loss in self.losses if loss.grad],
            [s for s in self.switches if s.grad],
        )


class Watcher:
    """Is told what happens; overrides what it needs."""

    def trained(self, batch: Batch) -> None: ...
    def evaluated(self, batch: Batch) -> None: ...
    def rectified(self, seen: Rectified) -> None: ...
    def forward_took(self, seconds: float) -> None: ...
    def backward_begins(self, root: Tensor) -> None: ...
    def backward_took(self, seconds: float) -> None: ...
    def step_begins(self, optimizer: torch.optim.Optimizer) -> None: ...
    def step_ended(self, optimizer: torch.optim.Optimizer, seconds: float) -> None: ...
    def reported(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def facts(self) -> dict[str, float]:
        """What it measured, by metric; what it did not see is left out."""
        return {}


class Stopwatch:
    """Time without what watching itself takes."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._hidden = clock, 0.0

    def now(self) -> float:
        return self._clock() - self._hidden

    @contextmanager
    def hidden(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self._hidden += self._clock() - began


class Watch(TorchFunctionMode):
    """Watches this thread while it is entered. A watcher may raise out of `step_ended` and `reported`."""

    def __init__(self, watchers: Sequence[Watcher], stopwatch: Stopwatch) -> None:
        super().__init__()
        self._watchers, self._stopwatch = watchers, stopwatch
        self._thread = threading.get_ident()
        self._pending = Batch()
        self._backwards = 0  # since the last step
        self._in_backward = False
        self._stepping = 0.0
        self._depth, self._forwarding = 0, 0.0
        self._relus = 0  # in the outermost forward
        self._reads_data: set[int] = set()  # modules whose input no other module computes
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        self._handles = [
            hooks.register_module_forward_pre_hook(self._forward_begins),
            hooks.register_module_forward_hook(self._forward_ended, with_kwargs=True, always_call=True),
            register_optimizer_step_pre_hook(self._step_begins),
            register_optimizer_step_post_hook(self._step_ended),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    # --- events ---------------------------------------------------------------------------------------

    def reported(self, step: int, metrics: Mapping[str, float]) -> None:
        """The loop reports: what it computed since its last backward was an evaluation."""
        with self._stopwatch.hidden():
            batch, self._pending = self._pending, Batch()
            for watcher in self._watchers:
                watcher.evaluated(batch)
            for watcher in self._watchers:
                watcher.reported(step, metrics)

    def broken_off(self) -> None:
        """The loop raised: tell what it had computed by then."""
        evaluated = Batch(losses=[loss for loss in self._pending.losses if not loss.grad])
        self._trained()
        for watcher in self._watchers:
            watcher.evaluated(evaluated)

    def _trained(self) -> None:
        batch, self._pending = self._pending.trained(), Batch()
        for watcher in self._watchers:
            watcher.trained(batch)

    def _backward(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._stopwatch.hidden():
            self._trained()
            self._backwards += 1
            for watcher in self._watchers:
                watcher.backward_begins(args[0])
        self._in_backward, began = True, self._stopwatch.now()
        try:
            return function(*args, **kwargs)
        finally:
            self._in_backward, took = False, self._stopwatch.now() - began
            with self._stopwatch.hidden():
                for watcher in self._watchers:
                    watcher.backward_took(took)

    def _step_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        with self._stopwatch.hidden():
            if not self._backwards:  # its gradients came another way than by Tensor.backward
                self._trained()
            self._backwards = 0
            for watcher in self._watchers:
                watcher.step_begins(optimizer)
        self._stepping = self._stopwatch.now()

    def _step_ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        took = self._stopwatch.now() - self._stepping
        with self._stopwatch.hidden():
            for watcher in self._watchers:
                watcher.step_ended(optimizer, took)

    # --- forwards -------------------------------------------------------------------------------------

    def _is_elsewhere(self) -> bool:
        is_again = self._in_backward  # recomputed for a gradient
        return is_again or threading.get_ident() != self._thread or _is_transformed()

    def _forward_begins(self, module: nn.Module, args: Any) -> None:
        if self._is_elsewhere():
            return
        if self._depth == 0:
            self._forwarding, self._relus = self._stopwatch.now(), 0
        self._depth += 1
        if isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1:
            self._switch("dropout", module.training)  # torch's kernels do it unseen

    def _forward_ended(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._is_elsewhere():
            return
        self._depth -= 1
        if self._depth > 0:
            return
        took = self._stopwatch.now() - self._forwarding
        with self._stopwatch.hidden():
            for watcher in self._watchers:
                watcher.forward_took(took)
            if next(module.parameters(), None) is not None:
                rows = self._rows(module, [*args, *kwargs.values()])
                grad = torch.is_grad_enabled()
                seen = Forward(module, module.training, grad, rows, (args, kwargs), output)
                self._pending.forwards.append(seen)
                if not grad or len(self._pending.forwards) > _KEPT:  # an evaluation goes on and on
                    oldest = -1 if not grad else -1 - _KEPT
                    self._pending.forwards[oldest] = _without_tensors(self._pending.forwards[oldest])

    def _rows(self, module: nn.Module, inputs: list[Any]) -> Rows | None:
        first = next((x for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim() > 0), None)
        if first is None or first.requires_grad or len(first) == 0:
            return None
        if torch.is_grad_enabled():
            self._reads_data.add(id(module))
        return rows_of(first) if id(module) in self._reads_data else None

    # --- functions ------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._in_backward or func not in _WATCHED or _is_transformed():
            return func(*args, **kwargs)
        if func is Tensor.backward:
            return self._backward(func, args, kwargs)
        if func in LOSSES:
            return self._loss(func, args, kwargs)
        if func in _RELUS:
            return self._relu(func, args, kwargs)
        for kind, on in switched(func, args, kwargs):
            self._switch(kind, on)
        return func(*args, **kwargs)

    def _loss(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._stopwatch.hidden():
            seen = look_at(function, args, kwargs)  # first: the call may raise, and this says why
            self._pending.losses.append(seen)
            if seen.out_of_range:
                raise IndexError(seen.refusal())  # on a GPU the call would leave a device that runs no more
        value = function(*args, **kwargs)
        with self._stopwatch.hidden():
            self._pending.losses[-1] = seen.gave(value)
        return value

    def _relu(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        if self._depth > 0 and torch.is_grad_enabled():
            with self._stopwatch.hidden():
                for watcher in self._watchers:
                    watcher.rectified(Rectified((self._depth, self._relus), output.detach()))
            self._relus += 1
        return output

    def _switch(self, kind: Literal["dropout", "norm"], on: bool) -> None:
        self._pending.switches.append(Switch(kind, on, torch.is_grad_enabled()))


_KEPT = 16
"""Newest forwards of which the loop's own tensors are kept until the backward that they are for."""


def _is_transformed() -> bool:
    """Whether torch.func's vmap, grad and the like compute: their tensors have no numbers to look at."""
    return peek_interpreter_stack() is not None


def _without_tensors(seen: Forward) -> Forward:
    return Forward(seen.module, seen.training, seen.grad, seen.rows, ((), {}), None)


# --- which functions behave differently in training -----------------------------------------------------

_DROPOUTS = frozenset(
    {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
    }
)
_ATTENTION = functional.multi_head_attention_forward
_SCALED_ATTENTION = functional.scaled_dot_product_attention
_RELUS = frozenset({functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
_WATCHED = frozenset(
    {*LOSSES, *_RELUS, *_DROPOUTS, Tensor.backward, functional.batch_norm, _ATTENTION, _SCALED_ATTENTION}
)


def switched(
    function: Callable[..., Any], args: Any, kwargs: Any
) -> Iterator[tuple[Literal["dropout", "norm"], bool]]:
    """What of a call depends on training or evaluating: (kind, whether it computes as in training)."""
    if function is _SCALED_ATTENTION:
        if kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0) > 0:
            yield "dropout", True
        return
    given = {**_defaults(function), **dict(zip(_names(function), args, strict=False)), **kwargs}
    if function is functional.batch_norm:
        if given["running_mean"] is not None:  # else it has no other way to compute
            yield "norm", bool(given["training"])
    elif given["dropout_p" if function is _ATTENTION else "p"] > 0:
        yield "dropout", bool(given["training"])


@lru_cache(maxsize=64)
def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


@lru_cache(maxsize=64)
def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not p.empty}
