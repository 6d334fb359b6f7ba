"""A server that is watched from inside, and requests as bytes, for clients tidy what they send."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from service.conftest import DIGEST, TASK, Served, study

HERE = Path(__file__).parent
CANARY = "canary-2b1f6a7c"
"""Stands in files that nobody may read."""


class Watched(Served):
    """`tunesmith serve` under `watched.py`. What is outside its home lies beside it."""

    def __init__(self, root: Path, *flags: str, environ: dict[str, str] | None = None) -> None:
        home = root / "home"
        home.mkdir()
        self.file = root / "hits"
        for name in ("canary.txt", "home/canary.txt"):
            (root / name).write_text(CANARY)
        self.program = (str(HERE / "watched.py"), str(self.file))
        often = [f"--{who}-{what}=1000000" for who in ("person", "slot") for what in ("rate", "burst")]
        super().__init__(home, "--no-planner", *often, *flags, environ=environ)
        self._seen = self._size()

    def _size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def hits(self) -> list[str]:
        """What the hook has written since the server was ready."""
        if not self.file.exists():
            return []
        return self.file.read_bytes()[self._seen :].decode().splitlines()

    def lease(self) -> tuple[int, dict[str, str]]:
        """Id of a running trial of a new study, and its worker's headers."""
        name = f"leased-{self._leases}"
        self._leases += 1
        self.post("/studies", study(name))
        self.post(f"/studies/{name}/trials", {"params": [{"lr": 0.01}]})
        worker = {
            "worker_id": f"{self._leases:032x}",
            "boot_id": "b" * 32,
            "starts": 1,
            "name": "w",
            "version": "0",
            "tasks": {TASK: DIGEST},
            "slots": [{"slot_id": f"{self._leases:032x}", "devices": ["cpu"]}],
        }
        bearer = {"Authorization": f"Bearer {self.token('worker')}"}
        self.post(f"/workers/{worker['worker_id']}", worker, "PUT", bearer)
        secret = "5ec1e7" + "0" * 26
        asked = {
            "claim_id": f"{self._leases:032x}",
            "worker_id": worker["worker_id"],
            "boot_id": "b" * 32,
            "slot_id": f"{self._leases:032x}",
            "secret": secret,
        }
        grant = self.post("/claims", asked, headers=bearer)["grant"]
        lease = f"{grant['incarnation']}.{grant['attempt']}.{secret}"
        return grant["trial_id"], bearer | {"Tunesmith-Lease": lease}

    _leases = 0

    def post(
        self, path: str, body: Any, method: str = "POST", headers: Mapping[str, str] | None = None
    ) -> Any:
        answer = self.people.request(method, path, json=body, headers=dict(headers or {}))
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


@dataclass(frozen=True)
class Asked:
    """A request as it goes over the wire; `target` is sent as it is."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@dataclass(frozen=True)
class Said:
    asked: Asked
    status: int
    body: bytes


class Wire:
    """One connection, opened anew when the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def send(self, asked: Asked) -> Said:
        for _ in range(2):
            try:
                return self._once(asked)
            except (OSError, http.client.HTTPException):
                self.close()  # it had been closed, as after every request that makes no sense
        return Said(asked, 0, b"")

    def _once(self, asked: Asked) -> Said:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), 30)
        lines = [asked.method.encode() + b" " + asked.target + b" HTTP/1.1"]
        lines += [b"Host: 127.0.0.1:%d" % self._port, b"Content-Length: %d" % len(asked.body)]
        lines += [b"%s: %s" % pair for pair in asked.headers]
        self._socket.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + asked.body)
        response = http.client.HTTPResponse(self._socket, method=asked.method)
        response.begin()
        body = response.read()
        if response.will_close:
            self.close()
        return Said(asked, response.status, body)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def bombard(port: int, requests: Sequence[Asked], at_once: int = 4) -> list[Said]:
    """All answers, in order; status 0 where the server closed the connection without one."""

    def some(part: int) -> list[Said]:
        wire = Wire(port)
        try:
            return [wire.send(asked) for asked in requests[part::at_once]]
        finally:
            wire.close()

    with ThreadPoolExecutor(at_once) as threads:
        parts = list(threads.map(some, range(at_once)))
    return [parts[i % at_once][i // at_once] for i in range(len(requests))]


def bearer(token: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"Authorization", f"Bearer {token}".encode()),)


def is_sound(status: int) -> bool:
    """No fault of the service: 503 and 507 say what is the matter."""
    return status < 500 or status in (503, 507)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("watched")) as server:
        yield server


def in_watched_process(script: str, root: Path, *arguments: str) -> list[str]:
    """Run Python under the hook. Returns the hits; fails unless the script ends well."""
    hits = root / "hits"
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import watched\n"
        f"HITS, HOME = {str(hits)!r}, {str(root)!r}\n{script}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return hits.read_text().splitlines() if hits.exists() else []
