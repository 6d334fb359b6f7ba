"""MANY strings that run where somebody writes them into a page without care, in every field that people and
workers fill: on each page they are text, no script runs, and the policy has nothing to forbid."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from markdown_it import MarkdownIt
from security.scripts import BROKEN_OUT, FORMS, MANY, strings
from tunesmith_service.ui.rendering import POLICY
from ui.browser.every_page import pages_of
from ui.browser.planted import PLANTED, planted
from ui.browser.test_every_page import draw_all
from ui.conftest import Dashboard
from ui.flooded import FIRST, LAST, TEXTS, Flooded
from ui.visits import Visit, visiting

OTHERS = strings(99)
"""Of nobody's field."""
MORE = (
    "/ui/studies?page=1", "/ui/studies?page=2", "/ui/studies?page=3", "/ui/studies?page=4",
    "/ui/studies/2", "/ui/studies/2/events", "/ui/studies/3", "/ui/studies/3/config", "/ui/studies/4",
    "/ui/studies/new?clone=5", f"/ui/studies/{4 + MANY}", f"/ui/studies/{4 + MANY}/trials/0",
    "/ui/compare?studies=" + ",".join(map(str, range(4, 24))),
    *(f"/ui/studies/{{study}}/explore?after={n}" for n in (183, 133, 83, 33)),
    "/ui/studies/{study}/explore?sort=number&columns=state,stage,worker,reason,kind,tag",
    "/ui/studies/{study}/explore?filter=" + quote(" ".join(TEXTS["choice"][:20])),
    "/ui/studies/{study}/events?kind=stage",
)  # fmt: skip
"""What `pages_of` has one example of and other rows stand on."""
LONG = ("/ui/settings/audit", "/ui/studies/{study}/events?kind=study")
"""Pages that lead to older entries."""
MOST_OLDER = 20
"""Of these: more than there are."""

TEXT = """(root) => root.body.textContent
  + [...root.querySelectorAll("input, textarea")].map((e) => e.value).join("\\n")"""
OPENED = 'document.querySelectorAll("details:not([open])").forEach((d) => { d.open = true; })'
POINTED = """() => {
  const places = [...document.querySelectorAll("[data-chart] .chart")];
  return places.map((e) => echarts.getInstanceByDom(e)).filter(Boolean).map((chart) => {
    let told = 0;
    chart.on("showTip", () => { told += 1; });
    chart.getOption().series.forEach((_, seriesIndex) => [0, 1, 2].forEach((dataIndex) => {
      try {
        chart.dispatchAction({ type: "showTip", seriesIndex, dataIndex });
      } catch {} // axes of its own, where ECharts points with a mouse alone
    }));
    return told;
  }).filter((told) => told > 0).length;
}"""
"""Points at marks of all charts; how many charts told something."""


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flooded]:
    served = Flooded(tmp_path_factory.mktemp("flooded"))
    yield served
    served.process.kill()


@pytest.fixture
def visit(dashboard: Dashboard, chromium: Any) -> Iterator[Visit]:
    """Of a person who is called by one of the strings. A dialog, another window or frame is wrong, too."""
    named = dashboard.api("POST", "/tokens", json={"name": TEXTS["person"][0], "role": "operator"})
    with visiting(dashboard, chromium, named.json()["token"]) as found:
        watch(found.page, found.wrong)
        yield found


def watch(page: Any, wrong: list[str]) -> None:
    page.on("dialog", lambda d: (wrong.append(f"dialog {d.message}"), d.dismiss()))
    page.on("popup", lambda p: wrong.append(f"window {p.url}"))
    page.on("frameattached", lambda f: wrong.append(f"frame {f.url}"))
    page.on("framenavigated", lambda f: wrong.append(f"frame {f.url}") if f.parent_frame else None)


class Look:
    """Pages one after another, and what they said."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.said = ""
        self.pointed = 0

    def at(self, address: str) -> None:
        page = self.visit.page
        page.goto(address)
        draw_all(page)
        page.evaluate(OPENED)
        self.pointed += page.evaluate(POINTED) if page.locator("[data-chart]").count() else 0
        text = page.evaluate(f"({TEXT})(document)")
        assert planted(page) == [], address
        assert not self.visit.wrong, (address, self.visit.wrong[:3])
        assert page.url == page.evaluate("address => new URL(address, location.href).href", address)
        self.said += text

    def at_older(self, address: str) -> None:
        """A page and all that it leads on to."""
        older = self.visit.page.locator("a[href*='before=']")
        for _ in range(MOST_OLDER):
            self.at(address)
            if not older.count():
                return
            address = older.evaluate("a => a.href")
        raise AssertionError(f"{address} still leads to older ones")


def unseen(said: str, fields: Sequence[str]) -> dict[str, list[str]]:
    """The strings of each field that were nowhere to be read, a few of them."""
    missing = {field: [text for text in TEXTS[field] if text not in said] for field in fields}
    return {field: texts[:5] for field, texts in missing.items() if texts}


def test_each_field_has_strings_enough():
    assert MANY >= 200
    assert all(len(set(texts)) == MANY for texts in TEXTS.values())
    assert len({text for texts in TEXTS.values() for text in texts}) == MANY * len(TEXTS)


def test_on_every_page_each_string_is_text_and_none_runs(dashboard: Flooded, visit: Visit):
    look = Look(visit)
    addresses = pages_of(dashboard, (FIRST, LAST))
    assert len(addresses) > 15
    for address in [*addresses, *MORE]:
        look.at(address.format(study=dashboard.study))
    for address in LONG:
        look.at_older(address.format(study=dashboard.study))
    assert look.pointed > 10
    assert not unseen(look.said, [f for f in TEXTS if f not in OF_ONE_STUDY])
    assert "csp.violation" not in dashboard.process.said


OF_ONE_STUDY = ("task", "parameter", "notes")
"""What a study has one of and no list shows: on its own page, the last in its report."""
SENT = """async ({ addresses, form }) => {
  const planted = PLANTED, text = TEXT, found = [];
  for (const address of addresses) {
    const headers = JSON.parse(document.body.getAttribute("hx-headers"));
    const asked = form ? { method: "POST", headers, body: new URLSearchParams(form) } : {};
    const html = await (await fetch(address, asked)).text();
    const root = new DOMParser().parseFromString(html, "text/html");
    found.push({ address, planted: planted(root), said: root.title + text(root) });
  }
  return found;
}""".replace("PLANTED", PLANTED).replace("TEXT", TEXT)
"""Asks for pages or parts, or sends a form there, and builds what comes as browsers do; none of it runs."""


def sent(visit: Visit, addresses: Sequence[str], form: dict[str, str] | None = None) -> str:
    """What answers say; nothing may be planted in them."""
    answers = visit.page.evaluate(SENT, {"addresses": addresses, "form": form})
    assert not [(a["address"], a["planted"]) for a in answers if a["planted"]]
    calm(visit)
    return "".join(a["said"] for a in answers)


def calm(visit: Visit) -> None:
    """Nothing was wrong but that what makes no sense was refused."""
    visit.wrong[:] = [told for told in visit.wrong if "Failed to load resource" not in told]
    assert not visit.wrong, visit.wrong[:3]


def test_each_studys_own_page_shows_its_names_as_text(dashboard: Flooded, visit: Visit):
    ids = [study["id"] for study in dashboard.api("GET", "/studies?limit=1000").json()["items"]]
    visit.page.goto("/ui/settings")
    said = sent(visit, [f"/ui/studies/{i}{page}" for i in ids for page in ("", "/explore", "/parts/menu")])
    assert not unseen(said, ("study", "task", "parameter"))


# --- what one asks for, and sends -----------------------------------------------------------------

ASKED = (
    ("/ui/studies?search={0}&owner={0}", 128),
    ("/ui/studies/1?stage={}", 128),
    ("/ui/studies/1/explore?filter={}", 900),
    ("/ui/studies/1/explore?sort={}", 128),
    ("/ui/studies/1/explore?columns={}", 1900),
    ("/ui/compare?trials={}", 900),
    ("/ui/compare?stages={}", 900),
    ("/ui/studies/new?clone=1&stage={0}&param={0}", 128),
    ("/ui/studies/1/stages/new?stage={0}&param={0}", 128),
    ("/ui/login?to={}", 1900),
    ("/ui/{}", 900),
)
"""Words of addresses, and how many characters each may have."""
SAID_AGAIN = ("search=", "filter=", "trials=", "stages=")
"""Those that a page shows as they came."""


def packed(texts: Sequence[str], most: int) -> list[str]:
    """Them with spaces between, in as few as hold `most` characters each."""
    found = [""]
    for text in texts:
        longer = f"{found[-1]} {text}".strip()
        found[-1:] = [longer] if len(longer) <= most else [found[-1], text]
    return found


def test_what_addresses_ask_for_is_text(visit: Visit):
    visit.page.goto("/ui/settings")
    for address, most in ASKED:
        said = sent(visit, [address.format(quote(some, safe="")) for some in packed(OTHERS, most)])
        if any(word in address for word in SAID_AGAIN):
            assert not [text for text in OTHERS if text not in said][:5], address


def test_a_report_shows_them_as_text(dashboard: Flooded, chromium: Any, tmp_path: Path):
    file = tmp_path / "report.html"
    file.write_bytes(dashboard.api("GET", f"/studies/{dashboard.study}/report").content)
    page, wrong = plain_page(chromium)
    page.goto(file.as_uri())
    assert set(planted(page)) == {"STYLE"}  # its own, allowed by hash
    assert not wrong
    assert not unseen(page.evaluate(f"({TEXT})(document)"), ("fixed", "value", "choice", "notes", "sentence"))
    page.context.browser.close()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("report?format=md", ("fixed", "value", "choice", "sentence")),
        ("trials/export?format=markdown", ("choice",)),
    ],
)
def test_markdown_of_ours_makes_no_elements_of_them(
    dashboard: Flooded, chromium: Any, path: str, fields: tuple[str, ...]
):
    """Rendered with all that may be switched on, in a page without any policy."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.validateLink = lambda link: True
    page, wrong = plain_page(chromium)
    text = dashboard.api("GET", f"/studies/{dashboard.study}/{path}").text
    page.set_content(markdown.render(text), wait_until="load")
    assert planted(page) == []
    assert not wrong
    assert not unseen(page.evaluate(f"({TEXT})(document)"), fields)
    page.set_content(markdown.render(TEXTS["choice"][0]))
    assert wrong == ["dialog 15"]  # what would have been seen
    page.context.browser.close()


def plain_page(chromium: Any) -> tuple[Any, list[str]]:
    """A page of no server, and all that goes wrong on it."""
    page = chromium.new_context().new_page()
    wrong: list[str] = []
    watch(page, wrong)
    page.on("console", lambda m: wrong.append(m.text))
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith("file:") else None)
    return page, wrong


def test_no_cell_of_an_export_is_a_formula(dashboard: Flooded):
    text = dashboard.api("GET", f"/studies/{dashboard.study}/trials/export").text
    cells = {cell for row in csv.reader(io.StringIO(text)) for cell in row}
    assert not [text for text in TEXTS["choice"] if not {text, f"'{text}"} & cells]
    began = [cell for cell in cells if cell.startswith(("=", "@", "+", "-", "\t", "\r"))]
    assert not [cell for cell in began if not re.fullmatch(r"[+-]?[\d.e+-]+", cell)]


FILLED = """async ({ page, texts }) => {
  const planted = PLANTED, text = TEXT, found = [];
  const built = async (asked) => new DOMParser().parseFromString(await (await asked).text(), "text/html");
  const headers = JSON.parse(document.body.getAttribute("hx-headers"));
  for (const form of (await built(fetch(page))).querySelectorAll("form[hx-post]")) {
    const address = form.getAttribute("hx-post");
    for (const some of texts) {
      const fields = [...form.elements].filter((e) => e.name);
      const filled = fields.map((e, i) => [e.name, e.type === "hidden" ? e.value : some[i % some.length]]);
      const body = new URLSearchParams(filled);
      const answer = await built(fetch(address, { method: "POST", headers, body }));
      found.push({ address, planted: planted(answer), said: text(answer) });
    }
  }
  return found;
}""".replace("PLANTED", PLANTED).replace("TEXT", TEXT)
"""Fills the fields of a page's forms with each of `texts` in turn, and builds what comes as browsers do."""
WITH_FORMS = (
    ("/ui/studies/new", 900),
    ("/ui/studies/new?mode=yaml", 9000),
    ("/ui/studies/new?clone=4", 900),
    ("/ui/studies/4/stages/new", 900),
    ("/ui/studies/1/notes", 9000),
    ("/ui/studies/1/trials/9/variant", 0),
)
"""Pages, and how many characters a field takes; 0: one string each, for there are as many fields."""


def test_what_forms_send_comes_back_as_text(visit: Visit):
    """The last of those that look at these studies, for it changes them."""
    visit.page.goto("/ui/workers")
    for name in packed(OTHERS, 128):
        said = sent(visit, ["/ui/settings/tokens"], {"name": name, "role": "viewer", "days": ""})
        assert name in said
    for address, most in WITH_FORMS:
        texts = [[some] for some in packed(OTHERS, most)] if most else [OTHERS]
        answers = visit.page.evaluate(FILLED, {"page": address, "texts": texts})
        assert not [(a["address"], a["planted"]) for a in answers if a["planted"]]
        said = "".join(a["said"] for a in answers)
        assert not [text for text in OTHERS if text not in said][:5], address
        calm(visit)


def test_a_code_that_is_none_is_refused_without_a_script(dashboard: Flooded, chromium: Any):
    context = chromium.new_context(base_url=dashboard.url)
    page = context.new_page()
    wrong: list[str] = []
    watch(page, wrong)
    page.goto(f"/ui/login?to={quote(OTHERS[0])}")
    page.get_by_label("One-time code").fill(" ".join(OTHERS)[:200])
    page.get_by_role("button", name="Open the dashboard").click()
    page.get_by_role("alert").wait_for()
    assert planted(page) == []
    assert not wrong
    context.browser.close()


# --- what watches would have seen it ----------------------------------------------------------------


def test_one_that_got_onto_a_page_of_ours_would_have_been_seen(dashboard: Flooded, visit: Visit):
    visit.page.goto("/ui/studies")
    visit.page.evaluate("t => document.body.insertAdjacentHTML('beforeend', t)", "<svg onload=alert(1)>")
    assert planted(visit.page) == ["svg onload"]
    dashboard.process.says("csp.violation")
    assert visit.wrong
    assert all("Content Security Policy" in told for told in visit.wrong)
    visit.wrong.clear()


CONTEXTS = (
    "{}", '<p title="{}">x', "<p title='{}'>x", "<p title={}>x", '<iframe src="{}"></iframe>',
    "<textarea>{}</textarea>", "<title>{}</title>", "<style>{}</style>", "<!-- {} -->",
    "<script>x = '{}'</script>", '<script>x = "{}"</script>', "<script>x = `{}`</script>",
    "<script>{}</script>",
)  # fmt: skip
"""How pages write texts down where nobody takes care."""
NOTED = """window.alert = () => {
  let frame = window;
  while (frame !== top && frame.parent !== top) frame = frame.parent;
  frame.ran = true;
};"""
BARE = """async (sources) => {
  const planted = PLANTED;
  const frames = sources.map((srcdoc) => Object.assign(document.createElement("iframe"), { srcdoc }));
  await Promise.all(frames.map((frame) => new Promise((done) => {
    frame.addEventListener("load", done);
    document.body.append(frame);
  })));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const found = frames.map((f) => [Boolean(f.contentWindow.ran), planted(f.contentDocument).length > 0]);
  document.body.replaceChildren();
  return found;
}""".replace("PLANTED", PLANTED)
"""Writes each text into a document of its own; whether it ran, and whether something is planted there."""


def bare_page(chromium: Any, policy: str) -> tuple[Any, list[str]]:
    """An empty page under this policy, and what its console says."""
    page = chromium.new_context().new_page()
    page.add_init_script(NOTED)
    told: list[str] = []
    page.on("console", lambda m: told.append(m.text))
    headers = {"Content-Security-Policy": policy} if policy else {}
    page.route("**", lambda r: r.fulfill(body="<!doctype html>", content_type="text/html", headers=headers))
    page.goto("http://bare.example/")
    return page, told


def test_most_of_them_run_where_nobody_takes_care_and_are_seen(chromium: Any):
    page, _ = bare_page(chromium, "")
    ran: dict[str, set[str]] = {}
    for where in CONTEXTS:
        forms = FORMS if where == "{}" else BROKEN_OUT
        texts = [where.format(form.format("alert(1)")) for form in forms]
        for form, text, (it_ran, is_seen) in zip(forms, texts, page.evaluate(BARE, texts), strict=True):
            if it_ran:
                assert is_seen, text
                ran.setdefault(form, set()).add(text)
    page.context.browser.close()
    assert len(ran) >= 50
    page, told = bare_page(chromium, POLICY)
    texts = [text for found in ran.values() for text in found]
    assert page.evaluate(BARE, texts) == [[False, True]] * len(texts)
    page.context.browser.close()
    assert sum("Content Security Policy" in line for line in told) >= len(texts)
