"""Files between a worker and the store itself, by requests that the service has signed.

What is signed is as good as a key while it lasts, so no message here has more of it than the store's host.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tunesmith_service import wire
from tunesmith_service.exchange import (
    CHUNK_BYTES,
    CONNECT_SECONDS,
    READ_SECONDS,
    TRANSFER_SECONDS,
    HashedFile,
    TryAgain,
    is_loopback,
)
from tunesmith_service.piping import pour


class Direct:
    """A client of the store. It knows nothing but what the service tells it for each file."""

    def __init__(self) -> None:
        self._clients: dict[bool, httpx.AsyncClient] = {}

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def send(self, path: Path, to: wire.Upload) -> None:
        """Put a file's bytes where `to` says. Raises: TryAgain."""
        assert to.url is not None
        headers = {**to.headers, "Content-Length": str(os.stat(path).st_size)}
        with _answers(to.url):
            response = await self._client(to.url).put(to.url, content=chunks(path), headers=headers)
        _check(response, to.url)

    async def fetch(self, url: str, path: Path, sha256: str) -> None:
        """Bring bytes to `path`, which appears once they hash to `sha256`.

        Raises: TryAgain; CorruptDownloadError.
        """
        with _answers(url):
            async with self._client(url).stream("GET", url) as response:
                _check(response, url)
                with HashedFile(path, sha256) as file:
                    await pour(response.aiter_bytes(), file.write)
                    file.keep()

    def _client(self, url: str) -> httpx.AsyncClient:
        """Made when first needed, for reading the certificates takes a while. A proxy of the environment
        cannot reach our loopback."""
        trusts = not is_loopback(urlsplit(url).hostname or "")
        if trusts not in self._clients:
            timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, read=TRANSFER_SECONDS, pool=None)
            self._clients[trusts] = httpx.AsyncClient(timeout=timeout, trust_env=trusts)
        return self._clients[trusts]


@contextmanager
def _answers(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as e:
        raise TryAgain(f"no answer from the store at {_host(url)}: {type(e).__name__}") from None


def _check(response: httpx.Response, url: str) -> None:
    if not response.is_success:
        raise TryAgain(f"the store at {_host(url)} answered {response.status_code} {response.reason_phrase}")


def _host(url: str) -> str:
    return urlsplit(url).netloc


async def chunks(path: Path) -> AsyncIterator[bytes]:
    # Reads from the page cache take well under a millisecond a chunk; a thread for each would cost more.
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
