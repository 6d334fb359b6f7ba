"""What both clients share: how long to wait, when to try again, and what an answer stands for.

Network errors, 408, 425, 429 and every 5xx but 507 are worth another try. A problem document becomes
the exception of `errors` that the service refused with.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import BinaryIO, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from tunesmith_service import errors, wire
from tunesmith_service.errors import (
    Conflict,
    Forbidden,
    NoSpace,
    NotFound,
    Refused,
    TooLarge,
    TunesmithError,
    Unauthorized,
    Unavailable,
)

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
BEAT_SECONDS = 5.0
TRANSFER_SECONDS = 60.0  # the service makes bytes durable before it answers a PUT
CHUNK_BYTES = 256 * 1024  # small enough that reading one does not hold up a beat
FLOOR_SECONDS = 0.5
CAP_SECONDS = 30.0
RETRY_AFTER_LIMIT_SECONDS = 120.0  # a proxy's mistake must not put a worker to sleep for a day

"""What a header can carry of a token."""

M = TypeVar("M", bound=BaseModel)


class CorruptDownloadError(TunesmithError):
    """Bytes came that do not hash to what was asked for; nothing was left on disk."""

    type = "corrupt_download"


class TryAgain(Unavailable):
    """Retryable; `retry_after` is what the service asked for, in seconds; `answered` is the status that
    it, or a proxy, answered with, 0 if nothing came; `elsewhere`: at once, since another server is there."""

    retry_after: float = 0.0
    answered: int = 0
    elsewhere: bool = False


def jitter() -> Random:
    """A source of pauses, seeded apart from everybody else's."""
    return Random(secrets.randbits(64))  # noqa: S311  (jitter, not a secret)


class Retries:
    """How long to wait before another try: full jitter from 0.5 s, doubling, capped.

    The budget keeps many workers from doubling the load on a service in trouble: each call earns a
    tenth of a retry. When it is spent, a retry is not refused, since a worker's write may not be
    lost, but waits near the cap.
    """

    CALLS_PER_RETRY = 10
    BUDGET_CALLS = 200  # twenty retries: a restart of the service costs a few slots not that much

    def __init__(self, random: Random | None = None) -> None:
        self._random = random or jitter()
        self._earned = self.BUDGET_CALLS

    def earn(self) -> None:
        self._earned = min(self.BUDGET_CALLS, self._earned + 1)

    def pause(self, tries: int, *, cap: float = CAP_SECONDS, retry_after: float = 0.0) -> float:
        """Seconds to wait after `tries` (1, 2, …) failed tries; never above `cap` for a beat's small cap."""
        if self._earned < self.CALLS_PER_RETRY:
            wait = self._random.uniform(cap / 2, cap)
        else:
            self._earned -= self.CALLS_PER_RETRY
            wait = self._random.uniform(0, min(cap, FLOOR_SECONDS * 2 ** min(tries - 1, 16)))
        if cap < CAP_SECONDS:
            return min(cap, retry_after + wait)
        return min(retry_after, RETRY_AFTER_LIMIT_SECONDS) + wait


class Tries:
    """Those of one call of a person or a program, whose patience is `retry_for` seconds."""

    def __init__(self, retries: Retries, clock: Callable[[], float], retry_for: float) -> None:
        retries.earn()
        self._retries, self._clock, self._retry_for = retries, clock, retry_for
        self._started, self._failed = clock(), 0

    def pause(self, trouble: TryAgain) -> float | None:
        """Seconds to wait before the next; None: none at all, since another server is asked.

        Raises: `trouble` when that would be too late.
        """
        if trouble.elsewhere:
            return None
        self._failed += 1
        pause = self._retries.pause(self._failed, retry_after=trouble.retry_after)
        if self._clock() + pause - self._started >= self._retry_for:
            raise trouble
        return pause


def _all_errors(base: type[TunesmithError]) -> Iterator[type[TunesmithError]]:
    yield base
    for child in base.__subclasses__():
        yield from _all_errors(child)


_BY_TYPE = {
    f"urn:tunesmith:{e.type}": e for e in _all_errors(TunesmithError) if e.__module__ == errors.__name__
}


def _is_retryable(status: int) -> bool:
    return status in (408, 425, 429) or (status >= 500 and status != NoSpace.status)


def failure(response: httpx.Response) -> TunesmithError | None:
    """The exception that a reply stands for; None for a 2xx. The body must have been read."""
    if response.is_success:
        return None
    try:
        problem = wire.Problem.model_validate_json(response.content)
    except ValidationError:  # not from us: a proxy's page, or not Tunesmith at all
        text = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
        problem = wire.Problem(type="", title="", status=response.status_code, detail=text)
    if _is_retryable(response.status_code):
        again = TryAgain(problem.detail, outcome=problem.outcome)
        again.retry_after, again.answered = _retry_after(response), response.status_code
        return again
    kind = _BY_TYPE.get(problem.type) or _by_status(response.status_code)
    return kind(problem.detail, errors=problem.errors, outcome=problem.outcome)


def _by_status(status: int) -> type[TunesmithError]:
    plain = (NotFound, Conflict, errors.Unprocessable, Unauthorized, Forbidden, TooLarge, NoSpace)
    return next((e for e in plain if e.status == status), Refused)


def _retry_after(response: httpx.Response) -> float:
    """Seconds; 0 where there is none (a date is not obeyed: clocks differ)."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def read(response: httpx.Response, model: type[M]) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as e:
        raise TryAgain(f"{response.request.url} answered something else than Tunesmith does: {e}") from e


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, where no proxy of the environment reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HashedFile:
    """Bytes written beside `path`, renamed to it once all are there and hash to `sha256`."""

    def __init__(self, path: Path, sha256: str | None) -> None:
        self._path, self._sha256 = path, sha256
        self._part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        self._hash = hashlib.sha256()
        try:
            self._file: BinaryIO = self._part.open("xb")
        except OSError as e:  # of the name that was given, not of ours beside it
            raise type(e)(e.errno, e.strerror, str(path)) from None

    def write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._file.write(chunk)

    def keep(self) -> None:
        self._file.close()
        if self._sha256 not in (None, got := self._hash.hexdigest()):
            raise CorruptDownloadError(
                f"the bytes of {self._sha256} are damaged, in the service's store or on the way: they came "
                f"as {got}; nothing was kept. Put back that file under blobs/ in the service's home, or add "
                "the stage again, so that it is made anew"
            )
        os.replace(self._part, self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)
