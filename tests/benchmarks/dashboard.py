"""Whether the dashboard stays quick at 100,000 trials: a real server, its pages in headless Chromium.

    python tests/benchmarks/dashboard.py [--home DIR] [--trials 100000] [--postgresql] [--repeats 3]
    python tests/benchmarks/dashboard.py --optuna-dashboard VENV/bin/python [--home DIR] [--trials 5000]

A page is *usable* once its table or its first chart is drawn and something that a person does there is
answered: a name searched, a filter picked, an axis changed. Each is opened by itself in a browser that knows
nothing, *cold*, as the first request to a server that has just started, and *warm*; both count from the
moment its address is opened. Once more each is opened in a window so tall that all its charts load, for what
it costs: bytes as they travel (vendored files aside), DOM nodes, the heap. At last all are left open with
their streams, while the study is paused and resumed. The server's memory is its largest resident set in all
of this; the planner, a process of its own, has a figure of its own.

With --home, what was seeded there is used again; --postgresql keeps a server of its own there.

--optuna-dashboard measures something else: the same trials in Tunesmith and in optuna-dashboard, opened five
times in turn, and the seconds until each has drawn its first plot, and its history. For its environment:

    python3.11 -m venv VENV && VENV/bin/pip install optuna-dashboard==0.21.0

The exit code is 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dashboard_race
from chromium import CHROMIUM, FLAGS
from dashboard_screens import Screen, screens
from dashboard_served import TALL, Served, logged_in, opened, seeded
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from rich.console import Console
from rich.table import Table
from tunesmith_service.ui import vendor

BOUNDS = {"cold_s": 2.0, "warm_s": 2.0, "kB": 300.0, "nodes": 5000.0, "heap_MB": 150.0}
SERVER_MB = 400.0
LIVE_SECONDS = 15.0
VENDORED = frozenset(vendor.vendored_files(json.loads(vendor.LOCK.read_text())))
console = Console(width=140)


# --- a page by itself ---------------------------------------------------------------------------------


def seconds(page: Page, screen: Screen) -> float:
    began = time.perf_counter()
    page.goto(screen.path, wait_until="commit")
    screen.drawn(page)
    screen.answered(page)
    return time.perf_counter() - began


def cost(page: Page, screen: Screen) -> dict[str, float]:
    """What the page takes with all of its charts."""
    devtools = _devtools(page)
    asked: dict[str, str] = {}
    came: dict[str, float] = {}
    devtools.on("Network.responseReceived", lambda e: asked.update({e["requestId"]: e["response"]["url"]}))
    devtools.on("Network.loadingFinished", lambda e: came.update({e["requestId"]: e["encodedDataLength"]}))
    devtools.send("Network.enable")
    page.goto(screen.path)
    screen.drawn(page)
    for chart in page.locator("[data-chart]").all():
        chart.locator("xpath=self::*[@data-shown]").wait_for()
    ours = [size for i, size in came.items() if asked[i].rpartition("/")[2] not in VENDORED]
    return {"kB": sum(ours) / 1e3, "nodes": _nodes(page), "heap_MB": _heap(devtools)}


def _devtools(page: Page) -> CDPSession:
    found = page.context.new_cdp_session(page)
    found.send("Performance.enable")
    return found


def _heap(devtools: CDPSession) -> float:
    """MB."""
    metrics = {m["name"]: m["value"] for m in devtools.send("Performance.getMetrics")["metrics"]}
    return float(metrics["JSHeapUsedSize"]) / 1e6


def _nodes(page: Page) -> float:
    """Elements, texts and comments of the document."""
    walk = "const all = document.createTreeWalker(document); let n = 1; while (all.nextNode()) n++; return n"
    return float(page.evaluate(f"() => {{ {walk} }}"))


def left_open(browser: Browser, served: Served, session: Any, shown: list[Screen]) -> float:
    """All pages at once, while something happens in their study. The largest heap, in MB."""
    client = served.server.client()
    with ExitStack() as ending:  # a browser each: a stream keeps one of the six connections that one has
        pages = [ending.enter_context(opened(browser, served.server.url, session)) for _ in shown]
        for page, screen in zip(pages, shown, strict=True):
            page.goto(screen.path)
            screen.drawn(page)
        until, verb = time.monotonic() + LIVE_SECONDS, "pause"
        while time.monotonic() < until or verb == "resume":
            client.post("studies", str(served.study), verb)
            verb = "resume" if verb == "pause" else "pause"
            pages[0].wait_for_timeout(500)
        return max(_heap(_devtools(page)) for page in pages)


# --- all of it ----------------------------------------------------------------------------------------


def measure(browser: Browser, served: Served, trials: int, repeats: int) -> dict[str, Any]:
    shown, session = screens(served.study, trials), logged_in(browser, served)
    took: dict[str, dict[str, list[float]]] = {s.name: {"cold": [], "warm": []} for s in shown}
    for screen in shown:
        for _ in range(repeats):
            served.restart()
            with opened(browser, served.server.url, session) as page:
                took[screen.name]["cold"].append(seconds(page, screen))
    for _ in range(repeats):
        for screen in shown:
            with opened(browser, served.server.url, session) as page:
                took[screen.name]["warm"].append(seconds(page, screen))
    pages: dict[str, dict[str, float]] = {}
    for screen in shown:
        with opened(browser, served.server.url, session, TALL) as page:
            medians = {f"{how}_s": statistics.median(values) for how, values in took[screen.name].items()}
            pages[screen.name] = medians | cost(page, screen)
            console.print(screen.name, pages[screen.name], style="dim")
    heap = left_open(browser, served, session, shown)
    return {
        "pages": pages, "took": took, "start_s": statistics.median(served.starts), "open_heap_MB": heap,
        "server_MB": served.most["server"], "planner_MB": served.most["planner"],
    }  # fmt: skip


def broken(found: dict[str, Any]) -> list[str]:
    wrong = [
        f"{name}: {figure} {of[figure]:.3g} is not under {most:g}"
        for name, of in found["pages"].items()
        for figure, most in BOUNDS.items()
        if of[figure] >= most
    ]
    if found["server_MB"] >= SERVER_MB:
        wrong.append(f"server: {found['server_MB']:.0f} MB is not under {SERVER_MB:g}")
    return wrong


def show(found: dict[str, Any]) -> None:
    table = Table("page", "usable cold", "", "warm", "", "compressed", "DOM nodes", "heap")
    for name, of in found["pages"].items():
        spread = {how: f"{min(v):.2f}–{max(v):.2f}" for how, v in found["took"][name].items()}
        table.add_row(
            name, f"{of['cold_s']:.2f} s", spread["cold"], f"{of['warm_s']:.2f} s", spread["warm"],
            f"{of['kB']:.0f} kB", f"{of['nodes']:.0f}", f"{of['heap_MB']:.0f} MB",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"bounds: {BOUNDS}\nserver: listens {found['start_s']:.1f} s after its start; at most "
        f"{found['server_MB']:.0f} MB (< {SERVER_MB:g}), its planner {found['planner_MB']:.0f} MB; "
        f"largest heap of pages left open {found['open_heap_MB']:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--home", type=Path, help="where the database is, or is to be; default: a new one")
    parser.add_argument("--trials", type=int, help="default: 100,000, or 5,000 beside optuna-dashboard")
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL, not on SQLite")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--optuna-dashboard", type=Path, metavar="PYTHON", help="of its environment")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    trials = options.trials or (5_000 if options.optuna_dashboard else 100_000)
    with ExitStack() as ending:
        home = options.home or Path(ending.enter_context(tempfile.TemporaryDirectory()))
        url = seeded(home, trials, console.print, ending, postgresql=options.postgresql)
        served = Served(home, url)
        ending.callback(served.close)
        playwright = ending.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        ending.callback(browser.close)
        if options.optuna_dashboard:
            found = dashboard_race.race(browser, served, url, options.optuna_dashboard)
            dashboard_race.show(console, found)
            wrong = dashboard_race.broken(found)
        else:
            found = measure(browser, served, trials, options.repeats)
            show(found)
            wrong = broken(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
