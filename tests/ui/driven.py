"""A light worker whose every step a test decides, for pages that are watched while it works."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from light import LightWorker
from processes import PATIENCE_SECONDS, until
from tunesmith_service import wire
from tunesmith_service.client import Lease
from ui.conftest import Dashboard

T = TypeVar("T")


class Planned(Dashboard):
    """An empty server with its planner, so that stages follow one another."""

    def _seed(self) -> int:
        return 0

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--planner",)


class Driven:
    """Its event loop has a thread of its own: Playwright's is in the test's."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        token = (dashboard.home / "worker.token").read_text().strip()
        self._light = self._do(lambda: _made(dashboard.url, token))
        self._seq = 0

    def claim(self) -> wire.WorkOrder:
        """The next trial's work, waited for until the planner has planned it."""
        self._lease: Lease
        self._lease, self.work = until(
            lambda: self._do(lambda: self._light.claim(wait_seconds=20)), saw=lambda: "nothing planned"
        )
        self._seq = 0
        return self.work

    def report(self, step: int) -> float:
        """Report this step; what was measured there."""
        self._seq += 1
        self._do(lambda: self._light.report(self._lease, self.work, self._seq, step))
        return self._light.objective(self.work, step)

    def finish(self) -> None:
        self._do(lambda: self._light.finish(self._lease))

    def run(self) -> float:
        """Claim a trial and run it to its end; its objective."""
        work = self.claim()
        values = [self.report(step) for step in range(1, work.epochs + 1)]
        self.finish()
        return values[-1]

    def close(self) -> None:
        self._do(self._light.client.aclose)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    def _do(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE_SECONDS)


async def _made(url: str, token: str) -> LightWorker:
    light = LightWorker(url, token)
    await light.register()
    return light
