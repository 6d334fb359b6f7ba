"""Which studies the list shows and in which order, as its address says."""

from __future__ import annotations

import re

import pytest
from ui.conftest import Dashboard
from ui.test_pages import new_study


@pytest.fixture(scope="module")
def three(dashboard: Dashboard) -> list[int]:
    made = [new_study(dashboard, f"listed {word}") for word in ("Beta", "alpha", "gam%ma")]
    dashboard.api("POST", f"/studies/{made[0]}/pause")
    dashboard.api("POST", f"/studies/{made[2]}/stop")
    dashboard.api("POST", f"/studies/{made[2]}/archive")
    return made


def shown(dashboard: Dashboard, query: str) -> list[int]:
    with dashboard.login() as client:
        answer = client.get(f"/ui/studies?{query}")
    assert answer.status_code == 200
    return [int(n) for n in re.findall(r'id="study-(\d+)"', answer.text)]


def test_words_of_the_address_pick_and_order_the_studies(dashboard: Dashboard, three: list[int]):
    beta, alpha, gamma = three
    assert shown(dashboard, "search=listed") == [alpha, beta]
    assert shown(dashboard, "search=LISTED&order=oldest") == [beta, alpha]
    assert shown(dashboard, "search=listed&order=name") == [alpha, beta]
    assert shown(dashboard, "search=listed&state=paused") == [beta]
    assert shown(dashboard, "search=listed&state=archived") == [gamma]
    assert shown(dashboard, "search=m%25m&state=archived") == [gamma]
    assert shown(dashboard, "search=l%25a") == []
    assert shown(dashboard, "owner=researcher:nobody") == []


def test_the_best_value_comes_first_and_studies_without_one_last(dashboard: Dashboard, three: list[int]):
    found = shown(dashboard, "order=best")
    assert found.index(dashboard.study) < min(found.index(s) for s in three[:2])


def test_what_is_asked_stands_in_the_form(dashboard: Dashboard, three: list[int]):
    with dashboard.login() as client:
        page = client.get("/ui/studies?search=nothing+like+it&order=best").text
        assert 'value="nothing like it"' in page
        assert '<option value="best" selected>' in page
        assert "No study like that." in page
        assert client.get("/ui/studies?order=worst").status_code in (404, 422)
