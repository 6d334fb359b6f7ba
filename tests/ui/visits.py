"""A page of a fresh browser profile, logged in by the one-time link, and all that went wrong on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WAIT_MS = 60_000
"""No page needs so long; a machine with much else to do may."""
NOTED = ("error", "warning")


class Visit:
    """A page of a fresh browser profile, and all that went wrong on it."""

    def __init__(self, page: Any, base: str) -> None:
        self.page = page
        self.wrong: list[str] = []
        self._forgiven: list[tuple[int, str]] = []
        page.on("console", lambda m: self.note(m.text, m.location["url"]) if m.type in NOTED else None)
        page.on("pageerror", lambda e: self.wrong.append(str(e)))
        page.on("request", lambda r: r.url.startswith((base, "data:")) or self.wrong.append(f"asked {r.url}"))

    def note(self, told: str, address: str = "") -> None:
        """Something is wrong, unless it was forgiven."""
        if not any(f" {status}" in told and path in told + address for status, path in self._forgiven):
            self.wrong.append(told)

    def forgive(self, status: int, path: str) -> None:
        """From here on it is nothing wrong if what is asked below this path is refused like that."""
        self._forgiven.append((status, path))


@contextmanager
def visiting(dashboard: Any, chromium: Any, token: str = "") -> Iterator[Visit]:
    context = chromium.new_context(base_url=dashboard.url)
    found = Visit(context.new_page(), dashboard.url)
    found.page.goto(dashboard.login_link(token))
    found.page.wait_for_url("**/ui/studies")
    yield found
    context.browser.close()
    assert not found.wrong, found.wrong


def settled(page: Any) -> None:
    """What htmx was asked for has come, and listens to what one types and clicks."""
    from playwright.sync_api import expect

    expect(page.locator(".htmx-request, .htmx-swapping, .htmx-settling, .htmx-added")).to_have_count(0)


@contextmanager
def withheld(page: Any, pattern: str) -> Iterator[None]:
    """What is asked for at such addresses comes only once this is left."""
    held, is_held = list[Any](), True

    def come(route: Any) -> None:
        if is_held:
            held.append(route)
        else:
            route.continue_()

    page.route(pattern, come)
    yield
    is_held = False
    for route in held:
        route.continue_()


LASTING = """() => {
    const really = window.setTimeout;
    window.setTimeout = (what, ms, ...more) => really(what, ms === 2000 ? 600000 : ms, ...more);
}"""


def lasting(page: Any) -> None:
    """What this page says for two seconds stays: on a busy machine `expect` may look later than that."""
    page.evaluate(LASTING)
