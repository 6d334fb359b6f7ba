"""Plays one seed: a deployment, minutes of faults or a script, calm, and what it came to."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import structlog
from databases import Databases
from history import History
from invariants import Seen, look, violations
from sqlalchemy import Engine
from tunesmith_service import db
from tunesmith_service.clock import SECOND

from simulation.disk import Disk
from simulation.faults import Faults
from simulation.loop import VirtualLoop, end_all
from simulation.network import HOURS, Network
from simulation.people import People
from simulation.server import Host, LoopWriter
from simulation.trainer import Habits, Trainer
from simulation.worker import Machine
from simulation.worker import patches as worker_patches

CALM_SECONDS = 3600.0
"""Everything must have ended so long after the last fault."""


@dataclass
class Outcome:
    """What a seed came to.

    Attributes:
        violations: sentences; empty if all is well.
        text: the history and the faults, to be compared byte for byte.
        counts: how often what happened.
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    text: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    seen: Seen | None = None


Script = Callable[["World"], Awaitable[None]]
"""What happens instead of workers that run by themselves and faults that come at random."""


class World:
    """Everything that a seed sets up."""

    def __init__(self, seed: int, loop: VirtualLoop, root: Path, script: Script | None = None) -> None:
        self.loop, self.seed, self._script = loop, seed, script
        random = self.random("setup")
        self.ttl_seconds = random.choice((15.0, 30.0))
        self.history = History()
        self.notes: list[str] = []
        self.lost: list[tuple[float, float]] = []  # what a restored copy has forgotten
        self.counts: Counter[str] = Counter()
        self.network = Network(loop, self.random("network"), self.history)
        self.disk = Disk(self.random("disk"))
        self.host = Host(loop, root / "home", self.network, self.disk, self.ttl_seconds)
        self.machines = [
            self._machine(i, root, random.choice((1, 1, 1, 2)))
            for i in range(random.choice((2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8, 16)) if script is None else 0)
        ]
        self.people = People(self, self.random("people"))
        self.faults = Faults(self, self.random("faults"))
        Trainer.random = self.random("trainers")
        Trainer.habits = Habits(epoch_seconds=random.choice((2.0, 6.0, 15.0)))
        LoopWriter.random = self.random("writer")

    def _machine(self, i: int, root: Path, slots: int) -> Machine:
        token = self.host.settings.worker_token_file
        random = self.random(f"worker {i}")
        return Machine(self.loop, random, f"w{i}", home=root / f"w{i}", token=token, slots=slots)

    def random(self, what: str) -> Random:
        """A source of its own for each part, so that one more draw here changes nothing there."""
        return Random(f"{self.seed} {what}")

    def note(self, what: str, kind: str = "") -> None:
        self.notes.append(f"{self.loop.time():.6f} {what}")
        self.counts[kind or what] += 1

    async def play(self) -> None:
        self.host.start()
        await self.faults.until(lambda: self.host.is_serving)
        if self._script is not None:
            self.faults.watch()
            await self._script(self)
            return
        for machine in self.machines:
            machine.start()
        await self.people.create_studies()
        await self.faults.rage()
        await self.faults.calm_down()
        await self.faults.until(self.people.all_is_done, CALM_SECONDS, every=10.0)

    async def hours_later(self) -> None:
        """Copies of requests that were under way all the time arrive at another server."""
        self.faults.stop_watching()
        for machine in self.machines:
            if machine.process is not None:
                machine.process.kill()
        if self.host.process is not None:
            self.host.process.kill()
        await self.faults.sleep(HOURS)
        self.host.start()
        await self.faults.until(lambda: self.host.is_serving)
        await self.network.deliver_late()
        await self.faults.sleep(self.ttl_seconds)


def play(seed: int, *, databases: Databases, logs: bool = False, script: Script | None = None) -> Outcome:
    """Play a seed to its end. Never raises for what it finds."""
    outcome = Outcome(seed)
    root = Path(
        tempfile.mkdtemp(prefix="tunesmith-sim-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    )
    url = databases.make("sqlite")
    home = root / "home"
    home.mkdir()
    shutil.move(url.removeprefix("sqlite:///"), home / "tunesmith.db")
    try:
        with _stand_ins(seed, logs=logs), contextlib.ExitStack() as stack:
            loop = VirtualLoop()
            world = World(seed, loop, root, script)
            for patch in (*world.host.patches(), *worker_patches(world.network)):
                stack.enter_context(patch)
            stack.callback(end_all, loop)
            _run(world, outcome)
            world.network.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return outcome


def _run(world: World, outcome: Outcome) -> None:
    bugs: list[str] = []
    world.loop.set_exception_handler(lambda _, context: bugs.append(_bug(context)))
    engine = db.open_engine(world.host.settings.url)
    try:
        try:
            world.loop.run_until_complete(world.play())
            world.loop.run_until_complete(world.hours_later())
        except (RuntimeError, TimeoutError) as error:
            outcome.violations.append(f"I6: {type(error).__name__}: {error}")
        outcome.seen = _look(world, engine)
        outcome.violations += violations(outcome.seen)
        outcome.violations += [f"I6: {told}" for told in world.faults.overdue]
        outcome.violations += [f"a worker ended: {f}" for m in world.machines for f in m.failures]
        outcome.violations += [f"unhandled: {bug}" for bug in bugs]
        outcome.text = "\n".join(world.notes) + "\n" + world.history.text() + _log_text(outcome.seen)
        outcome.counts = world.counts + _counts(outcome.seen)
    finally:
        world.people.close()
        engine.dispose()


def _look(world: World, engine: Engine) -> Seen:
    blobs = world.host.settings.blobs_dir

    def read_blob(sha256: str) -> bytes | None:
        path = blobs / sha256[:2] / sha256
        return path.read_bytes() if path.exists() else None

    return look(
        engine,
        calls=world.history.calls,
        now_us=world.host.now_us(),
        settled=True,
        ttl_us=int(world.ttl_seconds * SECOND),
        tick_us=int(world.host.settings.sweep_seconds * SECOND),
        downs=world.host.downs,
        lost=world.lost,
        read_blob=read_blob,
    )


def _log_text(seen: Seen) -> str:
    return "\n".join(f"{s} {e}" for s, log in seen.logs.items() for e in log) + "\n"


def _counts(seen: Seen) -> Counter[str]:
    counts = Counter(
        {
            "calls": len(seen.calls),
            "maybe": sum(c.maybe for c in seen.calls),
            "trials": len(seen.rows["trials"]),
            "attempts": len(seen.rows["attempts"]),
        }
    )
    counts.update(f"refused {c.refusal}" for c in seen.calls if c.refusal)
    counts.update(f"ended {a.ending}" for a in seen.rows["attempts"])
    return counts


def _bug(context: dict[str, Any]) -> str:
    error = context.get("exception")
    if error is None:
        return str(context.get("message"))
    return f"{context.get('message')}: " + "".join(traceback.format_exception(error))


@contextlib.contextmanager
def _stand_ins(seed: int, *, logs: bool) -> Iterator[None]:
    """Seeded secrets; no log lines, unless somebody wants to read them."""
    random = Random(f"{seed} secrets")
    config = structlog.get_config()
    if not logs:
        structlog.configure(processors=[_drop])
    with (
        mock.patch.object(secrets, "token_hex", lambda n=32: random.randbytes(n).hex()),
        mock.patch.object(secrets, "token_bytes", lambda n=32: random.randbytes(n)),
        mock.patch.object(secrets, "randbits", random.getrandbits),
    ):
        try:
            yield
        finally:
            structlog.configure(**config)


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent
