"""Workers as processes of the simulation: the real supervisor with its slots, over a trainer that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from tunesmith_service.client import Lease, WorkerClient
from tunesmith_workers import devices, slot, supervisor
from tunesmith_workers.errands import Patience
from tunesmith_workers.spool import Spool
from tunesmith_workers.state import State
from tunesmith_workers.supervisor import Options, Supervisor

from simulation.loop import Process, VirtualLoop, current_process
from simulation.network import Line, Network
from simulation.trainer import Trainer

URL = "http://127.0.0.1:8787"


class Machine:
    """A machine with one worker, started again after each end of it under the same state directory."""

    def __init__(
        self, loop: VirtualLoop, random: Random, name: str, *, home: Path, token: Path, slots: int
    ) -> None:
        self._loop, self._random, self.name, self._home, self._token = loop, random, name, home, token
        self._slots = devices.Slots(((devices.CPU,),) * slots, 1)
        self.process: Process | None = None
        self.supervisor: Supervisor | None = None
        self.failures: list[str] = []

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.is_alive

    def start(self) -> None:
        assert not self.is_up
        self.process = Process(self._loop, self.name)
        state = State(self._home)
        self.process.on_kill.append(state.close)
        self.process.spawn(self._work(self.process, state))

    def ask_to_leave(self, cause: str) -> None:
        """SIGTERM, or whatever else a person or a cluster sends. A second time: at once."""
        if self.is_up and self.process is not None and self.supervisor is not None:
            self.process.call(self.supervisor.stop, cause)

    async def _work(self, process: Process, state: State) -> None:
        options = Options(
            URL, self._token.read_text().strip(), self.name, patience=Patience(max_offline=600.0)
        )
        try:
            self.supervisor = Supervisor(
                options, state, self._slots, environ={}, random=Random(self._random.getrandbits(64))
            )
            await self.supervisor.run()
        except Exception as error:  # a worker does not fail but by what its service says
            self.failures.append(f"{self.name}: {type(error).__name__}: {error}")
        self.supervisor = None
        process.kill()


def patches(network: Network) -> Iterator[Any]:
    """What has to be in place while workers run here."""

    def client(url: str, token: str, **more: Any) -> WorkerClient:
        process = current_process()
        assert process is not None
        return WorkerClient(url, token, transport=Line(network, process.name), **more)

    yield mock.patch.object(supervisor, "WorkerClient", client)
    yield mock.patch.object(slot, "ChildProcess", Trainer)
    yield _spools_closed()


@contextmanager
def _spools_closed() -> Iterator[None]:
    """At the end those of killed processes are closed too, as a kernel would have done."""
    opened: list[Spool] = []
    create = Spool.create

    def created(directory: Path, lease: Lease, url: str) -> Spool:
        opened.append(spool := create(directory, lease, url))
        return spool

    with mock.patch.object(Spool, "create", created):
        yield
    for spool in opened:
        if spool._file is not None:
            spool._file.close()
