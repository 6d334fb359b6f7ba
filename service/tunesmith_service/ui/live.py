"""A study's log as server-sent events, so that a page may refetch what has changed.

One message, `changes`, at most every 250 ms:

    id: 415
    event: changes
    data: {"n": 415, "skipped": 0, "entries": [{"n": 414, "kind": "moved", "trial": 3, "stage": "grid"}, …]}

Its id is the number of the newest event in it, so a browser that comes back with `Last-Event-ID`
gets every entry after it, each once and in order. A page that is further behind than `FAR` is told
how many entries it has missed instead, and loads what it shows anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

GAP_SECONDS = 0.25
BEAT_SECONDS = 15.0
POLL_SECONDS = 1.0
"""Look this often without a word from our own writer: other servers write to the same database."""

MOST = 500
FAR = 5000

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def messages(
    after: int,
    changed: asyncio.Event,
    newest: Callable[[], Awaitable[int | None]],
    entries: Callable[[int, int], Awaitable[Sequence[Mapping[str, Any]]]],
) -> AsyncIterator[str]:
    """What goes down the stream until the reader leaves.

    Args:
        after: number of the last event that the reader knows.
        changed: set when the study may have changed.
        newest: the study's event number; None ends the stream (no session, or no study, any more).
        entries: (after, limit) → entries of the log in order, without gaps.
    """
    loop = asyncio.get_running_loop()
    yield "retry: 1000\n: hello\n\n"
    beat_at = loop.time() + BEAT_SECONDS
    while True:
        changed.clear()  # before we look, so that what comes after the look wakes us
        if (head := await newest()) is None:
            return
        if head > after:
            if head - after > FAR:
                message: dict[str, Any] = {"n": head, "skipped": head - after, "entries": []}
            else:
                found = await entries(after, MOST)
                message = {"n": found[-1]["n"], "skipped": 0, "entries": list(found)}
            after = message["n"]
            yield f"id: {after}\nevent: changes\ndata: {json.dumps(message, separators=(',', ':'))}\n\n"
            beat_at = loop.time() + BEAT_SECONDS
            await asyncio.sleep(GAP_SECONDS)
            continue
        if loop.time() >= beat_at:
            yield ": beat\n\n"
            beat_at = loop.time() + BEAT_SECONDS
        try:
            async with asyncio.timeout(min(POLL_SECONDS, max(beat_at - loop.time(), 0.01))):
                await changed.wait()
        except TimeoutError:
            pass
