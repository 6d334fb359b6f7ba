"""Ask for trials and tell what came of them: a loop of one's own, without a worker and without torch.

    worker = Client("http://127.0.0.1:8787", token)  # of the role worker
    while trial := worker.ask("mine"):
        with trial:
            for epoch in range(1, trial.epochs + 1):
                loss = ...
                if trial.report(epoch, {"val/loss": loss}):
                    break

A process that asks is a worker like any other, with a slot for each trial that it has at a time. A thread
keeps each trial's lease for as long as somebody holds the trial; there are no snapshots, so a trial whose
process dies begins anew elsewhere.
"""

from __future__ import annotations

import math
import operator
import os
import secrets
import socket
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tunesmith_service import wire
from tunesmith_service.calls import Call
from tunesmith_service.errors import AlreadyFinal, ClaimStale, LeaseLost, TunesmithError

if TYPE_CHECKING:
    from tunesmith_service.client import Client

WAIT_SECONDS = 2.0
"""A claim waits so long for a trial, and is then made anew: so soon is it known that a study has ended."""
MESSAGE_CHARACTERS, TRACEBACK_CHARACTERS = 16_384, 65_536  # what wire.TrialError takes


class Asker:
    """This process as a worker, which has as many slots as it ever had trials at a time."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._worker_id, self._boot_id = secrets.token_hex(16), secrets.token_hex(16)
        self._lock = threading.Lock()
        self._slots: list[str] = []
        self._free: list[str] = []

    def ask(self, study: str, timeout: float | None) -> AskedTrial | None:
        slot = self._take_slot()
        secret = secrets.token_hex(16)
        try:
            grant = self._claim(study, slot, secret, timeout)
        except BaseException:
            self._free.append(slot)
            raise
        if grant is None:
            self._free.append(slot)
            return None
        trial = AskedTrial(self._client, grant, secret, when_over=lambda: self._free.append(slot))
        if trial.work.kind != "train":
            told = f"trial {trial.number} is a {trial.work.kind}, which a loop of one's own cannot run"
            trial.fail(told)
            raise ValueError(f"{told}: leave such stages out of {study}, or let a worker have them")
        return trial

    def _take_slot(self) -> str:
        with self._lock:
            if not self._free:
                new = secrets.token_hex(16)
                self._register([*self._slots, new])
                self._slots.append(new)
                self._free.append(new)
            return self._free.pop()

    def _register(self, slots: list[str]) -> None:
        body = wire.Register(
            worker_id=self._worker_id, boot_id=self._boot_id, starts=1, tasks={},
            name=f"{socket.gethostname()}:{os.getpid()}"[-128:], version=metadata.version("tunesmith"),
            slots=[wire.Slot(slot_id=slot, devices=["cpu"]) for slot in slots],
        )  # fmt: skip
        self._client.put("workers", self._worker_id, json=body.model_dump())

    def _claim(self, study: str, slot: str, secret: str, timeout: float | None) -> wire.Grant | None:
        until = math.inf if timeout is None else self._clock() + timeout
        while True:
            left = max(0.0, until - self._clock())
            body = wire.ClaimRequest(
                claim_id=secrets.token_hex(16), worker_id=self._worker_id, boot_id=self._boot_id,
                slot_id=slot, secret=secret, study=study, wait_seconds=min(WAIT_SECONDS, left),
            )  # fmt: skip
            try:
                reply = wire.ClaimReply.model_validate(self._client.post("claims", json=body.model_dump()))
            except ClaimStale:  # its answer got lost, and came again when the lease was over
                continue
            if reply.grant is not None or reply.ended or reply.draining:
                return reply.grant
            if self._clock() >= until:
                raise TimeoutError(f"study {study} had no trial to give within {timeout:g} s")


class AskedTrial:
    """A trial that this process has. Leave it as a context manager, or end it by `tell`, `finish`, `fail` or
    `release`; what comes after its end is not sent.

    Attributes:
        study, number: which it is.
        params: its hyperparameters.
        epochs: how many reports it has room for; after the last one it is complete.
        seed: for whatever is drawn.
        work: all that the study wants of it, as `wire.WorkOrder`.
        state: None while it runs; then `complete`, `pruned`, `failed`, `cancelled`, `released`, or `lost`
            when it was given to another.
    Raises (every call): `Refused` and its kinds for what the service does not take; `Unavailable` when it did
        not answer for as long as the client tries.
    """

    def __init__(
        self, client: Client, grant: wire.Grant, secret: str, *, when_over: Callable[[], None]
    ) -> None:
        self.work = grant.work
        self.study, self.number, self.seed = grant.work.study, grant.work.number, grant.work.seed
        self.params, self.epochs = dict(grant.work.params), grant.work.epochs
        self.state: str | None = None
        self._client, self._trial_id, self._when_over = client, grant.trial_id, when_over
        self._lease = {wire.LEASE_HEADER: f"{grant.incarnation}.{grant.attempt}.{secret}"}
        self._seq = self._step = 0
        self._value = math.nan
        self._over, self._ending = threading.Event(), threading.Lock()
        threading.Thread(
            target=_beat, args=(weakref.ref(self), self._over, grant.ttl_seconds, when_over), daemon=True,
            name=f"beats of trial {self.number}",
        ).start()  # fmt: skip

    def __repr__(self) -> str:
        return f"<trial {self.number} of {self.study!r}: {self.state or 'running'}>"

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Add a point to the curve: `step` epochs are done, and these are the metrics.

        Returns: whether to stop, for the trial is pruned, cancelled, lost, or has diverged.
        Raises: ValueError if the study's objective is not among the metrics.
        """
        found = {name: float(value) for name, value in metrics.items()}
        if self.work.metric not in found:
            raise ValueError(
                f"report({step}) lacks {self.work.metric}, the objective of {self.study}; "
                f"it has {', '.join(found) or 'nothing'}"
            )
        point = {
            "step": operator.index(step),
            "metrics": {name: wire.show_number(value) for name, value in found.items()},
        }
        if self._send("reports", {"seq": self._seq + 1, "points": [point]}):
            self._seq, self._step, self._value = self._seq + 1, step, found[self.work.metric]
        return self.should_stop

    @property
    def should_stop(self) -> bool:
        """Whether the trial is over, as far as was heard by now, or has diverged."""
        return self.state is not None or (self._seq > 0 and not math.isfinite(self._value))

    def tell(self, value: float | Mapping[str, float]) -> None:
        """End the trial with its objective's value after all its epochs, or with several metrics by name."""
        self.report(self.epochs, value if isinstance(value, Mapping) else {self.work.metric: value})
        self.finish()

    def finish(self) -> None:
        """End the trial: complete, or pruned as diverged if the last value is not finite. The service works
        out the objective from what was reported. Raises: ValueError if that was nothing."""
        if self.state is None and self._seq == 0:
            raise ValueError(f"trial {self.number} ends without a report: report(step, {{…}}) or tell(value)")
        if not math.isfinite(self._value):
            self._end("finish", "pruned", {"state": "pruned", "stop_reason": "diverged"})
        else:
            reason = "budget" if self._step >= self.epochs else "early_stopping"
            self._end("finish", "complete", {"state": "complete", "stop_reason": reason})

    def fail(self, reason: str | BaseException) -> None:
        """End the trial as failed: a person must repair something before it is tried again."""
        kind = type(reason).__name__ if isinstance(reason, BaseException) else "failed"
        trace = "".join(traceback.format_exception(reason)) if isinstance(reason, BaseException) else ""
        error = {
            "kind": kind[:128],
            "message": _kept(str(reason))[:MESSAGE_CHARACTERS],
            "traceback": _kept(trace)[-TRACEBACK_CHARACTERS:],
        }
        self._end("finish", "failed", {"state": "failed", "stop_reason": "error", "error": error})

    def release(self) -> None:
        """Hand the trial back, to be run from its beginning by whoever asks next."""
        self._end("release", "released", {"cause": "shutdown"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """An exception fails the trial, an interrupt hands it back."""
        if isinstance(error, Exception):
            self.fail(error)
        elif error is not None:
            self.release()
        else:
            self._finish_or_fail()

    def _finish_or_fail(self) -> None:
        try:
            self.finish()
        except ValueError as e:
            self.fail(e)
            raise

    def _end(self, route: str, state: str, body: Mapping[str, Any]) -> None:
        if self._send(route, body):
            self._is_over(state)

    def _send(self, route: str, body: Mapping[str, Any], *, retry_for: float | None = None) -> bool:
        """Whether it was taken; if not, the trial is over."""
        if self.state is None:
            call = Call("POST", ("leases", self._trial_id, route), dict(body), headers=self._lease)
            try:
                self._client.call(call, retry_for=retry_for)
            except AlreadyFinal as e:
                self._is_over(str((e.outcome or {}).get("state", "lost")))
            except LeaseLost:
                self._is_over("lost")
            else:
                return True
        return False

    def _is_over(self, state: str) -> None:
        with self._ending:
            if self.state is None:
                self.state = state
                self._over.set()
                self._when_over()


def _beat(
    trial_of: weakref.ref[AskedTrial], over: threading.Event, ttl_seconds: float, let_go: Callable[[], None]
) -> None:
    """Keep a lease until the trial is over, or nobody holds it any more: then it runs out, and its slot is
    free. What the client is patient for would take longer than a lease lasts, so each beat is tried once."""
    rest = ttl_seconds / 3
    while not over.wait(rest):
        trial = trial_of()
        if trial is None:
            over.wait(ttl_seconds)
            return let_go()
        try:
            trial._send("heartbeat", {}, retry_for=0)
            rest = ttl_seconds / 3
        except TunesmithError:  # away: the next may be heard; refused: so is what the loop sends
            rest = ttl_seconds / 10
        del trial
    return None


def _kept(text: str) -> str:
    """Lone surrogates and NUL, which no database keeps, spelled out."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
