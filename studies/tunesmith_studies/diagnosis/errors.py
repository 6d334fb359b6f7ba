"""Where an error comes from: bias, variance, another distribution, or a validation split looked at too often.

Source: A. Ng, "Machine Learning Yearning", 2018, chapters 20–24 and 40–41: the error of people (or a
target), of training, of a part of the training distribution that was not trained on (train-dev), of
validation and of test stand in a row, and the largest gap says what to work on.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from tunesmith_studies.findings import Finding
from tunesmith_studies.planning import History
from tunesmith_studies.study import Objective
from tunesmith_studies.trial import Trial

ROW = ("target", "train", "train_dev", "val", "test")
"""The levels in their order; what is not known is left out."""

GAPS: Mapping[tuple[str, str], tuple[str, str, str]] = {
    ("target", "train"): (
        "bias", "training is far from the target",
        "A larger network, longer training, a better rate, less regularisation.",
    ),
    ("train", "train_dev"): (
        "variance", "it does worse on samples like those it was trained on",
        "More data, weight decay, dropout, augmentation, or a smaller network.",
    ),
    ("train", "val"): (
        "variance", "validation is far from training",
        "More data, weight decay, dropout, augmentation, or a smaller network.",
    ),
    ("train_dev", "val"): (
        "mismatch", "validation samples are unlike those it was trained on",
        "Make the training data more like validation: collect such samples, or augment towards them.",
    ),
    ("val", "test"): (
        "overfit_validation", "test is far from validation, which the search has looked at so often",
        "A larger or fresh validation split; trust the test figure.",
    ),
}  # fmt: skip

WORTH_SAYING = 0.05
"""A gap below this part of the last level says nothing."""


def levels_of(trial: Trial, history: History) -> dict[str, float]:
    """The objective's metric of one trial on each split that is known, by the names of `ROW`."""
    objective = history.study.objective
    name = objective.metric.partition("/")[2]
    if not objective.metric.startswith("val/") or not trial.curve:
        return {}
    metrics = trial.curve[-1].metrics
    found = {split: metrics[f"{split}/{name}"] for split in ROW if f"{split}/{name}" in metrics}
    if objective.target is not None:
        found["target"] = objective.target
    tests = [p.metrics for t in history.trials if t.work.kind == "evaluate" for p in t.curve]
    of_test = [
        v for m in tests for n, v in m.items() if n.startswith("test/member/") and n.endswith(f"/{name}")
    ]
    if of_test:
        found["test"] = sum(of_test) / len(of_test)
    return found


def decomposed(levels: Mapping[str, float], objective: Objective) -> Finding | None:
    """The largest gap between neighbours in the row, named; None without a target or a test figure, or
    where no gap is worth a word.

    Args:
        levels: value of the objective's metric by the names of `ROW`.
    """
    row = [name for name in ROW if name in levels]
    if "target" not in levels and "test" not in levels:
        return None
    sign = 1 if objective.direction == "minimize" else -1
    gaps = {(a, b): sign * (levels[b] - levels[a]) for a, b in pairwise(row) if (a, b) in GAPS}
    if not gaps:
        return None
    pair = max(gaps, key=lambda p: gaps[p])
    if gaps[pair] <= WORTH_SAYING * abs(levels[row[-1]]):
        return None
    kind, what, next_step = GAPS[pair]
    told = ", ".join(f"{name.replace('_', '-')} {levels[name]:.4g}" for name in row)
    return Finding(
        kind,
        "warn" if kind in ("mismatch", "overfit_validation") else "info",
        f"Most of the error is {kind.replace('_', ' ')}: {what} by {gaps[pair]:.4g} ({told}).",
        "the largest gap between neighbours in the row target, training, train-dev, validation, test",
        next_step,
        {"levels": dict(levels), "gaps": {f"{a}-{b}": gap for (a, b), gap in gaps.items()}},
    )
