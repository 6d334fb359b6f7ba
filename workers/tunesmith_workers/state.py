"""A worker's state directory: who it is, its spools and its scratch space. One supervisor at a time.

worker.json   worker id and slot ids, random, kept for good, and how often it has started (mode 0600)
alive         touched every ALIVE_SECONDS by a supervisor that is awake; see `launching.kubernetes`
lock          held while a supervisor lives; names its process id
spool/        writes that the service has not accepted yet, one file an attempt
scratch/      the trainers' own directories, those of earlier starts removed
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ALIVE_SECONDS = 10.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class StateInUseError(Exception):
    """Another supervisor has this directory; the message names it."""


def home(environ: Mapping[str, str]) -> Path:
    """Where workers keep their directories unless told otherwise (XDG base directories)."""
    base = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".local" / "state"
    return Path(base) / "tunesmith" / "workers"


@dataclass(frozen=True, slots=True)
class Start:
    """Who a supervisor is.

    Attributes:
        worker_id, slot_ids: kept for good; 128 bits in hex each, as is `boot_id`.
        boot_id: of this start alone.
        starts: how often the worker has started, this time included.
    """

    worker_id: str
    boot_id: str
    starts: int
    slot_ids: Sequence[str]


class State:
    """An open state directory; the lock is ours until `close`."""

    def __init__(self, directory: Path) -> None:
        """Raises: StateInUseError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self._lock = _locked(directory / "lock")
        self.spool = directory / "spool"
        self.scratch = directory / "scratch"
        self.spool.mkdir(exist_ok=True, mode=0o700)
        self.scratch.mkdir(exist_ok=True, mode=0o700)

    def close(self) -> None:
        self._lock.close()

    def touch(self) -> None:
        """Show that the supervisor is awake; a full disk keeps nobody from being so."""
        with suppress(OSError):
            (self.directory / "alive").touch()

    def start(self, slots: int, *, after: int = 0) -> Start:
        """A start of this worker, with its first `slots` slots; ids are made at first use.

        Args:
            after: how often the service says it has started, where that is more than the directory knows.
        """
        path = self.directory / "worker.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        worker_id: str = known.get("worker_id") or _new_id()
        slot_ids: list[str] = known.get("slot_ids", [])
        slot_ids += [_new_id() for _ in range(slots - len(slot_ids))]
        starts = max(known.get("starts", 0), after) + 1
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"worker_id": worker_id, "slot_ids": slot_ids, "starts": starts}, file)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        return Start(worker_id, _new_id(), starts, slot_ids[:slots])

    def empty_scratch(self, *, but: Path) -> None:
        """Only after leftover spools are done with: they name snapshots in here."""
        for entry in self.scratch.iterdir():
            if entry != but:
                shutil.rmtree(entry, ignore_errors=True)


def open_state(directory: Path | None, name: str | None, environ: Mapping[str, str]) -> State:
    """The directory a person named, that of a named worker, or the first free one of this machine.

    Raises: StateInUseError; ValueError for a name that is no plain file name.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise ValueError(f"--name takes letters, digits, . _ and -, at most 64, got {name!r}")
    if directory is not None:
        return State(directory)
    if name is not None:
        return State(home(environ) / name)
    number = 0
    while True:
        try:
            return State(home(environ) / f"worker-{number}")
        except StateInUseError:
            number += 1


def _locked(path: Path) -> IO[str]:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid = file.read().strip() or "unknown"
        file.close()
        raise StateInUseError(
            f"the worker with process id {pid} uses {path.parent}: "
            f"give this one a directory of its own with --state or --name"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _new_id() -> str:
    return secrets.token_hex(16)
