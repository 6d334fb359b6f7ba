"""One process a machine: registers the worker and owns its slots. No torch here.

A supervisor that was killed is followed by one with the same worker id and a new boot id: what the
old one had not sent is sent first, under its own leases; then registering hands its trials back.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from random import Random

import structlog
from tunesmith_service import wire
from tunesmith_service.client import (
    Forbidden,
    Refused,
    Superseded,
    Unauthorized,
    Unavailable,
    WorkerClient,
    same_service,
)

from tunesmith_workers import devices, gpu_memory, signals
from tunesmith_workers.child_process import ChildStartError, cleaned
from tunesmith_workers.delivery import Delivery
from tunesmith_workers.errands import Patience, Tools
from tunesmith_workers.slot import Seat, Slot
from tunesmith_workers.spool import Spool, leftovers
from tunesmith_workers.state import ALIVE_SECONDS, State

CLAIM_SECONDS = 20.0
WATCHING_SECONDS = 5.0  # with files that may be edited: they are looked at before each claim
TROUBLE_SECONDS = 60.0  # between two lines about the same trouble


class NotTakenError(Exception):
    """The service does not take this worker, such as one that belongs to another project."""


FATAL = (ChildStartError, Unauthorized, Forbidden, NotTakenError)


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asks of a worker.

    Attributes:
        tasks: files that define tasks. data: data files by the name of the task they become. weights: files
            that trials may start from, by the name that they ask for.
        once: take one trial a slot, then leave.
        exit_when_idle: leave after so many seconds without any trial; None: never.
        signals: that hand all trials back, with the cause that is given.
    """

    url: str
    token: str
    name: str
    tasks: tuple[Path, ...] = ()
    data: Mapping[str, Path] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    once: bool = False
    exit_when_idle: float | None = None
    signals: Mapping[signal.Signals, str] = field(default_factory=lambda: signals.named(signals.USUAL))
    patience: Patience = field(default_factory=Patience)


class Supervisor:
    """`run` returns when every slot has ended. An `Owner` of its slots."""

    def __init__(
        self,
        options: Options,
        state: State,
        slots: devices.Slots,
        *,
        environ: Mapping[str, str] | None = None,
        random: Random | None = None,
    ) -> None:
        self._options, self._state = options, state
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger().bind(worker=options.name)
        self.start = state.start(len(slots.devices))
        self._scratch = state.scratch / self.start.boot_id
        random = random or Random(secrets.randbits(64))  # noqa: S311  (jitter, not a secret)
        client = WorkerClient(options.url, options.token, random=random, on_trouble=self._on_trouble)
        self.tools = Tools(client, options.url, state.spool, options.patience, random)
        environ = os.environ if environ is None else environ
        self._all_devices = [device for own in slots.devices for device in own]
        self._wire_slots = [
            wire.Slot(slot_id=slot_id, devices=[d.name for d in own])
            for slot_id, own in zip(self.start.slot_ids, slots.devices, strict=True)
        ]
        self._slots = [
            Slot(self, self._seat(i, slot_id, own, slots.threads, environ), self._log, once=options.once)
            for i, (slot_id, own) in enumerate(zip(self.start.slot_ids, slots.devices, strict=True))
        ]
        self._declaring = asyncio.Lock()
        self._declared: dict[str, str] | None = None
        self._leftovers: asyncio.Task[None] | None = None
        self._busy = 0
        self._idle_since: float | None = None
        self._draining = False
        self.was_stopped = False
        self._trouble_at: float | None = None

    def _seat(
        self, number: int, slot_id: str, own: tuple[devices.Device, ...], threads: int,
        environ: Mapping[str, str],
    ) -> Seat:  # fmt: skip
        options = self._options
        scratch = self._scratch / str(number)
        scratch.mkdir(parents=True)
        arguments = ["--threads", str(threads)]
        arguments += [part for number in options.signals for part in ("--ignore", number.name)]
        arguments += [part for file in options.tasks for part in ("--tasks", str(file))]
        named = [("--data", options.data), ("--weights", options.weights)]
        arguments += [
            p for flag, files in named for name, file in files.items() for p in (flag, f"{name}={file}")
        ]
        clean = cleaned(environ) | devices.environment(own, threads) | {"TMPDIR": str(scratch)}
        read = (*options.data.values(), *options.weights.values())
        memory = gpu_memory.of(own, self._all_devices, environ)
        return Seat(number, slot_id, scratch, arguments, clean, options.tasks, read, memory, len(own))

    async def run(self) -> None:
        """Serve until stopped by a signal, or by `once` or `exit_when_idle`.

        Raises: ChildStartError if a task or data file cannot be used; Unauthorized or Forbidden if the
            service does not take the token; NotTakenError if it does not take the worker.
        """
        loop = asyncio.get_running_loop()
        for number, cause in self._options.signals.items():
            loop.add_signal_handler(number, self.stop, cause)
        self._log.info("started", url=self._options.url, slots=len(self._slots), state=self._state.directory)
        # Before the trainers' slow start: the leases that these writes belong to run out.
        self._leftovers = asyncio.create_task(self._send_leftovers(), name="leftovers")
        awake = asyncio.create_task(self._show_awake(), name="awake")
        try:
            await self._serve_all()
        finally:
            awake.cancel()
            self._leftovers.cancel()
            for number in self._options.signals:
                loop.remove_signal_handler(number)
            await self.tools.client.aclose()
            self._log.info("stopped")

    async def _show_awake(self) -> None:
        while True:
            self._state.touch()
            await self.tools.sleep(ALIVE_SECONDS)

    def stop(self, cause: str) -> None:
        """Hand everything back and leave; a second time: at once."""
        self.was_stopped = True
        self._log.info("stopping", cause=cause)
        for slot in self._slots:
            slot.stop(cause)

    async def _serve_all(self) -> None:
        serving = {asyncio.create_task(self._serve(slot)) for slot in self._slots}
        done, others = await asyncio.wait(serving, return_when=asyncio.FIRST_EXCEPTION)
        failed = [e for task in done if not task.cancelled() and (e := task.exception()) is not None]
        if failed:
            self._log.error("cannot_go_on", reason=str(failed[0]))
            self.stop("shutdown")
            if others:
                await asyncio.wait(others)
            raise failed[0]

    async def _serve(self, slot: Slot) -> None:
        """A fault of ours in one slot must not end the trials of the others."""
        while True:
            try:
                return await slot.run()
            except FATAL:
                raise
            except Exception:
                self._log.exception("slot_failed", detail="it begins anew")
                await self.tools.sleep(5.0)

    # --- what slots need ---

    @property
    def has_declared(self) -> bool:
        return self._declared is not None

    async def declare(self, tasks: Mapping[str, str], *, again: bool = False) -> None:
        async with self._declaring:
            if self._declared == tasks and not again:
                return
            if self._leftovers is not None:
                await asyncio.shield(self._leftovers)
            await self._register(tasks)
            before, self._declared = self._declared, dict(tasks)
            if self._idle_since is None:  # until now its trainers started, which may take longer
                self._idle_since = self.tools.clock()
            self._log.info("registered", tasks=sorted(tasks))
            for name in sorted(tasks):
                if before is not None and before.get(name) != tasks[name]:
                    self._log.info("task_changed", task=name, digest=tasks[name][:12])

    async def _register(self, tasks: Mapping[str, str]) -> None:
        body = wire.Register(
            worker_id=self.start.worker_id, boot_id=self.start.boot_id, starts=self.start.starts,
            name=self._options.name, version=metadata.version("tunesmith"), tasks=dict(tasks),
            slots=self._wire_slots,
        )  # fmt: skip
        try:
            await self.tools.client.register(body)
        except (Unauthorized, Forbidden):
            raise
        except Superseded as e:  # the state directory was put back from a copy, or another has one
            known = e.outcome["starts"] if e.outcome else 0
            self.start = self._state.start(len(self._slots), after=known)
            self._log.warning("superseded", reason=e.detail, detail="registering as a new start")
            await self._register(tasks)
        except Refused as e:
            raise NotTakenError(e.detail) from e

    async def _send_leftovers(self) -> None:
        for path in leftovers(self._state.spool):
            try:
                spool = Spool.load(path)
            except (KeyError, TypeError, ValueError) as e:
                self._log.warning("spool_unreadable", path=str(path), reason=str(e))
                path.unlink()
                continue
            if not same_service(spool.url, self._options.url):
                self._log.warning("spool_of_another_service", url=spool.url, path=str(path))
                continue
            log = self._log.bind(trial_id=spool.lease.trial_id, attempt=spool.lease.attempt)
            count = len(spool)
            try:
                await Delivery(self.tools.client, spool, log=log).flush()
                log.info("leftovers_sent", writes=count)
            except Refused as e:
                log.info("leftovers_refused", writes=count, reason=e.type)
            except (KeyError, ValueError) as e:  # of another version of ours, or damaged
                log.warning("leftovers_unreadable", writes=count, reason=str(e))
            spool.close()
        self._state.empty_scratch(but=self._scratch)

    def claim_seconds(self) -> float:
        options = self._options
        watches = options.tasks or options.data or options.weights
        longest = WATCHING_SECONDS if watches else CLAIM_SECONDS
        if options.exit_when_idle is None:
            return longest
        return max(0.0, min(longest, options.exit_when_idle - self._idle_seconds()))

    def began(self) -> None:
        self._busy += 1

    def ended(self) -> None:
        self._busy -= 1
        self._idle_since = self.tools.clock()

    def found_nothing(self, *, draining: bool) -> None:
        if draining != self._draining:
            self._draining = draining
            self._log.info("draining" if draining else "drained_no_more")
        limit = self._options.exit_when_idle
        if limit is not None and self._busy == 0 and self._idle_seconds() >= limit:
            self._log.info("idle", seconds=round(self._idle_seconds()))
            self.stop("shutdown")

    def _idle_seconds(self) -> float:
        if self._busy or self._idle_since is None:
            return 0.0
        return self.tools.clock() - self._idle_since

    def _on_trouble(self, trouble: Unavailable | None, pause: float) -> None:
        """One line when the service goes away, one a minute while it is, one when it is back."""
        now = self.tools.clock()
        if trouble is None:
            if self._trouble_at is not None:
                self._log.info("service_answers_again")
            self._trouble_at = None
        elif self._trouble_at is None or now - self._trouble_at > TROUBLE_SECONDS:
            self._trouble_at = now
            self._log.warning("service_away", reason=trouble.detail, again_in_seconds=round(pause, 1))
