"""While the bucket of snapshots is away or says nothing, who asks for bytes is told so; nobody else waits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Callable

import pytest
from tunesmith_service import core
from tunesmith_service.bucket import Bucket
from tunesmith_service.errors import Unavailable

from .conftest import Api
from .test_bucket import ASKED, SHA256, sent
from .test_sessions import log_in, open_page


def ask_instead(nobody: socket.socket, api: Api) -> None:
    """What the service believes to be its bucket is this from now on."""
    blobs = api.service.blobs
    assert isinstance(blobs, Bucket)
    blobs._store = Bucket(
        "s3://weights/x", endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}", region="us-east-1",
        incoming=api.service.settings.home, check_space=lambda size: None, kept_seconds=0,
    )._store  # fmt: skip


def test_while_the_store_is_away_workers_are_told_to_come_again_and_the_database_is_read(
    play_with_bucket: Callable[..., None],
) -> None:
    async def scene(api: Api) -> None:
        lease = await api.lease()
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            ask_instead(nobody, api)
            for verb, body in (
                ("uploads", ASKED), ("snapshots", {"step": 1, "sha256": SHA256}),
                ("logs", {"seq": 1, "text": "x"}),
            ):  # fmt: skip
                answer = await api.say(lease, verb, body)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
                assert "the store of snapshots does not answer" in answer.json()["detail"]
            assert (await api.say(lease, "heartbeat", {})).status_code == 200

    play_with_bucket(scene)


def test_who_waits_for_a_store_that_says_nothing_is_told_so_and_gives_the_place_back(
    play_with_bucket: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(api: Api) -> None:
        lease = await api.lease()
        await api.say(lease, "artifacts", {"name": "x", "sha256": await sent(api, lease)})
        artifact = f"/studies/{lease.grant['work']['study']}/trials/0/artifacts/x"
        monkeypatch.setattr(core, "ANSWER_SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as nobody:  # it listens, and answers nothing
            ask_instead(nobody, api)
            logs = [api.say(lease, "logs", {"seq": n, "text": "x"}) for n in range(1, 13)]  # 8 have threads
            others = [api.say(lease, "uploads", ASKED), api.get(artifact)]
            for answer in await asyncio.wait_for(asyncio.gather(*logs, *others), 20):
                assert answer.status_code == 503, answer.text
                assert "the store of snapshots does not answer" in answer.json()["detail"]
            assert api.service.places.in_flight == 0
            assert (await api.say(lease, "heartbeat", {})).status_code == 200

    play_with_bucket(scene)


MATRIX = json.dumps({"classes": ["a", "b"], "counts": [[3, 1], [0, 4]]}).encode()


def test_logs_and_documents_are_read_in_threads_of_their_own_when_the_database_is_done(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(api: Api) -> None:
        sha256, named = hashlib.sha256(MATRIX).hexdigest(), []
        for _ in range(2):
            lease = await api.lease()
            path = f"/leases/{lease.trial_id}/blobs/{sha256}"
            await api.call("PUT", path, role="worker", headers=lease.headers, content=MATRIX)
            await api.say(lease, "artifacts", {"name": "confusion.json", "sha256": sha256})
            await api.say(lease, "logs", {"seq": 1, "text": "epoch 1"})
            named.append(f"{len(named) + 1}:0")
        secret, asked, read = await log_in(api), [], api.service.blobs.read_bytes

        def looked(name: str) -> bytes:
            asked.append(threading.current_thread().name.partition("_")[0])
            return read(name)

        async def reads(path: str, *, page: bool = False) -> int:
            asked.clear()
            answer = await (open_page(api, secret, f"/ui{path}") if page else api.get(path))
            assert answer.status_code == 200, answer.text
            assert set(asked) <= {"bytes"}, path
            return len(asked)

        monkeypatch.setattr(api.service.blobs, "read_bytes", looked)
        study = lease.grant["work"]["study"]
        assert await reads(f"/studies/{study}/trials/0/logs") == 1
        assert await reads(f"/studies/{study}/trials/0/views/confusion?against=0") == 2
        for page in (False, True):
            assert await reads(f"/compare/views/confusion?trials={','.join(named)}", page=page) == 2
        trial = "/studies/2/trials/0"
        assert await reads(f"{trial}/views/confusion", page=True) == 1
        for part, n in (("", 1), ("/parts/log", 1), ("/parts/trial_error", 0), ("/parts/attempts", 0)):
            assert await reads(f"{trial}{part}", page=True) == n, part

        def away(name: str) -> bytes:
            raise Unavailable("nobody is there")

        monkeypatch.setattr(api.service.blobs, "read_bytes", away)
        assert "cannot be read: nobody is there" in (await open_page(api, secret, f"/ui{trial}")).text
        assert (await open_page(api, secret, f"/ui{trial}/views/confusion")).status_code == 503

    play(scene)
