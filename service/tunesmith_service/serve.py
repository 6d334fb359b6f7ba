"""Running the application in this process, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI

from tunesmith_service import logs, tls
from tunesmith_service.app import create_app
from tunesmith_service.core import Service
from tunesmith_service.quick_refusals import refusing
from tunesmith_service.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

HEAD_MARGIN_BYTES = 8192
"""So much longer may a request's head be, for us to say what is too long about it."""

KEEP_ALIVE_MARGIN_SECONDS = 5
"""An idle connection is kept for so much longer than a beat's interval: who beats needs no new one."""

COLLECT_AFTER = (5_000, 20, 100)
"""Garbage is looked for after so many objects more, not 700: requests under way are more than those, so it
was looked for without end, and among all connections too: with ten thousand of them for 0.3 s every two."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Attributes:
    public: how people reach this server.
    near: how processes of this machine do, past a proxy in front.
    """

    public: str
    near: str


Hook = Callable[[Service, Addresses], Awaitable[None]]


async def _nothing(service: Service, at: Addresses) -> None:
    pass


class Server(uvicorn.Server):
    """uvicorn, but a signal ends it without being raised again, so that all of ours is stopped in order;
    and long polls are answered first, so that nobody waits for them."""

    def __init__(self, app: FastAPI, settings: Settings, on_ready: Hook, on_exit: Hook) -> None:
        self._service: Service = app.state.service
        self._settings, self._on_ready, self._on_exit = settings, on_ready, on_exit
        self._at = Addresses(settings.address, settings.address)
        super().__init__(
            uvicorn.Config(
                app,
                http=refusing(app.state.shedding),
                host=settings.host,
                port=settings.port,
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=settings.behind_proxy,
                forwarded_allow_ips="*" if settings.behind_proxy else None,
                server_header=False,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                timeout_keep_alive=math.ceil(settings.ttl_seconds / 3) + KEEP_ALIVE_MARGIN_SECONDS,
                timeout_graceful_shutdown=int(settings.shutdown_seconds) or 1,
                h11_max_incomplete_event_size=settings.url_bytes + settings.header_bytes + HEAD_MARGIN_BYTES,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        here = self._settings.model_copy(update={"port": port})
        self._at = Addresses(here.address, here.near_address)
        said = {"url": self._at.near, "pid": os.getpid()}
        self._address_file.write_text(json.dumps(said) + "\n", encoding="utf-8")
        log.info("service.listening", url=self._at.public)
        await self._on_ready(self._service, self._at)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._on_exit(self._service, self._at)
        self._service.close()
        await super().shutdown(sockets)
        self._address_file.unlink(missing_ok=True)

    @property
    def _address_file(self) -> Path:
        """Where commands on this machine find us."""
        return self._settings.home / "server.json"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        try:
            yield
        finally:
            for sig in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(sig)


def run(settings: Settings, on_ready: Hook = _nothing, on_exit: Hook = _nothing) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        on_ready: called with the addresses once requests are answered.
        on_exit: called before requests are refused, so that workers of ours can hand back.
    Raises: SettingsError, db.AlreadyServed, db.WeakDurability, StoreError, OSError if the port is taken.
    """
    if int(os.environ.get("WEB_CONCURRENCY", "1")) > 1:
        raise SettingsError(
            "WEB_CONCURRENCY asks for several processes in one server; start several servers on one "
            "PostgreSQL instead"
        )
    _check_port(settings)
    tls.check(settings)
    logs.configure(settings.log_format)
    app = create_app(settings, writes_apart=True)
    server = Server(app, settings, on_ready, on_exit)
    gc.freeze()  # what is loaded stays; looking through it again and again took a third of reading columns
    gc.set_threshold(*COLLECT_AFTER)
    gc.enable()

    async def main() -> None:
        async with app.router.lifespan_context(app):
            await server.serve()

    asyncio.run(main())


def _check_port(settings: Settings) -> None:
    """Say that a port is taken before the database is opened, and as a sentence."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as e:
            ours = _who_serves(settings.home)
            todo = f"a service already runs from this home, {ours}" if ours else "give another --port"
            raise SettingsError(
                f"{settings.host}:{settings.port} cannot be listened on: {e.strerror}; {todo}"
            ) from e


def _who_serves(home: Path) -> str:
    """Process and address of the service that runs from a home; empty if none does."""
    try:
        said = json.loads((home / "server.json").read_text(encoding="utf-8"))
        os.kill(said["pid"], 0)
    except (OSError, ValueError, KeyError):
        return ""
    return f"process {said['pid']} at {said['url']}"
