"""`tunesmith up`: a service and workers on this machine, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from tunesmith_service import store
from tunesmith_service.core import Service
from tunesmith_service.sessions import login_link, new_code
from tunesmith_service.settings import EVERYWHERE, Settings, SettingsError
from tunesmith_service.tokens import Token

if TYPE_CHECKING:  # all of HTTP, which `_serve` loads at its own time
    from tunesmith_service.serve import Addresses

HAND_BACK_SECONDS = 28.0
RESTART_SECONDS = 1.0
PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


class LocalWorkers:
    """Worker processes beside a service. `start` and `stop` are the hooks of `serve.run`.

    Args:
        options: further flags of `tunesmith worker`, such as --slots 2.
    Raises: SettingsError if the workers would have no name for the service that its certificate may hold.
    """

    def __init__(self, settings: Settings, count: int, options: Sequence[str]) -> None:
        if count and settings.tls_cert and not settings.public_url and settings.host in EVERYWHERE:
            raise SettingsError(
                f"--host {settings.host} is no name that a certificate has, and the workers of `up` need "
                "one; give it with --public-url, such as https://tunesmith.example.org:8787"
            )
        self._settings, self._count, self._options = settings, count, options
        self._keepers: list[asyncio.Task[None]] = []
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = False
        self.gave_up = ""  # why it all ended, if a worker did by itself

    async def start(self, service: Service, at: Addresses) -> None:
        click.echo(f"Tunesmith is at {at.public}")
        click.echo(f"Open the dashboard, once: {login_link(at.public, await _operator_code(service))}")
        self._keepers = [
            asyncio.create_task(self._keep(n, at.near), name=f"worker {n}") for n in range(self._count)
        ]

    async def stop(self, service: Service, at: Addresses) -> None:
        """Let every worker hand its trials back while the service still answers."""
        self._stopping = True
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=HAND_BACK_SECONDS)
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for keeper in self._keepers:
            keeper.cancel()

    async def _keep(self, number: int, address: str) -> None:
        """Run a worker; one that a signal killed is started again, one that gave up ends everything."""
        while not self._stopping:
            process = await asyncio.create_subprocess_exec(
                *self._command(number, address), start_new_session=True, preexec_fn=die_with_parent
            )
            self._processes[number] = process
            code = await process.wait()
            if self._stopping:
                return
            if code >= 0:
                log.error("worker.gave_up", worker=number, exit_code=code)
                self.gave_up = f"worker {number} ended with exit code {code}; what it said stands above"
                signal.raise_signal(signal.SIGTERM)
                return
            log.warning("worker.killed", worker=number, signal=-code)
            await asyncio.sleep(RESTART_SECONDS)

    def _command(self, number: int, address: str) -> list[str]:
        name = f"local-{number}"
        state: Path = self._settings.home / "workers" / name
        flags = {"--url": address, "--token-file": self._settings.worker_token_file, "--name": name}
        flags["--state"] = state
        flags["--cores"] = max(1, len(os.sched_getaffinity(0)) // self._count)  # else they slow each other
        listed = [str(part) for flag in flags.items() for part in flag]
        return [sys.executable, "-m", "tunesmith_service", "worker", *listed, *self._options]


async def _operator_code(service: Service) -> str:
    text = await asyncio.to_thread(service.settings.operator_token_file.read_text, encoding="utf-8")
    token = Token.read(text.strip())
    assert token is not None  # the service has just found or made it
    row = await service.read(store.token_by_key, token.key_id)
    assert row is not None
    return await new_code(service, row.id)


def die_with_parent() -> None:
    """In the child: be told to stop when the service dies, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
