"""Where bytes are kept by their SHA-256: on the disk of the home, or in an S3 bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from tunesmith_service.blobs import BlobStore, never
from tunesmith_service.settings import Settings

if TYPE_CHECKING:
    from tunesmith_service.bucket import Bucket

KEPT_SECONDS = 86_400.0
"""Bytes that no row names are kept so long after they were put, or as long as `blob_grace_seconds` if that
is shorter."""


ANSWER_SECONDS = 8.0
"""Whoever waits for a bucket that says nothing is told so after this long, before a worker hangs up: requests
that wait hold places, which reports and claims need."""


class StoreError(RuntimeError):
    """The store cannot be used as it is; the message says why and what to do."""


class Store(Protocol):
    """Bytes that exist under their hash are whole. All but `put` block: call them in a thread.

    Raises (every call): Unavailable when the store is away.
    """

    address: str
    """s3://BUCKET/PREFIX; empty: the disk of the home."""

    def prepare(self, owner: str) -> None:
        """Look whether all of this works, and take the store for the database with the uuid `owner`.

        Raises: StoreError.
        """

    def size(self, sha256: str) -> int | None:
        """Bytes of a stored blob, or None."""

    def peek(self, sha256: str, begin: int, end: int) -> bytes:
        """Bytes from one place up to another. Raises: NotFound."""

    def read_bytes(self, sha256: str) -> bytes:
        """Raises: NotFound."""

    async def put(self, pieces: AsyncIterator[bytes], sha256: str) -> int:
        """Store a stream that must hash to `sha256`. Returns its size. Raises: Unprocessable, NoSpace."""

    def put_bytes(self, body: bytes) -> str:
        """Store bytes and return their hash. Raises: NoSpace."""

    def collect(
        self,
        is_named: Callable[[list[str]], Iterable[str]],
        *,
        older_than_seconds: float,
        is_stopped: Callable[[], bool] = never,
    ) -> int:
        """Delete blobs that no row names and that are older. Returns how many.

        Args:
            is_named: of these hashes, those that a row names.
            is_stopped: asked now and then; the next time goes on with what is left.
        """

    def faults(self, named: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """What is wrong with these blobs, of known sizes: hash and words."""


def store_of(
    settings: Settings, check_space: Callable[[int], None] = lambda size: None
) -> BlobStore | Bucket:
    """The store that the settings name.

    Args:
        check_space: called before something is written to the disk of the home; raises NoSpace.
    Raises: StoreError, if what it needs is not installed or there are no credentials.
    """
    if not settings.blob_store:
        return BlobStore(settings.blobs_dir, check_space)
    try:
        from tunesmith_service.bucket import Bucket  # noqa: PLC0415  (heavy, and an extra)
    except ImportError as e:
        raise StoreError(f"--blob-store needs a package: {e}; pip install 'tunesmith[s3]'") from e
    return Bucket(
        settings.blob_store,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        incoming=settings.blobs_dir / "incoming",
        check_space=check_space,
        kept_seconds=min(settings.blob_grace_seconds, KEPT_SECONDS),
    )
