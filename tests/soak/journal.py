"""What workers note of their calls, outside the service: a line for each answer, kept whatever kills them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from history import RECKONED, Call, History, end
from tunesmith_service.wire import LEASE_HEADER


class Journal(httpx.AsyncBaseTransport):
    """Passes requests on and writes each answer down before the worker sees it.

    Args:
        path: of a new file. A line goes there by one write, so that a SIGKILL cuts the last one at most.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, path: Path) -> None:
        self._inner = inner
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        begin = time.time()
        response = await self._inner.handle_async_request(request)
        content = await response.aread()
        told = {
            "method": request.method, "url": str(request.url), "lease": request.headers.get(LEASE_HEADER, ""),
            "body": body.decode(errors="replace"), "begin": begin, "end": time.time(),
            "status": response.status_code, "reply": content.decode(errors="replace"),
        }  # fmt: skip
        os.write(self._file, json.dumps(told).encode() + b"\n")
        headers = [(k, v) for k, v in response.headers.raw if k.lower() not in RECKONED]
        return httpx.Response(response.status_code, headers=headers, content=content, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()
        os.close(self._file)


def read(directory: Path) -> list[Call]:
    """What all workers noted, as calls; the client is the name of the file."""
    history = History()
    for path in sorted(directory.glob("*.jsonl")):
        for line in _whole_lines(path):
            told = json.loads(line)
            request = httpx.Request(told["method"], told["url"], headers={LEASE_HEADER: told["lease"]})
            call = history.begin(path.stem, request, told["body"].encode(), told["begin"])
            end(call, told["status"], told["reply"].encode(), told["end"])
    return history.calls


def _whole_lines(path: Path) -> Iterator[bytes]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield line
