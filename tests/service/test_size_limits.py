"""Each limit of size and number at one below, at it, and one beyond, through the application."""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from typing import Any

import pytest
from sqlalchemy import text
from tunesmith_service import bounds, db

from .conftest import Api, study


def around(limit: int) -> tuple[tuple[int, bool], ...]:
    """Sizes, and whether each is taken."""
    return ((limit - 1, True), (limit, True), (limit + 1, False))


def space(n: int) -> dict[str, Any]:
    return {f"p{i}": {"low": 0.0, "high": 1.0} for i in range(n)}


def points(first: int, n: int, name: str = "val/loss") -> list[dict[str, Any]]:
    return [{"step": first + i, "metrics": {name: 0.5}} for i in range(n)]


def snapshot(tensors: int = 1, header_bytes: int | None = None) -> bytes:
    """A safetensors file of so many tensors, its header padded with blanks as the format allows."""
    entries = {f"s{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(tensors)}
    return safetensors(json.dumps(entries).encode().ljust(header_bytes or 0), bytes(tensors))


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


async def commit(api: Api, lease: Any, step: int, body: bytes) -> Any:
    sha256 = hashlib.sha256(body).hexdigest()
    path = f"/leases/{lease.trial_id}/blobs/{sha256}"
    put = await api.call("PUT", path, role="worker", headers=lease.headers, content=body)
    assert put.status_code == 204, put.text
    return await api.say(lease, "snapshots", {"step": step, "sha256": sha256})


# --- requests -------------------------------------------------------------------------------------


def test_the_length_of_a_json_body(play):
    async def scene(api: Api) -> None:
        for size, taken in around(2048):
            body = json.dumps(study(f"s{size}") | {"notes": ""}).encode()
            body = body.replace(b'"notes": ""', b'"notes": "' + b"x" * (size - len(body)) + b'"')
            answer = await api.post("/studies", content=body, headers={"Content-Type": "application/json"})
            assert (len(body), answer.status_code) == (size, 201 if taken else 413)

    play(scene, body_bytes=2048)


def test_the_depth_of_a_json_body(play):
    async def scene(api: Api) -> None:
        for depth, taken in around(9):
            body = b"[" * depth + b"]" * depth
            answer = await api.post("/studies", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 422
            assert ("nested 10 deep; at most 9 is read" in answer.json()["detail"]) != taken

    play(scene, json_depth=9)


def test_whole_numbers(play):
    async def scene(api: Api) -> None:
        for n, taken in ((2**53 - 1, True), (2**53, True), (2**53 + 1, False)):
            answer = await api.post("/studies", json=study(f"s{n}") | {"priority": n})
            assert answer.status_code == 422
            assert ("beyond 2^53" in answer.json()["detail"]) != taken

    play(scene)


def test_the_length_of_a_url(play):
    async def scene(api: Api) -> None:
        path = "/api/v1/studies"
        for size, taken in around(1024):
            answer = await api.get("/studies?state=" + "x" * (size - len(path + "state=")))
            told = "the URL is longer than 1024 bytes" in answer.text
            assert (answer.status_code, told) == ((422, False) if taken else (400, True))

    play(scene, url_bytes=1024)


def test_the_length_of_headers(play):
    async def scene(api: Api) -> None:
        sent = (await api.get("/studies")).request.headers.raw
        other = sum(len(k) + len(v) for k, v in sent) + len("x-long")
        for size, taken in around(4096):
            answer = await api.get("/studies", headers={"X-Long": "x" * (size - other)})
            assert answer.status_code == (200 if taken else 400)

    play(scene, header_bytes=4096)


def test_the_length_of_a_page(play):
    async def scene(api: Api) -> None:
        for n, taken in around(1000):
            assert (await api.get(f"/studies?limit={n}")).status_code == (200 if taken else 422)

    play(scene)


def test_the_length_of_an_idempotency_key(play):
    async def scene(api: Api) -> None:
        for n, taken in around(255):
            key = {"Idempotency-Key": "k" * n}
            answer = await api.post("/studies", json=study(f"s{n}"), headers=key)
            assert answer.status_code == (201 if taken else 422)

    play(scene)


# --- how often ------------------------------------------------------------------------------------


def test_how_often_a_person_may_ask(play):
    """By token: another of the same role has its own."""

    async def scene(api: Api) -> None:
        api.service.rates._people._monotonic = lambda: 0.0
        answers = [await api.get("/studies", role="viewer") for _ in range(4)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429]
        assert answers[3].headers["retry-after"] == "100"
        assert "this token asks too often" in answers[3].json()["detail"]
        assert (await api.get("/studies", role="researcher")).status_code == 200

    play(scene, person_rate=0.01, person_burst=3)


def test_how_often_a_slot_may_ask(play):
    """One token serves many slots, so each lease has its own count, and each slot that claims."""

    async def scene(api: Api) -> None:
        api.service.rates._slots._monotonic = lambda: 0.0
        first, second = await api.lease(), await api.lease()
        answers = [await api.say(first, "heartbeat", {}) for _ in range(4)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429]
        assert answers[3].headers["retry-after"] == "100"
        assert (await api.say(second, "heartbeat", {})).status_code == 200
        stranger = {"Tunesmith-Lease": first.headers["Tunesmith-Lease"].replace("5ec1e7", "000000")}
        for _ in range(3):
            first.headers, kept = stranger, first.headers
            assert (await api.say(first, "heartbeat", {})).status_code == 409
            first.headers = kept
        worker = await api.register(slots=2)
        claims = [await api.claim(worker) for _ in range(4)]
        assert [a.status_code for a in claims] == [200, 200, 200, 429]
        assert (await api.claim(worker, slot=1)).status_code == 200

    play(scene, slot_rate=0.01, slot_burst=3)


# --- studies and trials ---------------------------------------------------------------------------


def test_hyperparameters_of_a_study(play):
    async def scene(api: Api) -> None:
        stage = {"kind": "random", "epochs": 1, "trials": 1}
        for n, taken in around(5):
            spec = study(f"s{n}", space=space(n - 1), fixed={"width": 8}, stages=[stage])
            answer = await api.post("/studies", json=spec)
            assert answer.status_code == (201 if taken else 422), answer.text
        assert answer.json()["errors"] == [
            {"pointer": "/space", "message": "6 with those of fixed; at most 5"}
        ]

    play(scene, study_params=5)


def test_metrics_of_a_study(play_on_each):
    """Counted over its trials, by a server that has just started too."""

    async def scene(api: Api) -> None:
        lease = await api.lease()
        for seq, (n, taken) in enumerate(around(4), start=1):
            metrics = {f"m{i}": 1.0 for i in range(n)}
            report = {"seq": seq, "points": [{"step": seq, "metrics": metrics}]}
            answer = await api.say(lease, "reports", report)
            assert answer.status_code == (200 if taken else 422), answer.text
        assert (
            "m4 is new to the study, whose trials have reported 4 names; at most 4" in answer.json()["detail"]
        )
        api.service.writer._bounds._names.clear()
        one_more = {"seq": 3, "points": [{"step": 3, "metrics": {"m9": 1.0}}]}
        assert (await api.say(lease, "reports", one_more)).status_code == 422
        known = {"seq": 3, "points": [{"step": 3, "metrics": {"m3": 1.0}}]}
        assert (await api.say(lease, "reports", known)).status_code == 200

    play_on_each(scene, study_metrics=4)


def test_points_of_a_trial(play_on_each):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        assert (await api.say(lease, "reports", {"seq": 1, "points": points(1, 4)})).status_code == 200
        beyond = await api.say(lease, "reports", {"seq": 2, "points": points(5, 3)})
        assert beyond.status_code == 422
        assert "has 4 points; with 3 more it would have more than 6" in beyond.json()["detail"]
        assert (await api.say(lease, "reports", {"seq": 2, "points": points(5, 1)})).status_code == 200
        api.service.writer._bounds._counted.clear()  # as after a start
        assert (await api.say(lease, "reports", {"seq": 3, "points": points(6, 1)})).status_code == 200
        again = await api.say(lease, "reports", {"seq": 3, "points": points(6, 1)})
        assert again.json()["duplicate"] is True
        assert (await api.say(lease, "reports", {"seq": 4, "points": points(7, 1)})).status_code == 422

    play_on_each(scene, trial_points=6)


def test_points_of_earlier_attempts_count(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        assert (await api.say(lease, "reports", {"seq": 1, "points": points(1, 5)})).status_code == 200
        await api.say(lease, "release", {"cause": "preempted"})
        await api.claim()
        lease.headers["Tunesmith-Lease"] = lease.headers["Tunesmith-Lease"].replace("1.1.", "1.2.")
        assert (await api.say(lease, "reports", {"seq": 1, "points": points(1, 2)})).status_code == 422
        assert (await api.say(lease, "reports", {"seq": 1, "points": points(1, 1)})).status_code == 200

    play(scene, trial_points=6)


def test_points_of_a_report_and_metrics_of_a_point(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        first, seq = 1, 1
        for n, taken in around(500):
            answer = await api.say(lease, "reports", {"seq": seq, "points": points(first, n)})
            assert answer.status_code == (200 if taken else 422)
            first, seq = first + n, seq + 1
        for n, taken in around(256):
            report = {"seq": seq - 1, "points": [{"step": first, "metrics": {f"m{i}": 1 for i in range(n)}}]}
            answer = await api.say(lease, "reports", report)
            assert answer.status_code == (200 if taken else 422)
            first, seq = first + 1, seq + 1

    play(scene, study_metrics=1000)


def test_trials_of_a_project_that_wait(play_on_each):
    """Over all its studies; trying failed ones again queues them, too."""

    async def scene(api: Api) -> None:
        lease = await api.lease()
        error = {"kind": "E", "message": "m"}
        failed = await api.say(lease, "finish", {"state": "failed", "stop_reason": "error", "error": error})
        assert failed.json()["state"] == "failed"
        for name, n, status in (("a", 2, 201), ("b", 2, 409), ("b", 1, 201)):
            await api.post("/studies", json=study(name))
            params = [{"lr": 0.001 * (i + 1)} for i in range(n)]
            answer = await api.post(f"/studies/{name}/trials", json={"params": params})
            assert answer.status_code == status, answer.text
        refused = await api.post(f"/studies/{lease.grant['work']['study']}/trials/0/retry")
        assert refused.status_code == 409
        assert "3 trials of the project wait already; at most 3 may" in refused.json()["detail"]

    play_on_each(scene, project_queued=3)


def test_the_metrics_of_a_deleted_study_are_not_its_successors(play):
    """SQLite gives the id of a deleted study to the next."""

    async def scene(api: Api) -> None:
        for _ in range(2):
            lease = await api.lease()
            name = lease.grant["work"]["study"]
            report = {"seq": 1, "points": [{"step": 1, "metrics": {f"m{secrets.token_hex(2)}": 1.0}}]}
            assert (await api.say(lease, "reports", report)).status_code == 200
            assert (await api.post(f"/studies/{name}/stop")).status_code == 200
            assert (await api.call("DELETE", f"/studies/{name}?name={name}")).status_code < 300

    play(scene, study_metrics=1)


def test_only_so_many_trials_tell_which_metrics_a_study_has(play, monkeypatch: pytest.MonkeyPatch):
    """What the newest do not say any more is new again: a page of trials is read, not the study."""
    monkeypatch.setattr(bounds, "LOOK_AT_TRIALS", 1)

    async def scene(api: Api) -> None:
        lease = await api.lease()
        name = lease.grant["work"]["study"]
        assert (await api.say(lease, "reports", {"seq": 1, "points": points(1, 1, "old")})).status_code == 200
        await api.enqueue(name)
        with db.writing(api.service.engine).begin() as conn:
            conn.execute(text("UPDATE trials SET last_metrics = '{\"new\": 1}' WHERE number = 1"))
        api.service.writer._bounds._names.clear()
        report = {"seq": 2, "points": points(2, 1, "third")}
        assert (await api.say(lease, "reports", report)).status_code == 200
        assert api.service.writer._bounds._names[1] == {"new", "third"}

    play(scene, study_metrics=2)


# --- bytes ----------------------------------------------------------------------------------------


def test_the_length_of_an_upload(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        for size, taken in around(2048):
            body = bytes(size)
            path = f"/leases/{lease.trial_id}/blobs/{hashlib.sha256(body).hexdigest()}"
            put = await api.call("PUT", path, role="worker", headers=lease.headers, content=body)
            assert put.status_code == (204 if taken else 413)

    play(scene, upload_bytes=2048)


def test_the_header_of_a_snapshot(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        for step, (size, taken) in enumerate(around(1024), start=1):
            answer = await commit(api, lease, step, snapshot(header_bytes=size))
            assert answer.status_code == (200 if taken else 422), answer.text
        assert "header is 1025 bytes; at most 1024" in answer.json()["detail"]

    play(scene, snapshot_header_bytes=1024)


def test_the_tensors_of_a_snapshot(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        for step, (n, taken) in enumerate(around(3), start=1):
            answer = await commit(api, lease, step, snapshot(tensors=n))
            assert answer.status_code == (200 if taken else 422), answer.text
        assert "holds 4 tensors; at most 3" in answer.json()["detail"]

    play(scene, snapshot_tensors=3)


NO_SNAPSHOT = {
    "nothing": b"",
    "a text": b"weights" * 100,
    "a pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}.",
    "a header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "a header that overflows": struct.pack("<Q", 2**64 - 1) + b"{}",
    "a header that is no JSON": safetensors(b"{a}"),
    "a header that is a list": safetensors(b"[]"),
    "nesting": safetensors(b"[" * 20 + b"]" * 20),
    "a tensor past the end": snapshot()[:-1],
    "a tensor without a place": safetensors(b'{"a": {"dtype": "U8"}}'),
    "a tensor before the start": safetensors(b'{"a": {"data_offsets": [-1, 0]}}'),
    "a tensor that is true": safetensors(b'{"a": true}'),
    "a tensor at true": safetensors(b'{"a": {"data_offsets": [false, true]}}', b"x"),
}


@pytest.mark.parametrize("what", NO_SNAPSHOT)
def test_what_is_no_snapshot_is_not_committed(play, what):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        answer = await commit(api, lease, 1, NO_SNAPSHOT[what])
        assert answer.status_code == 422, answer.text
        assert (await api.say(lease, "heartbeat", {})).status_code == 200

    play(scene)


def test_a_header_may_hold_words_of_its_writer(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        body = safetensors(b'{"__metadata__": {"tunesmith": "{}"}}   ')
        assert (await commit(api, lease, 1, body)).status_code == 200

    play(scene)


def test_the_bytes_of_a_projects_snapshots(play_on_each):
    size = len(snapshot())

    async def scene(api: Api) -> None:
        lease = await api.lease()
        for step in (1, 2):
            body = snapshot()[:-1] + bytes([step])
            assert (await commit(api, lease, step, body)).status_code == 200
        full = await commit(api, lease, 3, snapshot()[:-1] + b"\x03")
        assert (full.status_code, full.json()["type"]) == (507, "urn:tunesmith:no_space")
        assert f"has {2 * size} bytes of snapshots and may have {2 * size}" in full.json()["detail"]
        api.service.snapshot_room._counted.clear()  # counted anew, in the database
        assert (await commit(api, lease, 3, snapshot()[:-1] + b"\x03")).status_code == 507

    play_on_each(scene, project_snapshots_bytes=2 * size)
