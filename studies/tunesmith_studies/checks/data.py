"""Checks of the data: labels and inputs, each for itself."""

from __future__ import annotations

from tunesmith_studies.checks.said import Known, Measured, Speaker, Verdicts, below, plural, share

RARE = 0.1
"""A class with less than this part of its even share is rare …"""
COMMON = 0.75
"""… and one with more than this share of all samples hides the others."""

RUNS = 0.3
"""Of the way from a random order to sorted labels: more than this is sorted."""

FAR, WIDE, NARROW = 3.0, 5.0, 0.05
"""Inputs are far from zero above this mean, wide above this deviation, narrow below that one."""

UNEVEN = 30.0
"""Deviation of the widest column over the median column's: more is a table in mixed units …"""
MIXED_COLUMNS = 8
"""… if it has at least so many columns."""


def labels(m: Measured, known: Known) -> Verdicts:
    """Class numbers run from 0 to C - 1, the model has as many outputs, training has each of them."""
    found = below(m, "check/labels/")
    rule = "labels run from 0 to classes - 1; as many outputs as classes; each class has a training sample"
    say = Speaker(m, "labels", rule)
    width = found.get("width")
    classes = found.get("classes", width)
    if "highest" not in found:
        return
    low, high = found["lowest"], found["highest"]
    if classes is None:
        yield say.sound(f"Labels run from {low:g} to {high:g}.")
        return
    outside = found.get("outside", float(low < 0 or high >= classes))
    if outside and low == 1 and high == classes:
        sentence = f"Labels count from 1: they run from 1 to {high:g} in a task of {classes:g} classes."
        yield say.fail(sentence, "subtract 1 from every label")
    if outside:
        sentence = (
            f"{plural(outside, 'label')} outside 0 … {classes - 1:g}: they run from {low:g} to {high:g}."
        )
        yield say.fail(sentence, f"set classes={high + 1:g}, or repair the labels")
    if width is not None and width != classes and not (width == 1 and classes == 2):
        sentence = f"The model gives {plural(width, 'output')} for {classes:g} classes."
        step = f"give its last layer {classes:g} outputs, or correct the task's number of classes"
        yield say.fail(sentence, step)
    if lacking := found.get("val_only", 0):
        sentence = f"Validation holds {plural(lacking, 'class', 'classes')} that training has no sample of."
        yield say.fail(sentence, "cut the splits so that each class is in both, such as stratified")
    present = found.get("present", classes)
    if present < classes:
        absent = f"{classes - present:g} of {classes:g} classes"
        sentence = f"{absent} have no training sample: labels run from {low:g} to {high:g}."
        yield say.warn(
            sentence, f"set the number of classes to {present:g}, or find where the others have gone"
        )
    yield say.sound(f"Labels run from {low:g} to {high:g}, as {classes:g} classes should.")


def balance(m: Measured, known: Known) -> Verdicts:
    """No class hides the others, none is so rare that it cannot be learnt."""
    found = below(m, "check/balance/")
    say = Speaker(
        m, "balance", f"commonest class at most {share(COMMON)}, rarest at least {RARE:g} of an even share"
    )
    if not found:
        return
    largest, smallest, entropy = found["largest"], found["smallest"], found["entropy"]
    even = 1 / max(m.get("check/labels/present", 2), 2)
    prior = f"H(p) = {entropy:.3f}, so a validation loss below {entropy - 0.05:.3f} shows learning"
    if largest > COMMON or smallest < RARE * even:
        sentence = (
            f"The commonest class has {share(largest)} of the samples, the rarest {share(smallest)}; {prior}."
        )
        yield say.warn(sentence, "judge by a metric that sees rare classes, such as balanced accuracy")
    yield say.sound(f"Classes hold {share(smallest)} to {share(largest)} of the samples; {prior}.")


def order(m: Measured, known: Known) -> Verdicts:
    """Neighbours in the order of training have labels as different as in a random order."""
    found = below(m, "check/order/")
    rule = (
        f"shuffled every epoch; neighbours' labels less than {share(RUNS)} of the way from chance to sorted"
    )
    say, step = Speaker(m, "order", rule), "shuffle the training samples every epoch"
    if "shuffled" not in found:
        return
    same, chance = found.get("same", 0.0), found.get("chance", 0.0)
    seen = f"{share(same)} of neighbours share a label, {share(chance)} by chance"
    if (same - chance) / max(1 - chance, 1e-9) > RUNS:
        yield say.fail(f"Training sees its samples sorted by label: {seen}.", step)
    if not found["shuffled"]:
        yield say.warn(f"Training sees its samples in the same order every epoch; {seen}.", step)
    yield say.sound(f"Training shuffles its samples: {seen}.")


def inputs(m: Measured, known: Known) -> Verdicts:
    """Inputs are finite, vary, and arrive centred and on one scale."""
    found = below(m, "check/inputs/")
    rule = f"finite; mean within ±{FAR:g}, deviation {NARROW:g} to {WIDE:g} where the first weights read them"
    say = Speaker(m, "inputs", rule)
    if not found:
        return
    if bad := found.get("not_finite", 0):
        yield say.fail(f"{plural(bad, 'input number')} NaN or infinite.", "drop those rows or fill them in")
    if "deviation" not in found:
        yield say.sound("All inputs are finite.")
        return
    mean, deviation = found["mean"], found["deviation"]
    seen = f"mean {mean:.3g}, deviation {deviation:.3g}"
    if deviation == 0:
        yield say.fail(f"All input numbers are {mean:g}.", "look at how the data are read")
    if found.get("normalised"):
        yield say.sound(f"The model normalises its inputs ({seen}).")
    if abs(mean) > FAR or not NARROW <= deviation <= WIDE:
        step = "subtract the training split's mean and divide by its deviation (preprocessing: standardise)"
        yield say.warn(f"The inputs are not normalised: {seen}.", step)
    columns, uneven = found.get("columns", 1), found.get("uneven", 1.0)
    if columns >= MIXED_COLUMNS and uneven > UNEVEN:
        sentence = f"The widest of {columns:g} columns has {uneven:.3g} times the median column's deviation."
        yield say.warn(sentence, "standardise each column by the training split (preprocessing: standardise)")
    yield say.sound(f"Inputs are finite, with {seen}.")
