"""Tunesmith's dashboard and optuna-dashboard side by side: who has drawn the same trials first."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import httpx
from dashboard_served import Served, logged_in, opened
from playwright.sync_api import Browser, Page
from processes import Process, free_port, until
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection
from tunesmith_service import db, reading, store, trial_store

Took: TypeAlias = dict[str, dict[str, list[float]]]

FASTER = 10.0
"""How many times sooner our first plot must be there."""
TURNS = 5
AT_ONCE = 1_000
PATIENCE_MS = 240_000
STORAGE = Path(__file__).with_name("optuna_storage.py")
START = "from optuna_dashboard._cli import main; main()"


def race(browser: Browser, served: Served, url: str, python: Path) -> dict[str, Any]:
    """Seconds from opening a study's address until its first plot is drawn, and until its history is."""
    file = served.home / "optuna.db"
    if not file.exists():
        _fill(python, file, _trials(url or f"sqlite:///{served.home / 'tunesmith.db'}", served.study))
    session = logged_in(browser, served)
    took: Took = {who: {what: [] for what in OURS} for who in ("ours", "theirs")}
    with _optuna_dashboard(python, file) as theirs:
        for _ in range(TURNS):
            with opened(browser, served.server.url, session) as page:
                _time(page, f"/ui/studies/{served.study}", took["ours"], OURS)
            with opened(browser, theirs, patience_ms=PATIENCE_MS) as page:
                _time(page, "/dashboard/studies/1", took["theirs"], THEIRS)
    medians = {
        who: {what: statistics.median(seconds) for what, seconds in of.items()} for who, of in took.items()
    }
    ratios = {what: medians["theirs"][what] / medians["ours"][what] for what in OURS}
    return {"took": took, "medians": medians, "ratios": ratios}


def show(console: Console, found: dict[str, Any]) -> None:
    table = Table("drawn", "ours", "", "optuna-dashboard", "", "times sooner")
    for what, ratio in found["ratios"].items():
        cells = []
        for who in ("ours", "theirs"):
            took = found["took"][who][what]
            cells += [f"{statistics.median(took):.2f} s", f"{min(took):.2f}–{max(took):.2f}"]
        table.add_row(what, *cells, f"{ratio:.1f}")
    console.print(table)


def broken(found: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {ratio:.1f} times sooner than optuna-dashboard, not {FASTER:g}"
        for what, ratio in found["ratios"].items()
        if ratio < FASTER
    ]


# What is waited for, in this order. Plotly has drawn a plot once its traces are there.
OURS = {"first plot": "[data-chart][data-shown]", "history": '[data-chart="history"][data-shown]'}
THEIRS = {"first plot": ".js-plotly-plot .trace", "history": "#plot-history .trace"}


def _time(page: Page, address: str, took: dict[str, list[float]], plots: dict[str, str]) -> None:
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    for what, selector in plots.items():
        page.locator(selector).first.wait_for(state="attached")
        took[what].append(time.perf_counter() - began)


# --- the same trials in a storage of Optuna's -----------------------------------------------------------


def _trials(url: str, study_id: int) -> dict[str, Any]:
    """A study's trials that train, as `optuna_storage.py` reads them."""
    engine = db.open_engine(url)
    with engine.connect() as conn:
        study = store.find_study(conn, None, str(study_id))
        assert study is not None
        metric = study.spec["objective"]["metric"]
        found = [
            {"state": t.state, "value": t.value, "params": t.params, "curve": points}
            for t, points in _with_curves(conn, study, metric)
        ]
    engine.dispose()
    return {
        "name": study.name, "direction": study.direction, "space": study.spec["space"], "trials": found
    }  # fmt: skip


def _with_curves(
    conn: Connection, study: store.Study, metric: str
) -> Iterator[tuple[trial_store.Trial, list[tuple[int, float]]]]:
    after = None
    while page := trial_store.trials(conn, study, filter="kind:train", after=after, limit=AT_ONCE):
        curves = reading.curves(conn, [t.id for t in page])
        for t in page:
            yield t, [(p.step, p.metrics[metric]) for p in curves.get(t.id, []) if metric in p.metrics]
        after = page[-1].number


def _fill(python: Path, file: Path, trials: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    command = [str(python), str(STORAGE), f"sqlite:///{part}"]
    subprocess.run(command, input=json.dumps(trials), text=True, check=True)
    part.rename(file)


@contextmanager
def _optuna_dashboard(python: Path, file: Path) -> Iterator[str]:
    """Its address."""
    port = free_port()
    command = [str(python), "-c", START, f"sqlite:///{file}", "--port", str(port)]
    with Process(command) as process:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _answers(url), 60, saw=lambda: process.said)
        yield url


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/studies", timeout=10).is_success
    except httpx.TransportError:
        return False
