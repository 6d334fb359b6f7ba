"""Samplers: each one live in Optuna and rebuilt from rows proposes the same; others are refused."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from contracts import COMPLETE, Runner, live_against_rebuilt
from optuna.search_space import IntersectionSearchSpace
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace
from pydantic import ValidationError
from tunesmith_studies.optuna_rows import OneOfEach, open_study
from tunesmith_studies.planning import Proposals
from tunesmith_studies.samplers import SamplerSpec, Told, TPESampler
from tunesmith_studies.samplers import _rows as rows_of
from tunesmith_studies.stages import Sampler
from tunesmith_studies.study import StudySpec

NUMBERS = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
    "hidden": {"type": "int", "low": 8, "high": 64, "step": 8},
}
MIXED = {
    **NUMBERS,
    "optimizer": ["momentum", "adam"],
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "momentum"}},
}
WHOLE = {"hidden": {"type": "int", "low": 1, "high": 9}, "optimizer": ["sgd", "momentum", "adam"]}


def study(sampler: dict[str, Any], space: dict[str, Any], trials: int = 200) -> StudySpec:
    stage = {"kind": "sampler", "epochs": 3, "trials": trials, "sampler": sampler}
    return StudySpec.model_validate(
        {"name": "contract", "task": "digits", "space": space, "stages": [stage], "seed": 5}
    )


CASES = [
    ({"kind": "random"}, MIXED, 20),
    ({"kind": "tpe"}, MIXED, 45),
    ({"kind": "tpe"}, NUMBERS, 45),
    ({"kind": "tpe", "multivariate": False}, MIXED, 35),
    ({"kind": "tpe", "multivariate": True, "group": True}, MIXED, 40),
    ({"kind": "tpe", "constant_liar": False, "n_startup_trials": 4}, NUMBERS, 30),
    ({"kind": "cmaes"}, NUMBERS, 70),
    ({"kind": "cmaes", "popsize": 4, "n_startup_trials": 5}, NUMBERS, 60),
    ({"kind": "cmaes", "use_separable_cma": True}, NUMBERS, 50),
    ({"kind": "cmaes", "with_margin": True}, NUMBERS, 50),
    ({"kind": "cmaes", "lr_adapt": True}, NUMBERS, 50),
    ({"kind": "gp", "n_startup_trials": 4}, NUMBERS, 9),
    ({"kind": "nsgaii", "population_size": 8}, MIXED, 60),
    ({"kind": "nsgaiii", "population_size": 8}, MIXED, 60),
    ({"kind": "brute_force"}, WHOLE, 24),
]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("sampler", "space", "trials"), CASES, ids=lambda c: str(c)[:60])
def test_a_sampler_rebuilt_from_rows_proposes_what_it_would_live(
    sampler: dict[str, Any], space: dict[str, Any], trials: int
) -> None:
    spec = study(sampler, space)
    stage = spec.stages[0]
    pairs = live_against_rebuilt(stage.sampler, spec.space, spec, trials=trials)
    assert [ours for ours, _ in pairs] == [theirs for _, theirs in pairs]


def refusal(sampler: dict[str, Any], space: dict[str, Any] = NUMBERS) -> str:
    with pytest.raises(ValidationError) as caught:
        study(sampler, space)
    return str(caught.value)


def test_samplers_that_keep_their_place_elsewhere_are_refused_with_what_to_do_instead() -> None:
    assert "use a random stage with method: sobol" in refusal({"kind": "qmc"})
    assert "a coarse_grid stage runs every cell exactly once" in refusal({"kind": "grid"})
    assert "hold those parameters under the stage's fixed" in refusal({"kind": "partial_fixed"})


@pytest.mark.parametrize("kind", [{}, [], ["tpe"], 1, None])
def test_a_kind_that_is_no_word_is_refused_with_those_there_are(kind: Any) -> None:
    assert "'random', 'tpe', 'cmaes'" in refusal({"kind": kind})


def test_a_sampler_names_the_package_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tunesmith_studies.samplers.find_spec", lambda name: None if name == "torch" else object()
    )
    message = refusal({"kind": "gp"})
    assert "sampler gp needs the package torch, which this server lacks" in message
    assert "pip install torch" in message


def test_a_stored_study_can_be_read_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = study({"kind": "gp"}, NUMBERS).to_json()
    monkeypatch.setattr("tunesmith_studies.samplers.find_spec", lambda name: None)
    assert StudySpec.from_json(stored).stages[0].kind == "sampler"


def test_cmaes_refuses_conditions_and_brute_force_refuses_floats() -> None:
    assert "cannot handle conditions" in refusal({"kind": "cmaes"}, MIXED)
    assert "brute_force needs choices or whole numbers, and lr is a float" in refusal({"kind": "brute_force"})


def test_brute_force_ends_when_every_combination_has_run() -> None:
    runner = Runner(study({"kind": "brute_force"}, {"optimizer": ["sgd", "adam"], "depth": [1, 2, 3]}))
    runner.run("sampler")
    seen = {tuple(sorted(t.params.items())) for t in runner.log.trials("sampler")}
    assert len(runner.log.trials("sampler")) == len(seen) == 6


def test_twenty_trials_after_a_seeded_stage_the_relative_space_is_still_whole() -> None:
    """Earlier trials enter in this stage's distributions, or Optuna's intersection would be empty."""
    spec = StudySpec.model_validate(
        {
            "name": "after", "task": "digits", "space": NUMBERS, "seed": 3,
            "stages": [
                {"kind": "random", "epochs": 3, "trials": 12},
                {"kind": "sampler", "epochs": 3, "trials": 30, "fixed": {}},
            ],
        }
    )  # fmt: skip
    runner = Runner(spec)
    runner.run("random")
    runner.activate("sampler")
    for _ in range(20):
        plan = runner.ask("sampler", 1)
        assert isinstance(plan, Proposals)
        number = runner.queue("sampler", plan.items[0])
        runner.start(number)
        runner.end(number)
    stage = spec.stages[1]
    assert isinstance(stage, Sampler)
    told = stage._told(runner.log.history("sampler"), stage.open_space(spec))
    assert (len(told.earlier), len(told.trials)) == (12, 20)
    with_rows = optuna_study(told, stage.sampler)
    assert set(IntersectionSearchSpace(include_pruned=True).calculate(with_rows)) == set(NUMBERS)


def test_trials_of_another_budget_or_schedule_teach_a_sampler_nothing() -> None:
    space = {"lr": NUMBERS["lr"]}
    spec = StudySpec.model_validate(
        {
            "name": "other", "task": "digits", "space": space,
            "stages": [
                {"kind": "random", "name": "short", "epochs": 1, "trials": 4},
                {
                    "kind": "random", "name": "cosine", "epochs": 3, "trials": 4,
                    "fixed": {"schedule": "cosine"},
                },
                {"kind": "sampler", "epochs": 3, "trials": 4, "warm_start": 2},
            ],
        }
    )  # fmt: skip
    runner = Runner(spec)
    runner.run("short")
    runner.run("cosine")
    runner.activate("sampler")
    stage = spec.stages[2]
    assert isinstance(stage, Sampler)
    history = runner.log.history("sampler")
    assert not stage._told(history, stage.open_space(spec)).earlier
    best = [t.params["lr"] for t in history.earlier["cosine"].best(2)]
    plan = runner.ask("sampler", 3)
    assert isinstance(plan, Proposals)
    assert [p.params["lr"] for p in plan.items[:2]] == best


def test_a_diverged_trial_is_the_worst_value_to_samplers_that_read_complete_trials_only() -> None:
    spec = study({"kind": "nsgaii"}, NUMBERS)
    runner = Runner(spec)
    runner.activate("sampler")
    for ending in (COMPLETE, COMPLETE, ("pruned", "diverged")):
        plan = runner.ask("sampler", 1)
        assert isinstance(plan, Proposals)
        number = runner.queue("sampler", plan.items[0])
        runner.start(number)
        runner.end(number, ending)
    stage, history = spec.stages[0], runner.log.history("sampler")
    assert isinstance(stage, Sampler)
    told = stage._told(history, stage.open_space(spec))
    worst = max(t.value for t in history.trials if t.value is not None)
    assert [t.value for t in optuna_study(told, stage.sampler).trials][2] == worst
    tpe = optuna_study(told, TPESampler()).trials[2]
    assert tpe.state is optuna.trial.TrialState.PRUNED


def test_a_search_space_is_inferred_from_one_trial_of_each_set_of_distributions() -> None:
    runner = Runner(study({"kind": "tpe"}, MIXED, trials=40))
    runner.run("sampler")
    stage, history = runner.log.stage("sampler"), runner.log.history("sampler")
    assert isinstance(stage, Sampler)
    all_of_them = optuna_study(stage._told(history, stage.open_space(history.study)), stage.sampler)
    looked = _Looked()
    OneOfEach(looked).calculate(all_of_them)
    assert len(looked.trials) == 2  # of 40: with momentum, and without
    for kind in (IntersectionSearchSpace, _GroupDecomposedSearchSpace):
        plain, ours = kind(True).calculate(all_of_them), OneOfEach(kind(True)).calculate(all_of_them)
        assert getattr(ours, "search_spaces", ours) == getattr(plain, "search_spaces", plain)


class _Looked:
    def calculate(self, study: optuna.Study) -> None:
        self.trials = study._get_trials()


def test_nobody_is_asked_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(study({"kind": "tpe"}, NUMBERS))
    runner.activate("sampler")
    monkeypatch.setattr("tunesmith_studies.stages.sampler.suggest", None)
    assert runner.ask("sampler", 0) == Proposals((), draft=True)


def test_what_a_trial_remembers_for_its_sampler_fits_in_four_kibibytes() -> None:
    for sampler in ({"kind": "nsgaii", "population_size": 300}, {"kind": "cmaes", "popsize": 100}):
        runner = Runner(study(sampler, NUMBERS, trials=700))
        runner.activate("sampler")
        for _ in range(640 if sampler["kind"] == "nsgaii" else 240):
            plan = runner.ask("sampler", 1)
            assert isinstance(plan, Proposals)
            number = runner.queue("sampler", plan.items[0])
            runner.start(number)
            runner.end(number)
        states = [t.sampler_state for t in runner.log.trials("sampler")]
        assert max(s.get("generation", 0) for s in states) >= 1
        assert max(len(json.dumps(s)) for s in states) <= 4096


def optuna_study(told: Told, sampler: SamplerSpec) -> optuna.Study:
    return open_study(told.name, told.objective.direction, rows_of(sampler, told))
