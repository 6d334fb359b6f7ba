"""What one trial's curve shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_studies.curves import epochs_since_best
from tunesmith_studies.diagnosis.shapes import (
    Losses,
    gain_of_the_end,
    generalisation_loss,
    line,
    losses_of,
    relative_noise,
    smooth,
)
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.space import Scalar
from tunesmith_studies.study import StudySpec
from tunesmith_studies.trial import Trial

FEWEST_POINTS = 5
"""A shorter curve says only whether it diverged."""
FEWEST_TO_SAY_HOW_MUCH = 10
"""Of a shorter one the means of three points reach too far back to be called its last fifth."""

OVERFIT_GL = 5.0  # per cent above the best; Prechelt 1998, GL_5
STILL_GAINING = 0.02  # of the loss, over the last fifth of the run
SMALL_GAP = 0.05  # of the validation loss, between training and validation
NOISY = 0.10  # spread around the trend, as a share of the level, in the second half
FALLS = 0.01  # of the loss an epoch: still worth training
STRAIGHT = 0.98  # R² of a line: the rate has not met curvature yet
AT_CHANCE = 0.95  # of what a constant prediction costs
JUMPS = 0.02  # of the level, of a loss that rests at chance
BLOWN_UP = 3.0  # times what a constant prediction costs
BETTER_VALIDATION = 0.10  # of the training loss
LEARNT_LITTLE = 0.3  # of what chance costs: a plateau above it is high

REGULARISERS = (
    "dropout",
    "mixup",
    "cutmix",
    "cutout",
    "erasing",
    "noise",
    "crop",
    "rotation",
    "label_smoothing",
)
"""Each makes the training loss larger than the loss of the same samples without it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A trial with enough of a curve to be judged.

    Attributes:
        chance: loss of a constant prediction (entropy of the class prior), or None if nobody measured it.
        target: what the loss could be, as the study says, or None.
    """

    trial: Trial
    losses: Losses
    chance: float | None
    target: float | None

    @property
    def chance_or_first(self) -> float:
        return self.chance if self.chance is not None else max(self.losses.val[0], self.losses.train[0])

    @property
    def second_half(self) -> tuple[float, ...]:
        return self.losses.train[len(self.losses) // 2 :]

    def gap(self) -> float:
        """Validation less training loss at the end, as a share of the validation loss."""
        train, val = smooth(self.losses.train)[-1], smooth(self.losses.val)[-1]
        return (val - train) / abs(val) if val else 0.0

    def finding(
        self, kind: str, level: Any, sentence: str, rule: str, next_step: str, **numbers: Any
    ) -> Finding:
        return Finding(kind, level, sentence, rule, next_step, numbers, (self.trial.number,))


def of_trial(trial: Trial, study: StudySpec, *, chance: float | None = None) -> tuple[Finding, ...]:
    """What this trial's curve shows, the gravest first; empty of a trial that measures or has no losses.

    Args:
        chance: loss of a constant prediction, in the loss's unit; preflight measures it.

    Source: thresholds of the recipe §2.2; GL from Prechelt, "Early stopping – but when?", 1998;
        the horizontal validation loss from Smith, arXiv 1803.09820 §3.
    """
    if trial.work.kind != "train" or not trial.curve:
        return ()
    if (diverged := _diverged(trial)) is not None:
        return (diverged,)
    losses = losses_of(trial)
    if losses is None or len(losses) < FEWEST_POINTS:
        return ()
    target = study.objective.target if study.objective.metric == "val/loss" else None
    seen = Seen(trial, losses, chance, target)
    main = next((f for rule in _MAIN if (f := rule(seen)) is not None), None)
    beside = [f for rule in _BESIDE if (f := rule(seen)) is not None]
    return gravest_first(([main] if main else []) + beside)


def _diverged(trial: Trial) -> Finding | None:
    losses = [
        (p.step, m)
        for p in trial.curve
        for n in ("val/loss", "train/loss")
        if (m := p.metrics.get(n)) is not None
    ]
    broken = next((step for step, value in losses if not math.isfinite(value)), None)
    vals = [v for _, v in trial.metric("val/loss") if math.isfinite(v)]
    rose = len(vals) > 1 and vals[-1] > 4 * min(vals) and trial.is_diverged
    if broken is None and not rose and not trial.is_diverged:
        return None
    what = (
        f"The loss was no number any more at step {broken}"
        if broken is not None
        else f"The validation loss rose to {vals[-1]:.4g} from its best {min(vals):.4g}"
        if vals
        else "The loss left all bounds"
    )
    return Finding(
        "diverged",
        "warn",
        f"{what}{_at_rate(trial.params)}.",
        "NaN or infinity, or a loss above 4 × its best and 3 × log C (the stop of fastai and Lightning)",
        f"{_rate(trial.params, 1 / 3, 1 / 10)}, warm up, or clip the gradient (clip_norm: 1).",
        {"step": broken, "val_losses": vals[-5:]},
        (trial.number,),
    )


# --- what the curve as a whole is: the first that fits ------------------------------------------------


def _rate_too_high(seen: Seen) -> Finding | None:
    """Steps that are too long leave a loss that blew up and rests at chance, or one that keeps jumping."""
    noise = relative_noise(seen.losses.means[len(seen.losses) // 2 :])
    how = _blown(seen) or _collapsed(seen) or _jumping(seen, noise)
    if how is None:
        return None
    return seen.finding(
        "rate_too_high",
        "warn",
        f"The rate looks too high: {how}{_at_rate(seen.trial.params)}.",
        "validation above 3 × chance; or no better than chance after having been far from it, or held above "
        f"it; or jumps above {NOISY:.0%} of the level in the second half without falling",
        f"{_rate(seen.trial.params, 1 / 3, 1 / 10)}, or let it fall over the run (schedule: cosine).",
        noise=noise,
        chance=seen.chance,
    )


def _blown(seen: Seen) -> str | None:
    val = seen.losses.val[-1]
    if seen.chance is None or val <= BLOWN_UP * seen.chance:
        return None
    return f"validation ends at {val:.4g}, where a constant prediction costs {seen.chance:.4g}"


def _collapsed(seen: Seen) -> str | None:
    """It ends at chance, but was far above it, or far below it, before; or validation jumps about it."""
    if not _at_chance(seen):
        return None
    assert seen.chance is not None
    highest, lowest = max(seen.losses.train[:2]), min(seen.losses.train)
    jumps = relative_noise(seen.losses.val[len(seen.losses) // 2 :])
    end = f"training ends at {smooth(seen.losses.train)[-1]:.4g}, no better than a constant prediction"
    if highest > 1.5 * seen.chance:
        return f"{end}, after it had begun at {highest:.4g}"
    if lowest < 0.8 * seen.chance:
        return f"{end}, after it had been at {lowest:.4g}"
    if jumps > JUMPS:
        return f"{end}, while validation jumps by {jumps:.0%}"
    trend = line(seen.second_half)
    falls = trend.slope < 0 and trend.r2 > 0.5
    held = min(seen.second_half) > (1 + JUMPS / 2) * seen.chance and not falls
    return f"{end}, and held above its {seen.chance:.4g} by the size of the steps" if held else None


def _jumping(seen: Seen, noise: float) -> str | None:
    falls = -line(seen.second_half).slope / max(abs(seen.second_half[0]), 1e-12)
    if noise <= NOISY or falls >= FALLS or seen.losses.train[-1] <= LEARNT_LITTLE * seen.chance_or_first:
        return None
    return f"the training loss jumps by {noise:.0%} of its level from point to point, and falls no more"


def _at_chance(seen: Seen) -> bool:
    return seen.chance is not None and smooth(seen.losses.train)[-1] > AT_CHANCE * seen.chance


def _rate_too_low(seen: Seen) -> Finding | None:
    trend = line(seen.second_half)
    falls = -trend.slope / max(abs(seen.losses.train[-1]), 1e-12)
    slow = falls >= FALLS and trend.r2 > STRAIGHT and abs(seen.gap()) < SMALL_GAP
    stands = 0 < falls < FALLS and trend.r2 > STRAIGHT and _hardly_learnt(seen)
    if not (slow or stands) or not _hardly_learnt(seen):
        return None
    return seen.finding(
        "rate_too_low",
        "warn",
        f"The rate looks too low: the training loss still falls by {falls:.1%} an epoch at the end, in a "
        f"straight line (R² {trend.r2:.3f}), and validation follows it{_at_rate(seen.trial.params)}.",
        f"falls in a line of R² > {STRAIGHT} with training and validation within {SMALL_GAP:.0%}",
        f"{_rate(seen.trial.params, 3)}.",
        fall_per_epoch=falls,
        r2=trend.r2,
        gap=seen.gap(),
    )


def _hardly_learnt(seen: Seen) -> bool:
    return seen.losses.train[-1] > LEARNT_LITTLE * seen.chance_or_first


def _overfit(seen: Seen) -> Finding | None:
    gl = generalisation_loss(seen.losses.val)
    best_at = min(range(len(seen.losses)), key=lambda i: seen.losses.val[i])
    since = seen.losses.train[best_at:]
    if gl <= OVERFIT_GL or len(since) < 2 or since[-1] >= since[0]:
        return None
    best_step = seen.trial.metric("val/loss")[best_at][0]
    return seen.finding(
        "overfit",
        "warn",
        f"It overfits: the validation loss ends {gl:.0f} % above its best of step {best_step}, while the "
        f"training loss fell from {since[0]:.4g} to {since[-1]:.4g}.",
        f"validation {OVERFIT_GL:.0f} % above its best (GL of Prechelt) while training still falls",
        "More weight decay, dropout or augmentation, more data, or stop earlier (early_stopping).",
        gl_percent=gl,
        best_step=best_step,
        gap=seen.gap(),
    )


def _underfit(seen: Seen) -> Finding | None:
    gain = min(gain_of_the_end(seen.losses.train), gain_of_the_end(seen.losses.val))
    goal = seen.target if seen.target is not None else LEARNT_LITTLE * seen.chance_or_first
    level = smooth(seen.losses.train)[-1]
    if abs(seen.gap()) >= SMALL_GAP or gain > STILL_GAINING or level <= goal * (1 + SMALL_GAP):
        return None
    against = (
        f"the target {goal:.4g}" if seen.target is not None else f"{LEARNT_LITTLE:.0%} of what chance costs"
    )
    return seen.finding(
        "underfit",
        "warn",
        f"It underfits: training ({level:.4g}) and validation are within {abs(seen.gap()):.1%} of each "
        f"other, and gained {max(gain, 0):.1%} over the last fifth of the run, above {against}.",
        f"gap below {SMALL_GAP:.0%}, gain below {STILL_GAINING:.0%}, level above the goal",
        "A wider or deeper network, less weight decay and dropout, or another rate; then longer runs.",
        gap=seen.gap(),
        gain=gain,
        train_loss=level,
        goal=goal,
    )


def _no_learning(seen: Seen) -> Finding | None:
    if not _at_chance(seen):
        return None
    assert seen.chance is not None
    end = smooth(seen.losses.train)[-1]
    return seen.finding(
        "no_learning",
        "warn",
        f"It learns nothing: training ends at {end:.4g}, and a constant prediction costs {seen.chance:.4g}.",
        f"training above {AT_CHANCE:.0%} of the entropy of the class prior",
        "Less weight decay or dropout, or another rate; if preflight overfits a batch and nothing helps, "
        "the labels may have nothing to do with the inputs.",
        train_loss=end,
        chance=seen.chance,
    )


def _still_improving(seen: Seen) -> Finding | None:
    gain = gain_of_the_end(seen.losses.val)
    if gain <= STILL_GAINING:
        return None
    short = len(seen.losses) < FEWEST_TO_SAY_HOW_MUCH
    how = "was still falling" if short else f"gained {gain:.1%} over the last fifth of the run"
    return seen.finding(
        "still_improving",
        "info",
        f"It was still getting better: the validation loss {how}.",
        f"more than {STILL_GAINING:.0%} in the last 20 % of the run",
        "Train longer before judging it, or raise the rate.",
        gain=gain,
    )


def _good(seen: Seen) -> Finding | None:
    gl = generalisation_loss(seen.losses.val)
    if gl > OVERFIT_GL:
        return None
    level = smooth(seen.losses.val)[-1]
    return seen.finding(
        "horizontal",
        "info",
        f"The validation loss has become horizontal at {level:.4g}, {gl:.1f} % above its best: capacity, "
        "regularisation and length of training are in balance here.",
        "gain below 2 % over the last fifth, and at most 5 % above the best (Smith, arXiv 1803.09820 §3)",
        "A good place for weight-decay restarts and a 1cycle run.",
        gl_percent=gl,
        val_loss=level,
    )


_MAIN: tuple[Callable[[Seen], Finding | None], ...] = (
    _rate_too_high, _overfit, _rate_too_low, _no_learning, _underfit, _still_improving, _good,
)  # fmt: skip


# --- what may be said beside it -----------------------------------------------------------------------


def _training_rises(seen: Seen) -> Finding | None:
    """A loss that rises while it is minimised is a fault of the code more often than of the rate."""
    low, last = min(smooth(seen.losses.train)), smooth(seen.losses.train)[-1]
    rise = last / low - 1 if low > 0 else 0.0
    if (
        rise <= 0.2
        or relative_noise(seen.second_half) > NOISY
        or seen.losses.train[-1] < 0.02 * seen.chance_or_first
    ):
        return None
    return seen.finding(
        "training_rises",
        "warn",
        f"The training loss itself rose: {last:.4g} at the end, {low:.4g} at its best.",
        "more than 20 % above its own best, without jumping",
        "Lower the rate; if that does not help look for a fault: gradients that add up, a sign, wrong rows.",
        rise=rise,
    )


def _validation_better(seen: Seen) -> Finding | None:
    """After the first epochs, without anything that makes training harder than validation."""
    made_harder = [n for n in REGULARISERS if _is_on(seen.trial.params.get(n, 0))]
    last = slice(-3, None)
    train, val = seen.losses.train[last], seen.losses.val[last]
    better = 1 - max(v / t if t > 0 else 1.0 for t, v in zip(train, val, strict=True))
    if made_harder or better <= BETTER_VALIDATION or gain_of_the_end(seen.losses.train) > 0.1:
        return None
    return seen.finding(
        "validation_better",
        "warn",
        f"Validation ({val[-1]:.4g}) is better than training ({train[-1]:.4g}) by more than {better:.0%}, "
        "and nothing here makes training harder than validation.",
        f"by more than {BETTER_VALIDATION:.0%} in the last three points, without dropout or augmentation",
        "Look for training rows in the validation split, an easier validation split, or layers that stay in "
        "training mode.",
        share=better,
    )


def _is_on(value: Scalar) -> bool:
    return value not in (0, False, "", "none")


def _saturated(seen: Seen) -> Finding | None:
    stale = epochs_since_best(seen.losses.val, gain=0.001)
    share = 1 - stale / len(seen.losses)
    if share >= 0.5 or seen.trial.start is not None:
        return None
    return seen.finding(
        "saturated_early",
        "info",
        f"Its best came after {share:.0%} of the run; the rest gained less than 0.1 %.",
        "best before half of the run",
        "Shorter runs tell as much here.",
        share=share,
    )


_BESIDE: tuple[Callable[[Seen], Finding | None], ...] = (_training_rises, _validation_better, _saturated)


# --- words --------------------------------------------------------------------------------------------


def _at_rate(params: Mapping[str, Scalar]) -> str:
    lr = params.get("lr")
    return f" (lr {lr:.4g})" if isinstance(lr, int | float) and not isinstance(lr, bool) else ""


def _rate(params: Mapping[str, Scalar], *factors: float) -> str:
    """`Lower the rate from 0.3 to 0.1 or 0.03`, with numbers if it is known."""
    lr = params.get("lr")
    verb = "Raise" if factors[0] > 1 else "Lower"
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        return f"{verb} the rate"
    return f"{verb} the rate from {lr:.3g} to " + " or ".join(f"{lr * f:.2g}" for f in factors)
