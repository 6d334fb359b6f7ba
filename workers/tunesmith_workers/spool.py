"""What one attempt has to tell the service, in order: a queue in memory and in a file.

Every entry is appended to the file before it is sent; once all are accepted the file is cut back to
its first line, so it grows only while the service is away. A supervisor that was killed leaves it
behind, and its successor sends what is in it before it registers: until then the lease is current.
The file outlives a process, not a power cut; for that the service's answer is the promise.

Reports get their numbers here. While a report waits, later points join it (up to 500, or half of what
the service reads at once), so a fast trainer on a slow line costs few requests; `head` freezes it,
since a number once sent names its points for good. Log chunks stand in a line of their own, and are
sent beside the rest; the last word comes after them too.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith_service.client import Lease

LIMIT_BYTES = 64 * 1024 * 1024
POINTS_PER_REPORT = 500
REPORT_BYTES = 512 * 1024  # the service reads bodies of 1 MiB
LOG_CHARACTERS = 262_144
KEPT_REPORTS = 1000  # accepted ones, in case the service asks for them again


@dataclass(slots=True)
class Entry:
    """One write: `report`, `log`, `snapshot`, `artifact`, `finish` or `release`, and its body as JSON."""

    kind: str
    body: dict[str, Any]
    frozen: bool = False
    size: int = 0  # bytes of a report's points

    def has_room(self, size: int) -> bool:
        """Whether this is a report that a point of `size` bytes may join."""
        if self.kind != "report" or self.frozen:
            return False
        return len(self.body["points"]) < POINTS_PER_REPORT and self.size + size <= REPORT_BYTES

    @property
    def is_last_word(self) -> bool:
        return self.kind in ("finish", "release")


class Spool:
    """The writes of one attempt. Not for threads.

    Args:
        path: its file; None keeps it in memory alone.
        limit: bytes in the file at which `full` turns true; more is still taken.
    """

    def __init__(self, lease: Lease, url: str, path: Path | None, *, limit: int = LIMIT_BYTES) -> None:
        self.lease, self.url, self.path = lease, url, path
        self._limit = limit
        self._waiting: deque[Entry] = deque()
        self._logs: deque[Entry] = deque()
        self._accepted: deque[dict[str, Any]] = deque(maxlen=KEPT_REPORTS)
        self._report_seq = self._log_seq = 0
        self._more, self._more_logs, self._no_logs = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._no_logs.set()
        self._bytes = self._head_bytes = 0
        self._file: BinaryIO | None = None

    @classmethod
    def create(cls, directory: Path, lease: Lease, url: str, *, limit: int = LIMIT_BYTES) -> Spool:
        """A new attempt's spool, named by its trial and attempt (mode 0600: it holds the lease's secret)."""
        path = directory / f"{lease.trial_id}.{lease.incarnation}.{lease.attempt}.jsonl"
        spool = cls(lease, url, path, limit=limit)
        spool._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        head = {"trial_id": lease.trial_id, "incarnation": lease.incarnation, "attempt": lease.attempt}
        spool._append({"url": url, **head, "secret": lease.secret})
        spool._head_bytes = spool._bytes
        return spool

    @classmethod
    def load(cls, path: Path) -> Spool:
        """What a dead supervisor left; a torn last line is dropped.

        Raises: ValueError if the file does not start with a lease.
        """
        lines = _whole_lines(path)
        head = next(lines, None)
        if head is None or "secret" not in head:
            raise ValueError(f"{path} is no spool: it does not start with a lease")
        lease = Lease(head["trial_id"], head["incarnation"], head["attempt"], head["secret"])
        spool = cls(lease, head["url"], path)
        for line in lines:
            spool._take_back(line)
        return spool

    def _take_back(self, line: Mapping[str, Any]) -> None:
        entry = Entry(line["kind"], dict(line["body"]))
        last = self._waiting[-1] if self._waiting else None
        if (
            entry.kind == "report"
            and last is not None
            and last.kind == "report"
            and last.body["seq"] == entry.body["seq"]
        ):
            last.body["points"] += entry.body["points"]
        else:
            self._push(entry)

    def add_points(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Queue points (`{"step", "metrics"}`, rising steps)."""
        for point in points:
            size = len(json.dumps(point))
            if self._waiting and (last := self._waiting[-1]).has_room(size):
                last.body["points"].append(point)
                self._append({"kind": "report", "body": {"seq": last.body["seq"], "points": [point]}})
            else:
                self._report_seq += 1
                self._add("report", {"seq": self._report_seq, "points": [point]})
            self._waiting[-1].size += size

    def add_log(self, text: str) -> None:
        for start in range(0, len(text), LOG_CHARACTERS):
            self._log_seq += 1
            self._add("log", {"seq": self._log_seq, "text": text[start : start + LOG_CHARACTERS]})

    def add_file(self, kind: str, body: Mapping[str, Any]) -> None:
        """Queue a `snapshot` (step, sha256, path) or an `artifact` (name, sha256, path)."""
        self._add(kind, dict(body))

    def close_with(self, kind: str, body: Mapping[str, Any]) -> None:
        """Queue the last word about the attempt: `finish` or `release`."""
        self._add(kind, dict(body))

    def forget(self) -> None:
        """Drop everything that was not accepted."""
        self._waiting.clear()
        self._logs.clear()
        self._settle()

    async def head(self) -> Entry:
        """The oldest entry not accepted yet, log chunks aside, once there is one; it takes no more points
        from then on. The last word waits until all log chunks are accepted."""
        await self._more.wait()
        if self._waiting[0].is_last_word or self.finish_behind(self._waiting[0]):
            await self._no_logs.wait()
        self._waiting[0].frozen = True
        return self._waiting[0]

    def finish_behind(self, entry: Entry) -> Entry | None:
        """The finish that follows the head, if that is a report, and can take it along."""
        if entry.kind != "report" or len(self._waiting) != 2 or self._waiting[1].kind != "finish":
            return None
        return self._waiting[1]

    async def log_head(self) -> Entry:
        """The oldest log chunk not accepted yet, once there is one."""
        await self._more_logs.wait()
        return self._logs[0]

    @property
    def has_logs(self) -> bool:
        return bool(self._logs)

    def accepted(self, entry: Entry) -> None:
        """The service has taken (or will never take) the head, or that of the log chunks."""
        line = self._line(entry)
        assert line[0] is entry
        line.popleft()
        if entry.kind == "report":
            self._accepted.append(entry.body)
        self._settle()

    def reports_from(self, seq: int) -> list[dict[str, Any]]:
        """Accepted reports from number `seq` on. Raises: KeyError if they are no longer kept."""
        kept = [body for body in self._accepted if body["seq"] >= seq]
        if not kept or kept[0]["seq"] != seq:
            raise KeyError(seq)
        return kept

    def __len__(self) -> int:
        return len(self._waiting) + len(self._logs)

    @property
    def full(self) -> bool:
        return self._bytes > self._limit

    def close(self, *, keep: bool = False) -> None:
        """Let go of the file; it stays if `keep`, for the next supervisor to send."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if not keep and self.path is not None:
            self.path.unlink(missing_ok=True)

    def _add(self, kind: str, body: dict[str, Any]) -> None:
        self._push(Entry(kind, body))
        self._append({"kind": kind, "body": body})

    def _push(self, entry: Entry) -> None:
        self._line(entry).append(entry)
        self._settle()

    def _line(self, entry: Entry) -> deque[Entry]:
        return self._logs if entry.kind == "log" else self._waiting

    def _settle(self) -> None:
        """Have events and file say what stands in the lines."""
        lines = (self._more, self._waiting), (self._more_logs, self._logs)
        for more, line in lines:
            if line:
                more.set()
            else:
                more.clear()
        if self._logs:
            self._no_logs.clear()
        else:
            self._no_logs.set()
        if not len(self):
            self._cut_back()

    def _append(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        self._bytes += len(data)
        if self._file is None:
            return
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:  # our own disk is full: memory alone must do
            with suppress(OSError):  # it tries to write what is left
                self._file.close()
            self._file = None

    def _cut_back(self) -> None:
        self._bytes = self._head_bytes
        if self._file is not None:
            self._file.seek(self._head_bytes)
            self._file.truncate()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


def leftovers(directory: Path) -> list[Path]:
    """Spool files of attempts whose supervisor died."""
    return sorted(directory.glob("*.jsonl"))
