"""Checks that train a little: whether the network can learn by heart, and learn at all."""

from __future__ import annotations

import math

from tunesmith_studies.checks.said import Known, Measured, Speaker, Verdicts, below, finite, share

BY_HEART = 0.05
"""Loss below which a few samples are known by heart …"""
FIRST_STEPS, OVERFIT_STEPS, OVERFIT_BATCH = 50, 300, 32
"""… within so many steps of one sample, and of a batch of so many (recipe §1.1) …"""
RATES = "5e-3,5e-4,3e-2"
"""… at one of these rates of Adam, in the order in which they are tried."""

LEARNT = 0.05
"""Below H(p) by this much, a validation loss shows learning rather than the class shares."""
SIGN = 5.0
"""Standard errors by which predictions must beat the same predictions dealt out at random."""

RELATED, ENOUGH = 3.0, 1000
"""Standard errors by which nearest neighbours must agree or disagree about labels for a training on a few
samples to be believed; samples of a class are alike, so one lucky guess about a class looks like many. Of so
many samples a lower loss is no luck."""

DEEP = 8
"""Layers with weights from which on depth is looked at."""


def overfit(m: Measured, known: Known) -> Verdicts:
    """One sample, four and a batch are learnt by heart, with regularisation and augmentation off."""
    everything = below(m, "check/overfit/")
    rule = (
        f"loss below {BY_HEART:g} and accuracy 100 % within {FIRST_STEPS} steps of 1 sample and "
        f"{OVERFIT_STEPS} of 4 and {OVERFIT_BATCH}"
    )
    say = Speaker(m, "overfit", rule)
    sizes = sorted({int(name.partition("/")[0]) for name in everything})
    if not sizes:
        return
    for size in sizes:
        found = below(everything, f"{size}/")
        reached, accuracy = found["loss"], found.get("accuracy", 1.0)
        if finite(reached) and reached < BY_HEART and accuracy == 1:
            continue
        what = "1 sample" if size == 1 else f"{size} samples"
        best = f"loss {reached:.3g}" + (f", accuracy {share(accuracy)}" if "accuracy" in found else "")
        tried = f"at the best of {found.get('tried', 1):g} rates"
        sentence = f"The network cannot learn {what} by heart: {best} {tried}."
        if finite(reached):
            yield say.fail(
                sentence,
                "look at outputs, loss and first weights, and whether gradients reach all layers",
            )
        yield say.fail(sentence, "rates or first weights are too large, or the loss divides by zero")
    steps = ", ".join(f"{size} in {everything[f'{size}/steps']:g} steps" for size in sizes)
    yield say.sound(f"Samples learnt by heart: {steps}.")


def zeroed(m: Measured, known: Known) -> Verdicts:
    """Without its inputs the trained network is worse."""
    found = below(m, "check/zeroed/")
    say = Speaker(m, "zeroed", "the loss on zeroed inputs is higher than on real ones (Karpathy 2019)")
    if not found or not finite(found["real_loss"], found["loss"]):
        return  # that nothing was learnt, overfitting says
    seen = f"loss {found['real_loss']:.3f} on real inputs, {found['loss']:.3f} on zeroed ones"
    step = "look at what forward does with its input"
    if found.get("change", 1.0) < 1e-5:
        yield say.fail(f"The outputs do not depend on the inputs: {seen}.", step)
    if found["loss"] <= found["real_loss"] < 10 * BY_HEART:
        yield say.fail(f"Zeroed inputs serve as well as real ones: {seen}.", step)
    yield say.sound(f"Inputs matter: {seen}.")


def generalise(m: Measured, known: Known) -> Verdicts:
    """Training on a few samples says something about validation."""
    everything = below(m, "check/generalise/")
    rule = (
        f"predictions {SIGN:g} standard errors better than dealt out at random, or validation loss below "
        f"H(p) - {LEARNT:g}"
    )
    say = Speaker(m, "generalise", rule)
    sizes = sorted({int(name.partition("/")[0]) for name in everything if name[0].isdigit()})
    if not sizes:
        return
    last = _reached(everything, sizes[-1])
    renamed, own = everything.get("relabelled", 0.0), everything.get(f"{sizes[-1]}/accuracy", 1.0)
    offset = everything.get("offset", 0.0)
    neighbours = everything.get("neighbours", math.inf)
    related = abs(neighbours) > RELATED
    worse = any(everything.get(f"{n}/z", 0.0) < -SIGN for n in sizes)
    if related and (worse or (offset and renamed > 2 * own)):
        how = _moved(offset, m.get("check/labels/classes", 0.0)) if offset else "their classes are renamed"
        sentence = f"Validation labels contradict training's: {last}, and accuracy {share(renamed)} if {how}."
        yield say.fail(sentence, "number the classes alike in both splits")
    if exchanged := everything.get("exchanged", 0.0):
        sentence = (
            f"{exchanged:g} classes of validation have exchanged their names: most rows of each stand beside "
            f"training rows of another ({last})."
        )
        yield say.fail(sentence, "number the classes alike in both splits")
    for n in sizes:
        if shows_learning(m, n) and (related or (n >= ENOUGH and is_below_the_prior(m, n))):
            sentence = (
                f"{n} training samples already say something about validation: {_reached(everything, n)}."
            )
            yield say.sound(sentence)
    if not related and shows_learning(m, sizes[-1]):
        sentence = (
            f"What {sizes[-1]} training samples say about validation may be luck: {last}, while nearest "
            f"neighbours agree about labels by {neighbours:.1f} sd."
        )
        yield say.warn(sentence, "look whether each label belongs to its row; validate on more samples")
    sentence = f"Training on up to {sizes[-1]} samples says nothing about validation: {last}."
    if everything.get("neighbours", 0.0) > SIGN:
        step = "nearest neighbours do better, so the labels are sound: look at rate, loss and evaluation"
        yield say.warn(sentence, step)
    yield say.fail(
        sentence, "look whether each label belongs to its row: shuffled or shifted rows look like this"
    )


def _moved(offset: float, classes: float) -> str:
    """Offsets are counted round: one less than all classes is one back."""
    if offset > classes / 2:
        return f"they are training's minus {classes - offset:g}"
    return f"they are training's plus {offset:g}"


def shows_learning(m: Measured, size: int) -> bool:
    """Whether training on `size` samples has shown that something general was learnt."""
    return is_below_the_prior(m, size) or m.get(f"check/generalise/{size}/z", 0.0) > SIGN


def is_below_the_prior(m: Measured, size: int) -> bool:
    threshold = m.get("check/balance/entropy", -math.inf) - LEARNT
    return m.get(f"check/generalise/{size}/loss", math.inf) < threshold


def _reached(everything: Measured, size: int) -> str:
    accuracy = everything.get(f"{size}/accuracy")
    said = (
        f"loss {everything[f'{size}/loss']:.3f}, gain over chance {everything.get(f'{size}/z', 0.0):.1f} sd"
    )
    return said if accuracy is None else f"accuracy {share(accuracy)}, {said}"


def depth(m: Measured, known: Known) -> Verdicts:
    """A deep network should beat a linear one."""
    found = below(m, "check/depth/")
    say = Speaker(
        m, "depth", f"from {DEEP} layers with weights on, better than a linear model of the same samples"
    )
    if "layers" not in found:
        return
    layers = found["layers"]
    if layers >= DEEP and "linear" in found:
        own, linear = found["accuracy"], found["linear"]
        error = math.sqrt(linear * (1 - linear) / max(found.get("rows", 1.0), 1.0))
        seen = f"{layers:g} layers reach accuracy {share(own)}, a linear model {share(linear)}"
        if own <= linear + 2 * error:
            step = (
                f"start with a fifth of the layers, {max(1, round(layers / 5))}, and add more while it helps"
            )
            yield say.warn(f"Deeper than the data seem to need: {seen}.", step)
        yield say.sound(f"Depth pays: {seen}.")
    yield say.sound(f"The network has {layers:g} layers with weights.")
