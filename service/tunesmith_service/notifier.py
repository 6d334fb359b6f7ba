"""The background loop of notifications: reads what is new in the logs, queues what somebody wants to hear,
and sends what is due. No failure ends it, and nobody waits for it.

Several servers may run one each. A study's log is told once, since queueing moves its cursor by a guarded
UPDATE; a message is taken by one server at a time. A server that is killed between sending and writing that
down leaves the message due again, so it comes twice, with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from tunesmith_service import news
from tunesmith_service.clock import SECOND
from tunesmith_service.errors import TunesmithError
from tunesmith_service.notices import EndNotice, Notice, QueueNotices, TakeNotices
from tunesmith_service.sending import NotDeliveredError, Sender
from tunesmith_service.settings import Settings

LOOK_SECONDS = 1.0
AT_ONCE = 8
LONGEST_REST_SECONDS = 3600.0
SAID_CHARACTERS = 500

log = structlog.get_logger(__name__)


class Notifier:
    """Args:
    submit: hands a command to the writer.
    read: runs a query in a thread.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        submit: Callable[..., Awaitable[Any]],
        read: Callable[..., Awaitable[Any]],
        now_us: Callable[[], int],
    ) -> None:
        self._settings, self._submit, self._read, self._now_us = settings, submit, read, now_us
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sender = Sender(self._settings)
        self._task = asyncio.create_task(self._run(), name="notifier")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self._sender.aclose()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.tick()
            except TunesmithError as error:
                log.warning("notifier.failed", error=error.detail)
            except Exception:
                log.exception("notifier.failed")

    async def tick(self) -> None:
        """One round: look, queue, send."""
        targets = await self._read(news.all_targets)
        if not targets:
            return
        quiet_us = int(self._settings.notify_stuck_seconds * SECOND)
        found = [*await self._read(news.pieces), *await self._read(news.stuck, self._now_us(), quiet_us)]
        for piece in found:
            await self._submit(self._queued(piece, targets))
        # A mail server may take as long for each of its answers once the letter is on its way.
        hold_us = int(6 * self._settings.notify_seconds * SECOND)
        while taken := await self._submit(TakeNotices(AT_ONCE, hold_us)):
            await asyncio.gather(*map(self._deliver, taken))

    def _queued(self, piece: news.Piece, targets: Sequence[Mapping[str, Any]]) -> QueueNotices:
        notices = [
            Notice(
                target["id"], secrets.token_hex(16), one.event, one.n,
                news.message(piece.study, one, self._settings.address, piece.study_id),
            )
            for one in piece.news
            for target in targets
            if one.event in target["events"] and one.at_us >= target["created_us"]
        ]  # fmt: skip
        return QueueNotices(piece.study_id, piece.since, piece.upto, tuple(notices))

    async def _deliver(self, notice: Mapping[str, Any]) -> None:
        again_us = None
        try:
            said, delivered = await self._sender.send(notice, self._now_us()), True
        except NotDeliveredError as e:
            said, delivered = str(e)[:SAID_CHARACTERS], False
            if notice["tries"] < self._settings.notify_tries:
                rest = self._settings.notify_retry_seconds * 2.0 ** (notice["tries"] - 1)
                again_us = int(min(rest, LONGEST_REST_SECONDS) * SECOND)
        await self._submit(EndNotice(notice["id"], notice["tries"], delivered, said, again_us))
        level = log.info if delivered else log.warning
        level("notice.tried", key=notice["key"], tries=notice["tries"], said=said, event_told=notice["event"])
