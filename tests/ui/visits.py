"""A page of a fresh browser profile, logged in by the one-time link, and all that went wrong on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WAIT_MS = 60_000
"""No page needs so long; a machine with much else to do may."""


class Visit:
    """A page of a fresh browser profile, and all that went wrong on it."""

    def __init__(self, page: Any, base: str) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.wrong.append(str(e)))
        page.on("request", lambda r: r.url.startswith((base, "data:")) or self.wrong.append(f"asked {r.url}"))


@contextmanager
def visiting(dashboard: Any, chromium: Any, token: str = "") -> Iterator[Visit]:
    context = chromium.new_context(base_url=dashboard.url)
    context.set_default_timeout(WAIT_MS)
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
