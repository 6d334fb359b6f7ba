"""Explore over HTTP: its table in any order, and exports of just what it shows."""

from __future__ import annotations

import csv
import html as markup
import io
import re

import httpx
import pytest
from ui.conftest import Dashboard


def shown(html: str) -> list[int]:
    """Numbers of the trials in the table, in order."""
    return [int(n) for n in re.findall(r'data-trial="(\d+)"', html)]


def ask(person: httpx.Client, dashboard: Dashboard, **asked: str) -> str:
    answer = person.get(f"/ui/studies/{dashboard.study}/parts/explored", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_trials_without_a_value_come_last_either_way(dashboard: Dashboard, person: httpx.Client) -> None:
    for sort in ("value", "-value"):
        found = shown(ask(person, dashboard, sort=sort))
        assert sorted(found[-10:]) == [18, 19, 20, 21, 22, 23, 32, 33, 34, 35]


def test_pages_follow_each_other_in_any_order(dashboard: Dashboard, person: httpx.Client) -> None:
    study = {
        "name": "many",
        "task": "images",
        "space": {"lr": {"low": 0.0, "high": 1.0}},
        "stages": [{"kind": "random", "name": "r", "epochs": 1, "trials": 200}],
    }
    made = dashboard.api("POST", "/studies", json=study).json()["id"]
    params = [{"lr": (i * 37 % 120) / 1000} for i in range(120)]
    dashboard.api("POST", f"/studies/{made}/trials", json={"params": params})
    table = f"/ui/studies/{made}/parts/explored"
    for sort in ("lr", "-lr", "-number", "value", "state", "-stage"):
        seen: list[int] = []
        address = f"{table}?sort={sort}"
        while address:
            html = person.get(address).text
            seen += shown(html)
            found = re.search(r'href="(\?[^"]*)">Next 50', html)
            address = table + markup.unescape(found[1]) if found else ""
        assert sorted(seen) == list(range(120)), sort
    by_lr = sorted(range(120), key=lambda i: params[i]["lr"])
    assert shown(person.get(f"{table}?sort=lr").text) == by_lr[:50]


def test_an_export_holds_what_the_table_shows(dashboard: Dashboard, person: httpx.Client) -> None:
    html = ask(person, dashboard, filter="stage:refine", sort="value", columns="lr,value", differ="1")
    links = [markup.unescape(link) for link in re.findall(r'href="([^"]+)" download', html)]
    answer = person.get(links[0])
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head == ["number", "lr", "val/loss"]
    assert [int(r[0]) for r in rows] == shown(html)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="cifar-mini-resnet-trials.csv"'
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_table(io.BytesIO(person.get(links[1]).content)).num_rows == len(rows)
    assert person.get(links[2]).text.count("\n") == len(rows) + 2
    assert "\\toprule" in person.get(links[3]).text
