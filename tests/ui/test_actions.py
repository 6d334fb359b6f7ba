"""What people do with studies and trials on the pages, over HTTP."""

from __future__ import annotations

import pytest
from ui.conftest import Dashboard, csrf
from ui.test_pages import new_study


@pytest.fixture
def cancelled(dashboard: Dashboard, request: pytest.FixtureRequest) -> tuple[int, int]:
    """A study with a trial that was cancelled."""
    study = new_study(dashboard, request.node.name[:100])
    asked = {"params": [{"lr": 0.1}]}
    (number,) = dashboard.api("POST", f"/studies/{study}/trials", json=asked).json()["numbers"]
    dashboard.api("POST", f"/studies/{study}/trials/{number}/cancel")
    return study, number


def test_trying_again_leads_to_the_new_trial_and_both_pages_name_each_other(
    dashboard: Dashboard, cancelled: tuple[int, int]
):
    study, number = cancelled
    with dashboard.login(dashboard.token("researcher")) as client:
        page = client.get(f"/ui/studies/{study}/trials/{number}")
        assert "Try again…" in page.text
        sent = {"Tunesmith-CSRF": csrf(page.text)}
        done = client.post(f"/ui/studies/{study}/trials/{number}/retry", headers=sent)
        assert (done.status_code, done.headers["hx-redirect"]) == (
            204, f"/ui/studies/{study}/trials/{number + 1}",
        )  # fmt: skip
        new, old = (client.get(f"/ui/studies/{study}/trials/{n}").text for n in (number + 1, number))
        assert f'tries <a href="/ui/studies/{study}/trials/{number}">#{number}</a> again' in new
        assert f'tried again as <a href="/ui/studies/{study}/trials/{number + 1}">#{number + 1}</a>' in old
        twice = client.post(
            f"/ui/studies/{study}/trials/{number}/retry", headers=sent | {"HX-Request": "true"}
        )
        assert (twice.status_code, "being tried again already" in twice.text) == (409, True)


def test_a_study_is_put_away_brought_back_and_deleted_by_its_name(
    dashboard: Dashboard, cancelled: tuple[int, int]
):
    study, _ = cancelled
    here = f"/ui/studies/{study}"
    with dashboard.login() as client:
        page = client.get(here)
        assert "Archive…" not in page.text
        assert "Delete…" not in page.text
        sent = {"Tunesmith-CSRF": csrf(page.text)}
        assert client.post(f"{here}/delete", headers=sent, data={"name": "x"}).status_code == 422
        dashboard.api("POST", f"/studies/{study}/stop")
        assert client.post(f"{here}/put/away", headers=sent).status_code == 204
        assert f'href="{here}"' not in client.get("/ui/studies").text
        assert "Bring back…" in client.get(here).text
        assert client.post(f"{here}/put/back", headers=sent).status_code == 204
        assert f'href="{here}"' in client.get("/ui/studies").text
        name = dashboard.api("GET", f"/studies/{study}").json()["name"]
        done = client.post(f"{here}/delete", headers=sent, data={"name": name})
        assert (done.status_code, done.headers["hx-redirect"]) == (204, "/ui/studies")
        assert client.get(here).status_code == 404


def test_a_viewer_may_press_none_of_them_and_a_researcher_may_not_delete(
    dashboard: Dashboard, cancelled: tuple[int, int]
):
    study, number = cancelled
    here = f"/ui/studies/{study}"
    paths = (f"{here}/trials/{number}/retry", f"{here}/trials/{number}/prune", f"{here}/rerun",
             f"{here}/put/away", f"{here}/delete")  # fmt: skip
    with dashboard.login(dashboard.token("viewer")) as viewer:
        page = viewer.get(f"{here}/trials/{number}").text
        assert "popovertarget" not in page
        sent = {"Tunesmith-CSRF": csrf(page)}
        assert [viewer.post(p, headers=sent).status_code for p in paths] == [403] * len(paths)
    with dashboard.login(dashboard.token("researcher")) as client:
        sent = {"Tunesmith-CSRF": csrf(client.get(here).text)}
        assert client.post(f"{here}/delete", headers=sent, data={"name": "x"}).status_code == 403
