"""What a trial's code prints, as log messages: gathered, and cut where it floods."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from types import TracebackType

_AT_ONCE = 16_384  # characters of one message
_EVERY_SECONDS = 1.0  # a line waits no longer than that for others, if something is printed after it
_BURST, _PER_SECOND = 262_144, 16_384  # characters a trial may print at once, and for good


class Chatter(io.TextIOBase):
    """Stands in for stdout and stderr while it is entered; `send` gets the text.

    What is printed past the limit is dropped and counted; the count is sent once there is room.
    """

    def __init__(self, send: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._lock = threading.RLock()
        self._parts: list[str] = []
        self._waiting = 0
        self._dropped = 0
        self._room = float(_BURST)
        self._filled_at = clock()
        self._sent_at = -_EVERY_SECONDS
        self._redirects = ExitStack()

    def __enter__(self) -> Chatter:
        self._redirects.enter_context(redirect_stdout(self))
        self._redirects.enter_context(redirect_stderr(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redirects.close()
        self.flush()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            self._take(text)
            due = self._clock() - self._sent_at >= _EVERY_SECONDS and text.endswith("\n")
            if due or self._waiting >= _AT_ONCE:
                self.flush()
        return len(text)

    def _take(self, text: str) -> None:
        now = self._clock()
        self._room = min(_BURST, self._room + (now - self._filled_at) * _PER_SECOND)
        self._filled_at = now
        if len(text) > self._room:
            self._dropped += len(text)
            return
        if self._dropped:
            self._parts.append(self._gap())
        self._room -= len(text)
        self._parts.append(text)
        self._waiting += len(text)

    def _gap(self) -> str:
        dropped, self._dropped = self._dropped, 0
        return f"\n[{dropped:,} characters dropped: a trial may print {_PER_SECOND:,} a second]\n"

    def flush(self) -> None:
        with self._lock:
            text = "".join(self._parts) + (self._gap() if self._dropped else "")
            self._parts, self._waiting, self._sent_at = [], 0, self._clock()
            # A lone surrogate has no UTF-8; a log shall not fail a trial for it.
            for start in range(0, len(text), _AT_ONCE):
                piece = text[start : start + _AT_ONCE]
                self._send(piece.encode(errors="backslashreplace").decode())


__all__ = ["Chatter"]
