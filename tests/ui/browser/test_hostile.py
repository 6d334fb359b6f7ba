"""Names, logs, errors and files that try to run: on every page they are text and nothing else."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ui import hostile
from ui.browser.every_page import pages_of
from ui.browser.planted import planted
from ui.browser.test_every_page import draw_all
from ui.hostile import Hostile
from ui.visits import Visit


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    served = Hostile(tmp_path_factory.mktemp("hostile"))
    yield served
    served.process.kill()


@pytest.fixture
def quiet(visit: Visit) -> Visit:
    """A visit in which a dialog is something wrong, too."""
    visit.page.on("dialog", lambda d: (visit.wrong.append(f"dialog {d.message}"), d.dismiss()))
    return visit


def test_every_page_shows_hostile_texts_as_they_are(quiet: Visit, dashboard: Hostile):
    page, seen = quiet.page, ""
    addresses = pages_of(dashboard, (hostile.FIRST, hostile.LAST))
    assert len(addresses) > 15
    for address in addresses:
        page.goto(address)
        draw_all(page)
        for details in page.locator("details:not([open]) > summary").all():
            if details.is_visible():
                details.click()  # the figures of a chart are a table that is built when it is opened
        assert planted(page) == [], address
        assert not quiet.wrong, (address, quiet.wrong)
        seen += page.locator("body").evaluate(
            "e => e.innerText + [...e.querySelectorAll('input, textarea')].map(x => x.value).join('\\n')"
        )
    page.evaluate("document.body.append(Object.assign(document.createElement('a'), {href: 'javascript:1'}))")
    assert planted(page) == ["A href"]  # what would have been found
    missing = [text for text in shown() if text not in seen]
    assert not missing, missing


def shown() -> list[str]:
    """What must be legible somewhere, letter by letter."""
    return [
        hostile.STUDY, hostile.TASK, hostile.METRIC, hostile.RATE, hostile.KIND, *hostile.CHOICES,
        *hostile.FIXED, hostile.FIRST, hostile.LAST, hostile.WORKER, *hostile.TAGS, hostile.WHY,
        hostile.REASON, *hostile.NOTE.split("\n")[:-1], hostile.KIND_OF_ERROR,
        "<img src=x onerror=alert('error')>", "</pre><script>alert('log')</script>",
        hostile.ARTIFACTS[0], hostile.TOKEN, *hostile.CLASSES[:2],
    ]  # fmt: skip


def test_links_of_notes_lead_where_they_say_and_nowhere_else(quiet: Visit, dashboard: Hostile):
    quiet.page.goto(f"/ui/studies/{dashboard.study}/notes")
    links = quiet.page.locator(".written a").evaluate_all(
        "all => all.map((a) => [a.getAttribute('href'), a.rel])"
    )
    assert links == [["https://a.example/", "noopener noreferrer"]] * 3
    # A text that reads from right to left does not turn what stands around it.
    written = quiet.page.locator(".written")
    assert written.evaluate("e => getComputedStyle(e).unicodeBidi") in ("isolate", "plaintext")


@pytest.mark.parametrize("name", ["plot.svg", "page.html"])
def test_a_program_among_the_artifacts_is_saved_and_never_run(quiet: Visit, dashboard: Hostile, name: str):
    page = quiet.page
    page.goto(f"/ui/studies/{dashboard.study}/trials/9")
    with page.expect_download() as saving:
        page.get_by_role("link", name=name, exact=True).click()
    assert Path(saving.value.path()).read_bytes() in (hostile.SVG, hostile.HTML)
    source = f"/ui/studies/{dashboard.study}/trials/9/artifacts/{name}"
    drawn = page.evaluate(
        """(src) => new Promise((done) => {
          const image = new Image();
          image.onload = () => done("drawn");
          image.onerror = () => done("refused");
          image.src = src;
        })""",
        source,
    )
    assert drawn == "refused"


def test_a_report_shows_them_as_text_too(quiet: Visit, dashboard: Hostile, chromium: Any, tmp_path: Path):
    file = tmp_path / "report.html"
    file.write_bytes(dashboard.api("GET", f"/studies/{dashboard.study}/report").content)
    context = chromium.new_context()
    try:
        page = context.new_page()
        wrong: list[str] = []
        page.on("console", lambda m: wrong.append(m.text))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("dialog", lambda d: (wrong.append(d.message), d.dismiss()))
        page.on("request", lambda r: wrong.append(r.url) if r.url != file.as_uri() else None)
        page.goto(file.as_uri())
        runs = [r for r in planted(page) if r != "STYLE"]  # its own, allowed by hash
        text = page.locator("body").inner_text()
    finally:
        context.browser.close()
    assert not runs
    assert not wrong
    for words in (hostile.STUDY, hostile.TASK, hostile.RATE, hostile.KIND, hostile.WHY, hostile.FIRST):
        assert words in text


def test_a_report_in_markdown_holds_no_markup_of_theirs(dashboard: Hostile):
    text = dashboard.api("GET", f"/studies/{dashboard.study}/report?format=md").text
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("    "))  # no code
    assert not re.search(r"(?<!\\)<[a-zA-Z/!]", outside), re.findall(r".*(?<!\\)<[a-zA-Z/!].*", outside)
    assert not re.search(r"(?<!\\)\]\(", outside)


def test_cells_of_an_export_are_no_formulas(dashboard: Hostile):
    text = dashboard.api("GET", f"/studies/{dashboard.study}/trials/export").text
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert hostile.CHOICES[0] in cells
    for cell in cells:
        assert not cell.startswith(("=", "@", "\t", "\r")), cell
        assert not cell.startswith(("+", "-")) or re.fullmatch(r"[+-]?[\d.e+-]+|-Infinity", cell), cell
    for form in ("markdown", "latex"):
        printed = dashboard.api("GET", f"/studies/{dashboard.study}/trials/export?format={form}").text
        assert not re.search(r"(?<!\\)<(script|img|svg)", printed)
