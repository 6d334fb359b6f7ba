"""Bytes by content hash: snapshots, logs and artifacts.

A blob lies at `root/ab/abcdef…`, named by its SHA-256 and nothing else: no client's string is ever
part of a path. It is written to a temporary file on the same file system, made durable, and renamed;
so a name that exists has all its bytes, and a row that names a blob was written after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tunesmith_service.errors import NoSpace, NotFound, Unprocessable
from tunesmith_service.piping import pour

CUT_OFF_SECONDS = 600.0
"""An upload that nothing was written to for so long is nobody's: one that sends nothing is cut off sooner."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def never() -> bool:
    return False


def place(root: Path, sha256: str) -> Path:
    """Where the bytes lie that have this hash."""
    return root / sha256[:2] / sha256


@asynccontextmanager
async def received(directory: Path, pieces: AsyncIterator[bytes], sha256: str) -> AsyncIterator[BinaryIO]:
    """The file that a stream was written to, at its end; it is gone afterwards, unless renamed.

    Raises: Unprocessable if the bytes hash to something else, NoSpace.
    """
    part = directory / secrets.token_hex(16)
    digest = hashlib.sha256()
    file = await asyncio.to_thread(part.open, "xb")
    try:
        await pour(pieces, partial(_write, file, digest.update))
        if digest.hexdigest() != sha256:
            raise Unprocessable(
                f"the body hashes to {digest.hexdigest()}, not to {sha256}; nothing was stored, send it again"
            )
        yield file
    except OSError as e:
        raise NoSpace(f"the bytes could not be stored: {e.strerror}; make room and send them again") from e
    finally:
        file.close()
        part.unlink(missing_ok=True)


def forget_cut_off(directory: Path) -> None:
    """Make the directory of what is on its way; what a crash left there goes. Other servers may share it, and
    have uploads under way."""
    directory.mkdir(parents=True, exist_ok=True)
    for left in _old(directory, time.time() - CUT_OFF_SECONDS):
        left.unlink(missing_ok=True)


class BlobStore:
    """On a disk. Implements `stores.Store`.

    Args:
    root: directory, made if missing.
    check_space: called with a size in bytes before something is taken; raises NoSpace.
    """

    address = ""

    def __init__(self, root: Path, check_space: Callable[[int], None] = lambda size: None) -> None:
        self.root = root
        self._check_space = check_space
        self._incoming = root / "incoming"

    def prepare(self, owner: str = "") -> None:
        """Make the directories; forget uploads that a crash cut off. `owner`: a home has one anyway."""
        forget_cut_off(self._incoming)

    def path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise NotFound("a blob's name is 64 hexadecimal digits")
        return place(self.root, sha256)

    def size(self, sha256: str) -> int | None:
        """Bytes of a stored blob, or None. Looking keeps it from being collected for a while."""
        path = self.path(sha256)
        try:
            os.utime(path)
            return path.stat().st_size
        except FileNotFoundError:
            return None

    async def put(self, pieces: AsyncIterator[bytes], sha256: str) -> int:
        """Store a stream that must hash to `sha256`; the same bytes again are a no-op.

        Returns its size in bytes. Raises Unprocessable if the bytes hash to something else, NoSpace.
        """
        target = self.path(sha256)
        self._check_space(0)
        async with received(self._incoming, pieces, sha256) as file:
            await asyncio.to_thread(_publish, file, Path(file.name), target)
            return file.tell()

    def put_bytes(self, body: bytes) -> str:
        """Store bytes and return their hash. Blocks: call it in a thread. Raises NoSpace."""
        sha256 = hashlib.sha256(body).hexdigest()
        if self.size(sha256) is not None:
            return sha256
        part = self._incoming / secrets.token_hex(16)
        try:
            with part.open("xb") as file:
                file.write(body)
                _publish(file, part, self.path(sha256))
        except OSError as e:
            raise NoSpace(
                f"the bytes could not be stored: {e.strerror}; make room and send them again"
            ) from e
        finally:
            part.unlink(missing_ok=True)
        return sha256

    def read_bytes(self, sha256: str) -> bytes:
        """Blocks: call it in a thread. Raises NotFound."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"the bytes of {sha256[:12]}… are gone") from None

    def peek(self, sha256: str, begin: int, end: int) -> bytes:
        """Bytes from one place up to another. Blocks. Raises NotFound."""
        try:
            with self.path(sha256).open("rb") as file:
                file.seek(begin)
                return file.read(end - begin)
        except FileNotFoundError:
            raise NotFound(f"the bytes of {sha256[:12]}… are gone") from None

    def faults(self, named: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """What is wrong with these blobs: hash and words. Each is read and hashed once. Blocks.

        Args:
            named: hash → its size in bytes.
        """
        for sha256, size in named.items():
            if wrong := _wrong_with(self.path(sha256), sha256, size):
                yield sha256, wrong

    def collect(
        self,
        is_named: Callable[[list[str]], Iterable[str]],
        *,
        older_than_seconds: float,
        is_stopped: Callable[[], bool] = never,
    ) -> int:
        """See `stores.Store`. Those stay that somebody touched since."""
        horizon = time.time() - older_than_seconds
        deleted = 0
        self.prepare()
        for shelf in self.root.iterdir():
            if is_stopped():
                break
            if len(shelf.name) != 2:
                continue
            old = [path.name for path in _old(shelf, horizon)]
            unnamed = set(old) - set(is_named(old)) if old else set()
            for path in _old(shelf, horizon):  # not what was put again since we looked: somebody wants it
                if path.name in unnamed:
                    path.unlink(missing_ok=True)
                    deleted += 1
        return deleted


def _old(directory: Path, horizon: float) -> Iterator[Path]:
    """What was not touched since; another server may take it away meanwhile."""
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < horizon:
                yield path


def _write(file: BinaryIO, update: Callable[[bytes], object], chunk: bytes) -> None:
    update(chunk)
    file.write(chunk)


def _wrong_with(path: Path, sha256: str, size: int) -> str:
    try:
        with path.open("rb") as file:
            digest, length = hashlib.file_digest(file, "sha256"), file.tell()
    except OSError as e:
        return f"its bytes cannot be read: {e.strerror}"
    if length != size:
        return f"it has {length} bytes, the database says {size}"
    return "" if digest.hexdigest() == sha256 else f"its bytes hash to {digest.hexdigest()}"


def _publish(file: BinaryIO, part: Path, target: Path) -> None:
    """Bytes, then name, then directory: after this a power cut loses nothing."""
    file.flush()
    os.fsync(file.fileno())
    target.parent.mkdir(exist_ok=True)
    os.replace(part, target)
    _sync_directory(target.parent)
    _sync_directory(target.parent.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
