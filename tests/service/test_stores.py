"""What every store of bytes does, on the disk and in a bucket of a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from swift_server import Swift
from tunesmith_service.blobs import BlobStore
from tunesmith_service.errors import NotFound, Unprocessable
from tunesmith_service.settings import Settings
from tunesmith_service.stores import Store, store_of

BODY = os.urandom(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
NONE = "0" * 64


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "disk":
        made: Store = BlobStore(tmp_path / "blobs")
    else:
        swift: Swift = request.getfixturevalue("swift")
        for name, value in swift.environ.items():
            monkeypatch.setenv(name, value)
        made = store_of(
            Settings(home=tmp_path, blob_store=swift.address(tmp_path.name), s3_endpoint=swift.url)
        )
    made.prepare("of this test")
    return made


async def pieces(body: bytes = BODY) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


def test_a_stream_is_there_under_its_hash_and_again_changes_nothing(store: Store) -> None:
    for _ in range(2):
        assert asyncio.run(store.put(pieces(), SHA256)) == len(BODY)
        assert store.size(SHA256) == len(BODY)
        assert store.read_bytes(SHA256) == BODY
        assert store.peek(SHA256, 10, 20) == BODY[10:20]
        assert store.peek(SHA256, 7, 7) == b""
    assert store.put_bytes(BODY) == SHA256


def test_bytes_that_hash_to_something_else_leave_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match=f"hashes to {SHA256}, not to {NONE}; nothing was stored"):
        asyncio.run(store.put(pieces(), NONE))
    assert store.size(NONE) is None
    assert list((tmp_path / "blobs" / "incoming").iterdir()) == []


def test_what_is_not_there_is_said_not_to_be(store: Store) -> None:
    assert store.size(NONE) is None
    for ask in (lambda: store.read_bytes(NONE), lambda: store.peek(NONE, 0, 8)):
        with pytest.raises(NotFound, match="are gone"):
            ask()


def test_what_no_row_names_is_collected_once_it_is_old(store: Store) -> None:
    named, needless = (store.put_bytes(body) for body in (b"named", b"needless"))
    asked: list[str] = []

    def is_named(hashes: list[str]) -> set[str]:
        asked.extend(hashes)
        return {named} & set(hashes)

    assert store.collect(is_named, older_than_seconds=3600) == 0
    assert asked == []
    assert store.collect(is_named, older_than_seconds=-3600) == 1
    assert sorted(asked) == sorted([named, needless])
    assert (store.size(named), store.size(needless)) == (5, None)


def test_what_a_crash_left_on_its_way_goes_too_when_it_is_old(store: Store, tmp_path: Path) -> None:
    old, young = (tmp_path / "blobs" / "incoming" / name for name in ("old", "young"))
    for left in (old, young):
        left.write_bytes(b"half of it")
    os.utime(old, (0, 0))
    assert store.collect(lambda hashes: hashes, older_than_seconds=3600) == 0
    assert (old.exists(), young.exists()) == (False, True)


def test_collecting_ends_early_when_it_is_told_to(store: Store) -> None:
    kept = {store.put_bytes(b"%d" % n) for n in range(3)}
    asked: list[str] = []

    def is_named(hashes: list[str]) -> list[str]:
        asked.extend(hashes)
        return []

    assert store.collect(is_named, older_than_seconds=-3600, is_stopped=lambda: bool(asked)) < len(kept)
    assert asked
    assert any(store.size(sha256) for sha256 in kept)
    assert store.collect(is_named, older_than_seconds=-3600, is_stopped=lambda: True) == 0


def test_what_is_missing_or_of_another_size_is_named(store: Store) -> None:
    sound, other = store.put_bytes(b"sound"), store.put_bytes(b"other")
    found = dict(store.faults({sound: 5, other: 6, NONE: 7}))
    assert found.keys() == {other, NONE}
    assert found[other] == "it has 5 bytes, the database says 6"
