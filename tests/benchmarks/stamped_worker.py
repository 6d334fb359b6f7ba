"""A worker that writes down when it does what: what `worker_overhead.py` reads.

Run in place of `tunesmith worker`, it is the supervisor; given to itself with --tasks, it is a task file in
the trainer. In both it only wraps functions of the product. Times are the machine's monotonic clock, one
line each in the file that STAMPS names: `seconds event`.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tunesmith_workers.loop import Trial, train

FILE = os.open(os.environ["STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def stamp(event: str, at: float | None = None) -> None:
    os.write(FILE, f"{time.monotonic() if at is None else at:.7f} {event}\n".encode())


def around(owner: Any, name: str, begins: str = "", ends: str = "") -> None:
    """Stamp a function's begin and end, where these have names."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def stamping(*given: Any, **named: Any) -> Any:
        if begins:
            stamp(begins)
        result = function(*given, **named)
        if ends:
            stamp(ends)
        return result

    setattr(owner, name, stamping)


def around_call(owner: Any, name: str, begins: str, ends: str) -> None:
    function = getattr(owner, name)

    @functools.wraps(function)
    async def stamping(*given: Any, **named: Any) -> Any:
        stamp(begins)
        result = await function(*given, **named)
        stamp(ends)
        return result

    setattr(owner, name, stamping)


def of_supervisor() -> None:
    from tunesmith_service import wire
    from tunesmith_service.client import Lease, WorkerClient
    from tunesmith_workers.attempt import Attempt

    for call in ("claim", "report", "log"):
        around_call(WorkerClient, call, f"{call} sent", f"{call} answered")
    finish = WorkerClient.finish

    async def finishing(self: WorkerClient, lease: Lease, body: wire.Finish) -> wire.Finished:
        """With the next claim, which the answer may have a trial for."""
        sent, said = time.monotonic(), await finish(self, lease, body)
        got = ("finish", "claim") if said.claim and said.claim.grant else ("finish",)
        answered = time.monotonic()
        for call in got:
            stamp(f"{call} sent", sent)
            stamp(f"{call} answered", answered)
        return said

    WorkerClient.finish = finishing  # type: ignore[method-assign]
    around_call(WorkerClient, "commit_snapshot", "snapshot commit sent", "snapshot committed")
    around(Attempt, "__init__", begins="attempt begins")
    around(Attempt, "_on_ended", begins="end heard")


def of_trainer() -> None:
    from tunesmith_workers.stepping import Learner
    from tunesmith_workers.training import Training

    child: Any = sys.modules["__main__"]
    around(child, "train", begins="order heard")
    around(Training, "__init__", ends="training made")
    around(Training, "point", begins="point begins", ends="point ends")
    step = Learner.step

    def first(self: Learner, *given: Any) -> Any:
        """Only an epoch's first step costs a stamp."""
        began = time.monotonic()
        seen = step(self, *given)
        if given[-1] == 0:
            stamp("step begins", began)
            stamp("step ends")
        return seen

    Learner.step = first  # type: ignore[method-assign]
    spoken: Callable[..., dict[str, Any]] = child.spoken

    def saying(said: Any) -> dict[str, Any]:
        message = spoken(said)
        if message["say"] == "ended":
            stamp("end said")
        return message

    child.spoken = saying


@train("unused: a task file registers one")
def nothing(trial: Trial) -> None: ...


if __name__ == "__main__":
    from tunesmith_workers.__main__ import worker

    of_supervisor()
    worker()
else:
    of_trainer()
