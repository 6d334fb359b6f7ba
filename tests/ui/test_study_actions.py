"""Clones, variants and further stages on the pages, over HTTP: what forms say, refuse and lead to."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from markupsafe import escape
from tunesmith_service.cli import study_file
from tunesmith_service.ui import study_clone, study_form
from tunesmith_studies.differences import differences
from tunesmith_studies.findings import Finding
from tunesmith_studies.study import StudySpec
from ui.conftest import Dashboard, csrf

SPACE = {
    "lr": {"low": 1e-3, "high": 0.1, "log": True},
    "optimizer": ["adam", "momentum"],
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "momentum"}},
    "width": {"type": "int", "low": 16, "high": 64, "step": 16},
}
PROPOSED = {"kind": "coarse_grid", "name": "lr_beyond", "source": "grid", "epochs": 3, "around_best": True,
            "axes": {"lr": 3}, "ranges": {"lr": [0.1, 1.0]}}  # fmt: skip
EDGE = Finding("best_at_edge", "warn", "On the edge.", "", "Widen.", {"parameter": "lr"}, (), PROPOSED)


def spec(**changes: Any) -> StudySpec:
    data = {
        "name": "original", "task": "light", "space": SPACE, "fixed": {"batch_size": 64, "note": "a b"},
        "stages": [{"kind": "random", "name": "search", "epochs": 3, "trials": 4}],
    }  # fmt: skip
    return StudySpec.model_validate(data | changes)


def studied(dashboard: Dashboard, name: str, **changes: Any) -> int:
    made = spec(name=name, **changes).to_json()
    return int(dashboard.api("POST", "/studies", json=made).json()["id"])


def varied(dashboard: Dashboard, name: str) -> tuple[int, int]:
    """A study and a trial of it."""
    study = studied(dashboard, name)
    params = {"lr": 0.01, "optimizer": "momentum", "momentum": 0.9, "width": 32}
    queued = dashboard.api("POST", f"/studies/{study}/trials", json={"params": [params]}).json()
    return study, queued["numbers"][0]


def sent(client: httpx.Client, page: str, path: str = "", **fields: str) -> httpx.Response:
    """What a page's form answers, with these fields changed."""
    html = client.get(page).text
    values = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', html))
    for name, options in re.findall(r'<select[^>]*name="([^"]+)".*?>(.*?)</select>', html, re.S):
        chosen = re.search(r'<option(?: value="([^"]*)")? selected>([^<]*)', options)
        values[name] = (chosen[1] if chosen[1] is not None else chosen[2]) if chosen else ""
    for name, text in re.findall(r'<textarea[^>]*name="([^"]+)"[^>]*>\n?(.*?)</textarea>', html, re.S):
        values[name] = text
    if plan := re.search(r'name="plan"[^>]*value="(\w+)" checked', html):
        values["plan"] = plan[1]
    values |= dict.fromkeys(re.findall(r'type="checkbox"[^>]*name="([^"]+)"[^>]*checked', html), "on")
    return client.post(path or page, data=values | fields, headers={"Tunesmith-CSRF": csrf(html)})


def told(html: str) -> list[tuple[str, ...]]:
    """The table of differences."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td></tr>', html, re.S)
    return [tuple(re.sub(r"<[^>]+>", "", cell) for cell in row) for row in rows]


# --- clones ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", study_file.examples())
def test_the_form_of_a_clone_says_all_that_its_original_says(name: str):
    original = StudySpec.model_validate(study_file.read(name))
    form = study_clone.begun(original, original, {original.name})
    data = (
        study_form.read_yaml(form.values["yaml"], "the text")
        if form.text("mode") == "yaml"
        else form.specification()
    )
    clone = StudySpec.model_validate(data)
    assert [d.path for d in differences(original.to_json(), clone.to_json())] == ["name"]
    assert clone.name == f"{original.name}_2"


def test_what_the_form_has_no_fields_for_stays_and_what_it_cannot_say_is_text():
    kept = spec(priority=3, retries=5, objective={"reduce": "mean", "k": 5})
    form = study_clone.begun(kept, kept, set())
    assert form.text("mode") == "fields"
    again = StudySpec.model_validate(form.specification())
    assert (again.priority, again.retries, again.objective.k) == (3, 5, 5)
    assert (again.space["momentum"].when, again.space["width"].step) == ({"optimizer": ("momentum",)}, 16)
    odd = spec(space={"code": ["1", "2"]})  # texts that read like numbers
    assert study_clone.begun(odd, odd, set()).text("mode") == "yaml"


def test_a_recipe_goes_on_writing_the_stages_of_a_clone_until_somebody_has_added_one():
    original = StudySpec.model_validate(study_file.read("standard-recipe"))
    form = study_clone.begun(original, original, set())
    assert (form.text("plan"), form.text("recipe")) == ("recipe", "standard")
    more = original.with_stage(spec().stages[0].model_copy(update={"name": "more", "source": None}))
    form = study_clone.begun(more, more, set())
    assert form.text("plan") == "stages"
    again = StudySpec.model_validate(form.specification())
    assert differences(more.to_json(), again.to_json()) == ()


def test_a_clone_with_room_beyond_an_edge_looks_there():
    grid = {"kind": "coarse_grid", "name": "grid", "epochs": 3, "axes": {"lr": [0.01, 0.1]},
            "fixed": {"optimizer": "adam", "width": 16}}  # fmt: skip
    wider = study_clone.extended(spec(stages=[grid]), "grid", EDGE)
    assert (wider.space["lr"].low, wider.space["lr"].high) == (1e-3, 1.0)
    assert wider.stages[0].axes["lr"] == (0.01, 0.1, 1.0)


def test_the_differences_are_told_while_one_types_and_before_anything_is_created(
    dashboard: Dashboard, person: httpx.Client
):
    study = studied(dashboard, "to be cloned", priority=3)
    page = f"/ui/studies/new?clone={study}"
    assert "Nothing yet." in person.get(page).text
    changed = {"space.0.high": "1", "seed": "7"}
    part = sent(person, page, "/ui/studies/new/differences", **changed)
    assert told(part.text) == [("space.lr.high", "0.1", "1"), ("seed", "0", "7")]
    assert "<html" not in part.text
    unread = sent(person, page, "/ui/studies/new/differences", **{"space.0.high": "many"})
    assert "once everything on this page can be read" in unread.text
    looked = sent(person, page, "/ui/studies/new", action="look", **changed)
    assert told(looked.text)[0] == ("space.lr.high", "0.1", "1")
    text = sent(person, page, "/ui/studies/new", action="text", **changed)
    assert "priority: 3" in text.text
    assert ("space.lr.high", "0.1", "1") in told(text.text)
    made = sent(person, page, "/ui/studies/new", action="create", **changed)
    assert made.status_code == 204
    new = dashboard.api("GET", "/studies/to be cloned_2").json()
    assert made.headers["hx-redirect"] == f"/ui/studies/{new['id']}"
    assert (new["spec"]["space"]["lr"]["high"], new["spec"]["priority"]) == (1.0, 3)
    assert "cloned from" in person.get(f"/ui/studies/{new['id']}/events").text


# --- variants -------------------------------------------------------------------------------------


def test_a_variant_leads_to_its_trial_and_both_pages_name_each_other(
    dashboard: Dashboard, person: httpx.Client
):
    study, number = varied(dashboard, "to be varied")
    here = f"/ui/studies/{study}/trials/{number}"
    assert f'href="{here}/variant"' in person.get(here).text
    part = sent(person, f"{here}/variant", f"{here}/variant/differences", **{"param.lr": "0.02"})
    assert told(part.text) == [("lr", "0.01", "0.02")]
    changes = {"param.lr": "0.02", "param.optimizer": "adam", "epochs": "2"}
    made = sent(person, f"{here}/variant", **changes)
    assert (made.status_code, made.headers["hx-redirect"]) == (
        204,
        f"/ui/studies/{study}/trials/{number + 1}",
    )
    new = dashboard.api("GET", f"/studies/{study}/trials/{number + 1}").json()
    assert new["params"] == {"lr": 0.02, "optimizer": "adam", "width": 32, "batch_size": 64, "note": "a b"}
    assert (new["variant_of"], new["epochs"]) == (number, 2)
    there = f"/ui/studies/{study}/trials/{number + 1}"
    page = person.get(there).text
    assert "lr 0.01 → 0.02, optimizer momentum → adam, no momentum" in page
    assert f'varied as <a href="{there}">' in person.get(here).text


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("param.lr", "7", "lr=7.0 is outside the space, which has [0.001, 0.1]"),
        ("param.lr", "fast", "lr=&#39;fast&#39; is outside the space"),
        ("param.width", "3", "width=3 is outside the space"),
        ("epochs", "none", "epochs=none must be a whole number"),
    ],
)
def test_a_setting_that_cannot_be_is_told_beside_its_field(
    dashboard: Dashboard, person: httpx.Client, field: str, text: str, sentence: str
):
    study, number = varied(dashboard, f"not varied by {field} {text}")
    answer = sent(person, f"/ui/studies/{study}/trials/{number}/variant", **{field: text})
    assert answer.status_code == 422
    assert sentence in answer.text.partition(f'id="{field}.wrong">')[2].partition("</p>")[0]
    assert f'value="{text}"' in answer.text, "what was typed stays"
    assert dashboard.api("GET", f"/studies/{study}/trials").json()["total_estimate"] == 1


def test_where_no_stage_is_to_run_the_page_says_what_can_be_done(dashboard: Dashboard, person: httpx.Client):
    study, number = varied(dashboard, "varied too late")
    dashboard.api("POST", f"/studies/{study}/stages/search/skip")
    page = person.get(f"/ui/studies/{study}/trials/{number}/variant").text
    assert f'href="/ui/studies/{study}/stages/new"' in page
    assert "<form" not in page
    study, number = varied(dashboard, "varied much too late")
    dashboard.api("POST", f"/studies/{study}/stop")
    page = person.get(f"/ui/studies/{study}/trials/{number}/variant").text
    assert f'href="/ui/studies/new?clone={study}"' in page


# --- stages ---------------------------------------------------------------------------------------


def test_a_stage_is_added_with_ranges_past_the_space(dashboard: Dashboard, person: httpx.Client):
    study = studied(dashboard, "to be extended")
    page = f"/ui/studies/{study}/stages/new"
    fields = {"kind": "random", "name": "far", "epochs": "2", "points": "5", "range.lr.high": "3"}
    part = sent(person, page, f"{page}/preview", **fields)
    assert "At most <b>5 trials</b>, 10 epochs in all." in part.text
    assert "study's space, [0.001, 0.1]: from this stage on it is [0.001, 3]." in part.text
    made = sent(person, page, **fields)
    assert (made.status_code, made.headers["hx-redirect"]) == (204, f"/ui/studies/{study}")
    stage = dashboard.api("GET", f"/studies/{study}").json()["spec"]["stages"][-1]
    assert (stage["name"], stage["trials"], stage["ranges"]) == ("far", 5, {"lr": [0.001, 3]})


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"range.lr.low": "5"}, "range.lr.low", "low end above its high one: [5, 0.1]"),
        ({"range.lr.low": "0"}, "range.lr.low", "lr is on a log scale"),
        ({"range.width.low": "2.5"}, "range.width.low", "width is a whole number"),
        ({"range.lr.low": "slow"}, "range.lr.low", "valid number"),
        ({"name": "search"}, "name", "two stages are named search"),
        ({"epochs": ""}, "epochs", "is missing"),
        ({"points": "0"}, "points", "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_with_a_stage_stands_beside_its_field(
    dashboard: Dashboard, person: httpx.Client, changes: dict[str, str], field: str, sentence: str
):
    study = studied(dashboard, f"not extended by {changes}")
    page = f"/ui/studies/{study}/stages/new"
    usual = {"kind": "random", "name": "far", "epochs": "2", "points": "5"}
    answer = sent(person, page, **(usual | changes))
    assert answer.status_code == 422
    assert sentence in answer.text.partition(f'id="{field}.wrong">')[2].partition("</p>")[0]
    assert len(dashboard.api("GET", f"/studies/{study}").json()["stages"]) == 1


def test_a_stopped_study_offers_its_clone_instead_of_a_stage(dashboard: Dashboard, person: httpx.Client):
    study = studied(dashboard, "not extended any more")
    dashboard.api("POST", f"/studies/{study}/stop")
    page = person.get(f"/ui/studies/{study}/stages/new").text
    assert f'href="/ui/studies/new?clone={study}"' in page
    assert "<form" not in page


def test_a_finding_that_is_not_there_proposes_nothing(dashboard: Dashboard, person: httpx.Client):
    study = studied(dashboard, "without findings")
    for path in (f"{study}/stages/new?stage=search&param=lr", f"new?clone={study}&stage=search&param=lr"):
        assert person.get(f"/ui/studies/{path}").status_code == 404


# --- who may --------------------------------------------------------------------------------------


def test_a_viewer_sees_no_link_and_gets_no_form(dashboard: Dashboard):
    study, number = varied(dashboard, "only looked at")
    here = f"/ui/studies/{study}"
    pages = (f"/ui/studies/new?clone={study}", f"{here}/trials/{number}/variant", f"{here}/stages/new")
    with dashboard.login(dashboard.token("viewer")) as viewer:
        for shown in (viewer.get(here), viewer.get(f"{here}/trials/{number}")):
            assert not [p for p in pages if p in shown.text]
        assert [viewer.get(p).status_code for p in pages] == [403] * 3
        word = {"Tunesmith-CSRF": csrf(viewer.get(here).text)}
        posts = ("/ui/studies/new", "/ui/studies/new/differences", *pages[1:], f"{pages[1]}/differences",
                 f"{pages[2]}/preview")  # fmt: skip
        assert [viewer.post(p, headers=word).status_code for p in posts] == [403] * len(posts)


# --- config ---------------------------------------------------------------------------------------


def test_the_config_is_the_whole_study_as_a_file_that_creates_one_like_it(
    dashboard: Dashboard, person: httpx.Client
):
    study = studied(dashboard, "set up: with care", priority=3)
    dashboard.api("POST", f"/studies/{study}/stages", json={"kind": "random", "epochs": 2, "trials": 3})
    here = f"/ui/studies/{study}/config"
    now = dashboard.api("GET", f"/studies/{study}").json()["spec"]
    for form in ("short", "whole"):
        file = person.get(f"{here}/export?form={form}")
        assert file.headers["content-disposition"] == 'attachment; filename="set-up-with-care.yaml"'
        read = study_form.read_yaml(file.text, "the file")
        assert StudySpec.model_validate(read) == StudySpec.model_validate(now)
        assert str(escape(file.text)) in person.get(f"{here}?form={form}").text, "the page shows the same"
    assert "fresh_wait_seconds" not in person.get(here).text
    assert "fresh_wait_seconds: 0.25" in person.get(f"{here}?form=whole").text


def test_the_config_says_what_became_of_the_study(dashboard: Dashboard, person: httpx.Client):
    study = studied(dashboard, "to be set up again")
    clone = {"name": "set up again", "changes": {"seed": 3}}
    new = dashboard.api("POST", f"/studies/{study}/clone", json=clone).json()["id"]
    far = {"kind": "random", "name": "far", "epochs": 2, "trials": 3, "ranges": {"lr": [1, 5]}}
    dashboard.api("POST", f"/studies/{new}/stages", json=far)
    dashboard.api("POST", f"/studies/{new}/stages/search/skip")
    page = person.get(f"/ui/studies/{new}/config").text
    assert f'<dd><a href="/ui/studies/{study}">to be set up again</a></dd>' in page
    assert "[0.001, 5]; it was [0.001, 0.1] when the study was created" in page
    row = page.partition('<th scope="row">far</th>')[2].partition("</tr>")[0]
    assert "lr [1, 5]" in row
    assert "<td>search</td>" in row, "it builds on the last that ranks"


# --- several trials -------------------------------------------------------------------------------


def test_selected_trials_are_tagged_and_those_that_failed_tried_again(
    dashboard: Dashboard, person: httpx.Client
):
    study = studied(dashboard, "with trials to pick")
    params = [{"lr": lr, "optimizer": "adam", "width": 16} for lr in (0.01, 0.02, 0.03)]
    numbers = dashboard.api("POST", f"/studies/{study}/trials", json={"params": params}).json()["numbers"]
    here = f"/ui/studies/{study}"
    word = {"Tunesmith-CSRF": csrf(person.get(f"{here}/explore").text), "HX-Request": "true"}

    def do(verb: str, **fields: str) -> httpx.Response:
        data = {"trials": ",".join(map(str, numbers)), **fields}
        return person.post(f"{here}/picked/{verb}", data=data, headers=word)

    assert do("tag", add="odd, to look at").headers["hx-refresh"] == "true"
    assert do("tag", add="", remove="odd").status_code == 204
    told = dashboard.api("GET", f"/studies/{study}/tags").json()["items"]
    assert told == [{"tag": "to look at", "trials": 3}]
    assert do("tag").status_code == 422
    assert do("tag", add="x" * 65).status_code == 422
    none = do("again")
    assert (none.status_code, "None of the selected trials failed" in none.text) == (409, True)
    dashboard.api("POST", f"/studies/{study}/trials/{numbers[1]}/cancel")
    led = do("again")
    assert led.headers["hx-redirect"] == f"{here}/explore?filter=number:{numbers[-1] + 1}"
    again = dashboard.api("GET", f"/studies/{study}/trials/{numbers[-1] + 1}").json()
    assert again["retry_of"] == numbers[1]


def test_a_viewer_may_tag_nothing_and_try_nothing_again(dashboard: Dashboard):
    study, number = varied(dashboard, "not to be tagged")
    here = f"/ui/studies/{study}"
    with dashboard.login(dashboard.token("viewer")) as viewer:
        shown = [viewer.get(f"{here}/explore").text, viewer.get(f"{here}/trials/{number}").text]
        assert not [text for text in shown if "/picked/" in text]
        word = {"Tunesmith-CSRF": csrf(shown[0])}
        for verb in ("tag", "again"):
            data = {"trials": str(number), "add": "x"}
            assert viewer.post(f"{here}/picked/{verb}", data=data, headers=word).status_code == 403
