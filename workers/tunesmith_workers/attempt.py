"""One attempt of a trial, from its grant to the last word about it.

Everything that can happen while a trial trains arrives in one mailbox, in one order: what the child
says or that it died, that the lease is over, that a person wants the trial handed back, that time is
up. `Attempt.drive` takes one thing after another; the table is the whole story.

| stands | happens | follows |
|---|---|---|
| training | points, logs, files | queued in the spool |
| training | the child ended it | finish (or release) queued: closing |
| training | the child died | finish as failed, retryable, `killed`: closing |
| training | hand back, or away too long | the child is asked to hand back: handing back |
| training, the child not told yet | hand back, or away too long | release queued: closing |
| training, handing back | lease lost, pruned, cancelled | the child is told to abandon it: abandoning |
| training, the child not told yet | lease lost, pruned, cancelled | over |
| any of these, closing | a write is malformed | child killed, finish as `protocol_error`: closing |
| handing back | the child handed back | release queued: closing |
| handing back, closing | time up, or a second signal | child killed, released with the last snapshot: over |
| closing | everything accepted, lease lost, or that finish is malformed too | over |
| abandoning | the child ended, died, or 5 s passed | over; warm if it ended what was pruned or cancelled |
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import structlog
from tunesmith_service import wire
from tunesmith_service.client import (
    AlreadyFinal,
    Forbidden,
    Lease,
    TunesmithError,
    Unauthorized,
)

from tunesmith_workers.child_process import ChildProcess, Death
from tunesmith_workers.delivery import ENDS_THE_LEASE
from tunesmith_workers.errands import Errands, Tools
from tunesmith_workers.happenings import (
    Away,
    Bug,
    Delivered,
    FlushLog,
    HandBack,
    Happening,
    NoResume,
    Refusal,
    Said,
    Stalled,
    TimeUp,
)
from tunesmith_workers.spool import Spool

ABANDON_SECONDS = 4.0  # from the refusal to the child's end, at most 5 s
RELEASE_SECONDS = 3.0
LOG_SECONDS = 2.0
LOG_FLUSH_CHARACTERS = 65_536
WARM = ("complete", "pruned", "abandoned")
"""Endings after which a child takes the next trial; one whose code has failed may have left anything."""

Stands: TypeAlias = Literal["training", "handing_back", "abandoning", "closing", "over"]


class Attempt:
    """Drives one attempt of one trial on one child.

    Args:
        next_claim: asked when the finish goes out, if the child is warm for another trial, for the claim that
            comes with it.

    Attributes:
        finished: what the service said to the last word; None if it did not.
    """

    def __init__(
        self,
        tools: Tools,
        child: ChildProcess,
        grant: wire.Grant,
        secret: str,
        scratch: Path,
        *,
        log: structlog.stdlib.BoundLogger,
        next_claim: Callable[[], wire.Claim | None] = lambda: None,
    ) -> None:
        self._tools, self._child, self._scratch, self._log = tools, child, scratch, log
        lease = Lease(grant.trial_id, grant.incarnation, grant.attempt, secret)
        self._spool = Spool.create(tools.spools, lease, tools.url)
        self._beside = Errands(
            tools, child, grant, self._spool, scratch, log=log, next_claim=self._claim_if_warm
        )
        self._next_claim = next_claim
        self.finished: wire.Finished | None = None
        self._stands: Stands = "training"
        self._cause = "shutdown"  # of the release, should there be one
        self._word = ""  # the last one, once it is known: finish or release
        self._signals = 0
        self._warm = False
        self._decided = False  # by the service, which pruned or cancelled it: no lease was lost
        self._objected = False  # a finish as `protocol_error` is under way
        self._keep_spool = False
        self._fatal: TunesmithError | None = None
        self._log_text: list[str] = []

    def hand_back(self, cause: str) -> None:
        """Stop soon and give the trial back with a snapshot; a second time: now."""
        self._beside.mailbox.put_nowait(HandBack(cause))

    async def drive(self) -> bool:
        """Train until the service has the last word about this attempt.

        Returns: whether the child is warm for another trial.
        Raises: Unauthorized or Forbidden when the service no longer takes this worker's token.
        """
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._beside.start()
        try:
            while self._stands != "over":
                await self._take(await self._beside.mailbox.get())
        finally:
            await self._beside.end()
            self._spool.close(keep=self._keep_spool)
            if not self._keep_spool:
                shutil.rmtree(self._scratch, ignore_errors=True)
        if self._fatal is not None:
            raise self._fatal
        return self._warm and self._child.is_alive

    def _claim_if_warm(self) -> wire.Claim | None:
        return self._next_claim() if self._warm and self._stands == "closing" else None

    # --- what follows from what happens ---

    async def _take(self, happening: Happening) -> None:
        match happening:
            case Said(message):
                await self._on_said(message)
            case Death():
                self._on_death(happening)
            case Refusal(refusal, by_delivery):
                await self._on_refused(refusal, by_delivery)
            case Delivered(finished):
                self._log.info("attempt_ended", state=finished.state, stop_reason=finished.stop_reason)
                self._stands, self.finished = "over", finished
            case HandBack(cause):
                await self._on_hand_back(cause)
            case NoResume(kind, reason) if self._stands in ("training", "handing_back"):
                self._fail(kind, reason, retryable=True)
                self._warm = True  # it was not asked yet
            case Away() if self._stands == "training":
                await self._ask_back("shutdown")
                self._beside.after(self._tools.patience.hand_back, TimeUp("child"))
            case Stalled() if self._stands == "training":
                self._fail(
                    "stalled", f"no word from the trainer for {self._tools.patience.stall} s", retryable=True
                )
                await self._child.kill()
            case TimeUp(of):
                await self._on_time_up(of)
            case FlushLog():
                self._flush_log()
            case Bug(error):
                raise error

    async def _on_said(self, message: dict[str, Any]) -> None:
        self._beside.heard_child()
        if self._stands == "abandoning" and message.get("say") == "ended":
            self._stands, self._warm = "over", self._decided and message.get("state") in WARM
        elif self._stands in ("training", "handing_back"):
            try:
                self._note(message)
            except (KeyError, TypeError, ValueError) as e:
                await self._protocol_error(f"the trainer said something that cannot be sent: {e}")
            if self._spool.full and self._stands == "training":
                self._log.warning("spool_full")
                self._beside.mailbox.put_nowait(Away())

    def _note(self, message: dict[str, Any]) -> None:
        """Raises: KeyError, TypeError or ValueError for a message that breaks the protocol."""
        match message["say"]:
            case "points":
                points = [
                    wire.ReportPoint.model_validate(p).model_dump(mode="json") for p in message["points"]
                ]
                self._spool.add_points(points)
            case "log":
                self._add_log(message["text"])
            case "snapshot":
                self._spool.add_file("snapshot", {k: message[k] for k in ("step", "sha256", "path")})
            case "artifact":
                self._spool.add_file("artifact", {k: message[k] for k in ("name", "sha256", "path")})
            case "ended":
                self._on_ended(message)
            case other:
                raise ValueError(f"{other!r} is no message")

    def _on_ended(self, message: dict[str, Any]) -> None:
        state = message["state"]
        if state == "released":
            self._last_word("release", {"cause": self._cause})
        elif state == "abandoned":
            self._fail("protocol_error", "the trainer gave the trial up unasked", retryable=True)
        else:
            finish = wire.Finish(
                state=state,
                stop_reason=message["stop_reason"] or "error",
                error=_error(**message["error"]) if message.get("error") else None,
                retryable=bool(message.get("retryable")),
            )
            self._warm = state in WARM
            self._last_word("finish", finish.model_dump(mode="json"))

    def _on_death(self, death: Death) -> None:
        if self._stands == "abandoning":
            self._stands = "over"
        elif self._stands in ("training", "handing_back"):
            self._log.warning("trainer_died", reason=str(death))
            self._fail("killed", str(death), traceback=death.tail, retryable=True)

    async def _on_refused(self, refusal: TunesmithError, by_delivery: bool) -> None:
        if isinstance(refusal, Unauthorized | Forbidden):
            self._fatal = refusal
        final = isinstance(refusal, ENDS_THE_LEASE)
        if self._stands == "closing":
            if not by_delivery:  # a beat may cross an accepted finish; the delivery knows better
                return
            self._log.warning("last_word_refused", reason=refusal.type, detail=refusal.detail)
            if final or self._objected:
                self._stands = "over"
                return
        if self._stands != "abandoning":
            await (self._abandon(refusal) if final else self._protocol_error(refusal.detail, forget=True))

    async def _abandon(self, refusal: TunesmithError) -> None:
        self._log.info("trial_gone", reason=refusal.type, outcome=refusal.outcome)
        self._decided = isinstance(refusal, AlreadyFinal)
        await self._beside.stop_delivering()
        self._spool.forget()
        if await self._beside.never_begins():
            self._stands, self._warm = "over", True
            return
        self._stands = "abandoning"
        await self._child.say({"do": "abandon"})
        self._beside.after(ABANDON_SECONDS, TimeUp("abandon"))

    async def _protocol_error(self, reason: str, *, forget: bool = False) -> None:
        """We or the service cannot read what was said: the trial needs a person, not another try."""
        self._log.error("protocol_error", reason=reason)
        self._objected = True
        if forget:
            await self._beside.stop_delivering()
            self._spool.forget()
            self._beside.deliver()
        self._fail("protocol_error", reason)
        await self._child.kill()

    async def _on_hand_back(self, cause: str) -> None:
        self._signals += 1
        if self._stands in ("abandoning", "over"):
            return
        if self._signals > 1:
            await self._release_now()
            return
        if self._stands == "training":
            await self._ask_back(cause)
        self._beside.after(self._tools.patience.hand_back - RELEASE_SECONDS, TimeUp("release"))

    async def _ask_back(self, cause: str) -> None:
        self._log.info("handing_back", cause=cause)
        self._cause = cause
        if await self._beside.never_begins():
            self._warm = True
            self._last_word("release", {"cause": cause})
            return
        self._stands = "handing_back"
        await self._child.say({"do": "hand_back"})

    async def _on_time_up(self, of: str) -> None:
        if of == "abandon" and self._stands == "abandoning":
            self._stands = "over"
        elif of == "child" and self._stands == "handing_back":
            self._last_word("release", {"cause": self._cause})
            await self._child.kill()
        elif of == "release" and self._stands in ("handing_back", "closing"):
            await self._release_now()

    async def _release_now(self) -> None:
        """Give the trial back past all that still waits; a trial that has its finish sends all, finish last.
        What the service does not answer in time is left for this worker's next start."""
        await self._beside.stop_delivering()
        if self._stands != "closing":
            self._last_word("release", {"cause": self._cause})
        self._stands = "over"
        await self._child.kill()
        if self._word == "release":
            word = wire.Release.model_validate({"cause": self._cause})
            told = await self._beside.release_within(RELEASE_SECONDS, word)
        else:
            told = await self._beside.flush_within(RELEASE_SECONDS)
        self._keep_spool = not told
        self._log.info("left_to_the_next_start" if self._keep_spool else "released", cause=self._cause)

    def _fail(self, kind: str, message: str, *, traceback: str = "", retryable: bool = False) -> None:
        error = _error(kind, message, traceback)
        finish = wire.Finish(state="failed", stop_reason="error", error=error, retryable=retryable)
        self._last_word("finish", finish.model_dump(mode="json"))

    def _last_word(self, kind: str, body: dict[str, Any]) -> None:
        self._flush_log()
        self._stands, self._word = "closing", kind
        self._spool.close_with(kind, body)

    # --- logs: many small prints make one chunk ---

    def _add_log(self, text: str) -> None:
        if not self._log_text:
            self._beside.after(LOG_SECONDS, FlushLog())
        self._log_text.append(text)
        if sum(map(len, self._log_text)) >= LOG_FLUSH_CHARACTERS:
            self._flush_log()

    def _flush_log(self) -> None:
        if self._log_text and self._stands in ("training", "handing_back"):
            self._spool.add_log("".join(self._log_text))
        self._log_text.clear()


def _error(kind: str, message: str = "", traceback: str = "") -> wire.TrialError:
    """As the wire takes it: clipped (of a traceback the end says most), without what no database keeps."""
    message, traceback = _plain(message)[:16_384], _plain(traceback)[-65_536:]
    return wire.TrialError(kind=_plain(kind)[:128], message=message, traceback=traceback)


def _plain(text: str) -> str:
    """Lone surrogates and NUL, which other people's exceptions may hold, spelled out."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
