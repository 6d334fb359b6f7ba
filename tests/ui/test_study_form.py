"""A study from a form: what fields mean, where errors go, and what a stranger's text may not hold."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tunesmith_service.ui import study_form
from ui.conftest import Dashboard, csrf

FIELDS = {
    **study_form.BLANK, "mode": "fields", "name": "from-a-form", "task": "images",
    "space.2.name": "optimizer", "space.2.kind": "choice", "space.2.values": "momentum, adam",
}  # fmt: skip


def send(client: httpx.Client, action: str = "look", **fields: str) -> httpx.Response:
    word = csrf(client.get("/ui/studies/new").text)
    return client.post(
        "/ui/studies/new", data={**FIELDS, "action": action, **fields}, headers={"Tunesmith-CSRF": word}
    )


def test_fields_say_what_a_file_would_say():
    form = study_form.Form(FIELDS | {"max_trials": "40", "space.3.name": "depth", "space.3.kind": "int",
                                     "space.3.low": "2", "space.3.high": "8"})  # fmt: skip
    assert form.specification() == {
        "name": "from-a-form", "task": "images", "seed": 0,
        "objective": {"metric": "val/loss", "direction": "minimize"},
        "space": {
            "lr": {"type": "float", "low": 1e-4, "high": 1, "log": True},
            "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True, "zero": True},
            "optimizer": {"type": "choice", "values": ["momentum", "adam"]},
            "depth": {"type": "int", "low": 2, "high": 8},
        },
        "fixed": {"batch_size": 64},
        "limits": {"max_trials": 40},
        "recipe": {"name": "standard"},
    }  # fmt: skip
    assert form.wrong == {}


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"space.0.low": "5"}, "space.0.low", "Low must not be above high, got low=5, high=1"),
        ({"space.0.low": "-1"}, "space.0.low", "Log: true needs low &gt; 0, got low=-1"),
        ({"space.0.high": ""}, "space.0.high", "Is missing"),
        ({"space.0.high": "many"}, "space.0.high", "Input should be a valid number"),
        ({"space.2.values": ""}, "space.2.values", "Is missing"),
        ({"space.2.name": "lr"}, "space.2.name", "lr stands here twice"),
        ({"fixed.0.name": "lr"}, "fixed.0.value", "lr stands in space and in fixed"),
        ({"metric": "test/loss"}, "direction", "The test set never decides"),
        ({"name": ""}, "name", "Is missing"),
        ({"max_trials": "0"}, "max_trials", "Input should be greater than or equal to 1"),
        ({"plan": "stages", "stages": "- kind: coarse_gird"}, "stages", "coarse_gird"),
        ({"plan": "stages", "stages": "- kind: [coarse_grid"}, "stages", "Line 1"),
    ],
)
def test_what_is_wrong_stands_beside_its_field_and_the_input_is_kept(
    person: httpx.Client, changes: dict[str, str], field: str, sentence: str
):
    answer = send(person, **changes)
    assert answer.status_code == 422
    said = answer.text.partition(f'id="{field}.wrong">')[2].partition("</p>")[0]
    assert sentence.lower() in said.lower()
    assert f'name="{field}" aria-invalid="true" aria-describedby="{field}.wrong"' in answer.text
    assert 'value="momentum, adam"' in answer.text or "space.2.values" in changes


def test_the_cost_is_what_the_interface_forecasts_and_nothing_is_created(
    dashboard: Dashboard, person: httpx.Client
):
    answer = send(person, name="only-looked-at")
    assert answer.status_code == 200
    spec = study_form.Form({**FIELDS, "name": "only-looked-at"}).specification()
    told: dict[str, Any] = dashboard.api("POST", "/studies?dry_run=true", json=spec).json()
    for name, stage in told["stages"].items():
        assert f'<th scope="row">{name}</th><td class="r">{stage["trials"]}</td>' in answer.text
    assert "only-looked-at" not in person.get("/ui/studies").text


def test_create_leads_to_the_study_and_a_taken_name_is_told_beside_the_name(
    dashboard: Dashboard, person: httpx.Client
):
    answer = send(person, "create", name="made-by-form")
    assert answer.status_code == 204
    assert "made-by-form" in person.get(answer.headers["hx-redirect"]).text
    again = send(person, "create", name="made-by-form")
    assert again.status_code == 409
    assert "made-by-form" in again.text.partition('id="name.wrong">')[2].partition("</p>")[0]


def test_a_form_goes_on_as_text_that_means_the_same(person: httpx.Client):
    text = send(person, "text").text.partition("<textarea")[2].partition(">\n")[2].partition("</textarea>")[0]
    read = study_form.read_yaml(text, "the text")
    assert read == study_form.Form(FIELDS).specification()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x [1, 1]\nb: [*x, *x]", "line 2: write out what *x stands for"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than 16 deep"),
        ("a: !!python/object/apply:os.system [ls]", "python/object"),
        ("a: 1\na: 2", "stands twice"),
        ("- a", "a file of `key: value` lines is needed"),
    ],
)
def test_a_strangers_text_is_refused_with_its_reason(text: str, sentence: str):
    with pytest.raises(ValueError, match=r".+") as refused:
        study_form.read_yaml(text, "the text")
    assert sentence in str(refused.value)


def test_wrong_text_is_told_below_the_text(person: httpx.Client):
    answer = send(person, mode="yaml", yaml="name: x\ntask: images\nspace: {lr: {low: 3, high: 1}}")
    assert answer.status_code == 422
    said = answer.text.partition('id="yaml.wrong">')[2].partition("</p>")[0]
    assert "low must not be above high" in said
    assert said.startswith("Space, lr: ")


def test_an_example_fills_the_text(person: httpx.Client):
    assert "name: digits-demo" in person.get("/ui/studies/new?example=digits-demo").text


def test_a_viewer_gets_no_form(dashboard: Dashboard):
    with dashboard.login(dashboard.token("viewer")) as viewer:
        assert viewer.get("/ui/studies/new").status_code == 403
        assert "/ui/studies/new" not in viewer.get("/ui/studies").text
