"""What `tunesmith doctor` says where nobody it asks is Tunesmith, or what it looks through is damaged."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from tunesmith_service.__main__ import main
from tunesmith_service.cli.base import ExitCode

from .conftest import Served

NOBODY = "http://127.0.0.1:9"


def doctor(home: Path, url: str, *flags: str, **environ: str) -> dict[str, dict[str, Any]]:
    """Its findings by name; it has ended as it says it does."""
    words = ["doctor", "--json", "--home", str(home), "--url", url, *flags]
    result: Result = CliRunner().invoke(main, words, env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    found = {f["name"]: f for f in json.loads(result.stdout)}
    failed = any(f["state"] == "fail" for f in found.values())
    assert result.exit_code == (ExitCode.FAILED if failed else ExitCode.OK), result.output
    return found


@contextmanager
def answering(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """A program on this machine that is no Tunesmith: path to status and body. Gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>a proxy's greeting</html>", "/healthz answered something else than Tunesmith does"),
        (200, b'{"status": "ok"}', "/healthz answered something else than Tunesmith does"),
        (200, b"[1]", "/healthz answered something else than Tunesmith does"),
        (502, b"<html>bad gateway</html>", "/healthz answered 502 Bad Gateway"),
    ],
    ids=["a page", "another program", "a list", "a proxy"],
)
def test_what_is_no_tunesmith_is_a_finding(status: int, body: bytes, said: str, tmp_path: Path) -> None:
    with answering(lambda _: (status, body)) as url:
        server = doctor(tmp_path, url)["server"]
    assert server["state"] == "fail"
    assert said in server["detail"]
    assert "name it with --url" in server["fix"]


@pytest.mark.parametrize("url", ["http://host:port", "http://[::1", "127.0.0.1:8787"])
def test_what_is_no_address_is_a_finding(url: str, tmp_path: Path, served: Served) -> None:
    for said in (url, f"{served.url},{url}"):
        address = doctor(tmp_path, said)["address"]
        assert address["state"] == "fail"
        assert f"such as http://127.0.0.1:8787, got {url!r}" in address["detail"]


def test_a_service_beyond_a_proxy_is_asked_through_it(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def forward(address: str) -> tuple[int, bytes]:
        """As a proxy does, which alone knows where that host is."""
        asked.append(address)
        path = address.removeprefix("http://tunesmith.example")
        bearer = {"Authorization": f"Bearer {served.token('operator')}"}
        reply = httpx.get(f"{served.url}{path}", headers=bearer, trust_env=False)
        return reply.status_code, reply.content

    for name in ("NO_PROXY", "no_proxy", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with answering(forward) as proxy:
        found = doctor(served.home, "http://tunesmith.example", HTTP_PROXY=proxy)
    assert found["server"]["state"] == found["database"]["state"] == "ok"
    assert "http://tunesmith.example/healthz" in asked
    assert "workers" in found


def test_what_cannot_be_a_token_is_a_finding(served: Served) -> None:
    token = doctor(served.home, served.url, TUNESMITH_TOKEN="no token")["token"]
    assert token["state"] == "fail"
    assert "the token is not one" in token["detail"]


# --- the database on this machine -----------------------------------------------------------------


def test_a_damaged_database_is_a_finding_with_what_to_do(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["migrate", "--home", str(tmp_path)]).exit_code == ExitCode.OK
    file = tmp_path / "tunesmith.db"
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2 // 4096 * 4096)
        opened.write(b"\xa5" * 4096)
    damaged = doctor(tmp_path, NOBODY)["integrity file"]
    assert damaged["state"] == "fail"
    assert "the newest good backup can be restored" in damaged["fix"]
    file.write_bytes(b"\xa5" * 100 + file.read_bytes()[100:])
    assert "file is not a database" in doctor(tmp_path, NOBODY)["integrity file"]["detail"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "is no address of a database"),
        ("postgresql://me:secret@127.0.0.1:9/db", "postgresql://me:***@127.0.0.1:9/db does not answer"),
    ],
)
def test_a_database_that_cannot_be_asked_is_a_finding(url: str, said: str, tmp_path: Path) -> None:
    integrity = doctor(tmp_path, NOBODY, "--database", TUNESMITH_DATABASE_URL=url)["integrity"]
    assert integrity["state"] == "fail"
    assert said in integrity["detail"]
