"""Pruners: each one live in Optuna and rebuilt from curves gives the same verdicts."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from contracts import verdicts_live_and_rebuilt
from pydantic import ValidationError
from tunesmith_studies.study import StudySpec

EPOCHS = 27


def study(pruner: dict[str, Any], direction: str = "minimize", epochs: int = EPOCHS) -> StudySpec:
    stage = {"kind": "random", "epochs": epochs, "trials": 60, "pruner": pruner}
    space = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}
    objective = {"direction": direction}
    return StudySpec.model_validate(
        {"name": "p", "task": "digits", "space": space, "stages": [stage], "objective": objective}
    )


def curves(n: int, epochs: int = EPOCHS, seed: int = 1) -> list[list[float]]:
    """Noisy falling losses; some blow up and a few end in NaN, as real ones do."""
    rng = random.Random(seed)
    found = []
    for i in range(n):
        floor, speed = rng.uniform(0.05, 1.0), rng.uniform(0.3, 1.5)
        curve = [floor + e**-speed + rng.gauss(0, 0.03) for e in range(1, epochs + 1)]
        if i % 11 == 5:
            curve = [*curve[: rng.randrange(2, epochs)], math.nan]
        if i % 13 == 7:
            curve = [*curve[: rng.randrange(2, epochs)], math.inf, 5.0]
        found.append(curve)
    return found


CASES: list[dict[str, Any]] = [
    {"kind": "median"},
    {"kind": "median", "n_startup_trials": 2, "n_warmup_steps": 4, "interval_steps": 3, "n_min_trials": 3},
    {"kind": "percentile", "percentile": 25.0, "n_startup_trials": 3},
    {"kind": "successive_halving"},
    {"kind": "successive_halving", "min_resource": 2, "reduction_factor": 3, "min_early_stopping_rate": 1},
    {"kind": "successive_halving", "min_resource": 1, "reduction_factor": 2, "bootstrap_count": 2},
    {"kind": "hyperband"},
    {"kind": "hyperband", "min_resource": 2, "max_resource": 24, "reduction_factor": 2, "bootstrap_count": 1},
    {"kind": "threshold", "upper": 0.9, "n_warmup_steps": 5},
    {"kind": "patient", "patience": 2},
    {"kind": "patient", "patience": 1, "min_delta": 0.01, "wrapped_pruner": {"kind": "median"}},
    {"kind": "wilcoxon", "p_threshold": 0.2},
]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("pruner", CASES, ids=lambda c: "-".join(str(v) for v in c.values())[:60])
def test_verdicts_rebuilt_from_curves_are_those_that_optuna_gives_live(
    pruner: dict[str, Any], direction: str
) -> None:
    sign = 1 if direction == "minimize" or pruner["kind"] == "threshold" else -1
    signed = [[sign * v for v in curve] for curve in curves(50)]
    found = verdicts_live_and_rebuilt(study(pruner, direction), signed)
    assert [(t, step, live) for t, step, live, _ in found] == [(t, step, ours) for t, step, _, ours in found]
    assert any(live for _, _, live, _ in found), "this pruner never pruned, so nothing was compared"


def test_a_pruner_that_never_prunes_never_does() -> None:
    found = verdicts_live_and_rebuilt(study({"kind": "nop"}), curves(20))
    assert not any(ours for _, _, _, ours in found)


def test_auto_becomes_a_number_when_the_study_is_created() -> None:
    assert study({"kind": "hyperband"}).stages[0].pruner.max_resource == EPOCHS
    assert study({"kind": "successive_halving"}, epochs=400).stages[0].pruner.min_resource == 4


@pytest.mark.parametrize("inner", ["hyperband", "successive_halving"])
def test_patient_refuses_pruners_whose_rungs_it_would_hide(inner: str) -> None:
    with pytest.raises(ValidationError, match=f"patient cannot wrap {inner}.*wrap median or percentile"):
        study({"kind": "patient", "patience": 2, "wrapped_pruner": {"kind": inner}})


def test_a_threshold_needs_a_bound() -> None:
    with pytest.raises(ValidationError, match="set at least one"):
        study({"kind": "threshold"})
