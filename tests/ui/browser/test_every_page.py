"""What holds for each page, whatever it shows: browser tests 22 and 23, and the road by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ui.browser.axe import violations
from ui.browser.every_page import pages_of
from ui.conftest import Dashboard
from ui.visits import Visit

CSP = "default-src 'self'; script-src 'self'; style-src 'self'"


@pytest.fixture(scope="module")
def addresses(dashboard: Dashboard) -> list[str]:
    return pages_of(dashboard)


@pytest.fixture
def settled(visit: Visit, addresses: list[str]) -> Iterator[tuple[str, Any]]:
    """Each page in turn, scrolled through once so that all its charts are drawn."""

    def each() -> Iterator[tuple[str, Any]]:
        for address in addresses:
            answer = visit.page.goto(address)
            assert answer.headers["content-security-policy"].startswith(CSP), address
            draw_all(visit.page)
            yield address, visit.page

    return each()


def draw_all(page: Any) -> None:
    """Scroll down so that every chart is asked for, and wait until none is on its way. What was pushed down
    meanwhile by a part that came late is scrolled to once more."""
    page.evaluate(
        """async () => {
          for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight / 2) {
            scrollTo(0, y);
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
          }
        }"""
    )
    for chart in page.locator("[data-chart]").all():
        drawn = chart.locator(".chart canvas, [data-note]:not([hidden])")
        if not drawn.count():
            chart.evaluate("e => e.scrollIntoView()")
        drawn.first.wait_for(state="attached")
    page.evaluate("scrollTo(0, 0)")


OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const clips = e => /(auto|scroll|hidden|clip)/.test(getComputedStyle(e).overflowX);
  const boxed = e => e && (clips(e) || boxed(e.parentElement));
  const right = e => Math.round(e.getBoundingClientRect().right);
  return [...document.querySelectorAll("main *")]
    .filter(e => right(e) > width + 1 && !boxed(e.parentElement))
    .map(e => `${e.tagName}.${e.className} to ${right(e)} of ${width}`)
    .slice(0, 5).concat(`page ${document.documentElement.scrollWidth} of ${width}`);
}"""


def overflow(page: Any) -> list[str]:
    """Elements that reach past the right edge of the screen and are in no box that scrolls."""
    found: list[str] = page.evaluate(OVERFLOW)
    return found


def test_the_pages_are_found_through_their_routes(addresses: list[str], dashboard: Dashboard):
    assert {"/ui/studies", f"/ui/studies/{dashboard.study}", f"/ui/studies/{dashboard.study}/trials/9"} <= {
        *addresses
    }


def test_every_page_asks_only_our_origin_and_says_nothing_on_the_console(settled, visit: Visit):
    """Browser test 22."""
    for address, _ in settled:
        assert not visit.wrong, (address, visit.wrong)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(settled, visit: Visit, scheme: str):
    """Browser test 23."""
    visit.page.emulate_media(color_scheme=scheme)
    found = {address: told for address, page in settled if (told := violations(page))}
    assert not found, "\n".join(f"{a}\n  " + "\n  ".join(t) for a, t in found.items())


@pytest.mark.parametrize(
    ("width", "height", "what"), [(390, 844, "a phone"), (640, 400, "1280 wide at 200 % zoom")]
)
def test_no_page_scrolls_sideways(settled, visit: Visit, width: int, height: int, what: str):
    """Browser test 23. Zoomed to 200 %, a window of 1280 has 640 of CSS's pixels."""
    visit.page.set_viewport_size({"width": width, "height": height})
    found = {address: told for address, page in settled if (told := overflow(page))}
    assert not found, f"on {what}: {found}"


def tab_to(page: Any, wanted: Any, most: int = 120) -> None:
    """Press Tab until `wanted` has the focus, which must show."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.evaluate("e => e === document.activeElement"):
            outline = wanted.evaluate("e => getComputedStyle(e).outlineStyle")
            assert outline != "none", "the focus does not show"
            return
    raise AssertionError(f"{most} presses of Tab did not reach {wanted}")


def test_from_the_list_to_a_study_to_a_trial_and_a_question_by_keyboard_alone(
    visit: Visit, dashboard: Dashboard
):
    """Browser test 23."""
    from playwright.sync_api import expect

    page = visit.page
    page.goto("/ui/studies")
    tab_to(page, page.get_by_role("link", name="cifar-mini-resnet").first)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("cifar-mini-resnet")
    stop = page.get_by_role("button", name="Stop…")
    tab_to(page, stop)
    page.keyboard.press("Enter")
    question = page.get_by_role("dialog", name="Stop this study for good?")
    expect(question).to_be_visible()
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(stop).to_be_focused()
    row = page.locator("#rows a").first
    tab_to(page, row)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/ui/studies/{dashboard.study}/trials/*")
    expect(page.get_by_role("heading", level=1)).to_contain_text("#")


def test_the_skip_link_leads_past_the_heading(visit: Visit):
    page = visit.page
    page.goto("/ui/studies")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the page")
    assert skip.evaluate("e => e === document.activeElement")
    page.keyboard.press("Enter")
    page.wait_for_url("**#main")
