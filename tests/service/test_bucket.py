"""Snapshots in a bucket of a real S3 server: what is signed for a worker holds for those bytes, that key and
a quarter of an hour, and nothing of it stands in a log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import httpx
import obstore
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError
from light import LightWorker
from moto.server import ThreadedMotoServer
from obstore.auth.boto3 import Boto3CredentialProvider
from processes import free_port, until
from swift_server import BUCKET, SECRET_KEY, Swift
from tunesmith_service import bucket as module
from tunesmith_service import client as client_module
from tunesmith_service.bucket import Bucket
from tunesmith_service.client import Lease as Held
from tunesmith_service.direct import Direct
from tunesmith_service.errors import Unavailable
from tunesmith_service.settings import Settings, SettingsError, load
from tunesmith_service.stores import StoreError, store_of

from .conftest import Api, Lease, Served, study

HEADER = b'{"w": {"dtype": "U8", "shape": [100000], "data_offsets": [0, 100000]}}'
BODY = struct.pack("<Q", len(HEADER)) + HEADER + b"w" * 100_000
SHA256 = hashlib.sha256(BODY).hexdigest()
ASKED = {"sha256": SHA256, "size": len(BODY)}


@pytest.fixture
def bucket(environ: dict[str, str], tmp_path: Path) -> Bucket:
    made = store_of(load({"home": tmp_path}, environ))
    assert isinstance(made, Bucket)
    made.prepare("of this test")
    return made


# --- what is signed -------------------------------------------------------------------------------


def put(to: Any, body: bytes, **other_headers: str) -> int:
    return httpx.put(to.url, content=body, headers={**to.headers, **other_headers}, timeout=60).status_code


def test_what_is_signed_for_an_upload_takes_those_bytes_at_that_key_and_no_others(bucket: Bucket) -> None:
    to = bucket.upload(SHA256, len(BODY))
    tampered, longer = BODY[:-1] + b"x", BODY + b"x"
    assert put(to, tampered) == 400
    assert put(to, longer, **{"Content-Length": str(len(longer))}) == 403
    assert put(to, tampered, **{"X-Amz-Content-SHA256": hashlib.sha256(tampered).hexdigest()}) == 403
    assert put(to, BODY, Authorization="") in (400, 403)
    elsewhere = to.model_copy(update={"url": str(to.url).replace(SHA256, "0" * 64)})
    assert put(elsewhere, BODY) == 403
    for method in ("GET", "DELETE"):
        other = httpx.request(method, str(to.url), headers=to.headers, content=BODY, timeout=60)
        assert other.status_code == 403
    assert bucket.size(SHA256) is None
    assert put(to, BODY) == 200
    assert put(to, tampered) == 400  # nor is what is there replaced
    assert bucket.read_bytes(SHA256) == BODY
    assert bucket.upload(SHA256, len(BODY)).stored


def test_what_is_signed_for_an_upload_holds_for_a_quarter_of_an_hour(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ago() -> datetime:
        return datetime.now(UTC) - timedelta(minutes=16)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", ago)
    assert put(bucket.upload(SHA256, len(BODY)), BODY) == 403
    assert bucket.size(SHA256) is None


def test_what_is_signed_for_a_download_gives_that_file_alone_and_ends(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = bucket.put_bytes(BODY), bucket.put_bytes(b"other")
    url = str(bucket.download(one).url)
    assert "X-Amz-Expires=900&" in url
    assert httpx.get(url, timeout=60).content == BODY
    another = url.replace(f"{one[:2]}/{one}", f"{other[:2]}/{other}")
    assert httpx.get(another, timeout=60).status_code == 403
    assert httpx.put(url, content=b"x", timeout=60).status_code == 403
    monkeypatch.setattr(module, "SIGNED_FOR", timedelta(seconds=1))
    short = str(bucket.download(one).url)
    until(lambda: httpx.get(short, timeout=60).status_code == 403)


def test_bytes_that_may_be_collected_soon_are_asked_for_again(bucket: Bucket) -> None:
    bucket.put_bytes(BODY)
    bucket._fresh_seconds = -3600.0
    assert bucket.upload(SHA256, len(BODY)).url is not None


def test_what_is_needless_goes_by_a_few_requests_but_for_what_was_put_anew(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = sorted(bucket.put_bytes(b"%d" % n) for n in range(8))
    anew, really, deleted = hashes[3], obstore.delete, []
    ages = dict.fromkeys(hashes, 100.0)

    def delete(store: Any, paths: list[str]) -> None:
        deleted.append(len(paths))
        really(store, paths)

    def none(of: list[str]) -> list[str]:
        ages[anew] = 0.0
        return []

    monkeypatch.setattr(module, "DELETED_AT_ONCE", 3)
    monkeypatch.setattr(module, "_age", lambda meta: ages[meta["path"][3:]])
    monkeypatch.setattr(obstore, "delete", delete)
    assert bucket.collect(none, older_than_seconds=50) == 7
    assert deleted == [3, 2, 2]
    assert [sha256 for sha256 in hashes if bucket.size(sha256) is not None] == [anew]


def test_a_roles_credentials_are_asked_for_before_they_end_and_who_cannot_have_them_comes_again(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    late, believed = [timedelta()], []

    def refused() -> None:
        raise ClientError({"Error": {"Code": "ExpiredToken"}}, "AssumeRole")

    role = RefreshableCredentials(
        environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], None, now + timedelta(hours=1),
        refresh_using=refused, method="assume-role", time_fetcher=lambda: now + late[0],
    )  # fmt: skip

    class Provider(Boto3CredentialProvider):
        def __call__(self) -> Any:
            found = super().__call__()
            believed.append(found["expires_at"] - datetime.now(UTC))
            return found

    def made() -> Bucket:
        return store_of(load({"home": tmp_path}, environ))  # type: ignore[return-value]

    monkeypatch.setattr(module.Session, "get_credentials", lambda session: role)
    monkeypatch.setattr(module, "Boto3CredentialProvider", Provider)
    bucket = made()
    assert bucket.upload(SHA256, len(BODY)).url
    assert max(believed) - timedelta(minutes=5) < timedelta(minutes=10)  # what botocore gives holds so long
    late[0] = timedelta(minutes=51)
    for ask in (lambda: bucket.upload(SHA256, len(BODY)), lambda: made().download(SHA256)):
        with pytest.raises(Unavailable, match="the store of snapshots does not answer"):
            ask()


# --- at the start ---------------------------------------------------------------------------------


def refused(home: Path, **changed: str) -> str:
    with pytest.raises(StoreError) as raised:
        store_of(Settings(home=home, **changed)).prepare("of this test")
    return str(raised.value)


def test_a_bucket_that_cannot_be_used_is_refused_with_what_to_do(
    swift: Swift, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"s3_endpoint": swift.url}
    assert "there is no such bucket" in refused(tmp_path, blob_store="s3://nowhere/x", **at)
    dead = f"http://127.0.0.1:{free_port()}"
    assert "does not answer" in refused(tmp_path, blob_store=f"s3://{BUCKET}/x", s3_endpoint=dead)
    Bucket.prepare(store_of(load({"home": tmp_path}, environ)), "another database")  # type: ignore[arg-type]
    other = refused(tmp_path, blob_store=swift.address(tmp_path.name), **at)
    assert "holds the blobs of another database" in other
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a wrong one")
    wrong = refused(tmp_path, blob_store=swift.address(tmp_path.name), **at)
    assert "refuses our credentials (SignatureDoesNotMatch)" in wrong
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "there are no credentials" in refused(tmp_path, blob_store="s3://weights/x", **at)
    monkeypatch.setenv("AWS_PROFILE", "nope")
    assert "config profile (nope) could not be found" in refused(tmp_path, blob_store="s3://weights/x", **at)


def test_a_server_that_takes_other_bytes_than_were_signed_for_is_refused(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    server = ThreadedMotoServer(port=0, verbose=False)  # it looks at no signature
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        httpx.put(f"{url}/{BUCKET}")
        assert "takes other bytes" in refused(tmp_path, blob_store=f"s3://{BUCKET}", s3_endpoint=url)
    finally:
        server.stop()


def test_a_service_with_wrong_credentials_ends_with_a_sentence(
    environ: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tunesmith_service", "serve", "--home", str(tmp_path), "--port", "0"]
    wrong = environ | {"AWS_SECRET_ACCESS_KEY": "not-the-one-0d5f"}
    done = subprocess.run(
        command, env=os.environ | wrong, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "refuses our credentials" in done.stderr
    assert "Traceback" not in done.stderr
    assert "not-the-one-0d5f" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"blob_store": "weights"}, "is no bucket"),
        ({"blob_store": "s3://w/../x"}, "is no bucket"),
        ({"s3_endpoint": "http://key:secret@minio"}, "without name and password"),
        ({"blob_store": "s3://weights", "upload_bytes": str(6 * 2**30)}, "more than S3 takes in one request"),
    ],
)
def test_a_setting_that_names_no_bucket_is_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(wrong, {})


# --- by the API -----------------------------------------------------------------------------------


async def sent(api: Api, lease: Lease, body: bytes = BODY) -> str:
    """A worker's upload, past the service. Returns the hash."""
    sha256 = hashlib.sha256(body).hexdigest()
    to = (await api.say(lease, "uploads", {"sha256": sha256, "size": len(body)})).json()
    async with httpx.AsyncClient() as store:
        assert (await store.put(to["url"], content=body, headers=to["headers"])).status_code == 200
    return sha256


def test_a_snapshot_goes_past_the_service_and_back_to_the_next_attempt(
    play_with_bucket: Callable[..., None],
) -> None:
    async def scene(api: Api) -> None:
        lease = await api.lease()
        assert (await api.say(lease, "snapshots", {"step": 1, "sha256": SHA256})).status_code == 422
        assert await sent(api, lease) == SHA256
        again = (await api.say(lease, "uploads", ASKED)).json()
        assert again == {"stored": True, "url": None, "headers": {}}
        assert (await api.say(lease, "snapshots", {"step": 1, "sha256": SHA256})).status_code == 200
        await api.say(lease, "release", {"cause": "preempted"})
        grant = (await api.claim()).json()["grant"]
        assert grant["work"]["resume"] == {"sha256": SHA256, "step": 1, "size": len(BODY)}

        late = lease.headers | {}
        lease.headers["Tunesmith-Lease"] = lease.headers["Tunesmith-Lease"].replace("1.1.", "1.2.")
        at = await api.say(lease, f"downloads/{SHA256}", method="GET")
        assert at.headers["cache-control"] == "private, no-store"
        async with httpx.AsyncClient() as store:
            assert (await store.get(at.json()["url"])).content == BODY
        through = await api.say(lease, f"snapshots/{SHA256}", method="GET")  # who asks for bytes gets them
        assert through.content == BODY
        assert through.headers["content-disposition"].startswith("attachment")
        assert (await api.say(lease, f"downloads/{'0' * 64}", method="GET")).status_code == 404
        lease.headers["Tunesmith-Lease"] = late["Tunesmith-Lease"]
        for verb in ("downloads", "snapshots"):
            assert (await api.say(lease, f"{verb}/{SHA256}", method="GET")).status_code == 404

    play_with_bucket(scene)


def test_who_sends_bytes_to_the_service_finds_them_in_the_bucket(
    play_with_bucket: Callable[..., None],
) -> None:
    async def scene(api: Api) -> None:
        lease = await api.lease()
        path = f"/leases/{lease.trial_id}/blobs/{SHA256}"
        wrong = await api.call("PUT", path, role="worker", headers=lease.headers, content=b"x")
        assert wrong.status_code == 422
        put = await api.call("PUT", path, role="worker", headers=lease.headers, content=BODY)
        assert put.status_code == 204, put.text
        assert api.service.blobs.size(SHA256) == len(BODY)
        assert list((api.service.settings.blobs_dir / "incoming").iterdir()) == []
        name = {"name": "plots/x.html", "sha256": SHA256}
        assert (await api.say(lease, "artifacts", name)).status_code == 200
        assert (await api.say(lease, "logs", {"seq": 1, "text": "epoch 1"})).status_code == 200
        trial = f"/studies/{lease.grant['work']['study']}/trials/0"
        got = await api.get(f"{trial}/artifacts/plots%2Fx.html")
        assert got.content == BODY
        assert got.headers["content-disposition"] == 'attachment; filename="x.html"'
        assert got.headers["content-length"] == str(len(BODY))
        assert "sandbox" in got.headers["content-security-policy"]
        assert (await api.get(f"{trial}/logs")).json()["items"][0]["text"] == "epoch 1"

    play_with_bucket(scene)


def test_what_is_in_the_bucket_already_is_not_received_again(bucket: Bucket) -> None:
    received: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        received.append(BODY)
        yield BODY

    for n in (1, 1):
        assert asyncio.run(bucket.put(pieces(), SHA256)) == len(BODY)
        assert len(received) == n
    bucket._fresh_seconds = -3600.0  # it may be collected before it is committed
    assert asyncio.run(bucket.put(pieces(), SHA256)) == len(BODY)
    assert len(received) == 2


def test_what_is_too_large_or_no_snapshot_is_refused(play_with_bucket: Callable[..., None]) -> None:
    async def scene(api: Api) -> None:
        lease = await api.lease()
        large = await api.say(lease, "uploads", ASKED | {"size": 200_001})
        assert (large.status_code, large.json()["detail"]) == (413, "200001 bytes; at most 200000 are taken")
        for body in (b"", b"short", b"no safetensors file"):
            sha256 = await sent(api, lease, body)
            answer = await api.say(lease, "snapshots", {"step": 1, "sha256": sha256})
            assert answer.status_code == 422
            assert "do not begin like one" in answer.json()["detail"]

    play_with_bucket(scene, upload_bytes=200_000)


# --- a whole service ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(swift: Swift) -> dict[str, str]:
    return swift.service("served")


@pytest.fixture(scope="module")
def served(told: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), "--no-planner", environ=told) as made:
        yield made


async def with_worker(served: Served, do: Callable[[LightWorker, Held], Any]) -> None:
    """A worker's life: it registers, claims the one trial, does something, and hands it back."""
    worker = LightWorker(served.url, served.token("worker"))
    try:
        assert (await worker.register()).direct_transfers
        granted = await worker.claim()
        assert granted is not None
        await do(worker, granted[0])
    finally:
        await worker.client.aclose()


def begin(served: Served, name: str) -> None:
    served.people.post("/studies", json=study(name)).raise_for_status()
    params = {"params": [{"lr": 0.01}]}
    served.people.post(f"/studies/{name}/trials", json=params).raise_for_status()


def end(served: Served, name: str) -> None:
    served.people.post(f"/studies/{name}/stop").raise_for_status()


def test_no_secret_and_nothing_signed_is_told_in_logs_events_or_the_audit_log(
    served: Served, tmp_path: Path
) -> None:
    begin(served, "told")
    file, copy = tmp_path / "snapshot", tmp_path / "copy"
    file.write_bytes(BODY)
    told: list[str] = []

    async def live(worker: LightWorker, lease: Held) -> None:
        client = worker.client
        client._on_trouble = lambda failure, pause: told.append(str(failure))
        await client.put_blob(lease, file, SHA256)
        commit = client_module.wire.CommitSnapshot(step=1, sha256=SHA256)
        await client.commit_snapshot(lease, commit)
        url = "http://127.0.0.1:1/x?X-Amz-Signature=5ec1e75ec1e7"
        for broken in (url, f"{served.url}/nowhere?X-Amz-Signature=5ec1e75ec1e7"):
            with pytest.raises(Unavailable) as raised:
                await Direct().fetch(broken, copy, SHA256)
            told.append(str(raised.value))

    asyncio.run(with_worker(served, live))
    end(served, "told")
    for path in ("/studies/told", "/studies/told/events", "/studies/told/trials/0", "/audit", "/workers"):
        told.append(served.people.get(path).text)
    until(lambda: "snapshot.committed" in served.process.said)
    told.append(served.process.said)
    assert any('"snapshot"' in t for t in told)
    for text in told:
        for secret in (SECRET_KEY, "test:tester", "Signature", "X-Amz", "5ec1e75ec1e7", "AWS4"):
            assert secret not in text, (secret, text[:2000])


def test_a_worker_that_cannot_reach_the_store_sends_and_fetches_through_the_service(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(served, "around")
    file, copy = tmp_path / "snapshot", tmp_path / "copy"
    body = BODY[:-1] + b"a"
    sha256 = hashlib.sha256(body).hexdigest()
    file.write_bytes(body)
    tries: list[str] = []

    async def none(self: Direct, *arguments: Any) -> None:
        tries.append("tried")
        raise client_module.TryAgain("no answer from the store")

    async def live(worker: LightWorker, lease: Held) -> None:
        async def at_once(seconds: float) -> None:
            pass

        worker.client._sleep = at_once
        for name in ("send", "fetch"):
            monkeypatch.setattr(Direct, name, none)
        await worker.client.put_blob(lease, file, sha256)
        await worker.client.commit_snapshot(lease, client_module.wire.CommitSnapshot(step=1, sha256=sha256))
        await worker.client.release(lease, client_module.wire.Release(cause="preempted"))
        granted = await worker.claim()
        assert granted is not None
        await worker.client.fetch_snapshot(granted[0], sha256, copy)

    asyncio.run(with_worker(served, live))
    end(served, "around")
    assert copy.read_bytes() == body
    assert len(tries) == 2 * client_module.DIRECT_TRIES


def test_a_large_file_that_is_there_is_answered_at_once_and_the_connection_goes_on(served: Served) -> None:
    begin(served, "again")
    body = BODY[:-1] + os.urandom(8 * 2**20)
    sha256 = hashlib.sha256(body).hexdigest()

    async def live(worker: LightWorker, lease: Held) -> None:
        bearer = {"Authorization": f"Bearer {served.token('worker')}"}
        async with httpx.AsyncClient(base_url=served.url, headers=bearer | lease.headers) as client:
            for _ in range(3):
                path = f"/api/v1/leases/{lease.trial_id}/blobs/{sha256}"
                put = await client.put(path, content=body, timeout=60)
                assert put.status_code == 204, put.text

    asyncio.run(with_worker(served, live))
    end(served, "again")


def test_a_backup_names_the_bucket_and_is_restored_where_that_has_all_of_it(
    served: Served, swift: Swift, told: dict[str, str], tmp_path: Path
) -> None:
    begin(served, "backed-up")
    file = tmp_path / "snapshot"
    body = BODY[:-1] + b"b"
    sha256 = hashlib.sha256(body).hexdigest()
    file.write_bytes(body)

    async def live(worker: LightWorker, lease: Held) -> None:
        await worker.client.put_blob(lease, file, sha256)
        await worker.client.commit_snapshot(lease, client_module.wire.CommitSnapshot(step=1, sha256=sha256))

    asyncio.run(with_worker(served, live))
    backup, lost = tmp_path / "backup", {"TUNESMITH_BLOB_STORE": ""}

    def run(*arguments: str, home: Path = served.home, **changed: str) -> str:
        command = [sys.executable, "-m", "tunesmith_service", *arguments, "--home", str(home)]
        env = os.environ | told | changed
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    assert run("backup", str(backup)).startswith("0 ")
    manifest = json.loads((backup / "manifest.json").read_text())
    assert manifest["store"] == told["TUNESMITH_BLOB_STORE"]
    assert not (backup / "blobs").exists()
    assert "name it with --blob-store" in run("restore", str(backup), home=tmp_path / "none", **lost)
    assert run("restore", str(backup), home=tmp_path / "new").startswith("0 ")
    assert "lists every blob, of its size" in run("doctor", "--url", served.url)

    obstore.delete(swift.store("served"), f"{sha256[:2]}/{sha256}")
    assert f"blob {sha256}: it is not in {told['TUNESMITH_BLOB_STORE']}" in run("doctor", "--url", served.url)
    shutil.rmtree(backup)
    assert f"1 of {manifest['blobs']} blobs that the database names are not as they were" in run(
        "backup", str(backup)
    )
