"""A real server on a seeded SQLite file, and browsers that have logged in."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from chromium import CHROMIUM, FLAGS
from processes import START_SECONDS, Process, free_port, until
from tunesmith_service import commands, db, migrate
from tunesmith_service.blobs import BlobStore
from tunesmith_service.clock import SECOND
from ui.seeding import Seeder
from ui.visits import WAIT_MS, Visit, visiting

HERE = Path(__file__).parent
ANSWER_SECONDS = 60
"""For a server to answer; on a busy machine the 5 that httpx gives it are too few."""


_seeded: dict[type[Dashboard], tuple[Path, int]] = {}
"""By the kind of dashboard: a home as it was before its server started, and the study there."""


class Dashboard:
    """A running server. `study` is the seeded one's id; 0 in an empty one."""

    plans = False
    """Whether its planner runs: what is seeded stays as it is without one."""

    def __init__(self, home: Path, *, empty: bool = False) -> None:
        self.home = home
        self.port = free_port()
        self.study = 0 if empty else self._seed()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def _seed(self) -> int:
        """What a test process has seeded once it copies: that takes a tenth of the time."""
        kind = type(self)
        if kind not in _seeded:
            _seeded[kind] = (self.home.with_name(f"{self.home.name}-seeded"), self._seed_anew())
            shutil.copytree(self.home, _seeded[kind][0])
        else:
            shutil.copytree(_seeded[kind][0], self.home, dirs_exist_ok=True)
        return _seeded[kind][1]

    def _seed_anew(self) -> int:
        engine = db.open_engine(f"sqlite:///{self.home / 'tunesmith.db'}")
        migrate.upgrade(engine)
        blobs = BlobStore(self.home / "blobs")
        blobs.prepare()
        seeder = Seeder(engine, blobs, now_us=(int(time.time()) - 900) * SECOND)
        token = seeder.do(commands.CreateToken(None, "seed", "operator", "5eed" * 4, b"0" * 32, None, "seed"))
        study = self.some_studies(seeder, token)
        engine.dispose()
        return study

    def some_studies(self, seeder: Seeder, token: int) -> int:
        return seeder.some_of_everything(token)

    @property
    def flags(self) -> tuple[str, ...]:
        """More of them for `tunesmith serve`."""
        return ()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "tunesmith_service", "serve", "--home", str(self.home),
            "--port", str(self.port), "--reserve-bytes", "0", "--shutdown-seconds", "30",
            "--ttl-seconds", "3600",  # the seeded trial that runs has no worker, and runs through the tests
            *(() if self.plans else ("--no-planner",)), *self.flags,
        ]  # fmt: skip
        self.process = Process(command)
        until(self._answers, START_SECONDS, saw=lambda: self.process.said)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def origin(self) -> str:
        """As browsers name it: without a path."""
        return "{0.scheme}://{0.netloc}".format(urlsplit(self.url))

    @property
    def operator(self) -> str:
        return (self.home / "operator.token").read_text().strip()

    def api(self, method: str, path: str, *, token: str = "", **more: Any) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {token or self.operator}"}
        answer = self.ask(method, f"/api/v1{path}", headers=bearer, **more)
        assert answer.is_success, answer.text
        return answer

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """What is answered without a session, whatever it is."""
        more.setdefault("timeout", ANSWER_SECONDS)
        return httpx.request(method, self.url + path, **more)

    def stranger(self, **more: Any) -> httpx.Client:
        """A browser without a session yet."""
        return httpx.Client(base_url=self.url, timeout=ANSWER_SECONDS, **more)

    def token(self, role: str) -> str:
        return str(self.api("POST", "/tokens", json={"name": f"a {role}", "role": role}).json()["token"])

    def login_link(self, token: str = "") -> str:
        return str(self.api("POST", "/login-codes", token=token).json()["url"])

    @contextmanager
    def login(self, token: str = "", agent: str = "curl") -> Iterator[httpx.Client]:
        """A browser's session: its cookie, and the Origin that it names with each change."""
        sent = {"Origin": self.origin, "User-Agent": agent}
        with self.stranger(headers=sent) as client:
            code = self.login_link(token).partition("code=")[2]
            answer = client.post("/ui/login", data={"code": code})
            assert answer.status_code == 303, answer.text
            yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What drives a browser and takes its time: all but the smoke part, `test_browser.py`."""
    for item in items:
        if item.path.is_relative_to(HERE / "browser") or item.path.match("ui/test_browser_*.py"):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    served = Dashboard(tmp_path_factory.mktemp("dashboard"))
    yield served
    served.process.kill()


@pytest.fixture(scope="module")
def person(dashboard: Dashboard) -> Iterator[httpx.Client]:
    """An operator's session; no test may end it."""
    with dashboard.login() as client:
        yield client


class Browsers:
    """A headless browser for each context, to be closed whole with `context.browser.close()`: what does not
    end by itself is killed then. Closing a context alone waits for ever for a renderer that hangs."""

    def __init__(self, playwright: Any) -> None:
        self._playwright = playwright

    def new_context(self, **options: Any) -> Any:
        browser = self._playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        context = browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        return context


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browsers]:
    """Does not outlive its module: while Playwright runs, its event loop is this thread's, and nobody else's
    `asyncio.run` works."""
    if not CHROMIUM.exists():
        pytest.skip("no Chromium at /usr/bin/chromium (apt-get install chromium), so no browser was driven")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        yield Browsers(playwright)


@pytest.fixture
def visit(dashboard: Dashboard, chromium: Any) -> Iterator[Visit]:
    """Logged in by the one-time link, as a person would. Whatever a test does, nothing may be wrong."""
    with visiting(dashboard, chromium) as found:
        yield found


def csrf(html: str) -> str:
    """What the page sends with each change."""
    sent = html.partition("hx-headers='")[2].partition("'")[0]
    return str(json.loads(sent)["Tunesmith-CSRF"])
