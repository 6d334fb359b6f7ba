"""Bytes that come in small pieces, hashed and written in a thread while the next ones come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

PIECE_BYTES = 2**20
"""So many go to a thread at once, for each trip costs; twice as many are held."""


async def pour(pieces: AsyncIterator[bytes], write: Callable[[bytes], object]) -> None:
    """Give a stream to `write`, piece by piece. Raises: what either of them raises."""
    writing: asyncio.Task[object] | None = None
    try:
        async for gathered in _gathered(pieces):
            if writing is not None:
                await writing
            writing = asyncio.create_task(asyncio.to_thread(_each, write, gathered))
    finally:
        if writing is not None:
            await writing


def _each(write: Callable[[bytes], object], pieces: list[bytes]) -> None:
    for piece in pieces:
        write(piece)


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting
