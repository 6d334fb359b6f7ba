"""What an attempt makes of everything that can happen to it.

The refusals below (no space, a gap, a malformed body, silence for minutes) cannot be had from a real
service on demand, so a desk of our own answers, over the real client; the child is a script of what
it says. Time is virtual. `test_supervisor.py` has the same with real processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import structlog
from tunesmith_service import wire
from tunesmith_service.client import Unauthorized, WorkerClient
from tunesmith_workers.attempt import Attempt
from tunesmith_workers.child_process import Death
from tunesmith_workers.errands import Patience, Tools
from tunesmith_workers.spool import Spool, leftovers

SECRET = "a" * 32
TTL = 30.0
Answer = httpx.Response | Exception | None


class Time:
    """A clock that moves only when told, and sleepers that wake in order."""

    def __init__(self) -> None:
        self.now, self._sleepers, self._order = 0.0, [], itertools.count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), woken))
        await woken

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(200):
            await asyncio.sleep(0)

    async def pass_(self, seconds: float) -> None:
        end = self.now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await self.settle()
        self.now = end


class Desk:
    """The service's side. `answer` may be replaced to refuse; None means: as usual. A report that a finish
    brings along is noted and refused as by itself, before the finish."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.requests: list[str] = []
        self.answer: Callable[[str, Any], Answer] = lambda what, body: None
        self.snapshot = b"weights"
        self.snapshots: dict[str, bytes] = {}  # by hash, where there are several

    async def handle(self, request: httpx.Request) -> httpx.Response:
        raw = await request.aread()
        what = request.url.path.removeprefix("/api/v1/leases/7/")
        kind = "blob" if what.startswith("blobs/") else what
        body = json.loads(raw) if kind != "blob" and raw else raw
        self.requests.append(kind)
        if kind == "finish" and body["report"]:
            refused = self._take("reports", body["report"])
            if refused is not None:
                return refused
        answer = self._take(kind, body)
        if answer is not None:
            return answer
        if kind.startswith("snapshots/"):
            stored = self.snapshots.get(kind.removeprefix("snapshots/"), self.snapshot)
            return httpx.Response(200, content=stored)
        state = {"finish": "complete", "release": "waiting"}.get(kind)
        return httpx.Response(200, json={"ttl_seconds": TTL} if state is None else {"state": state})

    def _take(self, kind: str, body: Any) -> httpx.Response | None:
        """Note it. Returns: a refusal."""
        answer = self.answer(kind, body)
        if isinstance(answer, Exception):
            raise answer
        self.calls.append((kind if answer is None else f"{kind}!{answer.status_code}", body))
        return answer

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.calls if kind != "heartbeat"]

    def body(self, kind: str) -> Any:
        return next(body for called, body in self.calls if called == kind)


class ScriptedChild:
    """What `ChildProcess` is to an attempt: it says what the test puts in, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.orders: list[dict[str, Any]] = []
        self._says: asyncio.Queue[dict[str, Any] | Death] = asyncio.Queue()
        self.is_alive = True

    async def say(self, message: dict[str, Any]) -> None:
        self.told.append(message["do"])
        self.orders.append(message)

    def speak(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self._says.put_nowait(message)

    def die(self, code: int, tail: str = "") -> None:
        self.is_alive = False
        self._says.put_nowait(Death(code, tail))

    async def next(self) -> dict[str, Any] | Death:
        return await self._says.get()

    async def kill(self) -> Death:
        if self.is_alive:
            self.told.append("killed")
            self.die(-9)
        return Death(-9, "")


class Stage:
    """An attempt with its desk, child and time."""

    def __init__(
        self, directory: Path, resume: str | None, patience: Patience, members: Sequence[bytes]
    ) -> None:
        self.time, self.desk, self.child, self.directory = Time(), Desk(), ScriptedChild(), directory
        client = WorkerClient(
            "http://127.0.0.1:1", "t", transport=httpx.MockTransport(self.desk.handle),
            random=Random(1), clock=self.time.clock, sleep=self.time.sleep,
        )  # fmt: skip
        work = wire.WorkOrder(
            study="s", stage="coarse", number=4, task="digits", params={"lr": 0.1}, epochs=3, seed=1,
            metric="val/loss", direction="minimize",
            resume=wire.SnapshotRef(sha256=resume, step=2, size=7) if resume else None,
            members=[wire.SnapshotRef(sha256=digest(m), step=3, size=len(m)) for m in members],
        )  # fmt: skip
        self.desk.snapshots = {digest(m): m.replace(b"broken", b"damaged") for m in members}
        grant = wire.Grant(trial_id=7, incarnation=1, attempt=2, ttl_seconds=TTL, work=work)
        (directory / "spool").mkdir()
        tools = Tools(
            client,
            "http://127.0.0.1:1",
            directory / "spool",
            patience,
            Random(1),
            self.time.clock,
            self.time.sleep,
        )
        log = structlog.get_logger()
        self.attempt = Attempt(tools, self.child, grant, SECRET, directory / "scratch", log=log)  # type: ignore[arg-type]

    def file(self, name: str, data: bytes = b"snapshot") -> dict[str, Any]:
        path = self.directory / "scratch" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return {"path": str(path), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    def waiting(self) -> list[str]:
        """Kinds of what the spool left behind holds."""
        (path,) = leftovers(self.directory / "spool")
        return [entry.kind for entry in Spool.load(path)._waiting]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def exists(file: dict[str, Any]) -> bool:
    return Path(file["path"]).exists()


def read(path: str) -> bytes:
    return Path(path).read_bytes()


Story = Callable[[Stage, "asyncio.Task[bool]"], Awaitable[None]]


async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    """In place of `asyncio.to_thread`, for what a thread takes is not time that `settle` can wait for."""
    return work(*arguments)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asyncio, "to_thread", at_once)

    def play(
        story: Story, *, resume: str | None = None, patience: Patience | None = None,
        before: Callable[[Attempt], None] = lambda attempt: None, away: str | None = None,
        members: Sequence[bytes] = (),
    ) -> bool | BaseException:  # fmt: skip
        """Run a story beside the attempt; whether the child was warm, or what `drive` raised.

        `before` is done to the attempt before it begins; calls of the kind `away` get no answer from then on.
        """

        async def run() -> bool | BaseException:
            stage = Stage(tmp_path, resume, patience or Patience(), members)
            if away is not None:
                stage.desk.answer = always(away, httpx.ConnectError("refused"))
            before(stage.attempt)
            driving = asyncio.create_task(stage.attempt.drive())
            await stage.time.settle()
            await story(stage, driving)
            await stage.time.settle()
            assert driving.done(), (
                f"the attempt goes on; child was told {stage.child.told}, {stage.desk.kinds()}"
            )
            return driving.exception() or driving.result()

        return asyncio.run(run())

    return play


def points(*steps: int) -> dict[str, Any]:
    return {"say": "points", "points": [{"step": s, "metrics": {"val/loss": 1 / s}} for s in steps]}


def ended(state: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"say": "ended", "state": state, "stop_reason": reason, "error": None, "retryable": False} | more


def refused(status: int, kind: str, **outcome: Any) -> httpx.Response:
    body = {
        "type": f"urn:tunesmith:{kind}",
        "title": kind,
        "status": status,
        "detail": kind,
        "outcome": outcome,
    }
    return httpx.Response(status, json=body)


def always(kind: str, answer: Answer) -> Callable[[str, Any], Answer]:
    return lambda what, body: answer if what == kind else None


def test_a_trial_is_finished_after_all_its_reports_and_its_last_snapshot(play):
    async def story(stage: Stage, _: Any) -> None:
        assert stage.child.orders[0]["work"]["params"] == {"lr": 0.1}
        assert stage.child.orders[0]["resume"] is None
        file = stage.file("final")
        stage.child.speak(
            points(1), points(2), points(3), {"say": "log", "text": "done\n"},
            {"say": "snapshot", "step": 3, "final": True, **file}, ended("complete", "budget"),
        )  # fmt: skip
        await stage.time.pass_(3)
        kinds = stage.desk.kinds()
        assert kinds[-3:] == ["blob", "snapshots", "finish"] or kinds[-4:-1] == ["blob", "snapshots", "logs"]
        assert kinds[-1] == "finish"
        steps = [p["step"] for kind, body in stage.desk.calls if kind == "reports" for p in body["points"]]
        assert steps == [1, 2, 3]
        assert stage.desk.body("snapshots") == {"step": 3, "sha256": file["sha256"]}
        assert stage.desk.body("finish")["state"] == "complete"
        assert not exists(file)
        assert leftovers(stage.directory / "spool") == []

    assert play(story) is True


def test_the_last_report_goes_with_the_finish_in_one_request(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.child.speak(points(1))
        await stage.time.settle()
        stage.child.speak(points(2), ended("complete", "budget"))
        await stage.time.settle()
        assert stage.desk.kinds() == ["reports", "reports", "finish"]
        assert [kind for kind in stage.desk.requests if kind != "heartbeat"] == ["reports", "finish"]

    assert play(story) is True


def test_a_diverged_trial_is_finished_as_pruned_and_its_child_stays_warm(play):
    async def story(stage: Stage, _: Any) -> None:
        bad = {"say": "points", "points": [{"step": 1, "metrics": {"val/loss": "NaN"}}]}
        stage.child.speak(bad, ended("pruned", "diverged"))
        await stage.time.settle()
        assert stage.desk.body("reports")["points"][0]["metrics"] == {"val/loss": "NaN"}
        assert stage.desk.body("finish")["stop_reason"] == "diverged"

    assert play(story) is True


def test_a_failed_trial_says_why_and_its_child_is_replaced(play):
    async def story(stage: Stage, _: Any) -> None:
        error = {"kind": "KeyError", "message": "x" * 20_000, "traceback": "begin" + "y" * 70_000 + "end"}
        stage.child.speak(ended("failed", "error", error=error))
        await stage.time.settle()
        sent = stage.desk.body("finish")["error"]
        assert (sent["kind"], len(sent["message"]), len(sent["traceback"])) == ("KeyError", 16_384, 65_536)
        assert sent["traceback"].endswith("end")

    assert play(story) is False


def test_a_child_that_dies_fails_the_trial_retryably_and_says_by_which_signal(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.child.speak(points(1))
        stage.child.die(-11, tail="Fatal Python error: Segmentation fault\n")
        await stage.time.settle()
        finish = stage.desk.body("finish")
        assert (finish["state"], finish["retryable"]) == ("failed", True)
        assert finish["error"]["kind"] == "killed"
        assert "SIGSEGV" in finish["error"]["message"]
        assert "Segmentation fault" in finish["error"]["traceback"]
        assert stage.desk.kinds() == ["reports", "finish"]
        assert stage.time.now < 2

    assert play(story) is False


@pytest.mark.parametrize(
    ("how", "kind", "stays"),
    [("in_a_report", "already_final", True), ("in_a_beat", "lease_lost", False)],
)
def test_a_trial_that_was_pruned_or_lost_is_abandoned_and_nothing_more_is_written(
    play, how: str, kind: str, stays: bool
):
    async def story(stage: Stage, driving: Any) -> None:
        call = "reports" if how == "in_a_report" else "heartbeat"
        stage.desk.answer = always(call, refused(409, kind, state="pruned"))
        stage.child.speak(points(1)) if how == "in_a_report" else await stage.time.pass_(12)
        await stage.time.settle()
        assert stage.child.told == ["run", "abandon"]
        stage.child.speak(points(2), {"say": "snapshot", "step": 2, **stage.file("s")}, ended("abandoned"))
        await stage.time.settle()
        assert [k for k in stage.desk.kinds() if not k.endswith("!409")] == []
        assert driving.done()

    assert play(story) is stays  # whether the child takes the next trial


def test_a_child_that_fails_while_it_abandons_takes_no_other_trial(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.desk.answer = always("reports", refused(409, "already_final", state="pruned"))
        stage.child.speak(points(1))
        await stage.time.settle()
        stage.child.speak(ended("failed", "error"))

    assert play(story) is False


def test_a_child_that_does_not_abandon_in_time_is_left_to_be_killed_within_five_seconds(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = always("reports", refused(409, "lease_lost"))
        stage.child.speak(points(1))
        await stage.time.pass_(3)
        assert not driving.done()
        await stage.time.pass_(1.5)
        assert driving.done()

    assert play(story) is False


def test_a_refused_token_ends_the_attempt_and_is_passed_on(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.desk.answer = always("reports", refused(401, "unauthorized"))
        stage.child.speak(points(1))
        await stage.time.settle()
        stage.child.speak(ended("abandoned"))

    assert isinstance(play(story), Unauthorized)


def test_a_service_without_space_for_a_snapshot_is_asked_again_before_the_finish(play):
    async def story(stage: Stage, _: Any) -> None:
        file = stage.file("s")
        stage.desk.answer = always("blob", refused(507, "no_space"))
        stage.child.speak(points(1), {"say": "snapshot", "step": 1, **file}, points(2))
        await stage.time.settle()
        assert stage.desk.kinds() == ["reports", "blob!507", "reports"]
        assert exists(file)
        stage.desk.answer = lambda what, body: None
        stage.child.speak(ended("complete", "budget"))
        await stage.time.settle()
        assert stage.desk.kinds()[3:] == ["blob", "snapshots", "finish"]
        assert not exists(file)

    assert play(story) is True


def test_a_report_that_finds_no_space_waits_for_it_and_the_trial_goes_on(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = always("reports", refused(507, "no_space"))
        stage.child.speak(points(1), ended("complete", "budget"))
        await stage.time.pass_(60)
        assert not driving.done()
        stage.desk.answer = lambda what, body: None
        await stage.time.pass_(60)
        assert stage.desk.kinds()[-2:] == ["reports", "finish"]

    assert play(story) is True


def test_reports_that_the_service_misses_are_sent_again_in_order(play):
    async def story(stage: Stage, _: Any) -> None:
        for step in (1, 2):
            stage.child.speak(points(step))
            await stage.time.settle()
        gaps = iter([refused(409, "seq_gap", expected_seq=2)])
        stage.desk.answer = lambda what, body: next(gaps, None) if what == "reports" else None
        stage.child.speak(points(3), ended("complete", "budget"))
        await stage.time.settle()
        assert [body["seq"] for kind, body in stage.desk.calls if kind == "reports"] == [1, 2, 2, 3]

    assert play(story) is True


def test_what_the_service_cannot_read_fails_the_trial_as_a_protocol_error(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.desk.answer = always("reports", refused(422, "unprocessable"))
        stage.child.speak(points(1), points(2))
        await stage.time.settle()
        finish = stage.desk.body("finish")
        assert (finish["state"], finish["error"]["kind"], finish["retryable"]) == (
            "failed",
            "protocol_error",
            False,
        )
        assert stage.child.told == ["run", "killed"]

    assert play(story) is False


@pytest.mark.parametrize(
    "nonsense",
    [
        {"say": "sing"},
        {"no": "say"},
        {"say": "points", "points": [{"step": -1, "metrics": {"a": 1}}]},
        {"say": "points", "points": [{"step": 1, "metrics": {}}]},
        {"say": "snapshot", "step": 1},
        {"say": "ended", "state": "tired", "stop_reason": None},
        {"say": "ended", "state": "abandoned", "stop_reason": None},
    ],
    ids=str,
)
def test_a_child_that_breaks_the_protocol_fails_the_trial_and_keeps_what_was_sound(play, nonsense):
    async def story(stage: Stage, _: Any) -> None:
        stage.child.speak(points(1), nonsense)
        await stage.time.settle()
        assert stage.desk.kinds() == ["reports", "finish"]
        assert stage.desk.body("finish")["error"]["kind"] == "protocol_error"

    assert play(story) is False


def test_training_goes_on_while_the_service_is_away_and_reports_arrive_in_order_afterwards(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = lambda what, body: httpx.ConnectError("refused")
        for step in range(1, 6):
            stage.child.speak(points(step))
            await stage.time.pass_(60)
        stage.child.speak(ended("complete", "budget"))
        await stage.time.pass_(60)
        assert stage.child.told == ["run"]
        assert not driving.done()
        assert stage.waiting() == ["report", "report", "finish"]  # the first was frozen by its first try
        stage.desk.answer = lambda what, body: None
        await stage.time.pass_(60)
        reports = [body for kind, body in stage.desk.calls if kind == "reports"]
        assert [r["seq"] for r in reports] == list(range(1, len(reports) + 1))
        assert [p["step"] for r in reports for p in r["points"]] == [1, 2, 3, 4, 5]
        assert stage.desk.kinds()[-1] == "finish"

    assert play(story) is True


def test_a_service_away_for_longer_than_max_offline_has_the_trial_handed_back(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = lambda what, body: httpx.ConnectError("refused")
        stage.child.speak(points(1))
        await stage.time.pass_(598)
        assert stage.child.told == ["run"]
        await stage.time.pass_(4)
        assert stage.child.told == ["run", "hand_back"]
        stage.child.speak({"say": "snapshot", "step": 1, **stage.file("s")}, ended("released"))
        await stage.time.pass_(3000)
        assert not driving.done()
        stage.desk.answer = lambda what, body: None
        await stage.time.pass_(60)
        assert stage.desk.kinds() == ["reports", "blob", "snapshots", "release"]

    assert play(story) is False


def test_a_full_spool_has_the_trial_handed_back(play, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Spool, "full", property(lambda spool: len(spool) > 1))

    async def story(stage: Stage, _: Any) -> None:
        stage.desk.answer = lambda what, body: httpx.ConnectError("refused")
        for step in (1, 2, 3):
            stage.child.speak(points(step), {"say": "log", "text": "x" * 70_000})
            await stage.time.settle()
        assert stage.child.told == ["run", "hand_back"]
        stage.child.speak(ended("released"))
        stage.desk.answer = lambda what, body: None
        await stage.time.pass_(60)
        assert stage.desk.body("release") == {"cause": "shutdown"}

    assert play(story) is False


def test_a_hand_back_uploads_the_snapshot_and_then_releases(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.child.speak(points(1))
        stage.attempt.hand_back("preempted")
        await stage.time.settle()
        assert stage.child.told == ["run", "hand_back"]
        stage.child.speak(points(2), {"say": "snapshot", "step": 2, **stage.file("s")}, ended("released"))
        await stage.time.settle()
        assert stage.desk.kinds() == ["reports", "reports", "blob", "snapshots", "release"]
        assert stage.desk.body("release") == {"cause": "preempted"}

    assert play(story) is False


def test_a_child_that_cannot_hand_back_in_time_is_killed_and_the_trial_released_within_25_seconds(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.child.speak(points(1))
        stage.attempt.hand_back("shutdown")
        await stage.time.pass_(20)
        assert not driving.done()
        await stage.time.pass_(2.5)
        assert stage.child.told == ["run", "hand_back", "killed"]
        assert stage.desk.kinds() == ["reports", "release"]
        assert driving.done()

    assert play(story) is False


def test_a_second_signal_releases_at_once(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.attempt.hand_back("shutdown")
        await stage.time.settle()
        stage.attempt.hand_back("shutdown")
        await stage.time.settle()
        assert stage.child.told == ["run", "hand_back", "killed"]
        assert stage.desk.kinds() == ["release"]
        assert stage.time.now == 0
        assert driving.done()

    assert play(story) is False


def test_an_upload_that_hangs_does_not_keep_a_hand_back_from_its_release(play):
    async def story(stage: Stage, driving: Any) -> None:
        hangs = asyncio.Event()
        usual = stage.desk.handle

        async def handle(request: httpx.Request) -> httpx.Response:
            if "/blobs/" in request.url.path:
                await hangs.wait()
            return await usual(request)

        stage.attempt._tools.client._http._transport = httpx.MockTransport(handle)
        stage.child.speak({"say": "snapshot", "step": 1, **stage.file("s")})
        stage.attempt.hand_back("shutdown")
        await stage.time.settle()
        stage.child.speak(ended("released"))
        before = len(stage.desk.calls)
        await stage.time.pass_(21)
        assert [kind for kind, _ in stage.desk.calls[before:]] == ["heartbeat"] * 2  # not starved either
        await stage.time.pass_(1.5)
        assert driving.done()
        assert stage.desk.kinds() == ["release"]

    assert play(story) is False


def test_a_hand_back_that_nobody_hears_is_left_for_the_next_start(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = lambda what, body: httpx.ConnectError("refused")
        stage.child.speak(points(1))
        stage.attempt.hand_back("shutdown")
        await stage.time.settle()
        file = stage.file("s")
        stage.child.speak({"say": "snapshot", "step": 1, **file}, ended("released"))
        await stage.time.pass_(25)
        assert driving.done()
        assert stage.waiting() == ["report", "snapshot", "release"]
        assert exists(file)

    assert play(story) is False


def test_a_resume_snapshot_that_keeps_coming_damaged_fails_the_trial_before_the_child_hears_of_it(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.desk.snapshot = b"damaged"
        await stage.time.settle()
        assert stage.desk.kinds().count(f"snapshots/{'0' * 64}") == 3
        error = stage.desk.body("finish")["error"]
        assert error["kind"] == "snapshot_corrupt"
        assert f"the bytes of {'0' * 64} are damaged, in the service's store or" in error["message"]
        assert "or add the stage again" in error["message"]
        assert stage.child.told == []

    assert play(story, resume="0" * 64) is True


def test_a_resume_snapshot_is_handed_to_the_child_as_a_file(play):
    async def story(stage: Stage, _: Any) -> None:
        assert read(stage.child.orders[0]["resume"]) == b"weights"
        stage.child.speak(ended("complete", "budget"))

    assert play(story, resume=hashlib.sha256(b"weights").hexdigest()) is True


def test_the_snapshots_to_evaluate_are_handed_over_in_order_and_each_comes_once(play):
    one, other = b"the first model", b"the second model"

    async def story(stage: Stage, _: Any) -> None:
        await stage.time.settle()
        members = stage.child.orders[0]["members"]
        assert [read(m) for m in members] == [one, other, one]
        assert members[0] == members[2]
        assert stage.desk.kinds() == [f"snapshots/{digest(one)}", f"snapshots/{digest(other)}"]
        stage.child.speak(ended("complete", "budget"))

    assert play(story, members=[one, other, one]) is True


def test_a_snapshot_to_evaluate_that_is_one_to_go_on_from_too_comes_once(play):
    async def story(stage: Stage, _: Any) -> None:
        order = stage.child.orders[0]
        assert order["members"] == [order["resume"]]
        stage.child.speak(ended("complete", "budget"))

    assert play(story, resume=digest(b"weights"), members=[b"weights"]) is True


def test_one_damaged_snapshot_to_evaluate_fails_the_trial_before_the_child_hears_of_it(play):
    good, bad = b"a good model", b"a broken model"

    async def story(stage: Stage, _: Any) -> None:
        await stage.time.settle()
        assert stage.desk.kinds().count(f"snapshots/{digest(bad)}") == 3
        assert stage.desk.body("finish")["error"]["kind"] == "snapshot_corrupt"
        assert stage.child.told == []

    assert play(story, members=[good, bad]) is True


def test_beats_come_every_third_of_the_ttl_give_or_take_a_tenth(play):
    async def story(stage: Stage, _: Any) -> None:
        times: list[float] = []
        stage.desk.answer = lambda what, body: times.append(stage.time.now) if what == "heartbeat" else None
        await stage.time.pass_(300)
        gaps = [b - a for a, b in itertools.pairwise([0.0, *times])]
        assert all(9 <= gap <= 11 for gap in gaps)
        assert max(gaps) - min(gaps) > 0.5  # jitter: a fleet shall not beat as one
        stage.child.speak(ended("complete", "budget"))

    assert play(story) is True


def test_a_beat_that_gets_no_answer_is_repeated_within_a_third_of_the_ttl(play):
    async def story(stage: Stage, _: Any) -> None:
        times: list[float] = []

        def answer(what: str, body: Any) -> Answer:
            if what != "heartbeat":
                return None
            times.append(stage.time.now)
            return httpx.ReadTimeout("slow")

        stage.desk.answer = answer
        await stage.time.pass_(500)
        assert all(b - a <= TTL / 3 for a, b in itertools.pairwise(times))
        stage.desk.answer = lambda what, body: None
        stage.child.speak(ended("complete", "budget"))
        await stage.time.pass_(60)

    assert play(story) is True


def test_many_small_prints_make_one_chunk_of_log(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.child.speak(*({"say": "log", "text": f"line {i}\n"} for i in range(50)))
        await stage.time.pass_(2.5)
        assert stage.desk.kinds() == ["logs"]
        assert stage.desk.body("logs")["text"].count("\n") == 50
        stage.child.speak({"say": "log", "text": "last words"}, ended("complete", "budget"))
        await stage.time.settle()
        assert stage.desk.kinds() == ["logs", "logs", "finish"]

    assert play(story) is True


@pytest.mark.parametrize("kind", ["logs", "artifacts"])
def test_a_log_or_artifact_that_is_refused_does_not_cost_the_trial(play, kind: str):
    async def story(stage: Stage, _: Any) -> None:
        stage.desk.answer = always(kind, refused(413, "too_large"))
        stage.child.speak(
            {"say": "log", "text": "x"}, {"say": "artifact", "name": "plot.png", **stage.file("a")},
            ended("complete", "budget"),
        )  # fmt: skip
        await stage.time.settle()
        assert stage.desk.body("finish")["state"] == "complete"

    assert play(story) is True


def test_a_silent_child_is_killed_when_a_person_has_said_after_how_long(play):
    async def story(stage: Stage, _: Any) -> None:
        stage.child.speak(points(1))
        await stage.time.pass_(59)
        assert stage.child.told == ["run"]
        await stage.time.pass_(4)
        assert stage.child.told == ["run", "killed"]
        assert stage.desk.body("finish")["error"]["kind"] == "stalled"

    assert play(story, patience=Patience(stall=60)) is False


def test_a_beat_that_crosses_an_accepted_finish_does_no_harm(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = lambda what, body: (
            refused(409, "already_final") if what == "heartbeat"
            else httpx.ConnectError("refused") if what == "finish" else None
        )  # fmt: skip
        stage.child.speak(points(1), ended("complete", "budget"))
        await stage.time.pass_(12)
        assert stage.child.told == ["run"]
        stage.desk.answer = lambda what, body: None
        await stage.time.pass_(30)
        assert stage.desk.body("finish")["state"] == "complete"

    assert play(story) is True


def test_a_finish_that_comes_too_late_ends_the_attempt(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = always("finish", refused(409, "lease_lost"))
        stage.child.speak(ended("complete", "budget"))
        await stage.time.settle()
        assert driving.done()

    assert play(story) is True


def test_a_trial_given_back_before_its_child_was_told_of_it_is_released_at_once(play):
    async def story(stage: Stage, driving: Any) -> None:
        assert driving.done()
        assert stage.child.told == []
        assert stage.desk.kinds() == ["release"]
        assert stage.desk.body("release") == {"cause": "preempted"}
        assert stage.time.now == 0

    assert play(story, before=lambda attempt: attempt.hand_back("preempted")) is True


@pytest.mark.parametrize("why", ["handed_back", "lease_lost"])
def test_a_trial_that_goes_while_its_snapshot_is_still_coming_never_reaches_the_child(play, why: str):
    async def story(stage: Stage, driving: Any) -> None:
        if why == "handed_back":
            stage.attempt.hand_back("shutdown")
        else:
            away = stage.desk.answer
            stage.desk.answer = lambda what, body: (
                refused(409, "lease_lost") if what == "heartbeat" else away(what, body)
            )
            await stage.time.pass_(11)
        await stage.time.settle()
        assert driving.done()
        assert stage.child.told == []
        assert [k for k in stage.desk.kinds() if not k.endswith("!409")] == (
            ["release"] if why == "handed_back" else []
        )

    assert play(story, resume="0" * 64, away=f"snapshots/{'0' * 64}") is True


def test_what_the_service_cannot_read_fails_a_trial_whose_child_has_ended_already(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = always("reports", refused(422, "unprocessable"))
        stage.child.speak(points(1), ended("complete", "budget"))
        await stage.time.settle()
        assert stage.desk.kinds() == ["reports!422", "finish"]
        assert stage.desk.body("finish")["error"]["kind"] == "protocol_error"

    assert play(story) is False


def test_a_last_word_that_the_service_cannot_read_is_said_once_more_as_a_protocol_error(play):
    async def story(stage: Stage, driving: Any) -> None:
        stage.desk.answer = always("finish", refused(422, "unprocessable"))
        stage.child.speak(ended("complete", "budget"))
        await stage.time.settle()
        assert [body["state"] for kind, body in stage.desk.calls if kind == "finish!422"] == [
            "complete",
            "failed",
        ]

    assert play(story) is False


def test_a_disk_without_room_for_the_snapshot_to_go_on_from_gives_the_trial_to_another_try(
    play, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunesmith_service.client.HashedFile", full)

    async def story(stage: Stage, driving: Any) -> None:
        finish = stage.desk.body("finish")
        assert (finish["retryable"], finish["error"]["kind"]) == (True, "no_room_for_snapshot")
        assert "No space left" in finish["error"]["message"]

    assert play(story, resume=hashlib.sha256(b"weights").hexdigest()) is True


def test_an_error_whose_text_no_database_keeps_is_told_spelled_out(play):
    async def story(stage: Stage, _: Any) -> None:
        error = {"kind": "ValueError", "message": "a\0b\ud800", "traceback": "\ud800"}
        stage.child.speak(ended("failed", "error", error=error))
        await stage.time.settle()
        said = {"kind": "ValueError", "message": "a\\x00b\\ud800", "traceback": "\\ud800"}
        assert stage.desk.body("finish")["error"] == said

    assert play(story) is False
