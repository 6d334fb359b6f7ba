"""Recipes: which stages a study gets that names none, and what is said of those it cannot have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from tunesmith_studies.recipe import Recipe
from tunesmith_studies.study import StudySpec, forecast

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
    "momentum": {"low": 0.5, "high": 0.99},
    "batch_size": [32, 64, 128],
}
NAMES = ("quick", "standard", "thorough")


def study(**changes: Any) -> StudySpec:
    return StudySpec.model_validate({"name": "s", "task": "digits", "space": SPACE} | changes)


def kinds(spec: StudySpec) -> list[str]:
    return [stage.kind for stage in spec.stages]


def notes(spec: StudySpec) -> tuple[str, ...]:
    assert spec.recipe is not None
    assert spec.recipe.notes is not None
    return spec.recipe.notes


def test_a_study_that_names_no_stages_gets_the_standard_recipe() -> None:
    for spec in (study(), study(stages=[]), study(recipe="standard"), study(recipe={"name": "standard"})):
        assert spec == study()
        assert kinds(spec) == STANDARD
        assert notes(spec) == ()
        assert spec.stages[-1].epochs == 20


STANDARD = ["preflight", "lr_range_test", "halving", "weight_decay_restarts", "final"]


def test_quick_is_two_grids_and_thorough_is_everything() -> None:
    assert kinds(study(recipe="quick")) == ["lr_range_test", "coarse_grid", "refine_grid", "final"]
    thorough = kinds(study(recipe="thorough"))
    assert thorough.index("cross_validation") == thorough.index("final") - 1
    assert {"coarse_grid", "refine_grid", *STANDARD} < set(thorough)
    assert [s.name for s in study(recipe="thorough").stages][4:7] == ["momentum", "batch_size", "halving"]


@pytest.mark.parametrize("name", NAMES)
def test_no_trial_of_a_recipe_trains_longer_than_it_says(name: str) -> None:
    for epochs in (2, 7, 60):
        spec = study(recipe={"name": name, "epochs": epochs})
        assert max(stage.epochs for stage in spec.stages if stage.ranks) == epochs
        assert all(planned.epochs > 0 for planned in forecast(spec).values())


@pytest.mark.parametrize("name", NAMES)
def test_an_expanded_study_is_stored_with_its_stages_and_never_expands_again(name: str) -> None:
    spec = study(recipe=name)
    stored = json.loads(json.dumps(spec.to_json()))
    assert StudySpec.from_json(stored) == spec
    assert StudySpec.model_validate(stored) == spec, "what was read can be created anew"
    added = spec.with_stage(spec.stages[1].model_copy(update={"name": "once_more"}))
    assert kinds(added) == [*kinds(spec), spec.stages[1].kind]


def test_a_recipe_beside_stages_and_an_unknown_one_are_refused() -> None:
    random = {"kind": "random", "epochs": 2, "trials": 2}
    with pytest.raises(ValidationError, match="a recipe writes the stages, and this study names its own"):
        study(recipe="quick", stages=[random])
    with pytest.raises(ValidationError, match="'quick', 'standard' or 'thorough'"):
        study(recipe="slow")
    assert study(stages=[random]).recipe is None


def test_without_a_weight_decay_or_a_rate_the_stages_that_need_one_are_left_out_with_the_reason() -> None:
    spec = study(space={n: p for n, p in SPACE.items() if n != "weight_decay"})
    assert kinds(spec) == [k for k in STANDARD if k != "weight_decay_restarts"]
    (note,) = notes(spec)
    assert note.startswith("weight_decay_restarts is left out: the space misses weight_decay")

    spec = study(recipe="quick", space={"optimizer": ["sgd", "adam"]}, fixed={"lr": 0.1})
    assert kinds(spec) == ["random", "final"]
    assert [n.partition(":")[0] for n in notes(spec)] == [
        "lr_range_test is left out", "refine_grid is left out",
    ]  # fmt: skip


def test_a_weight_decay_that_the_usual_optimizer_has_not_is_no_axis_and_the_grids_stay() -> None:
    space = SPACE | {"optimizer": ["momentum", "adamw"]}
    space["weight_decay"] = {"low": 1e-6, "high": 1e-2, "log": True, "when": {"optimizer": "adamw"}}
    spec = study(recipe="quick", space=space)
    assert kinds(spec) == ["lr_range_test", "coarse_grid", "refine_grid", "final"]
    assert notes(spec) == ()


def test_where_a_schedule_needs_the_length_nothing_goes_on_from_a_snapshot() -> None:
    spec = study(fixed={"schedule": "cosine"})
    assert kinds(spec) == ["preflight", "lr_range_test", "sampler", "final"]
    assert [n.partition(":")[0] for n in notes(spec)] == [
        "sampler stands in for halving", "weight_decay_restarts is left out",
    ]  # fmt: skip
    assert all("the schedule is cosine" in note for note in notes(spec))
    quick = study(recipe="quick", fixed={"schedule": "cosine"})
    assert notes(quick)[0].startswith("refine_grid is simplified: going on from a snapshot needs a rate")


def test_a_space_with_nothing_left_to_vary_is_only_measured() -> None:
    spec = study(space={}, fixed={"lr": 0.1})
    assert kinds(spec) == ["preflight", "final"]
    assert any(
        note.startswith("halving is left out: nothing in the space is left to vary") for note in notes(spec)
    )


def test_a_name_alone_is_a_recipe() -> None:
    assert Recipe.model_validate("quick") == Recipe(name="quick")
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Recipe.model_validate({"name": "quick", "epochs": 1})
