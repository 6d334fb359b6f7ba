"""Workers' busiest requests are answered by the short way as by the usual one, which any query takes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from light import DIGEST, TASK
from tunesmith_service.short_way import _Way
from tunesmith_service.wire import LEASE_HEADER

from .conftest import Api, running, study
from .test_claims_api import add_project

IDS = {name: f"{n}" * 32 for n, name in enumerate(("worker_id", "boot_id", "slot_id", "claim_id"), start=1)}
SECRET = "5ec1e7" + "0" * 26
CLAIM = IDS | {"secret": SECRET}
HOLDER = {LEASE_HEADER: f"1.1.{SECRET}"}
REPORT = {"seq": 1, "points": [{"step": 1, "metrics": {"val/loss": 0.5, "grad": "NaN"}}]}
FINISH = {"state": "complete", "stop_reason": "budget"}
ERROR = {"kind": "E", "message": "m", "traceback": "t"}

CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    # path, body, and what else is asked
    "claim": ("/claims", CLAIM | {"claim_id": "7" * 32, "slot_id": "8" * 32}, {}),
    "claim that was granted": ("/claims", CLAIM, {}),
    "claim with another secret": ("/claims", CLAIM | {"secret": "9" * 32}, {}),
    "claim of an unknown slot": ("/claims", CLAIM | {"claim_id": "7" * 32, "slot_id": "9" * 32}, {}),
    "claim with wrong fields": ("/claims", CLAIM | {"slot_id": 3, "wait_seconds": "x", "more": None}, {}),
    "claim without a field": ("/claims", {"claim_id": "7" * 32}, {}),
    "claim that is null": ("/claims", None, {}),
    "claim that is a list": ("/claims", [1, 2], {}),
    "claim without a body": ("/claims", b"", {}),
    "claim that is no JSON": ("/claims", b"{", {}),
    "claim that is no UTF-8": ("/claims", b"\xff", {}),
    "claim as text": ("/claims", b"{}", {"content-type": "text/plain"}),
    "claim that is too deep": ("/claims", b"[" * 40 + b"]" * 40, {}),
    "claim without a token": ("/claims", CLAIM, {"token": ""}),
    "claim by a viewer": ("/claims", CLAIM, {"role": "viewer"}),
    "claim of another project": ("/claims", CLAIM | {"claim_id": "7" * 32}, {"project": 2}),
    "report": ("/leases/1/reports", REPORT, HOLDER),
    "report after a gap": ("/leases/1/reports", REPORT | {"seq": 3}, HOLDER),
    "report with NaN": ("/leases/1/reports", b'{"seq": 1, "points": NaN}', HOLDER),
    "report with wrong points": (
        "/leases/1/reports",
        {"seq": 0, "points": [{"step": "1", "metrics": {"": True}}, 3]},
        HOLDER,
    ),
    "report without a lease": ("/leases/1/reports", REPORT, {}),
    "report under a wrong lease": ("/leases/1/reports", REPORT, {LEASE_HEADER: f"1.2.{SECRET}"}),
    "report of an unknown trial": ("/leases/999/reports", REPORT, HOLDER),
    "report of another project": ("/leases/1/reports", REPORT, HOLDER | {"project": 2}),
    "report that is too long": ("/leases/1/reports", b" " * 5_000_000, HOLDER),
    "beat": ("/leases/1/heartbeat", {}, HOLDER),
    "beat without a body": ("/leases/1/heartbeat", b"", HOLDER),
    "beat with null": ("/leases/1/heartbeat", None, HOLDER),
    "beat with more": ("/leases/1/heartbeat", {"more": 1}, HOLDER),
    "beat under an unreadable lease": ("/leases/1/heartbeat", {}, {LEASE_HEADER: "1.1"}),
    "log": ("/leases/1/logs", {"seq": 1, "text": "said"}, HOLDER),
    "log with NUL": ("/leases/1/logs", {"seq": 1, "text": "a\0b"}, HOLDER),
    "log longer than other bodies": ("/leases/1/logs", {"seq": 1, "text": "\0" * 250_000}, HOLDER),
    "log after a gap": ("/leases/1/logs", {"seq": 3, "text": "said"}, HOLDER),
    "log without a lease": ("/leases/1/logs", {"seq": 1, "text": "said"}, {}),
    "finish": ("/leases/1/finish", FINISH, HOLDER),
    "finish with an error": (
        "/leases/1/finish",
        {"state": "failed", "stop_reason": "error", "error": ERROR},
        HOLDER,
    ),
    "finish with what it brings": (
        "/leases/1/finish",
        FINISH | {"report": REPORT, "claim": CLAIM | {"claim_id": "7" * 32, "slot_id": IDS["slot_id"]}},
        HOLDER,
    ),
    "finish with a report after a gap": (
        "/leases/1/finish",
        FINISH | {"report": REPORT | {"seq": 3}},
        HOLDER,
    ),
    "finish with half a claim": ("/leases/1/finish", FINISH | {"claim": {"claim_id": "7" * 32}}, HOLDER),
    "finish in no state": ("/leases/1/finish", FINISH | {"state": "done"}, HOLDER),
}


async def scene(api: Api) -> None:
    """Trial 1 runs for a worker with two slots, trial 2 waits; there is a project 2."""
    assert await add_project(api) == 2
    assert (await api.post("/studies", json=study("one"))).status_code == 201
    await api.enqueue("one", 2)
    worker = {
        "worker_id": IDS["worker_id"], "boot_id": IDS["boot_id"], "starts": 1, "name": "w", "version": "0",
        "tasks": {TASK: DIGEST}, "slots": [{"slot_id": s, "devices": ["cpu"]} for s in ("3" * 32, "8" * 32)],
    }  # fmt: skip
    made = await api.call("PUT", f"/workers/{IDS['worker_id']}", role="worker", json=worker)
    assert made.status_code == 200, made.text
    assert (await api.post("/claims", role="worker", json=CLAIM)).json()["grant"]["trial_id"] == 1


def told(answer: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    """All that was answered but the request's id."""
    headers = {k: v for k, v in answer.headers.items() if k != "tunesmith-request-id"}
    text = re.sub(r"[0-9a-f]{16}", "…", answer.text)  # a request's id, a token's
    return answer.status_code, json.loads(text), headers


@pytest.mark.parametrize("name", CASES)
def test_both_ways_answer_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, body, more = CASES[name]
    headers = {k: v for k, v in more.items() if k in (LEASE_HEADER, "content-type")}
    who = {k: v for k, v in more.items() if k not in headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    short: list[str] = []
    really: Callable[..., Any] = _Way.answer

    async def noted(way: _Way, request: Any) -> Any:
        short.append(request.url.path)
        return await really(way, request)

    monkeypatch.setattr(_Way, "answer", noted)

    async def ask(home: Path, query: str) -> httpx.Response:
        async with running(home) as api:
            await scene(api)
            short.clear()
            return await api.post(
                path + query,
                **({"role": "worker"} | who),
                headers={"content-type": "application/json"} | headers,
                content=content,
            )

    by_short = asyncio.run(ask(tmp_path / "short", ""))
    assert short == [f"/api/v1{path}"]
    by_usual = asyncio.run(ask(tmp_path / "usual", "?usual=1"))
    assert short == []
    assert told(by_short) == told(by_usual)


@pytest.mark.parametrize(
    "path",
    ["/leases/01/reports", "/leases/1/reports/", "/leases/-1/reports", "/leases/9999999999999999/reports"],
)
def test_what_is_in_doubt_goes_the_usual_way(path: str, play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Way, "answer", None)

    async def ask(api: Api) -> None:
        answer = await api.post(path, role="worker", json=REPORT, headers=HOLDER)
        assert answer.status_code in (404, 422)

    play(ask)
