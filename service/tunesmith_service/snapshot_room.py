"""How many bytes of snapshots a project may have."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from tunesmith_service import trial_store
from tunesmith_service.errors import NoSpace

COUNT_EVERY_SECONDS = 60.0
"""Adding up what a project has reads a row for each snapshot, so it is done no more often than this."""


class SnapshotRoom:
    """Args:
    most: bytes a project.
    read: runs a query in a thread.
    """

    def __init__(self, most: int, read: Callable[..., Awaitable[Any]]) -> None:
        self._most, self._read = most, read
        self._counted: dict[int, tuple[float, int]] = {}  # project id → when it was counted, bytes

    async def check(self, project_id: int, size: int) -> None:
        """Raises: NoSpace if `size` more bytes are too many."""
        at, taken = self._counted.get(project_id, (0.0, 0))
        if (now := time.monotonic()) - at >= COUNT_EVERY_SECONDS or at == 0:
            at, taken = now, await self._read(trial_store.snapshot_bytes, project_id)
            self._counted[project_id] = at, taken
        if taken + size > self._most:
            raise NoSpace(
                f"the project has {taken} bytes of snapshots and may have {self._most}; delete studies, keep "
                "fewer of the best (keep_best), or set --project-snapshots-bytes"
            )

    def took(self, project_id: int, size: int) -> None:
        """A snapshot was committed."""
        if project_id in self._counted:
            at, taken = self._counted[project_id]
            self._counted[project_id] = at, taken + size
