"""Handing out stored bytes: never inline, never with a type guessed from a name."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse

from tunesmith_service.blobs import BlobStore
from tunesmith_service.errors import NotFound

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-store",
}


class _Stored(FileResponse):
    chunk_size = 256 * 1024  # each costs a trip to a thread, and memory for as long as somebody reads slowly


def download(request: Request, blobs: BlobStore, sha256: str, filename: str) -> FileResponse:
    """A blob as an attachment. `filename` is ours or made safe by the framework's quoting. The request gives
    its place back: what is left waits for the network."""
    if blobs.size(sha256) is None:
        raise NotFound(f"the bytes of {sha256[:12]}… are gone")
    request.state.place.leave()
    return _Stored(
        blobs.path(sha256), media_type="application/octet-stream", filename=filename, headers=SAFE_HEADERS
    )
