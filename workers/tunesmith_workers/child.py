"""The trainer child: one warm process a slot, on the other end of the supervisor's socket.

    python -m tunesmith_workers.child --fd 5 --tasks my_tasks.py --data spam=spam.npz --threads 1

In a slot with several devices it is one rank of several, which torchrun starts with `--connect` (see
`torchrun`, `gang`).

It trains one trial after another and says what `messages` lists. It has no token and no network of
its own to speak to, and it does not outlive its supervisor: the kernel kills it with its parent, and
the end of the socket ends it. SIGTERM, SIGINT and SIGUSR1 are the supervisor's to answer, so they are
ignored.
"""

from __future__ import annotations

import argparse
import importlib
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tunesmith_service.wire import WorkOrder, show_number

from tunesmith_workers import gang, kinds, memory, messages, rng, trainer
from tunesmith_workers.chatter import Chatter
from tunesmith_workers.endings import BUDGET, Artifact, Ending, EpochResult, Said, Saved, Wish
from tunesmith_workers.loop import Trial, TrialEnded
from tunesmith_workers.parent import die_with
from tunesmith_workers.snapshots import SnapshotCorrupt, WrittenFile
from tunesmith_workers.tasks import builtin
from tunesmith_workers.tasks.registry import Loop, Registry, TaskError, versions
from tunesmith_workers.weights import WeightsError

_MESSAGE_CHARS, _TRACEBACK_CHARS = 16_384, 65_536  # what wire.TrialError takes


def main(arguments: list[str] | None = None) -> None:
    parent = os.getppid()
    options = _parser().parse_args(arguments)
    die_with(parent)
    for name in options.ignore:  # a batch system may send them to every process of a job
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    connection = _connection(options.fd, options.connect)  # so that an early end is seen at once
    try:
        registry = builtin.registry(
            [Path(f) for f in options.tasks], dict(options.data), dict(options.weights)
        )
    except (TaskError, WeightsError) as e:
        sys.exit(str(e))
    warm_up()
    rank = int(os.environ["RANK"]) if options.connect else 0  # of torchrun's; else it may be anybody's
    link = Link(connection)
    link.say(ready(registry, rank))
    device = _device(rank)
    while True:
        run_order(link, registry, link.next_order(), device=device, threads=options.threads, rank=rank)


def _connection(fd: int | None, path: str | None) -> socket.socket:
    if path is None:
        return socket.socket(fileno=fd)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _device(rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if rank == 0:
        return torch.device("cuda")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tunesmith_workers.child", description="For the supervisor alone.")
    ends = parser.add_mutually_exclusive_group(required=True)
    ends.add_argument("--fd", type=int, help="this end of the socket to the supervisor")
    ends.add_argument("--connect", metavar="PATH", help="the supervisor's socket, of a rank of a gang")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="SIGNAL", help="the supervisor's to answer"
    )
    parser.add_argument("--tasks", action="append", default=[], metavar="FILE", help="a task file")
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=FILE", type=_named, help="a data file as a task"
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=FILE",
        type=_named,
        help="a file to start from",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads that torch computes with")
    return parser


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"write NAME=FILE, such as spam=spam.npz, got {text!r}")
    return name, Path(path)


def warm_up() -> None:
    """What must be settled before the first trial computes."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS sums in any order
    # torch imports this at the first optimizer step: seconds that would count as the first epoch's.
    importlib.import_module("torch._dynamo")


def ready(registry: Registry, rank: int) -> dict[str, Any]:
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    return {
        "say": "ready", "tasks": registry.digests(), "devices": devices, "versions": versions(),
        "rank": rank, "pid": os.getpid(),
    }  # fmt: skip


@dataclass(slots=True)
class Order:
    """A trial to run, and what the supervisor wants of it by now; set by the reading thread."""

    message: Mapping[str, Any]
    wish: Wish | None = None

    def asked(self) -> Wish | None:
        return self.wish


class Link:
    """The socket. A thread reads, so that a wish is seen between two batches; any thread may say."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._saying = threading.Lock()
        self._newest = Order({})
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def say(self, *told: Mapping[str, Any]) -> None:
        lines = b"".join(map(messages.encode, told))
        with self._saying:
            self._connection.sendall(lines)

    def next_order(self) -> Order:
        return self._orders.get()

    def _read(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    self._take(messages.decode(line))
        finally:
            # The supervisor is gone, or speaks another language: nothing is left to train for. The
            # main thread may be deep in a kernel, so no exception would reach it in time.
            os._exit(1)

    def _take(self, message: dict[str, Any]) -> None:
        match message["do"]:
            case "run":
                self._newest = Order(message)
                self._orders.put(self._newest)
            case "hand_back" | "abandon" as wish:
                self._newest.wish = wish


def run_order(
    link: Link, registry: Registry, order: Order, *, device: torch.device, threads: int, rank: int
) -> None:
    """Run one trial and say how it ended, whatever happens. Ranks above 0 say nothing else."""
    if rank > 0:
        link.say(spoken(_ended(registry, order, device=device, threads=threads, say=lambda said: None)))
        return
    chatter = Chatter(lambda text: link.say({"say": "log", "text": text}))
    held: list[dict[str, Any]] = []  # the last point comes with the ending, so that one request has both

    def say(said: Said) -> None:
        chatter.flush()
        held.append(spoken(said))
        if not (isinstance(said, EpochResult) and said.is_last):
            link.say(*held)
            held.clear()

    with chatter:
        ending = _ended(registry, order, device=device, threads=threads, say=say)
    say(ending)


def _ended(registry: Registry, order: Order, **how: Any) -> Ending:
    try:
        return train(registry, order, **how)
    except (Exception, SystemExit) as e:
        return failure(e)


def train(registry: Registry, order: Order, *, device: torch.device, threads: int, say: Any) -> Ending:
    """Run the trial on the built-in trainer or on its own loop, with as many ranks as it asks for; `say` gets
    all but the ending."""
    work = WorkOrder.model_validate(order.message["work"])
    ranks = messages.ranks(order.message["work"])
    with gang.joined(ranks, f"order-{order.message.get('order')}", device) as ours:
        return _train(registry, order, work, ours, device=device, threads=max(1, threads // ranks), say=say)


def _train(
    registry: Registry, order: Order, work: WorkOrder, ours: gang.Gang, *, device: torch.device, threads: int,
    say: Any,
) -> Ending:  # fmt: skip
    resume = Path(order.message["resume"]) if order.message.get("resume") else None
    scratch = Path(order.message["scratch"])
    members = [Path(m) for m in order.message.get("members", ())]
    entry = registry[work.task]
    if isinstance(entry.task, Loop) and work.kind == "train":
        trial = Trial(
            work, device=device, scratch=scratch, say=say, asked=order.asked, resume=resume, gang=ours
        )
        rng.begin(trial.seed, threads)
        with suppress(TrialEnded):
            entry.task.run(trial)
        return trial.ending()
    place = kinds.Place(device, scratch, resume, members, order.asked, threads, ours)
    if ours.rank > 0:
        trainer.follow(entry, work, place)
        return BUDGET
    for said in kinds.run(entry, work, place):
        if isinstance(said, Ending):
            return said
        say(said)
    raise RuntimeError(f"{work.kind} stopped without an ending")


def spoken(said: Said) -> dict[str, Any]:
    """A message as it travels."""
    if isinstance(said, EpochResult):
        metrics = {name: show_number(value) for name, value in said.metrics.items()}
        return {"say": "points", "points": [{"step": said.step, "metrics": metrics}]}
    if isinstance(said, Saved):
        position = {"step": said.step, "batch": said.batch, "final": said.final}
        return {"say": "snapshot", **position, **_described(said.file)}
    if isinstance(said, Artifact):
        return {"say": "artifact", "name": said.name, **_described(said.file)}
    return {
        "say": "ended",
        "state": said.state,
        "stop_reason": said.stop_reason,
        "error": said.error,
        "retryable": said.retryable,
    }


def _described(file: WrittenFile) -> dict[str, Any]:
    return {"path": str(file.path), "sha256": file.sha256, "size": file.size}


def failure(error: BaseException) -> Ending:
    """A failed trial, with what a person needs to repair it. Faults of the machine are retryable."""
    kind = kind_of(error)
    text = "".join(traceback.format_exception(error))
    said = {"kind": kind, "message": str(error)[:_MESSAGE_CHARS], "traceback": text[-_TRACEBACK_CHARS:]}
    retryable = kind in ("out_of_memory", "device_fault", messages.RANK_LOST)
    return Ending("failed", "error", error=said, retryable=retryable)


def kind_of(error: BaseException) -> str:
    """What to call an error: its class, or a name of ours for faults that classes do not tell apart."""
    text = str(error)
    if isinstance(error, SnapshotCorrupt):
        return "snapshot_corrupt"
    if memory.ran_out(error):
        return "out_of_memory"
    if isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and text.startswith(("CUDA error", "cuDNN error", "CUBLAS error"))
    ):
        return "device_fault"
    if gang.is_of_a_lost_rank(error):
        return messages.RANK_LOST
    return type(error).__name__


if __name__ == "__main__":
    main()
