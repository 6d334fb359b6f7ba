"""What a slot makes of a grant that comes while it stops, or when the trainer it was claimed for has gone.

A claim that hangs, and one whose answer crosses a signal, cannot be had from a real service on demand,
so a desk of our own answers over the real client. The child is a script; `test_child.py` has the real one.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from tunesmith_service.client import WorkerClient
from tunesmith_workers.child_process import ChildProcess, Death
from tunesmith_workers.errands import Tools
from tunesmith_workers.slot import Seat, Slot
from tunesmith_workers.state import Start

URL = "http://127.0.0.1:1"
WORK = {
    "study": "s", "stage": "coarse", "number": 4, "task": "digits", "params": {}, "epochs": 3, "seed": 1,
    "metric": "val/loss", "direction": "minimize",
}  # fmt: skip
GRANT = {"grant": {"trial_id": 7, "incarnation": 1, "attempt": 2, "ttl_seconds": 30, "work": WORK}}
NOTHING: dict[str, Any] = {"grant": None}


class Child:
    """Ready at once; completes whatever it is told to run."""

    pid = 1
    ending: Mapping[str, Any] = {"state": "complete", "stop_reason": "budget"}

    def __init__(self) -> None:
        self.tasks = {"digits": "0" * 64}
        self.is_alive = True
        self.told: list[str] = []
        self._says: asyncio.Queue[Any] = asyncio.Queue()

    async def say(self, message: dict[str, Any]) -> None:
        self.told.append(message["do"])
        self._says.put_nowait({"say": "ended", **self.ending})

    async def next(self) -> Any:
        return await self._says.get()

    async def kill(self) -> Death:
        self.is_alive = False
        return Death(-9, "")


class House:
    """A slot and its owner, with a desk that notes the calls and answers a claim as the test says."""

    start = Start("1" * 32, "2" * 32, starts=1, slot_ids=())
    has_declared = True

    def __init__(self, directory: Path) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.children: list[Child] = []
        self.claimed: Callable[[int], Awaitable[dict[str, Any]]] = nothing
        self.finished: Callable[[], Awaitable[dict[str, Any] | None]] = unclaimed
        self.file = directory / "tasks.py"
        self.file.write_text("")
        spools = directory / "spool"
        spools.mkdir()
        client = WorkerClient(URL, "t", transport=httpx.MockTransport(self.handle))
        self.tools = Tools(client, URL, spools)
        self.seat = Seat(0, "3" * 32, directory / "scratch", [], {}, [self.file], [])
        self.slot = Slot(self, self.seat, structlog.get_logger())

    async def handle(self, request: httpx.Request) -> httpx.Response:
        kind, body = request.url.path.rpartition("/")[2], json.loads(await request.aread())
        self.calls.append((kind, body))
        if kind == "claims":
            return httpx.Response(200, json=await self.claimed(self.kinds().count("claims")))
        claim = await self.finished() if kind == "finish" and body["claim"] else None
        return httpx.Response(200, json={"state": "waiting", "claim": claim})

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.calls]

    async def declare(self, tasks: Mapping[str, str], *, again: bool = False) -> None: ...

    def claim_seconds(self) -> float:
        return 20.0

    def began(self) -> None: ...

    def ended(self) -> None: ...

    def found_nothing(self, *, draining: bool) -> None:
        self.slot.stop("shutdown")


async def nothing(claim: int) -> dict[str, Any]:
    return NOTHING


async def unclaimed() -> None: ...


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(tmp_path)

    async def start(arguments: Any, environ: Any) -> Child:
        house.children.append(Child())
        return house.children[-1]

    monkeypatch.setattr(ChildProcess, "start", start)
    return house


def run(house: House, beside: Callable[[], Awaitable[None]] | None = None) -> None:
    async def both() -> None:
        serving = asyncio.create_task(house.slot.run())
        if beside is not None:
            await beside()
        await asyncio.wait([serving])

    asyncio.run(asyncio.wait_for(both(), 20))


@pytest.mark.parametrize("answer", [GRANT, NOTHING], ids=["granted", "not_granted"])
def test_a_trial_granted_as_the_slot_stops_is_asked_for_and_handed_back(house: House, answer: dict[str, Any]):
    asked = asyncio.Event()

    async def claimed(claim: int) -> dict[str, Any]:
        asked.set()
        if claim == 1:
            await asyncio.Event().wait()  # the answer is lost with the call
        return answer

    async def stop() -> None:
        await asked.wait()
        house.slot.stop("shutdown")

    house.claimed = claimed
    run(house, stop)
    (_, first), (_, second) = house.calls[:2]
    assert second == first | {"wait_seconds": 0}
    assert house.kinds() == ["claims", "claims"] + (["release"] if answer is GRANT else [])
    assert house.children[0].told == []
    assert not house.children[0].is_alive


def edit(house: House) -> None:
    house.file.write_text("# another loop\n")
    os.utime(house.file, ns=(1, 1))


def die(house: House) -> None:
    house.children[0].is_alive = False


@pytest.mark.parametrize("happens", [edit, die])
def test_a_trial_claimed_for_a_trainer_that_has_gone_meanwhile_is_handed_back(
    house: House, happens: Callable[[House], None]
):
    async def claimed(claim: int) -> dict[str, Any]:
        if claim == 1:
            happens(house)
        return [GRANT, GRANT, NOTHING][claim - 1]

    house.claimed = claimed
    run(house)
    assert house.kinds() == ["claims", "release", "claims", "finish", "claims"]
    assert [child.told for child in house.children] == [[], ["run"]]


# --- the next claim, with the finish of the last trial ---

NEXT = {"grant": {**GRANT["grant"], "trial_id": 8}}


def granted_with_the_finish(house: House, then: Callable[[], None] = lambda: None) -> None:
    """The first finish brings the next trial, and something happens before it is answered."""

    async def claimed(claim: int) -> dict[str, Any]:
        return [GRANT, NOTHING][claim - 1]

    async def finished() -> dict[str, Any]:
        if house.kinds().count("finish") == 1:
            then()
            return NEXT
        return NOTHING

    house.claimed, house.finished = claimed, finished


def test_a_trainer_that_stays_warm_is_claimed_for_with_the_finish(house: House):
    granted_with_the_finish(house)
    run(house)
    assert house.kinds() == ["claims", "finish", "finish", "claims"]
    assert [child.told for child in house.children] == [["run", "run"]]
    ids = [body["claim_id"] for _, body in house.calls if "claim_id" in body]
    ids += [body["claim"]["claim_id"] for kind, body in house.calls if kind == "finish"]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("happens", [edit, die])
def test_what_was_granted_with_the_finish_of_a_trainer_that_has_gone_since_is_handed_back(
    house: House, happens: Callable[[House], None]
):
    granted_with_the_finish(house, lambda: happens(house))
    run(house)
    assert house.kinds() == ["claims", "finish", "release", "claims"]
    assert [child.told for child in house.children] == [["run"], []]


def test_what_was_granted_with_the_finish_is_handed_back_as_the_slot_stops(house: House):
    granted_with_the_finish(house, lambda: house.slot.stop("shutdown"))
    run(house)
    assert house.kinds() == ["claims", "finish", "release"]
    assert house.children[0].told == ["run"]


def test_a_slot_that_fails_hands_back_what_was_granted_and_can_begin_anew(house: House):
    granted_with_the_finish(house)
    declared = iter([None, RuntimeError("a fault of ours")])

    async def declare(tasks: Mapping[str, str], *, again: bool = False) -> None:
        if (fault := next(declared, None)) is not None:
            raise fault

    house.declare = declare
    with pytest.raises(RuntimeError, match="a fault of ours"):
        asyncio.run(house.slot.run())
    assert house.kinds() == ["claims", "finish", "release"]
    run(house)
    assert house.kinds() == ["claims", "finish", "release", "claims"]


def test_a_finish_that_is_refused_leaves_its_claim_to_be_asked_for_again(house: House):
    """An earlier copy of it, whose answer was lost, may have been granted a trial."""

    async def claimed(claim: int) -> dict[str, Any]:
        return [GRANT, NEXT, NOTHING][claim - 1]

    handle = house.handle

    async def refusing(request: httpx.Request) -> httpx.Response:
        answer = await handle(request)
        if request.url.path.endswith("/7/finish"):
            problem = {"type": "urn:tunesmith:lease_lost", "title": "", "status": 409, "detail": "gone"}
            return httpx.Response(409, json=problem)
        return answer

    house.claimed = claimed
    house.tools.client = WorkerClient(URL, "t", transport=httpx.MockTransport(refusing))
    run(house)
    assert house.kinds() == ["claims", "finish", "claims", "finish", "claims"]
    assert house.calls[1][1]["claim"].items() <= house.calls[2][1].items()
    assert house.calls[4][1]["claim_id"] != house.calls[2][1]["claim_id"]


def test_what_may_have_been_granted_is_asked_for_and_handed_back_as_the_slot_stops(house: House):
    """The answer to the finish never comes; a second signal does not wait for it."""

    async def claimed(claim: int) -> dict[str, Any]:
        return [GRANT, NEXT][claim - 1]

    async def finished() -> dict[str, Any]:
        house.slot.stop("shutdown")
        house.slot.stop("shutdown")
        await asyncio.Event().wait()
        raise AssertionError

    house.claimed, house.finished = claimed, finished
    run(house)
    assert house.kinds() == ["claims", "finish", "finish", "claims", "release"]
    assert house.calls[2][1]["claim"] is None
    assert house.calls[1][1]["claim"].items() <= house.calls[3][1].items()
    assert house.children[0].told == ["run"]


@pytest.mark.parametrize("kind", ["failed", "once", "edited"])
def test_nothing_is_claimed_with_a_finish_after_which_the_trainer_is_not_used(
    house: House, kind: str, monkeypatch: pytest.MonkeyPatch
):
    granted_with_the_finish(house)
    if kind == "failed":
        error = {"kind": "x", "message": "no", "traceback": ""}
        monkeypatch.setattr(Child, "ending", {"state": "failed", "stop_reason": "error", "error": error})
    elif kind == "once":
        house.slot = Slot(house, house.seat, structlog.get_logger(), once=True)
    else:
        say = Child.say

        async def edited(child: Child, message: dict[str, Any]) -> None:
            edit(house)
            await say(child, message)

        monkeypatch.setattr(Child, "say", edited)
    run(house)
    assert house.kinds()[:2] == ["claims", "finish"]
    assert house.calls[1][1]["claim"] is None
    assert house.children[0].told == ["run"]
