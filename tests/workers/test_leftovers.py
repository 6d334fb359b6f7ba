"""What a supervisor makes of spools that it cannot use: it goes on without them."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tunesmith_service.client import WorkerClient
from tunesmith_workers.devices import CPU, Slots
from tunesmith_workers.state import State
from tunesmith_workers.supervisor import Options, Supervisor

URL = "http://127.0.0.1:1"
HEAD = {"url": URL, "trial_id": 7, "incarnation": 1, "attempt": 2, "secret": "a" * 32}
SOUND = {"kind": "release", "body": {"cause": "shutdown"}}


@pytest.mark.parametrize(
    "lines",
    [
        [{"secret": "a"}],
        [HEAD, {"kind": "report"}],
        [HEAD, {"kind": "report", "body": {"number": 1}}],
        [HEAD, {"kind": "song", "body": {}}],
        [HEAD, {"kind": "log", "body": 5}],
    ],
    ids=["no lease", "no body", "body of another version", "kind of another version", "no table"],
)
def test_a_spool_that_cannot_be_read_does_not_keep_a_worker_from_its_start(tmp_path: Path, lines: list[dict]):
    called: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        called.append(request.url.path)
        return httpx.Response(200, json={"state": "waiting"})

    async def send(supervisor: Supervisor) -> None:
        await supervisor.tools.client.aclose()
        supervisor.tools.client = WorkerClient(URL, "t", transport=httpx.MockTransport(answer))
        await supervisor._send_leftovers()

    with closing(State(tmp_path)) as state:
        (state.spool / "6.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (state.spool / "7.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [HEAD, SOUND]))
        asyncio.run(send(Supervisor(Options(URL, "t", "w"), state, Slots(((CPU,),), 1))))
        assert called == ["/api/v1/leases/7/release"]
        assert list(state.spool.iterdir()) == []
