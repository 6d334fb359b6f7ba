"""The dashboard's pages as `dashboard.py` opens them: when each is drawn, and what is then done there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from playwright.sync_api import Page, expect

Shown: TypeAlias = Callable[[Page], None]


@dataclass(frozen=True)
class Screen:
    """One page.

    Attributes:
        drawn: waits until its table or its first chart is there.
        answered: does something, and waits until the page shows what follows.
    """

    name: str
    path: str
    drawn: Shown
    answered: Shown


def screens(study: int, trials: int) -> list[Screen]:
    """All that show a study of so many trials, and the list of studies and of workers."""
    here, some = f"/ui/studies/{study}", [trials * 6 // 10 + i for i in range(8)]
    compared = ",".join(f"{study}:{n}" for n in some)
    return [
        Screen("studies", "/ui/studies", _row("#studies"), _search),
        Screen("study", here, _chart(), _lay_out_anew),
        Screen("explore", f"{here}/explore", _row("#rows"), _filter),
        Screen("trial", f"{here}/trials/{some[0]}", _chart("losses"), _show_data),
        Screen("compare", f"/ui/compare?trials={compared}", _chart("compared"), _show_everything),
        Screen("workers", "/ui/workers", _row("#fleet tbody"), _ask_before_draining),
        Screen("lineage", f"{here}/lineage", _chart("lineage"), _show_data),
        Screen("failures", f"{here}/failures", _card(".group"), _to_a_failed_trial),
        Screen("pruning", f"{here}/pruning", _chart("pruning"), _show_data),
        Screen("events", f"{here}/events", _card("#events-title"), _stages_alone),
    ]


def _card(selector: str) -> Shown:
    return lambda page: page.locator(selector).first.wait_for()


def _row(selector: str) -> Shown:
    """A table's first row."""
    return _card(f"{selector} tr")


def _chart(name: str = "") -> Shown:
    """A chart that is drawn; without a name the first of the page that is."""
    return _card(f'[data-chart="{name}"][data-shown]' if name else "[data-chart][data-shown]")


def _search(page: Page) -> None:
    page.locator("#search").fill("hundred")
    page.locator("#search").press("Enter")
    page.wait_for_url("**search=hundred*", wait_until="commit")
    _row("#studies")(page)


def _lay_out_anew(page: Page) -> None:
    """The button is pressed once its chart is drawn."""
    along = page.locator("#history [data-control=along]")
    along.get_by_role("button", name="slot-hours").click()
    along.get_by_role("button", name="slot-hours", pressed=True).wait_for()


def _filter(page: Page) -> None:
    total = page.locator("[data-total]").inner_text()
    page.locator("#filter").fill("lr>=0.01 val_loss<0.42 optimizer:adam")
    page.locator("#filter").press("Enter")
    expect(page.locator("[data-total]")).not_to_have_text(total)


def _show_data(page: Page) -> None:
    page.locator("details.data summary").first.click()
    page.locator("details.data[open] td").first.wait_for()


def _show_everything(page: Page) -> None:
    page.get_by_role("link", name="everything").click()
    page.wait_for_url("**every=1*", wait_until="commit")
    _row(".side-by-side")(page)


def _ask_before_draining(page: Page) -> None:
    page.get_by_role("button", name="Drain").first.click()
    page.locator("[popover]:popover-open").wait_for()


def _to_a_failed_trial(page: Page) -> None:
    page.locator(".examples a").first.click()
    page.wait_for_url("**/trials/*", wait_until="commit")
    page.locator("h1").first.wait_for()


def _stages_alone(page: Page) -> None:
    page.get_by_role("navigation", name="Which events").get_by_role("link", name="stages").click()
    page.wait_for_url("**kind=stage*", wait_until="commit")
    page.locator("#events-title").wait_for()
