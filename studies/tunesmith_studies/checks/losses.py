"""Checks of the loss: how it is put together, and where it starts."""

from __future__ import annotations

import math

from tunesmith_studies.checks.said import Known, Measured, Speaker, Verdicts, below, finite, plural, share

NEAR_CHANCE = 0.2
"""An initial loss this much, relative, beside log C or H(p) is near it (recipe §1.1)."""
FAR_FROM_CHANCE = 3.0
"""Times a guess's loss above which a first loss has diverged (recipe §2.2)."""

SAME_LOSS = 0.1
"""Relative difference of a batch's loss and of its samples' own mean loss that rounding explains."""
LEAST_BATCH = 4  # in which a sum and a mean can be told apart


def loss(m: Measured, known: Known) -> Verdicts:
    """The loss of a batch is its samples' mean, one number a sample, and never below zero."""
    found = below(m, "check/loss/")
    rule = f"one number a sample; a batch's loss within {share(SAME_LOSS)} of its samples' mean; at least 0"
    say = Speaker(m, "loss", rule)
    if not found:
        return
    batch, alone = found.get("batch", 1.0), found.get("alone", 0.0)
    values, ratio = found.get("values", batch), _ratio(found)
    if values != batch:
        # the trainer divides by the batch: a sum comes out right there, and a mean too small
        how = "averaged" if ratio < 2 / batch else "summed"
        sentence = f"The loss gives {plural(values, 'number')} for {batch:g} samples: it is {how} already."
        yield say.fail(sentence, "give one loss a sample: reduction='none'")
    if ratio > batch / 2 and batch >= LEAST_BATCH:
        many = f"a batch of {batch:g} gives {ratio:.3g} times its samples' mean"
        sentence = f"The loss is summed, not averaged: {many}."
        yield say.fail(sentence, "average over the batch")
    if abs(ratio - 1) > SAME_LOSS:
        sentence = f"A batch of {batch:g} has {ratio:.3g} times the mean loss of its samples."
        yield say.fail(
            sentence, "let a sample's loss depend on that sample alone, and average over the batch"
        )
    lowest = min(found.get("lowest", 0.0), alone)
    if lowest < -1e-4 and m.get("check/labels/classes"):
        step = "look at its sign; a loss that reads log-probabilities needs log_softmax before it"
        yield say.fail(f"The loss falls below zero, to {lowest:.3g}: no cross-entropy does.", step)
    yield say.sound(f"A batch of {batch:g} has its samples' mean loss.")


def _ratio(found: Measured) -> float:
    alone, together = found.get("alone", 0.0), found.get("together", 0.0)
    return together / alone if alone and together and finite(alone, together) else 1.0


def initial_loss(m: Measured, known: Known) -> Verdicts:
    """A fresh model guesses: log C, or H(p) if its last bias is set to the prior."""
    found = below(m, "check/initial/")
    rule = (
        f"within {share(NEAR_CHANCE)} of log C or H(p) (Karpathy 2019); fails from {FAR_FROM_CHANCE:g} log C"
    )
    say = Speaker(m, "initial_loss", rule, "check/initial/")
    if "loss" not in found:
        return
    seen, guess, expected = found["loss"], _guess(m), _expected(m)
    if not finite(seen):
        yield say.fail(f"The first loss is {seen}.", "look for huge inputs and huge first weights")
    if guess is None:
        yield say.sound(f"A fresh model's loss is {seen:.4g}; without classes none is expected.")
        return
    if wrong := _scaled(m, seen):
        yield say.fail(*wrong)
    if seen < (1 - NEAR_CHANCE) * min(guess, m.get("check/balance/entropy", guess)):
        sentence = f"A fresh model's loss of {seen:.3f} is below a guess ({expected})."
        yield say.warn(sentence, "it knows something already: pretrained weights, or labels among the inputs")
    if seen > (1 + (NEAR_CHANCE if _is_entropy(m) else 1.0)) * guess:
        prior = found.get("prior_loss", 0.0) - m.get("check/balance/entropy", guess)
        if prior > (seen - guess) / 2:
            why, step = "it prefers some classes whatever the input", "set the last bias to 0, or to log p"
        else:
            why, step = (
                "its outputs are too large",
                "make the last layer's first weights smaller; normalise the inputs",
            )
        sentence = f"A fresh model's loss of {seen:.3f} is above a guess ({expected}): {why}."
        yield say.fail(sentence, step) if seen > FAR_FROM_CHANCE * guess else say.warn(sentence, step)
    yield say.sound(f"A fresh model's loss is {seen:.3f} ({expected}).")


def _chance(m: Measured) -> float | None:
    """log C, if there are classes."""
    classes = m.get("check/labels/classes", m.get("check/labels/width", 0.0))
    return math.log(classes) if classes >= 2 else None


def _guess(m: Measured) -> float | None:
    """What a guess costs: as measured, for losses that are no cross-entropy; else log C."""
    chance, measured = _chance(m), m.get("check/initial/guess", math.nan)
    if chance is None:
        return None
    return measured if finite(measured) and measured > 0 else chance


def _is_entropy(m: Measured) -> bool:
    """Whether a guess costs log C, as with a cross-entropy; other losses may start at twice a guess's."""
    chance, guess = _chance(m), _guess(m)
    return chance is not None and guess is not None and abs(guess / chance - 1) < 0.01


def _expected(m: Measured) -> str:
    chance, guess = _chance(m), _guess(m)
    if not _is_entropy(m):
        return f"which costs {guess:.3g}" if guess is not None else ""
    entropy = m.get("check/balance/entropy")
    prior = f", H(p) = {entropy:.3f}" if entropy is not None else ""
    return f"log C = {chance:.3f}{prior}"


def _scaled(m: Measured, seen: float) -> tuple[str, str] | None:
    """What to say of a loss that is a batch's size away from log C."""
    batch, chance = m.get("check/loss/batch", m.get("time/batch", 1.0)), _chance(m)
    if chance is None or batch < LEAST_BATCH or not finite(seen) or seen <= 0:
        return None
    if abs(math.log(seen / chance / batch)) < NEAR_CHANCE:
        many = f"{batch:g}, the batch, times log C = {chance:.3f}"
        return (
            f"The first loss of {seen:.3f} is {many}: it is summed, not averaged.",
            "average the loss over the batch",
        )
    if abs(math.log(seen / chance * batch)) < NEAR_CHANCE:
        part = f"log C = {chance:.3f} over {batch:g}, the batch"
        return (
            f"The first loss of {seen:.4f} is {part}: it is divided twice.",
            "divide the loss by the batch once",
        )
    return None
