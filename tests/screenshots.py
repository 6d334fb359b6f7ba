"""Pictures of the dashboard's main pages for the README, of a real study trained by real workers.

    python tests/screenshots.py [--out docs/images] [--home DIR]

A service with two workers trains a small CNN on scikit-learn's digits through seven stages (minutes on two
cores) while a second study waits and then runs; Chromium, at /usr/bin/chromium, looks at the pages. What the
pictures show is what the run gave. `make screenshots` takes them anew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chromium import CHROMIUM, FLAGS
from PIL import Image
from playwright.sync_api import sync_playwright
from processes import Process, free_port, until
from tunesmith_service.client import Client

TRAINING_SECONDS = 900.0
UNDRAWN = "[data-chart]:not([data-shown])"
ALL = 8000
"""CSS pixels that hold any page, for a chart is drawn when it comes into view."""
COLOURS = 128
"""Of a picture's palette: a page has few, and it is a third of the bytes."""

STUDY: dict[str, Any] = {
    "name": "digits-cnn",
    "task": "digits",
    "objective": {"metric": "val/loss", "direction": "minimize"},
    "space": {
        "lr": {"low": 1e-3, "high": 1.0, "log": True},
        "weight_decay": {"low": 1e-5, "high": 1e-1, "log": True, "zero": True},
        "dropout": {"low": 0.0, "high": 0.5},
        "batch_size": [32, 64, 128],
    },
    "fixed": {"model": "cnn", "optimizer": "nesterov", "momentum": 0.9},
    "stages": [
        {"kind": "preflight"},
        {"kind": "lr_range_test"},
        {"kind": "coarse_grid", "epochs": 3, "axes": {"lr": 5, "weight_decay": [0, 1e-4, 1e-3, 1e-2]},
         "fixed": {"batch_size": 32, "dropout": 0.0}},
        {"kind": "refine_grid", "epochs": 8, "top": 2, "continue_snapshots": True},
        {"kind": "random", "epochs": 8, "trials": 24, "method": "sobol"},
        {"kind": "weight_decay_restarts", "source": "refine_grid", "epochs": 20},
        {"kind": "final", "epochs": 20},
    ],
}  # fmt: skip
NEXT: dict[str, Any] = {
    "name": "digits-halving",
    "task": "digits",
    "space": {k: STUDY["space"][k] for k in ("lr", "weight_decay", "batch_size")},
    "fixed": {"model": "mlp", "optimizer": "momentum", "momentum": 0.9},
    "stages": [
        {"kind": "lr_range_test"},
        {"kind": "halving", "epochs": 300, "rungs": [40, 120], "trials": 27, "grid": 9},
    ],
}


@dataclass(frozen=True)
class Picture:
    """A page as it is seen: its address, and the window in CSS pixels."""

    address: str
    height: int
    width: int = 1280
    scheme: str = "light"


@contextmanager
def service(home: Path) -> Iterator[tuple[Client, str]]:
    """`tunesmith up` with two workers: an operator's client of it, and its address."""
    port = free_port()
    command = [sys.executable, "-m", "tunesmith_service", "up", "--home", str(home), "--workers", "2"]
    with Process([*command, "--port", str(port)]) as process:
        process.says("Tunesmith is at")
        url = f"http://127.0.0.1:{port}"
        yield Client(url, (home / "operator.token").read_text().strip()), url
        process.process.terminate()
        process.ends()


def trained(client: Client) -> dict[str, Any]:
    """The first study, ended; the second one goes on."""
    if STUDY["name"] not in {study["name"] for study in client.get("studies")["items"]}:
        client.post("studies", json=STUDY)
        client.post("studies", json=NEXT)

    def ended() -> dict[str, Any] | None:
        now: dict[str, Any] = client.get("studies", STUDY["name"])
        return now if now["ended_at"] else None

    return until(ended, TRAINING_SECONDS, saw=lambda: client.get("studies", STUDY["name"])["reason"])


def look_at(client: Client, study: dict[str, Any]) -> dict[str, Picture]:
    """The main pages, by the name of their picture."""
    number = study["id"]
    best, second = (row["number"] for row in client.get("studies", study["name"], "best", top=2)["items"])
    return {
        "studies": Picture("/ui/studies", 420),
        "study": Picture(f"/ui/studies/{number}", 2000),
        "study-dark": Picture(f"/ui/studies/{number}", 1000, scheme="dark"),
        "explore": Picture(f"/ui/studies/{number}/explore?filter=state:complete", 1900),
        "trial": Picture(f"/ui/studies/{number}/trials/{best}", 2200),
        "compare": Picture(f"/ui/compare?trials={number}:{best},{number}:{second}", 1500),
        "workers": Picture("/ui/workers", 900),
        "phone": Picture(f"/ui/studies/{number}", 1200, width=390),
    }


@contextmanager
def browser(client: Client, url: str) -> Iterator[Any]:
    """A browser that has logged in, in the light theme and in the dark one as it is asked."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page(base_url=url)
        page.goto(client.post("login-codes")["url"])
        page.wait_for_url("**/ui/studies")
        yield page
        chromium.close()


def take(page: Any, one: Picture, to: Path) -> None:
    """Look at a page until its charts are drawn, and keep what is seen."""
    page.emulate_media(color_scheme=one.scheme)
    page.set_viewport_size({"width": one.width, "height": ALL})
    page.goto(one.address)
    page.wait_for_selector(UNDRAWN, state="detached", timeout=30_000)
    page.set_viewport_size({"width": one.width, "height": one.height})
    page.screenshot(path=to)
    with Image.open(to) as taken:
        taken.convert("RGB").quantize(COLOURS).save(to, optimize=True)
    print(f"{to}  {to.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--home", type=Path, help="where the service lives; kept, and its study taken again")
    said = parser.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, service(said.home or Path(temporary)) as (client, url):
        pictures = look_at(client, trained(client))
        with browser(client, url) as page:
            for name, one in pictures.items():
                take(page, one, said.out / f"{name}.png")


if __name__ == "__main__":
    main()
