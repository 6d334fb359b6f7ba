"""Checks of the model before training: its outputs, gradients, units, modes, and whether it repeats."""

from __future__ import annotations

from tunesmith_studies.checks.said import (
    Known,
    Measured,
    Speaker,
    Verdicts,
    below,
    finite,
    names,
    plural,
    share,
)

PROBABILITIES = 1e-3
"""Outputs whose sum is 1 within this much are probabilities."""
BOUNDED = 0.5
"""Trained outputs that stay within ±1 or [0, 1], but go so far in it, are held there by the last layer."""

DEAD, WASTED = 0.95, 0.75
"""Share of a layer's units with a constant output: hardly anything passes, or most of it is wasted."""
ALIKE = 0.5
"""Share of a layer's units that have the weights of another even after training."""
FADED = 1e-7
"""Gradient of the weakest layer over that of the strongest, both over their weights."""

UNSTEADY = 1e-3
"""Relative difference of two evaluations of a sample that arithmetic does not explain."""
REPEATS = 1e-6
"""Difference of losses between two runs of one seed that counts as none."""


def outputs(m: Measured, known: Known) -> Verdicts:
    """What goes into a loss that normalises by itself is free to take any value."""
    found = below(m, "check/outputs/")
    rule = "what a softmax cross-entropy reads is unbounded: not in [0, 1], in [-1, 1] or of one sign"
    say = Speaker(m, "outputs", rule)
    if not found:
        return
    low, high = found["lowest"], found["highest"]
    seen = f"outputs from {low:.3g} to {high:.3g}"
    if found.get("sigmoid") and low >= 0 and high <= 1 and high - low > BOUNDED:
        sentence = f"The outputs lie in [0, 1] ({seen}), and the loss applies a sigmoid."
        yield say.fail(sentence, "remove the sigmoid before the loss, which has its own")
    if not finite(low, high) or m.get("check/loss/shifted", 1.0) > 1e-4:
        yield say.sound(f"The loss takes outputs as they are ({seen}).")
        return
    if low >= -PROBABILITIES and found["sum_error"] < PROBABILITIES:
        sentence = (
            f"The outputs are probabilities already ({seen}, summing to 1), and the loss applies a softmax."
        )
        yield say.fail(sentence, "remove the softmax: the loss has its own")
    if found.get("log_sum", 1.0) < PROBABILITIES:
        yield say.sound(f"The outputs are log-probabilities, which a softmax leaves alone ({seen}).")
    if low >= 0 and found.get("column_sum_error", 1.0) < PROBABILITIES:
        sentence = f"The outputs of each class sum to 1 over the batch ({seen}): a softmax over samples."
        yield say.fail(sentence, "remove it; where one is needed, it is over the classes: dim=1")
    if low >= 0 and high <= 1 and high - low > BOUNDED:
        sentence = f"The outputs lie in [0, 1] ({seen}), and the loss applies a softmax."
        yield say.fail(sentence, "remove the sigmoid, or use a binary cross-entropy")
    if BOUNDED < max(-low, high) <= 1:
        sentence = f"The outputs stay within ±1 ({seen}), so the loss cannot come near zero."
        yield say.fail(sentence, "remove what bounds the last layer, such as tanh")
    if low >= 0 or high <= 0:
        yield say.warn(f"All outputs have one sign ({seen}).", "remove the nonlinearity after the last layer")
    yield say.sound(f"The outputs are free: {seen}.")


def gradients(m: Measured, known: Known) -> Verdicts:
    """Every parameter of the model gets a finite gradient that is not zero."""
    found = below(m, "check/gradients/")
    rule = f"each gradient over the first steps finite and not zero; weakest over strongest above {FADED:g}"
    say = Speaker(m, "gradients", rule)
    if not found:
        return
    of = {what: below(found, f"{what}/") for what in ("not_finite", "missing", "zero", "frozen", "left_out")}
    total = found.get("parameters", 0.0)
    whole = total + len(of["frozen"])
    if bad := of["not_finite"]:
        yield say.fail(
            f"NaN or infinite gradients: {names(bad)}.", "lower the first weights; look for log 0 and x / 0"
        )
    if numbers := found.get("unregistered", 0.0):
        sentence = f"{numbers:g} trainable numbers take part, but are no parameters of the model."
        yield say.fail(sentence, "keep layers in nn.ModuleList and numbers in nn.Parameter")
    if bad := of["missing"]:
        sentence = f"No gradient reaches {len(bad)} of {whole:g} parameters: {names(bad)}."
        yield say.fail(sentence, "use them in forward, and detach nothing that depends on them")
    if bad := of["zero"]:
        sentence = f"The gradient of {len(bad)} of {whole:g} parameters is zero throughout: {names(bad)}."
        yield say.fail(
            sentence, "dead units or a cut graph: look at the initialisation and at the layers after these"
        )
    if (bad := of["left_out"]) and not known.freezes:
        others = ", but those of another model" if found.get("foreign") else ""
        sentence = f"No optimizer holds {len(bad)} of the parameters: {names(bad)}{others}."
        step = "build the optimizer from all parameters of the model that is trained, after it is complete"
        yield say.warn(sentence, step) if total > found.get("foreign", 0.0) else say.fail(sentence, step)
    if (bad := of["frozen"]) and not known.freezes:
        sentence = (
            f"{len(bad)} of {whole:g} parameters are frozen ({sum(bad.values()):g} numbers): {names(bad)}."
        )
        step = "set requires_grad=True, unless they are frozen on purpose"
        yield say.warn(sentence, step) if total else say.fail(sentence, step)
    if (weakest := found.get("weakest", 1.0)) < FADED:
        sentence = f"Gradients fade: the weakest layer's is {weakest:.1e} of the strongest's."
        yield say.warn(sentence, "use another initialisation, normalisation or skip connections")
    yield say.sound(f"All {total:g} parameters get a gradient." if total else "No gradient is out of order.")


def units(m: Measured, known: Known) -> Verdicts:
    """Units react to their inputs, and differ from each other."""
    found = below(m, "check/units/")
    rule = f"at most {share(WASTED)} of a layer's units constant (fails from {share(DEAD)}), or alike"
    say = Speaker(m, "units", rule)
    if not found:
        return
    constant, twins = below(found, "constant/"), below(found, "twins/")
    if alike := {name: part for name, part in twins.items() if part > ALIKE}:
        sentence = f"Units of {names(alike)} have the same weights, and training keeps them the same."
        yield say.fail(sentence, "draw the first weights at random")
    worst = max(constant, key=constant.__getitem__, default="")
    if worst and constant[worst] > WASTED:
        sentence = f"{share(constant[worst])} of the units of {worst} say the same of every sample."
        step = "dead or saturated: use smaller biases, He initialisation, normalised inputs"
        yield say.fail(sentence, step) if constant[worst] >= DEAD else say.warn(sentence, step)
    if worst and constant[worst]:
        yield say.sound(
            f"Units react: at most {share(constant[worst])} (of {worst}) say the same of every sample."
        )
    yield say.sound("All units react to their inputs.")


def modes(m: Measured, known: Known) -> Verdicts:
    """Evaluation is deterministic, one sample at a time, leaves the model alone, and follows train/eval."""
    found = below(m, "check/modes/")
    rule = (
        f"evaluations of a sample differ by less than {UNSTEADY:g} of the outputs' size, whatever its batch"
    )
    say = Speaker(m, "modes", rule)
    if not found:
        return
    seen = {name: found.get(name, 0.0) for name in _MODES}
    faults = [text.format(share(part), f"{part:.2g}", plural(part, "module"), plural(part, "buffer"))
              for name, text in _MODES.items() if (part := seen[name]) > _ALLOWED.get(name, 0.0)]  # fmt: skip
    if faults:
        sentence = "; ".join(faults)
        step = "call model.eval() to evaluate, model.train() to train; give F.dropout training=self.training"
        yield say.fail(f"{sentence[0].upper()}{sentence[1:]}.", step)
    asleep = found.get("asleep", 0.0)
    if asleep and not known.freezes:
        sentence = f"{plural(asleep, 'dropout or normalisation layer')} in evaluation mode after train()."
        yield say.warn(sentence, "do not override train(), unless these layers are frozen on purpose")
    yield say.sound("Evaluation repeats, and training and evaluation have their modes.")


_MODES = {
    "evaluating_in_training": "{0} of the evaluations ran in training mode",
    "training_in_evaluation": "{0} of the training steps ran in evaluation mode",
    "repeat": "two evaluations of the same samples differ by {1} of the outputs' size",
    "batch": "a sample's output changes by {1} of the outputs' size with its neighbours in the batch",
    "buffers": "an evaluation changes {3}",
    "stuck": "{2} in training mode after model.eval()",
}
_ALLOWED = {"repeat": UNSTEADY, "batch": UNSTEADY}


def zero_grad(m: Measured, known: Known) -> Verdicts:
    """Each step has its own gradients."""
    say = Speaker(m, "zero_grad", "no step starts with the gradients of the one before it")
    if "check/zero_grad/kept" not in m:
        return
    if (kept := m["check/zero_grad/kept"]) > 0:
        sentence = f"{share(kept)} of the steps add their gradients to those of the step before."
        yield say.fail(sentence, "call optimizer.zero_grad() before each backward")
    yield say.sound("Each step starts from gradients of zero.")


def determinism(m: Measured, known: Known) -> Verdicts:
    """The same seed trains the same."""
    say = Speaker(m, "determinism", f"losses of two runs of one seed within {REPEATS:g}")
    if "check/determinism/difference" not in m:
        return
    seen = m["check/determinism/difference"]
    if not finite(seen) or seen > REPEATS:
        sentence = (
            f"Two runs of one seed differ by {seen:.2g} in loss: what trials compute is not repeatable."
        )
        yield say.warn(
            sentence, "draw from the generators that the seed sets: torch's, numpy's, Python's random"
        )
    yield say.sound(f"Two runs of one seed differ by {seen:.1g}.")
