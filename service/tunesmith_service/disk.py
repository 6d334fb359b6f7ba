"""The room that is left on the disk of the home, and who must do without as it goes.

| free | what is refused (507) |
|---|---|
| less than the reserve | what grows: studies, stages, trials, snapshots, artifacts |
| nothing: the ballast was given up | claims, logs and notes as well |

The ballast is a file that does nothing but take room. When the database cannot be written, it is
deleted, and the write is done again: beats, reports, finishes and releases go on in its place, so
that a full disk costs no lease. Once there is room for it beyond the reserve it is made anew. Only
a database on this disk has one.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import structlog

from tunesmith_service import commands as c
from tunesmith_service import wishes
from tunesmith_service.errors import NoSpace

GROWS = (c.CreateStudy, c.AddStage, c.Enqueue, c.Propose, wishes.Retry, wishes.ImportTrials)
CAN_WAIT = (c.Claim, c.Redraw, c.AppendLog, wishes.WriteNote, wishes.TagTrials)
MIB = 2**20

log = structlog.get_logger(__name__)


class Disk:
    """Args:
    home: a directory on the disk, made if missing.
    reserve_bytes, reserve_percent: with less free than either, nothing that grows is taken; 0: no such bound.
    ballast_bytes: size of the ballast; 0: none.
    """

    def __init__(
        self, home: Path, *, reserve_bytes: int = 0, reserve_percent: float = 0, ballast_bytes: int = 0
    ) -> None:
        self._home = home
        self._reserve_bytes, self._reserve_percent = reserve_bytes, reserve_percent
        self._ballast_bytes, self._ballast = ballast_bytes, home / "ballast"
        self._given_up = False
        self._changing = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether the ballast was given up and there has been no room for it since."""
        return self._given_up

    def free(self) -> int:
        """Bytes that this process may still write."""
        return shutil.disk_usage(self._home).free

    def reserve(self) -> int:
        """Bytes that what grows may not use."""
        if not self._reserve_percent:
            return self._reserve_bytes
        share = int(shutil.disk_usage(self._home).total * self._reserve_percent / 100)
        return max(self._reserve_bytes, share)

    def check(self, size: int = 0) -> None:
        """Raises NoSpace if `size` more bytes would eat into the reserve."""
        free, reserve = self.free(), self.reserve()
        if free - size < reserve or self._given_up:
            raise NoSpace(
                f"the service's disk has {free // MIB} MiB free and keeps {reserve // MIB} MiB in reserve; "
                "make room on it, or set --reserve-bytes and --reserve-percent"
            )

    def admit(self, command: Any) -> None:
        """Raises NoSpace for a command that must wait until there is room."""
        if isinstance(command, GROWS):
            self.check()
        elif self._given_up and isinstance(command, CAN_WAIT):
            raise NoSpace("the service's disk is full; what runs goes on, all else waits until there is room")

    # --- the ballast ------------------------------------------------------------------------------

    def give_up_ballast(self) -> bool:
        """Delete the ballast. Returns whether that made room. Called where a write found none."""
        with self._changing:
            if not self._ballast_bytes:
                return False
            self._given_up = True
            try:
                self._ballast.unlink()
            except FileNotFoundError:
                return False
        log.error("disk.full", detail="the ballast was given up; make room on the service's disk")
        return True

    def tend(self) -> None:
        """Make the ballast if it is not there and there is room for it. Blocks: call it in a thread."""
        with self._changing:
            if not self._ballast_bytes or self._ballast.exists():
                self._given_up = False
            elif self.free() - self._ballast_bytes >= self.reserve() and self._make():
                log.info("disk.ballast", bytes=self._ballast_bytes, again=self._given_up)
                self._given_up = False

    def _make(self) -> bool:
        part = self._ballast.with_suffix(".part")
        try:
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._ballast_bytes)
            part.rename(self._ballast)
        except OSError as e:
            part.unlink(missing_ok=True)
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                log.warning("disk.no_ballast", error=str(e))
            return False
        return True
