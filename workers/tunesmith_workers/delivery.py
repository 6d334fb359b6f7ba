"""Sends a spool's entries one after another, log chunks beside the rest, and decides what refusals mean.

The last report and the slot's next claim go with the finish: one request in place of three.

| refusal | what follows |
|---|---|
| none, or `duplicate` | the next entry |
| seq_gap | the reports from the expected number on are sent again |
| no_space, of a snapshot | the file stays here and is tried once more before the last word |
| too_large, of a snapshot | that one is given up, with a warning |
| no_space, of anything else | tried again until there is room |
| any, of a log chunk or artifact (the lease is still ours) | that one is given up, with a warning |
| any other | raised: the attempt is over |
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from tunesmith_service import wire
from tunesmith_service.client import (
    AlreadyFinal,
    Forbidden,
    LeaseLost,
    NoSpace,
    Refused,
    SeqGap,
    SnapshotReused,
    TooLarge,
    Unauthorized,
    WorkerClient,
)

from tunesmith_workers.spool import Entry, Spool

T = TypeVar("T")

ENDS_THE_LEASE = (LeaseLost, AlreadyFinal, Unauthorized, Forbidden)


class Delivery:
    """Carries one attempt's writes to the service.

    Args:
        next_claim: asked before a finish goes out, for the claim that it shall take along.
    """

    def __init__(
        self,
        client: WorkerClient,
        spool: Spool,
        *,
        log: structlog.stdlib.BoundLogger,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        next_claim: Callable[[], wire.Claim | None] = lambda: None,
    ) -> None:
        self._client, self._spool, self._log, self._sleep = client, spool, log, sleep
        self._next_claim = next_claim
        self._lease = spool.lease
        self._kept: Entry | None = None

    async def run(self) -> wire.Finished:
        """Send until the last word about the attempt is accepted.

        Raises: Refused, when the service will take no more of this attempt.
        """
        lines = [asyncio.create_task(line) for line in (self._all_but_logs(), self._logs())]
        try:
            done, _ = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED)
            ended = next(line for line in lines if line in done)
            return ended.result()
        finally:
            for line in lines:
                line.cancel()
            await asyncio.gather(*lines, return_exceptions=True)

    async def flush(self) -> None:
        """Send what is there, for an attempt whose supervisor died. Raises: Refused."""
        while len(self._spool):
            logs = self._spool.has_logs
            await self._deliver(await (self._spool.log_head() if logs else self._spool.head()))

    async def _all_but_logs(self) -> wire.Finished:
        while True:
            if (finished := await self._deliver(await self._spool.head())) is not None:
                return finished

    async def _logs(self) -> wire.Finished:
        """Never returns: no log chunk is the last word."""
        while True:
            await self._deliver(await self._spool.log_head())

    async def _deliver(self, entry: Entry) -> wire.Finished | None:
        finish = self._spool.finish_behind(entry)
        if (entry.is_last_word or finish) and self._kept is not None:
            await self._snapshot(self._kept, last_chance=True)
        if finish is not None and (finished := await self._finish_with(entry, finish)) is not None:
            self._spool.accepted(entry)
            self._spool.accepted(finish)
            return finished
        finished = await self._send(entry)
        self._spool.accepted(entry)
        return finished

    async def _finish_with(self, report: Entry, finish: Entry) -> wire.Finished | None:
        """None: reports before it were missing there, so now they go one by one."""
        try:
            return await self._finish(finish.body | {"report": report.body})
        except SeqGap as gap:
            await self._fill(gap, report.body["seq"])
            return None

    async def _finish(self, body: dict[str, Any]) -> wire.Finished:
        claim = self._next_claim()
        said = wire.Finish.model_validate(body).model_copy(update={"claim": claim})
        return await self._until_room(lambda: self._client.finish(self._lease, said))

    async def _send(self, entry: Entry) -> wire.Finished | None:
        body = entry.body
        match entry.kind:
            case "report":
                await self._until_room(lambda: self._report(body))
            case "log":
                await self._or_without(entry, lambda: self._client.log(self._lease, wire.LogChunk(**body)))
            case "snapshot":
                await self._snapshot(entry)
            case "artifact":
                await self._or_without(entry, lambda: self._artifact(body))
            case "finish":
                return await self._finish(body)
            case "release":
                return await self._until_room(
                    lambda: self._client.release(self._lease, wire.Release.model_validate(body))
                )
            case other:
                raise ValueError(f"a spool holds no {other!r}")
        return None

    async def _report(self, body: dict[str, Any]) -> None:
        try:
            await self._client.report(self._lease, wire.Report.model_validate(body))
        except SeqGap as gap:
            await self._fill(gap, body["seq"])
            await self._client.report(self._lease, wire.Report.model_validate(body))

    async def _fill(self, gap: SeqGap, seq: int) -> None:
        """Send what is missing before report `seq` once more. Raises: the gap, if it is not kept."""
        expected = (gap.outcome or {}).get("expected_seq", 0)
        try:
            again = self._spool.reports_from(expected)
        except KeyError:
            raise gap from None
        self._log.warning("reports_sent_again", from_seq=expected, to_seq=seq)
        for each in again:
            await self._client.report(self._lease, wire.Report.model_validate(each))

    async def _snapshot(self, entry: Entry, *, last_chance: bool = False) -> None:
        path, step, sha256 = Path(entry.body["path"]), entry.body["step"], entry.body["sha256"]
        try:
            await self._client.put_blob(self._lease, path, sha256)
            await self._client.commit_snapshot(self._lease, wire.CommitSnapshot(step=step, sha256=sha256))
            self._log.info("snapshot_committed", step=step)
        except NoSpace as refusal:
            self._log.warning("snapshot_kept_here", step=step, reason=refusal.detail)
            if not last_chance:
                self._replace_kept(entry)
            return
        except TooLarge as refusal:
            self._log.warning("snapshot_given_up", step=step, reason=refusal.detail)
        except SnapshotReused:  # other bytes of the same step are there: the trial can go on from those
            self._log.info("snapshot_stands_already", step=step)
        except FileNotFoundError:  # a leftover spool whose snapshot was accepted and unlinked before
            self._log.info("snapshot_gone", step=step)
        _unlink(path)
        self._replace_kept(None)

    def _replace_kept(self, entry: Entry | None) -> None:
        if self._kept is not None and self._kept is not entry:
            _unlink(Path(self._kept.body["path"]))
        self._kept = entry

    async def _artifact(self, body: dict[str, Any]) -> None:
        path = Path(body["path"])
        await self._client.put_blob(self._lease, path, body["sha256"])
        commit = wire.CommitArtifact(name=body["name"], sha256=body["sha256"])
        await self._client.commit_artifact(self._lease, commit)
        _unlink(path)

    async def _or_without(self, entry: Entry, send: Callable[[], Awaitable[object]]) -> None:
        """A trial is worth more than its log or a picture of it."""
        try:
            await send()
        except ENDS_THE_LEASE:
            raise
        except (Refused, FileNotFoundError, ValueError) as refusal:
            self._log.warning(f"{entry.kind}_given_up", reason=str(refusal))

    async def _until_room(self, send: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            try:
                return await send()
            except NoSpace as refusal:
                tries += 1
                pause = self._client.retries.pause(tries)
                self._log.warning(
                    "service_has_no_space", reason=refusal.detail, again_in_seconds=round(pause, 1)
                )
                await self._sleep(pause)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
