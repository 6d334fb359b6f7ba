"""Bytes by content hash in an S3 bucket: `prefix/ab/abcdef…`, named as on the disk of a home.

Workers bring and fetch them there themselves, by requests that are signed here. What is signed for an
upload holds the file's hash (`x-amz-content-sha256`), its length and its key: the bucket takes those bytes
at that key and no others, and looks itself whether they are the ones. That it does is tried at each start,
with other bytes; so a blob that exists is whole, and nobody, early or late, can put something in its place.
A presigned URL alone would hold no hash, and the checksum that a bucket shows of an object may be no more
than what its uploader claimed.

botocore finds the credentials and signs uploads, obstore does the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import httpx
import obstore
import structlog
from boto3.session import Session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from tunesmith_service import wire
from tunesmith_service.blobs import forget_cut_off, never, received
from tunesmith_service.direct import Direct
from tunesmith_service.errors import NotFound, Unavailable
from tunesmith_service.exchange import is_loopback
from tunesmith_service.stores import StoreError

SIGNED_FOR = timedelta(minutes=15)
"""How long a signed request may be begun: as long as S3 takes a signed header for an upload."""

BELIEVED_FOR = timedelta(minutes=10)
"""obstore asks botocore for credentials anew 5 minutes before this is over; a role's hold for 10 minutes at
least when botocore gives them."""

DELETED_AT_ONCE = 32
"""Few, so that little time goes by after they were looked at."""

PIECE_BYTES = 2**20
OWNER = "tunesmith.json"
_KEY = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64})")
_CODES = (re.compile(r"<Code>(\w{1,64})</Code>"), re.compile(r"status code: (\d{3})"))

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Bucket:
    """In a bucket. Implements `stores.Store`.

    Args:
        address: s3://BUCKET or s3://BUCKET/PREFIX.
        endpoint: URL of the server; empty: AWS.
        incoming: directory of the home, for what comes through the service.
        check_space: called before something is written there; raises NoSpace.
        kept_seconds: younger blobs are not collected.
    Raises: StoreError if there are no credentials.
    """

    def __init__(
        self,
        address: str,
        *,
        endpoint: str,
        region: str,
        incoming: Path,
        check_space: Callable[[int], None],
        kept_seconds: float,
    ) -> None:
        self.address = address
        self._region, self._incoming, self._check_space = region, incoming, check_space
        self._fresh_seconds = kept_seconds / 2
        # not those that everybody uses: while the bucket is away, the database is read in them
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="uploads")
        try:
            session = Session(region_name=region)
            self._credentials = session.get_credentials()
        except BotoCoreError as e:
            raise StoreError(f"there are no credentials for {address}: {e}") from e
        if self._credentials is None:
            raise StoreError(
                f"there are no credentials for {address}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or AWS_PROFILE for one of ~/.aws/credentials"
            )
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self._at = f"{address} at {endpoint or 'AWS'}"
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            region=region,
            credential_provider=Boto3CredentialProvider(session, ttl=BELIEVED_FOR),
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=5),
                "read_timeout": timedelta(seconds=30),
                "timeout": timedelta(hours=1),  # of a whole answer, which may be read slowly
            },
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
            config={"endpoint": endpoint} if endpoint else {},
        )

    # --- at the start -------------------------------------------------------------------------------

    def prepare(self, owner: str) -> None:
        """See `stores.Store`. What is tried: to put, get and delete, as this service does and as a worker
        will; and that other bytes than those that were signed for are refused."""
        forget_cut_off(self._incoming)
        probe = f"probe-{secrets.token_hex(8)}"
        try:
            obstore.put(self._store, probe, probe.encode())
            self._try_signed(probe)
            obstore.delete(self._store, [probe])  # as `collect` does: a request of another kind than for one
            self._belong_to(owner)
        except (BaseError, OSError, BotoCoreError, httpx.TransportError) as e:
            raise StoreError(self._refused(e)) from None

    def _try_signed(self, probe: str) -> None:
        mine, other = probe.encode(), probe.upper().encode()
        url, headers = self._sign_put(probe, hashlib.sha256(mine).hexdigest(), len(mine))
        with httpx.Client(timeout=30, trust_env=not is_loopback(urlsplit(url).hostname or "")) as client:
            tampered = client.put(url, content=other, headers=headers)
            kept = bytes(obstore.get(self._store, probe).bytes())
            if tampered.is_success or kept != mine:
                raise StoreError(
                    f"{self._at} takes other bytes than a request is signed for (x-amz-content-sha256), so "
                    "what workers put there could not be trusted; use a server that looks"
                )
            put = client.put(url, content=mine, headers=headers)
            got = client.get(self._sign_get(probe))
        if not put.is_success or got.content != mine:
            raise StoreError(
                f"{self._at} refuses requests that are signed for workers, with {put.status_code} and "
                f"{got.status_code}; are the clocks of both machines right?"
            )

    def _belong_to(self, owner: str) -> None:
        """Two databases with one prefix would delete each other's blobs as needless."""
        said = json.dumps({"database": owner}).encode()
        try:
            found = bytes(obstore.get(self._store, OWNER).bytes())
        except FileNotFoundError:
            with suppress(AlreadyExistsError):  # by another server, just now
                obstore.put(self._store, OWNER, said, mode="create")
            found = bytes(obstore.get(self._store, OWNER).bytes())
        if found != said:
            raise StoreError(
                f"{self._at} holds the blobs of another database, as its {OWNER} says; give each a prefix "
                "of its own, --blob-store s3://BUCKET/PREFIX"
            )

    def _refused(self, e: Exception) -> str:
        told = _told(e)
        if isinstance(e, PermissionDeniedError | UnauthenticatedError):
            return (
                f"{self._at} refuses our credentials ({told}): check AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY or the profile, and that they may put, get, list and delete there"
            )
        if isinstance(e, FileNotFoundError):
            return f"there is no such bucket ({told}): {self._at}; make it first"
        return f"{self._at} does not answer ({told}): check --s3-endpoint and --s3-region"

    # --- what every store does ----------------------------------------------------------------------

    def size(self, sha256: str) -> int | None:
        found = self._head(sha256)
        return None if found is None else int(found["size"])

    def peek(self, sha256: str, begin: int, end: int) -> bytes:
        if begin >= end:
            return b""
        with self._asked(sha256):
            return bytes(obstore.get_range(self._store, _key(sha256), start=begin, end=end))

    def read_bytes(self, sha256: str) -> bytes:
        with self._asked(sha256):
            return bytes(obstore.get(self._store, _key(sha256)).bytes())

    async def put(self, pieces: AsyncIterator[bytes], sha256: str) -> int:
        """Through this machine's disk: what is sent on is whole, and never in memory at once. What is here
        and stays is not received: it was sent on after its sender had lost patience with a slow bucket."""
        self._check_space(0)
        known = await self._in_thread(self._staying, sha256)
        if known is not None:
            return known
        async with received(self._incoming, pieces, sha256) as file:
            file.flush()
            size = file.tell()
            to = await self._in_thread(self.upload, sha256, size)
            if not to.stored:
                direct = Direct()
                try:
                    await direct.send(Path(file.name), to)
                finally:
                    await direct.aclose()
        return size

    def put_bytes(self, body: bytes) -> str:
        sha256 = hashlib.sha256(body).hexdigest()
        with self._asked(sha256):
            obstore.put(self._store, _key(sha256), body, use_multipart=False)
        return sha256

    async def stream(self, sha256: str) -> tuple[int, AsyncIterator[bytes]]:
        """Size and pieces of a blob, for who cannot fetch it there. Raises: NotFound."""
        with self._asked(sha256):
            found = await obstore.get_async(self._store, _key(sha256))
        return found.meta["size"], _pieces(found)

    def collect(
        self,
        is_named: Callable[[list[str]], Iterable[str]],
        *,
        older_than_seconds: float,
        is_stopped: Callable[[], bool] = never,
    ) -> int:
        """See `stores.Store`. What a crash left of what came through this machine's disk goes too."""
        forget_cut_off(self._incoming)
        deleted = 0
        with self._asked(""):
            for page in self._listed():
                if is_stopped():
                    break
                old = [sha256 for sha256, meta in page.items() if _age(meta) > older_than_seconds]
                needless = sorted(set(old) - set(is_named(old))) if old else []
                for start in range(0, len(needless), DELETED_AT_ONCE):
                    if is_stopped():
                        break
                    deleted += self._delete(needless[start : start + DELETED_AT_ONCE], older_than_seconds)
        return deleted

    def _delete(self, batch: Sequence[str], older_than_seconds: float) -> int:
        """Each is looked at again before it goes: it may have been put anew."""
        found = ((sha256, self._head(sha256)) for sha256 in batch)
        old = [_key(sha256) for sha256, meta in found if meta and _age(meta) > older_than_seconds]
        if old:
            obstore.delete(self._store, old)
        return len(old)

    def faults(self, named: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """See `stores.Store`. By the bucket's list: what lies there was hashed when it came."""
        sizes: dict[str, int] = {}
        with self._asked(""):
            for page in self._listed():
                sizes |= {sha256: meta["size"] for sha256, meta in page.items()}
        for sha256, size in named.items():
            if sha256 not in sizes:
                yield sha256, f"it is not in {self.address}"
            elif sizes[sha256] != size:
                yield sha256, f"it has {sizes[sha256]} bytes, the database says {size}"

    # --- what workers do themselves -----------------------------------------------------------------

    def upload(self, sha256: str, size: int) -> wire.Upload:
        """Where a worker puts a file, unless it is here and stays. Blocks. Raises: Unavailable."""
        if self._staying(sha256) is not None:
            return wire.Upload(stored=True)
        with self._asked(sha256):
            url, headers = self._sign_put(_key(sha256), sha256, size)
        return wire.Upload(url=url, headers=headers)

    def download(self, sha256: str) -> wire.Download:
        """Where a worker fetches a file. Blocks. Raises: Unavailable."""
        with self._asked(sha256):
            return wire.Download(url=self._sign_get(_key(sha256)))

    def _sign_get(self, key: str) -> str:
        return obstore.sign(self._store, "GET", key, SIGNED_FOR)

    def _sign_put(self, key: str, sha256: str, size: int) -> tuple[str, dict[str, str]]:
        url = obstore.sign(self._store, "PUT", key, SIGNED_FOR).partition("?")[0]
        request = AWSRequest("PUT", url, headers={"Content-Length": str(size)})
        request.context["sha256"] = sha256
        _OfKnownHash(self._now_valid(), "s3", self._region).add_auth(request)
        return url, dict(request.headers)

    def _now_valid(self) -> ReadOnlyCredentials:
        """Credentials; those of a role are asked for anew shortly before they end. Raises: BotoCoreError."""
        try:
            return self._credentials.get_frozen_credentials()
        except (ClientError, RuntimeError) as e:  # refused, or what came has ended already
            raise CredentialRetrievalError(provider=self._credentials.method, error_msg=str(e)) from e

    # --- asking it ----------------------------------------------------------------------------------

    def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))

    def _staying(self, sha256: str) -> int | None:
        """Bytes of a blob that is here and will not be collected soon."""
        found = self._head(sha256)
        return int(found["size"]) if found is not None and _age(found) < self._fresh_seconds else None

    def _head(self, sha256: str) -> Mapping[str, Any] | None:
        with self._asked(sha256):
            try:
                return cast("Mapping[str, Any]", obstore.head(self._store, _key(sha256)))
            except FileNotFoundError:
                return None

    def _listed(self) -> Iterator[dict[str, Mapping[str, Any]]]:
        """What lies here, page by page: hash → what is known of it."""
        for page in obstore.list(self._store, chunk_size=1000):
            found = ((_KEY.fullmatch(meta["path"]), meta) for meta in page)
            yield {match[1]: cast("Mapping[str, Any]", meta) for match, meta in found if match}

    @contextmanager
    def _asked(self, sha256: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"the bytes of {sha256[:12]}… are gone") from None
        except (BaseError, OSError, BotoCoreError) as e:
            log.error("store.away", store=self.address, error=_told(e))
            raise Unavailable("the store of snapshots does not answer; try again in a moment") from None


class _OfKnownHash(S3SigV4Auth):  # type: ignore[misc]
    """Signs for a body that somebody else will send."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.context["sha256"])


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def _age(meta: Mapping[str, Any]) -> float:
    """Seconds since it was put."""
    return time.time() - float(meta["last_modified"].timestamp())


def _told(e: Exception) -> str:
    """What the server said, in a word: its whole answer repeats parts of the request, the key's id too."""
    found = next((match for code in _CODES if (match := code.search(str(e)))), None)
    return found[1] if found else type(e).__name__


async def _pieces(found: Any) -> AsyncIterator[bytes]:
    async for piece in found.stream(min_chunk_size=PIECE_BYTES):
        yield bytes(piece)
