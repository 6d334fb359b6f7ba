"""The hyperparameters that the built-in trainer understands; it hands all others to the model builder.

Needs no Optuna. Nothing refuses a study by it: somebody's own training loop may give a name another
meaning. The trainer says what it cannot use, and stages ask here what may change mid-training.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith_studies.space import Choice, Scalar, Space

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
SCHEDULES = (
    "constant", "inverse_time", "step", "exponential", "inverse_sqrt", "cosine", "piecewise", "one_cycle",
)  # fmt: skip
PRECISIONS = ("fp32", "bf16", "fp16")
DECAY_SPARES = ("none", "biases_and_norms")
PREPROCESSINGS = ("as_given", "standardise", "per_channel", "whiten")
INITS = ("as_built", "xavier", "he", "orthogonal")
FREEZES = ("none", "all_but_head", "all_but_ends")
AUGMENTATIONS = (
    "crop", "flip", "flip_vertical", "rotation", "noise", "cutout", "erasing", "mixup", "cutmix",
)  # fmt: skip

READ_BY_MODELS = frozenset({"dropout", "batch_norm"})
"""Words of the vocabulary that the task's model builder reads, not the trainer."""

ANY_LENGTH_SCHEDULES = ("constant", "inverse_time", "exponential", "inverse_sqrt")
"""Schedules whose rate in an epoch does not depend on how many will follow, so a run may be prolonged."""


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One word of the vocabulary.

    Attributes:
        type: what its values are.
        default: used where a study says nothing; None: the trainer works it out, as `help` says.
        help: one line for people, with the unit.
        choices: the allowed words; empty for numbers.
        low, high: bounds, both included.
        mid_training: may change at a snapshot, so that branches may differ in it.
    """

    type: Literal["float", "int", "str", "bool"]
    default: Scalar | None
    help: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = math.inf
    mid_training: bool = False


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "optimizer": Hyperparameter("str", "sgd", "Which of torch's optimizers trains.", OPTIMIZERS),
    "lr": Hyperparameter(
        "float", 0.01, "Learning rate; where the schedule begins, one_cycle's peak.", mid_training=True
    ),
    "momentum": Hyperparameter(
        "float", None, "Of sgd (0), momentum and nesterov (0.9), rmsprop (0).", high=1, mid_training=True
    ),
    "beta1": Hyperparameter("float", 0.9, "Adam's decay of the mean gradient.", high=1, mid_training=True),
    "beta2": Hyperparameter(
        "float", 0.999, "Adam's decay of the squared gradient.", high=1, mid_training=True
    ),
    "alpha": Hyperparameter(
        "float", 0.99, "RMSprop's decay of the squared gradient.", high=1, mid_training=True
    ),
    "eps": Hyperparameter(
        "float", None, "Added to denominators: 1e-10 for adagrad, else 1e-8.", mid_training=True
    ),
    "weight_decay": Hyperparameter(
        "float", 0.0, "L2 term in the gradient; decoupled for adamw.", mid_training=True
    ),
    "decay_spares": Hyperparameter("str", "none", "What weight decay leaves alone.", DECAY_SPARES),
    "schedule": Hyperparameter(
        "str", "constant", "How the learning rate changes over the epochs.", SCHEDULES
    ),
    "decay": Hyperparameter("float", 0.1, "For inverse_time: lr / (1 + decay · epoch).", mid_training=True),
    "gamma": Hyperparameter(
        "float", None, "Factor of step (0.1), exponential (0.95), piecewise (0.1).", mid_training=True
    ),
    "step_size": Hyperparameter("int", None, "For step: epochs between factors; a third of them.", low=1),
    "milestones": Hyperparameter(
        "str", "0.5,0.75", 'For piecewise: epochs such as "10,15", or shares of the run below 1.'
    ),
    "pct_start": Hyperparameter(
        "float", 0.3, "For one_cycle: share of the run in which the rate rises.", high=1
    ),
    "div_factor": Hyperparameter("float", 25.0, "For one_cycle: peak over first rate.", low=1),
    "final_div_factor": Hyperparameter("float", 1e4, "For one_cycle: first over last rate.", low=1),
    "annihilation": Hyperparameter(
        "float",
        0.0,
        "For one_cycle: share of the run after the cycle, which then is two equal straight lines.",
        high=1,
    ),
    "cooldown": Hyperparameter(
        "float",
        0.0,
        "Share of the run at its end in which the rate falls to 0 in a straight line; for "
        "schedules that do not know the length.",
        high=1,
        mid_training=True,
    ),
    "momentum_low": Hyperparameter("float", 0.85, "For one_cycle: momentum at the peak rate.", high=1),
    "momentum_high": Hyperparameter("float", 0.95, "For one_cycle: momentum at the ends.", high=1),
    "batch_size": Hyperparameter("int", 32, "Samples in a batch.", low=1),
    "accumulation": Hyperparameter("int", 1, "Batches whose gradients make one step.", low=1),
    "dropout": Hyperparameter(
        "float", 0.0, "Share of units dropped in training; the model reads it.", high=1, mid_training=True
    ),
    "batch_norm": Hyperparameter(
        "bool", False, "Batch normalisation before each hidden layer's ReLU; the model reads it."
    ),
    "preprocessing": Hyperparameter(
        "str", "as_given", "What is done to inputs, fitted on the training split alone.", PREPROCESSINGS
    ),
    "init": Hyperparameter("str", "as_built", "How weights of a fresh model are drawn.", INITS),
    "init_from": Hyperparameter(
        "str", "", "Weights to start from, by the name that the worker's --weights gives them."
    ),
    "pretrain_epochs": Hyperparameter(
        "int", 0, "Epochs before the first in which hidden layers learn to reconstruct their inputs."
    ),
    "freeze": Hyperparameter("str", "none", "Layers that are not trained.", FREEZES, mid_training=True),
    "unfreeze_epoch": Hyperparameter(
        "int", 0, "Epochs after which all layers are trained; 0 never.", mid_training=True
    ),
    "crop": Hyperparameter(
        "int", 0, "Pixels of zeros around an image, of which a random window is taken.", mid_training=True
    ),
    "flip": Hyperparameter(
        "float", 0.0, "Probability that an image is mirrored left and right.", high=1, mid_training=True
    ),
    "flip_vertical": Hyperparameter(
        "float", 0.0, "Probability that an image is mirrored top and bottom.", high=1, mid_training=True
    ),
    "rotation": Hyperparameter(
        "float", 0.0, "Degrees up to which an image is turned, either way.", high=180, mid_training=True
    ),
    "noise": Hyperparameter(
        "float", 0.0, "Standard deviation of Gaussian noise, in units of the inputs.", mid_training=True
    ),
    "cutout": Hyperparameter(
        "float", 0.0, "Side of a square of zeros, as a share of the shorter side.", high=1, mid_training=True
    ),
    "erasing": Hyperparameter(
        "float", 0.0, "Probability that a rectangle is filled with random values.", high=1, mid_training=True
    ),
    "mixup": Hyperparameter(
        "float", 0.0, "α of the Beta distribution of a sample's share in a mix of two.", mid_training=True
    ),
    "cutmix": Hyperparameter(
        "float", 0.0, "α of the Beta distribution of the area a sample keeps of two.", mid_training=True
    ),
    "label_smoothing": Hyperparameter(
        "float", 0.0, "Share of the target spread over all classes.", high=1, mid_training=True
    ),
    "clip_norm": Hyperparameter(
        "float", 0.0, "Largest norm of the gradient; 0 clips none.", mid_training=True
    ),
    "early_stopping": Hyperparameter(
        "int",
        0,
        "Stop after this many points (epochs, unless it validates more often) without a better "
        "objective; 0 never.",
        mid_training=True,
    ),
    "restore_best": Hyperparameter(
        "bool", True, "Early stopping gives the model back the weights of its best point.", mid_training=True
    ),
    "precision": Hyperparameter(
        "str",
        "fp32",
        "What forward passes compute in; weights, gradients and losses stay in fp32.",
        PRECISIONS,
        mid_training=True,
    ),
}


def misfit(name: str, value: object) -> str | None:
    """Why the trainer cannot use a value of a word, in one sentence; None if it can.

    >>> misfit("mixup", -1)
    'mixup must be a number from 0 up, got -1'
    """
    known = HYPERPARAMETERS[name]
    if known.choices:
        fits, wanted = value in known.choices, f"one of {', '.join(known.choices)}"
    elif known.type == "str":
        fits, wanted = isinstance(value, str), "a text"
    elif known.type == "bool":
        fits, wanted = isinstance(value, bool), "true or false"
    else:
        fits, wanted = _is_within(known, value), _bounds(known)
    return None if fits else f"{name} must be {wanted}, got {value!r}"


def _is_within(known: Hyperparameter, value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return known.low <= value <= known.high and (known.type == "float" or value == int(value))


def _bounds(known: Hyperparameter) -> str:
    kind = "a whole number" if known.type == "int" else "a number"
    return f"{kind} " + (
        f"from {known.low:g} up" if math.isinf(known.high) else f"from {known.low:g} to {known.high:g}"
    )


def doubts(space: Space, fixed: Mapping[str, Scalar]) -> Iterator[str]:
    """What the built-in trainer would make of these names and values that nobody may have meant.

    Doubts, not errors: a loop of one's own may give a word another meaning, a model take any name.
    """
    for name, values in _values(space, fixed):
        if name in HYPERPARAMETERS:
            wrong = (misfit(name, value) for value in values)
            if why := next((w for w in wrong if w), None):
                yield f"{why}: the built-in trainer fails such trials; only a loop of your own may read it so"
        elif near := difflib.get_close_matches(name, HYPERPARAMETERS, n=1, cutoff=0.8):
            yield f"{name} is no word of the trainer, so it goes to the model; did you mean {near[0]}?"


def _values(space: Space, fixed: Mapping[str, Scalar]) -> Iterator[tuple[str, tuple[Scalar, ...]]]:
    """Of each name its value, its choices or the ends of its range."""
    for name, parameter in space.items():
        yield name, parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
    for name, value in fixed.items():
        yield name, (value,)
