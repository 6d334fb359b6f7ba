"""Learning-rate schedules by name: torch's own classes, with a trial's hyperparameters.

t is the epoch from 0, lr0 the trial's `lr`.

| schedule | rate in epoch t | reads | torch |
|---|---|---|---|
| constant | lr0 | | ConstantLR |
| inverse_time | lr0 / (1 + decay·t) | decay (0.1) | LambdaLR |
| step | lr0 · gamma^⌊t / step_size⌋ | gamma (0.1), step_size (a third of the epochs) | StepLR |
| exponential | lr0 · gamma^t | gamma (0.95) | ExponentialLR |
| inverse_sqrt | lr0 / √(1 + t) | | LambdaLR |
| cosine | from lr0 to 0 over the epochs | | CosineAnnealingLR |
| piecewise | lr0 · gamma^(milestones passed) | gamma (0.1), milestones ("0.5,0.75") | MultiStepLR |
| one_cycle | up to lr0 and down, each step | see `_one_cycle` | OneCycleLR |

With `cooldown` c the rate of those that do not know the length (constant, inverse_time,
exponential, inverse_sqrt) falls to 0 in a straight line over the last share c of the steps.

A schedule is a function of the position in training and of the trial's own hyperparameters, so a
snapshot does not hold one: `replay` takes a fresh schedule to a position by stepping it there,
which gives the same rates to the bit. That is also what makes a branch follow its own rate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)
from tunesmith_studies.vocabulary import ANY_LENGTH_SCHEDULES, HYPERPARAMETERS

from tunesmith_workers.optim import Params, real, whole, word


@dataclass(frozen=True, slots=True)
class Length:
    """How long a trial trains: `epochs` in all, of `steps` optimizer steps each.

    Where the budget counts optimizer steps, `total` is how many there are in all: what goes by shares of
    the run (cosine, step, piecewise) then goes by steps, so that the run may end within an epoch.
    """

    epochs: int
    steps: int
    total: int | None = None

    @property
    def all_steps(self) -> int:
        return self.epochs * self.steps if self.total is None else self.total

    @property
    def units(self) -> int:
        """The run in what such a schedule counts: epochs, or optimizer steps."""
        return self.epochs if self.total is None else self.total

    @property
    def epoch_units(self) -> int:
        """An epoch in it."""
        return 1 if self.total is None else self.steps


@dataclass(frozen=True, slots=True)
class Schedule:
    """A scheduler of torch and when to step it: after each optimizer step, or after each epoch."""

    scheduler: LRScheduler
    per: Literal["step", "epoch"]

    def after(self, what: Literal["step", "epoch"]) -> None:
        if what == self.per and not self._is_over:
            self.scheduler.step()

    @property
    def _is_over(self) -> bool:
        """Whether the last step of a run of known length is done: a straight line would go on below 0."""
        scheduler = self.scheduler
        return isinstance(scheduler, OneCycleLR) and scheduler.last_epoch >= scheduler.total_steps - 1

    def replay(self, epoch: int, step: int, length: Length) -> None:
        """Bring a fresh schedule to where it stands after `epoch` epochs and `step` steps."""
        last = length.all_steps - 1
        advance(self.scheduler, epoch if self.per == "epoch" else min(epoch * length.steps + step, last))


def advance(scheduler: LRScheduler, count: int) -> None:
    """Step a scheduler `count` times without its optimizer."""
    with warnings.catch_warnings():
        # torch warns of a scheduler stepped before its optimizer, which is what is meant here.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        for _ in range(count):
            scheduler.step()


def _constant(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _inverse_time(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    return LambdaLR(optimizer, _FACTORS["inverse_time"](params))


def _step(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    size = max(1, length.units // 3)
    if "step_size" in params:
        size = whole(params, "step_size") * length.epoch_units
    return StepLR(optimizer, step_size=size, gamma=real(params, "gamma", 0.1))


def _exponential(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    return ExponentialLR(optimizer, gamma=real(params, "gamma", 0.95))


def _inverse_sqrt(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    return LambdaLR(optimizer, _FACTORS["inverse_sqrt"](params))


def _cosine(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=length.units)


def _piecewise(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    milestones = [
        round(v * length.units) if v < 1 else int(v) * length.epoch_units for v in _milestones(params)
    ]
    return MultiStepLR(optimizer, milestones=milestones, gamma=real(params, "gamma", 0.1))


def _milestones(params: Params) -> list[float]:
    """Epochs at which the rate falls, from a text such as "10,15", or as shares of the run: "0.5,0.75"."""
    text = str(params.get("milestones", HYPERPARAMETERS["milestones"].default))
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f'milestones must be numbers with commas between, such as "10,15", got {text!r}'
        ) from None
    if any(not math.isfinite(v) or v <= 0 for v in values) or values != sorted(set(values)):
        raise ValueError(f"milestones must rise from above 0, got {text!r}")
    return values


def _one_cycle(optimizer: Optimizer, params: Params, length: Length) -> LRScheduler:
    """torch's OneCycleLR with `lr` as its peak.

    Without `annihilation` (0) the rate rises over pct_start (0.3) of the run and falls over the rest,
    on cosines. With it the cycle is two equal straight lines, from the first rate up to the peak and
    back, and the rate falls from the first to the last over that share of the run: Smith & Topin,
    arXiv 1708.07120, and Smith, 1803.09820, whose examples give the last 10 to 15 % to it.

    Reads div_factor (25), final_div_factor (1e4), and momentum_low (0.85) and momentum_high (0.95),
    between which momentum, or Adam's beta1, falls while the rate rises, and back. An optimizer
    without momentum keeps none.
    """
    group = optimizer.param_groups[0]
    total = length.all_steps
    annihilation = real(params, "annihilation")
    share = (1 - annihilation) / 2 if annihilation else real(params, "pct_start")
    rising = min(share, 1 - 1 / total)
    if rising * total == 1:  # torch divides by the rise's length less one step
        rising = math.nextafter(rising, 0)
    return OneCycleLR(
        optimizer,
        max_lr=group["lr"],
        total_steps=total,
        pct_start=rising,
        anneal_strategy="linear" if annihilation else "cos",
        three_phase=bool(annihilation),
        div_factor=real(params, "div_factor"),
        final_div_factor=real(params, "final_div_factor"),
        cycle_momentum=group.get("momentum", 0.0) > 0 or "betas" in group,
        base_momentum=real(params, "momentum_low"),
        max_momentum=real(params, "momentum_high"),
    )


_BUILDERS: Mapping[str, Callable[[Optimizer, Params, Length], LRScheduler]] = {
    "constant": _constant,
    "inverse_time": _inverse_time,
    "step": _step,
    "exponential": _exponential,
    "inverse_sqrt": _inverse_sqrt,
    "cosine": _cosine,
    "piecewise": _piecewise,
    "one_cycle": _one_cycle,
}


def _cooled(optimizer: Optimizer, params: Params, length: Length, cooldown: float) -> LRScheduler:
    """The schedule's own rate, times what is left of the cooldown; stepped after each optimizer step.

    A run of S steps cools over round(c · S) of them, n: its k-th step from the end has k / (n + 1) of the
    rate. Source: Hägele et al., arXiv 2405.18392, who let a constant rate end so.
    """
    own = _FACTORS[word(params, "schedule")](params)
    total, cooling = length.all_steps, round(cooldown * length.all_steps)

    def factor(step: int) -> float:
        return own(step // length.steps) * min(1.0, max(total - step, 0) / (cooling + 1))

    return LambdaLR(optimizer, factor)


_FACTORS: Mapping[str, Callable[[Params], Callable[[int], float]]] = {
    "constant": lambda params: lambda t: 1.0,
    "inverse_time": lambda params: lambda t: 1 / (1 + real(params, "decay") * t),
    "exponential": lambda params: lambda t: real(params, "gamma", 0.95) ** t,
    "inverse_sqrt": lambda params: lambda t: 1 / math.sqrt(1 + t),
}
"""Rate in epoch t over the trial's `lr`, of each schedule that does not know the length."""


def make_schedule(optimizer: Optimizer, params: Params, length: Length) -> Schedule:
    """The schedule that `params` describe. Raises ValueError on a name or value that makes none."""
    name = word(params, "schedule")
    if cooldown := real(params, "cooldown"):
        if name not in _FACTORS:
            raise ValueError(
                f"cooldown goes with {', '.join(_FACTORS)}; the schedule {name} has an end of its own"
            )
        return Schedule(_cooled(optimizer, params, length, cooldown), per="step")
    scheduler = _BUILDERS[name](optimizer, params, length)
    by_shares = name not in ANY_LENGTH_SCHEDULES and length.total is not None
    return Schedule(scheduler, per="step" if by_shares or name == "one_cycle" else "epoch")


def needs_length(params: Params) -> bool:
    """Whether the rates depend on how long the run will be, so that a budget in seconds cannot have them."""
    name = word(params, "schedule")
    if real(params, "cooldown"):
        return True
    if name == "step":
        return "step_size" not in params
    if name == "piecewise":
        return min(_milestones(params)) < 1
    return name not in ANY_LENGTH_SCHEDULES
