"""Streams that wait for a study to change. Everything happens on the event loop."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Listeners:
    def __init__(self) -> None:
        self._events: defaultdict[int, set[asyncio.Event]] = defaultdict(set)
        self.is_closing = False

    def changed(self, study_ids: Iterable[int]) -> None:
        """The writer's `on_commit`."""
        for study_id in study_ids:
            for event in self._events.get(study_id, ()):
                event.set()

    def close(self) -> None:
        """The server stops: wake every stream, which finds `is_closing` and ends."""
        self.is_closing = True
        self.changed(list(self._events))

    @contextmanager
    def to(self, study_id: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever the study may have changed."""
        event = asyncio.Event()
        self._events[study_id].add(event)
        try:
            yield event
        finally:
            self._events[study_id].discard(event)
            if not self._events[study_id]:
                del self._events[study_id]
