"""What two studies differ in, a clone with some fields changed, and the short form of a study."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tunesmith_service.cli import study_file
from tunesmith_studies.differences import Difference, changed, cloned, differences
from tunesmith_studies.study import StudySpec
from tunesmith_studies.written import short


def example(name: str = "digits-demo", **changes: Any) -> dict[str, Any]:
    return StudySpec.model_validate(study_file.read(name) | changes).to_json()


def test_a_study_and_its_copy_differ_in_nothing():
    assert differences(example(), example()) == ()


def test_each_changed_field_is_told_with_what_it_was():
    was = example()
    now = changed(
        was, {"stages.coarse_grid.epochs": 7, "space.lr.high": 2.0, "fixed.dropout": 0.1, "seed": 4}
    )
    told = {d.path: (d.was, d.now) for d in differences(was, now)}
    coarse = next(s for s in was["stages"] if s["name"] == "coarse_grid")
    assert told == {
        "stages.coarse_grid.epochs": (coarse["epochs"], 7),
        "space.lr.high": (was["space"]["lr"]["high"], 2.0),
        "fixed.dropout": (None, 0.1),
        "seed": (was["seed"], 4),
    }


def test_a_part_that_comes_or_goes_is_one_difference_and_an_order_is_told():
    was = {"space": {"lr": {"low": 1}}, "stages": [{"name": "a"}, {"name": "b"}]}
    gone = changed(was, {"space.lr": None, "stages.a": None})
    assert differences(was, gone) == (
        Difference("space.lr", {"low": 1}, None), Difference("stages.a", {"name": "a"}, None),
    )  # fmt: skip
    turned = was | {"stages": was["stages"][::-1]}
    assert differences(was, turned) == (Difference("stages", ["a", "b"], ["b", "a"]),)


def test_one_and_one_point_nought_are_the_same_and_true_is_not():
    assert differences({"fixed": {"a": 1}}, {"fixed": {"a": 1.0}}) == ()
    assert len(differences({"fixed": {"a": 1}}, {"fixed": {"a": True}})) == 1


def test_names_with_dots_are_found_whole():
    was = {"fixed": {"net.depth": 3}, "stages": [{"name": "v1.2", "epochs": 3}]}
    now = changed(was, {"fixed.net.depth": 4, "stages.v1.2.epochs": 5})
    assert now == {"fixed": {"net.depth": 4}, "stages": [{"name": "v1.2", "epochs": 5}]}
    assert [d.path for d in differences(was, now)] == ["fixed.net.depth", "stages.v1.2.epochs"]
    assert changed(was, {d.path: d.now for d in differences(was, now)}) == now, "a path asks for itself"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("stages.fine.epochs", "there is no stage of that name; there are coarse"),
        ("seed.of.what", "0 is a value and holds no fields"),
        ("", "name a field"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        changed({"seed": 0, "stages": [{"name": "coarse"}]}, {path: 1})


def test_a_clone_with_another_recipe_gets_its_stages_and_else_keeps_its_own():
    was = example("standard-recipe")
    same = StudySpec.model_validate(cloned(was, "again", {}))
    assert [d.path for d in differences(was, same.to_json())] == ["name"]
    quick = StudySpec.model_validate(cloned(was, "quicker", {"recipe": "quick"}))
    assert [s.kind for s in quick.stages] != [s["kind"] for s in was["stages"]]
    shorter = StudySpec.model_validate(cloned(was, "shorter", {"recipe.epochs": 6}))
    assert max(s.epochs for s in shorter.stages) == 6


@pytest.mark.parametrize("name", study_file.examples())
def test_the_short_form_reads_back_as_the_same_study(name: str):
    spec = StudySpec.model_validate(study_file.read(name))
    brief = short(spec)
    assert StudySpec.model_validate(brief) == spec
    assert len(yaml.safe_dump(brief)) < 0.6 * len(yaml.safe_dump(spec.to_json()))
    assert brief["objective"]["metric"] == spec.objective.metric
    assert all(stage["kind"] for stage in brief["stages"])
