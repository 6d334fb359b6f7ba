"""Rows on a running server that the description's own examples name, and spare ones to be ended."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from tunesmith_service.api import examples
from tunesmith_service.wire import LEASE_HEADER

from .conftest import Served

STUDY = str(examples.SPEC["name"])
LEASE, RESUMED = (f"1.{attempt}.{examples.SECRET}" for attempt in (1, 2))
"""Of every first and second attempt here: the database was never restored, and all claims name one secret."""
BEFORE = 8
"""Trials of another study, so that number 4 is trial 12, as the examples say."""
SPARE = 16
LEASED = slice(2, 10)
"""Of the trials that are claimed, those that stay so."""


@dataclass
class Rows:
    """What there is. `spare` has by name of a path's parameter what a request may end."""

    study_id: int = 0
    leased: list[int] = field(default_factory=list)
    resumed: int = 0
    blobs: list[str] = field(default_factory=list)
    spare: dict[str, list[Any]] = field(default_factory=dict)
    reported: list[int] = field(default_factory=list)


class Settler:
    """Makes rows as people and workers do, over HTTP."""

    def __init__(self, server: Served, role: str) -> None:
        self.people, self.role = server.people, role
        bearer = {"Authorization": f"Bearer {server.token('worker')}"}
        self.worker = httpx.Client(base_url=f"{server.url}/api/v1", headers=bearer, timeout=30)
        self.ids = self._ids()

    def _ids(self) -> Iterator[str]:
        """Ids that no other role's rows have."""
        n = 0
        while True:
            yield hashlib.sha256(f"{self.role} {n}".encode()).hexdigest()[:32]
            n += 1

    def say(self, client: httpx.Client, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = client.request(method, path, json=body, **more)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else None

    def study(self, name: str) -> int:
        return int(self.say(self.people, "POST", "/studies", examples.SPEC | {"name": name})["id"])

    def enqueue(self, study: str, many: int) -> list[int]:
        params = [{"lr": 0.001 * (i + 1), "weight_decay": 0.001} for i in range(many)]
        queued = self.say(self.people, "POST", f"/studies/{study}/trials", {"params": params})
        return [int(n) for n in queued["numbers"]]

    def register(self, slots: list[str]) -> dict[str, Any]:
        """A worker of its own: the one of the examples may be registered anew by a request, which hands back
        what it holds."""
        self.say(self.worker, "PUT", f"/workers/{examples.WORKER_ID}", examples.REGISTER)
        ids = {"worker_id": next(self.ids), "boot_id": next(self.ids)}
        named = [{"slot_id": slot, "devices": ["cpu"]} for slot in slots]
        body = {**examples.REGISTER, **ids, "slots": named}
        self.say(self.worker, "PUT", f"/workers/{ids['worker_id']}", body)
        return ids

    def claim(self, worker: dict[str, Any], slot: str) -> int:
        """The id of the trial that this slot then holds."""
        asked = {**examples.CLAIM, **worker, "claim_id": next(self.ids), "slot_id": slot, "wait_seconds": 0}
        return int(self.say(self.worker, "POST", "/claims", asked)["grant"]["trial_id"])

    def lease(self, trial: int, verb: str, body: Any = None, method: str = "POST", **more: Any) -> Any:
        headers = {LEASE_HEADER: LEASE}
        return self.say(self.worker, method, f"/leases/{trial}/{verb}", body, headers=headers, **more)

    def put(self, trial: int, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.lease(trial, f"blobs/{sha256}", method="PUT", content=content)
        return sha256

    def live(self, trial: int) -> list[str]:
        """A trial leaves all that one can; the hashes of its bytes."""
        for seq in range(1, 4):
            points = [{"step": seq, "metrics": {"val/loss": 1 / seq, "train/loss": 0.9 / seq}}]
            self.lease(trial, "reports", {"seq": seq, "points": points})
        self.lease(trial, "logs", examples.LOG_CHUNK)
        artifact, snapshot = self.put(trial, b"test"), self.put(trial, _snapshot())
        self.lease(trial, "artifacts", examples.COMMIT_ARTIFACT)
        self.lease(trial, "snapshots", {"step": 2, "sha256": snapshot})
        return [artifact, snapshot]

    def fail(self, trial: int) -> None:
        error = {"kind": "ValueError", "message": "no"}
        self.lease(trial, "finish", {"state": "failed", "stop_reason": "error", "error": error})


def settle(server: Served, role: str) -> Rows:
    """The study of the examples, anew, whatever an earlier role has left of it."""
    s = Settler(server, role)
    s.people.post(f"/studies/{STUDY}/stop")
    s.people.delete(f"/studies/{STUDY}", params={"name": STUDY})
    spare = [f"{role}-{i}" for i in range(SPARE)]
    for name in spare:
        s.study(name)
    s.enqueue(spare[0], BEFORE)
    s.say(s.people, "POST", f"/studies/{spare[0]}/pause")
    rows = Rows(s.study(STUDY))
    numbers = s.enqueue(STUDY, 3 * SPARE + 40)
    _fill(s, rows, LEASED.stop + 4 + 3 * SPARE)
    s.say(s.people, "PUT", f"/studies/{STUDY}/note", examples.NOTE, headers={"If-Match": '"0"'})
    s.say(s.people, "POST", f"/studies/{STUDY}/tags", {"trials": numbers[:2], "add": ["odd"]})
    tokens = [s.say(s.people, "POST", "/tokens", examples.NEW_TOKEN)["key_id"] for _ in spare]
    rows.spare |= {"study": spare, "number": numbers[-2 * SPARE :], "key_id": tokens}
    s.worker.close()
    return rows


def _fill(s: Settler, rows: Rows, many: int) -> None:
    """Trials 0 and 4 and one that went on from its snapshot have all that a trial can leave; 0 is complete,
    1, 12 and 13 failed, as many others run."""
    slots = [next(s.ids) for _ in range(many)]
    worker = s.register(slots)
    held = [s.claim(worker, slot) for slot in slots]
    rows.leased, rows.resumed = held[LEASED], held[LEASED.stop]
    for trial in (held[0], held[4], rows.resumed):
        rows.blobs = s.live(trial)
    s.lease(held[0], "finish", examples.FINISH)
    for trial in (held[1], *held[12:14]):
        s.fail(trial)
    s.lease(rows.resumed, "release", examples.RELEASE)
    assert s.claim(worker, slots[LEASED.stop]) == rows.resumed
    rows.spare["trial_id"], rows.reported = held[14 : 14 + 2 * SPARE], held[14 + 2 * SPARE :]


def log_in(server: Served, token: str) -> str:
    """The key of a browser's session that this token has."""
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as client:
        code = client.post("/api/v1/login-codes").json()["code"]
        client.post("/ui/login", data={"code": code}, headers={"Origin": server.url})
        return str(client.get("/api/v1/sessions").json()["items"][0]["key"])


def _snapshot() -> bytes:
    """The smallest safetensors file with a tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0"
