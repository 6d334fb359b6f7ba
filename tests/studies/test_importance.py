"""Importance: what decides has the largest share."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from tunesmith_studies import importance
from tunesmith_studies.importance import FEWEST, Evaluator, PackageMissingError, importances


def drawn(count: int) -> tuple[list[float], list[float], list[int], list[float]]:
    rng = random.Random(0)
    lr, noise = [rng.random() for _ in range(count)], [rng.random() for _ in range(count)]
    choice = [rng.randrange(2) for _ in range(count)]
    return lr, noise, choice, [(a - 0.3) ** 2 + 0.001 * b for a, b in zip(lr, noise, strict=True)]


@pytest.mark.parametrize("evaluator", importance.NAMES)
def test_the_parameter_that_decides_comes_first_and_shares_add_up_to_one(evaluator: Evaluator) -> None:
    lr, noise, choice, values = drawn(120)
    columns, words = {"noise": noise, "lr": lr}, {"choice": choice}
    found = importances(columns, words, values, minimize=True, evaluator=evaluator)
    assert found == importances(columns, words, values, minimize=True, evaluator=evaluator)
    assert next(iter(found)) == "lr"
    assert found["lr"] > 0.8
    assert abs(sum(found.values()) - 1) < 1e-9


def test_which_values_are_best_depends_on_the_direction() -> None:
    lr, noise, _, values = drawn(200)
    up = [-v for v in values]
    assert importances({"noise": noise, "lr": lr}, {}, up, minimize=False) == importances(
        {"noise": noise, "lr": lr}, {}, values, minimize=True
    )


def test_a_choice_that_decides_is_found() -> None:
    _, noise, choice, _ = drawn(100)
    found = importances({"noise": noise}, {"choice": choice}, [float(c) for c in choice], minimize=True)
    assert next(iter(found)) == "choice"


def test_too_few_trials_or_nothing_that_varies_say_nothing() -> None:
    lr, _, _, values = drawn(FEWEST - 1)
    assert importances({"lr": lr}, {}, values, minimize=True) == {}
    assert importances({"lr": [0.5] * 50}, {"c": [1] * 50}, [0.1] * 50, minimize=True) == {}
    assert importances({}, {}, [], minimize=True) == {}


def test_what_an_evaluator_needs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "find_spec", lambda _name: None)
    lr, noise, _, values = drawn(20)
    with pytest.raises(PackageMissingError, match="pip install scikit-learn"):
        importances({"noise": noise, "lr": lr}, {}, values, minimize=True, evaluator="fanova")
    assert importances({"noise": noise, "lr": lr}, {}, values, minimize=True)


def test_ped_anova_does_not_load_what_fanova_needs() -> None:
    """scikit-learn costs each server a second and 80 MB; whoever asks for fANOVA later still gets it."""
    code = (
        "import sys; from tunesmith_studies.importance import importances; "
        "lr = [i / 9 for i in range(10)]; "
        "ask = lambda by: importances({'lr': lr}, {}, lr, minimize=True, evaluator=by); "
        "print(ask('ped_anova'), 'sklearn' in sys.modules, ask('fanova'), ask('ped_anova'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "{'lr': 1.0} False {'lr': 1.0} {'lr': 1.0}\n", done.stderr
