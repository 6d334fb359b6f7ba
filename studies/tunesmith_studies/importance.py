"""Which hyperparameters matter, as shares of the whole.

By Optuna's default, PED-ANOVA, how far the best tenth of the trials lie from all in each parameter; or by
fANOVA, how much of the variance of all values a random forest lays to each, which needs scikit-learn.

Sources: Watanabe et al. 2023, arXiv 2304.10255; Hutter et al. 2014, proceedings.mlr.press/v32/hutter14.
Optuna takes a second to load, so it is imported inside.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import reload
from importlib.util import find_spec
from typing import Any, Literal

FEWEST = 5
"""Fewer trials say nothing."""
Evaluator = Literal["ped_anova", "fanova"]
NAMES: Mapping[Evaluator, str] = {"ped_anova": "PED-ANOVA", "fanova": "fANOVA"}


class PackageMissingError(Exception):
    """What an evaluator needs is not installed; says what to install."""


def importances(
    numbers: Mapping[str, Sequence[float]],
    words: Mapping[str, Sequence[int]],
    values: Sequence[float],
    *,
    minimize: bool,
    evaluator: Evaluator = "ped_anova",
) -> dict[str, float]:
    """Shares that add up to 1, the largest first; empty where fewer than `FEWEST` trials or no parameter
    can be judged. For one thread at a time: it loads Optuna, which is no good to another half loaded.

    Args:
        numbers: by name, each trial's place on the parameter's own scale, from 0 to 1.
        words: by name, the number of each trial's choice.
        values: the objective of each trial; finite.

    Raises: PackageMissingError.
    """
    with _without_forests():
        from optuna.distributions import (  # noqa: PLC0415
            BaseDistribution,
            CategoricalDistribution,
            FloatDistribution,
        )
        from optuna.trial import create_trial  # noqa: PLC0415

        from tunesmith_studies.optuna_rows import open_study  # noqa: PLC0415

    spread = {
        name: column for name, column in numbers.items() if min(column, default=0) < max(column, default=0)
    }
    chosen = {name: column for name, column in words.items() if len(set(column)) > 1}
    if len(values) < FEWEST or not (spread or chosen):
        return {}
    kinds: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in spread} | {
        name: CategoricalDistribution(tuple(range(max(column) + 1))) for name, column in chosen.items()
    }
    columns = {**spread, **chosen}
    trials = [
        create_trial(
            params={name: column[i] for name, column in columns.items()}, distributions=kinds, value=value
        )
        for i, value in enumerate(values)
    ]
    for number, trial in enumerate(trials):
        trial.number = trial._trial_id = number
    study = open_study("importance", "minimize" if minimize else "maximize", trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few trials, or alike ones: the shares then say so
        found = _evaluator(evaluator).evaluate(study)
    whole = sum(found.values())
    if not whole > 0:
        return {}
    return dict(sorted(((n, float(v / whole)) for n, v in found.items()), key=lambda pair: -pair[1]))


def _evaluator(name: Evaluator) -> Any:
    if name == "ped_anova":
        with _without_forests():
            from optuna.importance import PedAnovaImportanceEvaluator  # noqa: PLC0415
        return PedAnovaImportanceEvaluator()
    if find_spec(_FORESTS) is None:
        raise PackageMissingError("fANOVA needs scikit-learn: pip install scikit-learn")
    from optuna.importance import FanovaImportanceEvaluator  # noqa: PLC0415
    from optuna.importance._fanova import _fanova  # noqa: PLC0415

    if not _fanova._imports.is_successful():  # it was loaded without
        reload(_fanova)
    return FanovaImportanceEvaluator(seed=0)


_FORESTS = "sklearn"


@contextmanager
def _without_forests() -> Iterator[None]:
    """PED-ANOVA comes with Optuna's other evaluators, which load scikit-learn where they find it: a second
    and 80 MB for nothing."""
    is_ours = sys.modules.setdefault(_FORESTS, None) is None  # type: ignore[arg-type]  # not to be found
    try:
        yield
    finally:
        if is_ours:
            sys.modules.pop(_FORESTS, None)
