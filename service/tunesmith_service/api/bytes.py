"""Handing out stored bytes: never inline, never with a type guessed from a name."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from tunesmith_service.blobs import BlobStore
from tunesmith_service.core import Service
from tunesmith_service.errors import NotFound

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-store",
}

BYTES = "application/octet-stream"


class _Stored(FileResponse):
    chunk_size = 256 * 1024  # each costs a trip to a thread, and memory for as long as somebody reads slowly


async def download(request: Request, service: Service, sha256: str, filename: str) -> Response:
    """A blob as an attachment. `filename` is ours or made safe by the framework's quoting. The request gives
    its place back: what is left waits for the network."""
    blobs = service.blobs
    if isinstance(blobs, BlobStore):
        if await service.stored(blobs.size, sha256) is None:
            raise NotFound(f"the bytes of {sha256[:12]}… are gone")
        request.state.place.leave()
        return _Stored(blobs.path(sha256), media_type=BYTES, filename=filename, headers=SAFE_HEADERS)
    size, pieces = await service.in_time(blobs.stream(sha256))
    request.state.place.leave()
    named = FileResponse("", filename=filename).headers["Content-Disposition"]
    headers = SAFE_HEADERS | {"Content-Disposition": named, "Content-Length": str(size)}
    return StreamingResponse(pieces, media_type=BYTES, headers=headers)


def snapshot_name(number: int, step: int) -> str:
    return f"trial-{number}-step-{step}.safetensors"
