"""The report: one file that stands alone."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tunesmith_service.drawing import plots, svg
from tunesmith_service.drawing.figure import Box, Figure, Line, Scale
from tunesmith_studies.study import StudySpec
from ui.conftest import Dashboard

MOST_BYTES = 2_000_000


class Elements(HTMLParser):
    """All elements with their attributes; and whether each that was opened was closed in order."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html(dashboard: Dashboard) -> str:
    answer = dashboard.api("GET", f"/studies/{dashboard.study}/report")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="cifar-mini-resnet.html"'
    assert len(answer.content) < MOST_BYTES
    return answer.text


def test_the_report_has_all_its_parts_and_names_nothing_elsewhere(html: str) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles == [
        "Question", "Answer", "How it was searched", "Findings", "Figures", "Failures", "Cost", "Do it again",
    ]  # fmt: skip
    elements = Elements(html)
    assert not elements.open
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "img", "iframe", "object", "a", "form"}
    names = {name for _, attrs in elements.found for name in attrs}
    assert not names & {"src", "href", "style", "srcset"}
    assert not [n for n in names if n.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    assert html.count("<figure>") == 4


def test_the_report_says_the_numbers_that_the_api_says(dashboard: Dashboard, html: str) -> None:
    best = dashboard.api("GET", f"/studies/{dashboard.study}/best").json()["items"][0]
    assert f'value="{best["value"]!r}"' in html
    assert f"of trial #{best['number']} (refine)" in html
    assert "RuntimeError" in html
    assert "6 of coarse" in html  # diverged
    costs = html.partition("<h2>Cost</h2>")[2]
    coarse = re.search(r"<tr><td>coarse</td><td[^>]*>(\d+)</td><td[^>]*>(\d+)</td>", costs)
    assert coarse, costs[:600]
    assert coarse.groups() == ("24", str(18 * 5 + 6 * 3))


def test_the_study_file_in_the_report_is_one_that_can_be_created(dashboard: Dashboard, html: str) -> None:
    text = unescape(html.rpartition("<pre>")[2].partition("</pre>")[0])
    assert StudySpec.from_json(yaml.safe_load(text)).name == "cifar-mini-resnet"


def test_what_people_write_is_text_in_the_report(dashboard: Dashboard) -> None:
    spec = {
        "name": "a <b>bold<b> & | study", "task": "images<script>alert(1)</script>",
        "notes": "<img src=x onerror=alert(1)> </pre>", "fixed": {"width": "<i>|*"},
        "space": {"lr": {"low": 1e-3, "high": 1.0, "log": True}},
        "stages": [{"kind": "random", "name": "rnd", "trials": 2, "epochs": 1}],
    }  # fmt: skip
    study = dashboard.api("POST", "/studies", json=spec).json()["id"]
    html = dashboard.api("GET", f"/studies/{study}/report").text
    assert {"script", "img", "b", "i"} & {t for t, _ in Elements(html).found} == {"b"}
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    markdown = dashboard.api("GET", f"/studies/{study}/report?format=md").text
    assert markdown.startswith("# a \\<b\\>bold\\<b\\> & \\| study\n")
    assert "No trial has a value yet." in markdown


def test_the_report_as_markdown_has_well_formed_tables(dashboard: Dashboard) -> None:
    answer = dashboard.api("GET", f"/studies/{dashboard.study}/report?format=md")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    blocks = [b.splitlines() for b in answer.text.split("\n\n") if b.lstrip().startswith("|")]
    assert len(blocks) == 3
    for rows in blocks:
        assert len(rows) > 2, rows
        assert len({row.count("|") - row.count("\\|") for row in rows}) == 1, rows


def test_another_projects_study_has_no_report(dashboard: Dashboard, person: httpx.Client) -> None:
    assert person.get(f"/ui/studies/{dashboard.study}/report").status_code == 200
    assert person.get("/ui/studies/4242/report").status_code == 404
    assert f'href="/ui/studies/{dashboard.study}/report"' in person.get(f"/ui/studies/{dashboard.study}").text


def test_marks_stand_where_their_values_are_and_titles_are_text() -> None:
    figure = Figure("<t>", Scale("epoch", 0, 10), Scale("loss", 0.0, 1.0))
    figure.add(Line([(0, 0.0), (10, 1.0)], "kind-0"), Box((0, 5, 0.5, 1.0), 3, '"<x>'))
    drawn = str(svg.markup(figure))
    across, up = svg.WIDTH - svg.LEFT - svg.RIGHT, svg.HEIGHT - svg.TOP - svg.BOTTOM
    assert f"M0.0 {up:.1f}L{across:.1f} 0.0" in drawn
    assert f'width="{across / 2:.1f}" height="{up / 2:.1f}"' in drawn
    assert "<t>" not in drawn
    assert "<x>" not in drawn


@pytest.mark.parametrize("name", sorted(plots.PLOTS))
def test_a_view_without_trials_has_no_figure(name: str) -> None:
    lists = ("at", "layers", "curves", "names", "lines", "sweeps")
    assert plots.PLOTS[name]({"range": None} | {name: [] for name in lists}) is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_from_disk_with_the_network_off_and_asks_for_nothing(
    html: str, chromium: Any, tmp_path: Path, scheme: str
) -> None:
    """Browser test 21."""
    from playwright.sync_api import expect

    file = tmp_path / "report.html"
    file.write_text(html)
    context = chromium.new_context(offline=True, color_scheme=scheme, viewport={"width": 390, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.on("console", lambda m: wrong.append(m.text))
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", name="cifar-mini-resnet")).to_be_visible()
    expect(page.locator("figure > svg")).to_have_count(4)
    light, dark = "rgb(247, 247, 245)", "rgb(20, 23, 26)"
    expect(page.locator("body")).to_have_css("background-color", light if scheme == "light" else dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert asked == [file.as_uri()]
    assert not wrong
    context.browser.close()
