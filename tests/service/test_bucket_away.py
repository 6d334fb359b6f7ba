"""While the bucket of snapshots is away or says nothing, who asks for bytes is told so; nobody else waits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from tunesmith_service import core
from tunesmith_service.bucket import Bucket

from .conftest import Api
from .test_bucket import ASKED, SHA256, sent


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
