"""Browser test 1: a fresh install, and the three commands that its first page shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, free_port
from ui.visits import Visit

SHELL = ["bash", "-euo", "pipefail", "-c"]


class Shell:
    """Where a person types commands: a directory of their own, `tunesmith` on the path."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self._open: list[Process] = []

    def type(self, line: str) -> Process:
        """What a line typed there starts; the port alone is not the usual one, for others test as well."""
        environ = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.directory),
            "TUNESMITH_PORT": str(self.port),
            "CUDA_VISIBLE_DEVICES": "",
        }
        started = Process([*SHELL, f"exec {line}"], directory=self.directory, environ=environ)
        self._open.append(started)
        return started

    def close(self) -> None:
        for process in reversed(self._open):
            if process.process.poll() is None:
                process.signal(15)
                process.ends()
            process.kill()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.close()


def test_the_commands_that_the_first_page_shows_start_a_study_that_appears_by_itself(
    shell: Shell, chromium: Any
):
    from playwright.sync_api import expect

    up = shell.type("tunesmith up")
    link = up.says("Open the dashboard, once: ").split()[-1]
    base = f"http://127.0.0.1:{shell.port}"
    assert link.startswith(base)
    context = chromium.new_context(base_url=base)
    visit = Visit(context.new_page(), base)
    page = visit.page
    page.goto("/")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.goto(link)
    page.wait_for_url("**/ui/studies")
    page.goto("/")
    expect(page.get_by_role("heading", name="No study yet")).to_be_visible()
    page.evaluate("() => { document.body.dataset.same = 'page' }")

    start, create, watch = page.locator("pre.commands").inner_text().splitlines()
    assert start.partition("#")[0].strip() == "tunesmith up", "the one that runs here"
    assert shell.type(create).ends() == 0
    line = page.locator("#studies tr").filter(has=page.get_by_role("link", name="digits-demo"))
    expect(line).to_contain_text("coarse_grid 1/4")
    watching = shell.type(watch)
    watching.says("coarse_grid")
    expect(line.locator("td").nth(3)).to_contain_text("#", timeout=600_000)  # a trial has a value
    assert page.evaluate("() => document.body.dataset.same") == "page"
    assert not visit.wrong, visit.wrong
    context.browser.close()
