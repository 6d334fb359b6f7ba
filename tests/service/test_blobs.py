"""Bytes by content hash: whole or not at all, and never at a path that a client chose."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import time
from typing import Any

import pytest
from structlog.testing import capture_logs
from tunesmith_service.blobs import CUT_OFF_SECONDS, BlobStore
from tunesmith_service.disk import Disk
from tunesmith_service.errors import NoSpace, NotFound, Unprocessable
from tunesmith_service.piping import PIECE_BYTES, pour

from .conftest import Api, running, study

HEADER = b'{"w": {"dtype": "U8", "shape": [350000], "data_offsets": [0, 350000]}}'
BYTES = struct.pack("<Q", len(HEADER)) + HEADER + b"weights" * 50_000
SHA256 = hashlib.sha256(BYTES).hexdigest()
COARSE = {"kind": "coarse_grid", "epochs": 3, "axes": {"lr": 4}}
REFINE = {"kind": "refine_grid", "epochs": 6, "continue_snapshots": True}
KEPT = study("kept", stages=[COARSE, REFINE])


@pytest.fixture
def blobs(tmp_path) -> BlobStore:
    store = BlobStore(tmp_path / "blobs")
    store.prepare()
    return store


async def pieces(body: bytes = BYTES, size: int = 65_536):
    for start in range(0, len(body), size):
        yield body[start : start + size]


def files(blobs: BlobStore) -> list[str]:
    return sorted(p.name for p in blobs.root.rglob("*") if p.is_file())


def test_a_stream_is_stored_under_its_hash_and_again_changes_nothing(blobs):
    for _ in range(2):
        assert asyncio.run(blobs.put(pieces(), SHA256)) == len(BYTES)
        assert files(blobs) == [SHA256]
    assert blobs.read_bytes(SHA256) == BYTES
    assert blobs.put_bytes(BYTES) == SHA256


@pytest.mark.parametrize("size", [1000, 65_537, 3 * PIECE_BYTES])
def test_pieces_of_any_size_are_stored_in_order(blobs, size):
    body = os.urandom(5 * PIECE_BYTES + 1)
    sha256 = hashlib.sha256(body).hexdigest()
    assert asyncio.run(blobs.put(pieces(body, size), sha256)) == len(body)
    assert blobs.read_bytes(sha256) == body


def test_a_write_that_fails_while_more_comes_is_raised_and_no_more_is_asked_for():
    asked = []

    async def endless():
        while True:
            asked.append(PIECE_BYTES)
            yield bytes(PIECE_BYTES)

    def full(piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        asyncio.run(pour(endless(), full))
    assert len(asked) <= 2


def test_bytes_that_hash_to_something_else_leave_nothing(blobs):
    with pytest.raises(Unprocessable, match=f"hashes to {SHA256}, not to {'0' * 64}; nothing was stored"):
        asyncio.run(blobs.put(pieces(), "0" * 64))
    assert files(blobs) == []


def test_a_stream_that_breaks_off_leaves_nothing(blobs):
    async def broken():
        yield b"weights"
        raise ConnectionResetError("gone")

    with pytest.raises((ConnectionResetError, NoSpace)):
        asyncio.run(blobs.put(broken(), SHA256))
    assert files(blobs) == []


def test_what_a_crash_left_half_written_goes_and_what_another_server_still_writes_stays(blobs):
    for name, age in (("left", CUT_OFF_SECONDS + 60), ("still written", 0)):
        half = blobs.root / "incoming" / name
        half.write_bytes(b"half")
        os.utime(half, (time.time() - age,) * 2)
    blobs.prepare()
    assert [path.name for path in (blobs.root / "incoming").iterdir()] == ["still written"]


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "/..", "%2e%2e"]
)
def test_a_name_that_is_no_hash_reaches_no_path(blobs, name):
    with pytest.raises(NotFound):
        blobs.path(name)


def test_a_full_disk_is_said_with_the_numbers(tmp_path):
    store = BlobStore(tmp_path, Disk(tmp_path, reserve_bytes=2**60).check)
    store.prepare()
    with pytest.raises(NoSpace, match=r"MiB free and keeps 1099511627776 MiB in reserve; make room"):
        asyncio.run(store.put(pieces(), SHA256))


def test_collecting_takes_what_no_row_names_and_nobody_touched(blobs):
    old = [blobs.put_bytes(f"blob {n}".encode()) for n in range(3)]
    young = blobs.put_bytes(b"young")
    for sha256 in old:
        os.utime(blobs.path(sha256), (time.time() - 100,) * 2)
    assert blobs.size(old[2]) is not None  # somebody looked: it is about to be committed
    assert blobs.collect(lambda hashes: {old[0]} & set(hashes), older_than_seconds=50) == 1
    assert files(blobs) == sorted([old[0], old[2], young])


def test_a_snapshot_goes_up_is_committed_and_comes_back_to_the_next_attempt(play_on_each):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        early = await api.say(lease, "snapshots", {"step": 1, "sha256": SHA256})
        assert early.status_code == 422
        assert "are not here; PUT …/blobs/" in early.json()["detail"]
        path = f"/leases/{lease.trial_id}/blobs/{SHA256}"
        put = await api.call("PUT", path, role="worker", headers=lease.headers, content=pieces())
        assert put.status_code == 204, put.text
        assert (await api.say(lease, "snapshots", {"step": 1, "sha256": SHA256})).status_code == 200
        released = await api.say(lease, "release", {"cause": "preempted"})
        assert released.json()["state"] == "waiting"

        grant = (await api.claim()).json()["grant"]
        assert grant["work"]["resume"] == {"sha256": SHA256, "step": 1, "size": len(BYTES)}
        lease.headers["Tunesmith-Lease"] = lease.headers["Tunesmith-Lease"].replace("1.1.", "1.2.")
        got = await api.say(lease, f"snapshots/{SHA256}", method="GET")
        assert got.content == BYTES
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["x-content-type-options"] == "nosniff"
        other = hashlib.sha256(b"other").hexdigest()
        assert (await api.say(lease, f"snapshots/{other}", method="GET")).status_code == 404

    play_on_each(scene)


def test_a_dry_run_knows_the_size_of_snapshots_once_a_trial_of_the_task_has_left_one(play_on_each):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        plan = (await api.post("/studies?dry_run=true", json=KEPT)).json()
        assert plan["snapshots"] > 0
        assert plan["snapshot_bytes"] is None
        path = f"/leases/{lease.trial_id}/blobs/{SHA256}"
        await api.call("PUT", path, role="worker", headers=lease.headers, content=BYTES)
        assert (await api.say(lease, "snapshots", {"step": 1, "sha256": SHA256})).status_code == 200
        plan = (await api.post("/studies?dry_run=true", json=KEPT)).json()
        assert plan["snapshot_bytes"] == plan["snapshots"] * len(BYTES)
        other = (await api.post("/studies?dry_run=true", json=KEPT | {"task": "another"})).json()
        assert other["snapshot_bytes"] is None

    play_on_each(scene)


def test_an_upload_beyond_the_limit_is_cut_off(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        path = f"/leases/{lease.trial_id}/blobs/{SHA256}"
        answer = await api.call("PUT", path, role="worker", headers=lease.headers, content=pieces())
        assert answer.status_code == 413
        assert "longer than 65536 bytes" in answer.json()["detail"]
        assert files(api.service.blobs) == []

    play(scene, upload_bytes=65_536)


def test_an_artifact_is_an_attachment_whatever_its_name(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        page = b"<script>alert(1)</script>"
        sha256 = hashlib.sha256(page).hexdigest()
        put = f"/leases/{lease.trial_id}/blobs/{sha256}"
        await api.call("PUT", put, role="worker", headers=lease.headers, content=page)
        name = "plots/../x.html"
        assert (await api.say(lease, "artifacts", {"name": name, "sha256": sha256})).status_code == 200
        path = f"/studies/{lease.grant['work']['study']}/trials/0"
        assert (await api.get(path)).json()["artifacts"] == [name]
        got = await api.get(f"{path}/artifacts/plots%2F..%2Fx.html")
        assert got.content == page
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-disposition"] == 'attachment; filename="x.html"'
        assert "sandbox" in got.headers["content-security-policy"]
        assert (await api.get(f"{path}/artifacts/none")).status_code == 404

    play(scene)


def test_a_snapshot_is_fetched_by_its_step_and_of_two_attempts_the_newer_one_s(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        study = lease.grant["work"]["study"]
        path = f"/studies/{study}/trials/0/snapshots"
        assert "no snapshot at step 1; it has none" in (await api.get(f"{path}/1")).json()["detail"]
        for attempt in (1, 2):
            body = BYTES[:-1] + b"%d" % attempt
            sha256 = hashlib.sha256(body).hexdigest()
            put = f"/leases/{lease.trial_id}/blobs/{sha256}"
            await api.call("PUT", put, role="worker", headers=lease.headers, content=body)
            assert (await api.say(lease, "snapshots", {"step": 1, "sha256": sha256})).status_code == 200
            got = await api.get(f"{path}/1")
            assert got.content == body
            assert got.headers["content-disposition"] == 'attachment; filename="trial-0-step-1.safetensors"'
            if attempt == 1:
                assert (await api.say(lease, "release", {"cause": "shutdown"})).status_code == 200
                lease = api.leased((await api.claim()).json()["grant"])
        missed = await api.get(f"{path}/7")
        assert (missed.status_code, missed.json()["detail"]) == (
            404, "trial 0 has no snapshot at step 7; it has 1",
        )  # fmt: skip
        assert (await api.get(f"{path}/none")).status_code == 422

    play(scene)


def test_unneeded_bytes_are_deleted_and_needed_ones_stay(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        blobs = api.service.blobs
        for n, committed in ((1, True), (2, False)):
            body = BYTES[:-1] + b"%d" % n
            sha256 = hashlib.sha256(body).hexdigest()
            put = f"/leases/{lease.trial_id}/blobs/{sha256}"
            await api.call("PUT", put, role="worker", headers=lease.headers, content=body)
            if committed:
                await api.say(lease, "snapshots", {"step": n, "sha256": sha256})
                kept = sha256
        for name in files(blobs):
            os.utime(blobs.path(name), (0, 0))
        api.clock.advance(10**6)
        await api.service._collect()
        assert files(blobs) == [kept]

    play(scene, blob_grace_seconds=0)


def test_a_server_with_another_store_than_the_one_before_says_so_at_its_start(tmp_path):
    url = f"sqlite:///{tmp_path}/tunesmith.db"

    async def started(home: str) -> list[dict[str, Any]]:
        with capture_logs() as logs:
            async with running(tmp_path / home, url):
                pass
        return [line for line in logs if line["event"] == "blobs.missing"]

    async def scene() -> None:
        async with running(tmp_path / "first", url) as api:
            lease = await api.lease()
            path = f"/leases/{lease.trial_id}/blobs/{SHA256}"
            await api.call("PUT", path, role="worker", headers=lease.headers, content=BYTES)
            await api.say(lease, "snapshots", {"step": 1, "sha256": SHA256})
        assert await started("first") == []
        (line,) = await started("second")
        assert (line["log_level"], line["snapshots"]) == ("error", [SHA256])
        assert line["store"] == str(tmp_path / "second" / "blobs")
        assert line["database"] == url
        assert "give the --blob-store" in line["todo"]

    asyncio.run(asyncio.wait_for(scene(), 120))
