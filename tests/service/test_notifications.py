"""Notifications, to real receivers on this machine."""

from __future__ import annotations

import asyncio
import itertools
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from databases import Databases
from light import TASK, LightWorker
from processes import until
from tunesmith_service.__main__ import main
from tunesmith_service.sending import NotDeliveredError, Sender
from tunesmith_service.settings import Settings

from .conftest import SECOND, Api, Lease, Served, running, study

PAGE = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()


class Receiver:
    """Takes what is posted. `answers` has the statuses of the next, then 200; `before` is called first."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.before: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                outer.before()
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def messages(self, event: str = "") -> list[dict[str, Any]]:
        found = [json.loads(body) for _, body in list(self.got)]
        return [m for m in found if event in ("", m.get("event"))]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


async def add(api: Api, to: str, kind: str = "webhook", name: str = "me", **more: Any) -> Any:
    made = await api.post("/notify/targets", json={"name": name, "kind": kind, "to": to, **more})
    assert made.status_code == 201, made.text
    return made.json()


async def try_it(api: Api) -> None:
    assert (await api.post("/notify/targets/me/test")).status_code == 202


async def deliveries(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get("/notify/deliveries")).json()["items"]
    return found


async def told(api: Api) -> list[dict[str, Any]]:
    """All that there was to tell is told, or waits for another try; the newest first."""
    for _ in range(1000):
        await api.service.notifier.tick()
        found = await deliveries(api)
        if all(d["said"] for d in found):
            return found  # what the service's own round had taken is through as well
    raise AssertionError(f"not all was sent: {found}")


async def end(api: Api, lease: Lease, value: float) -> None:
    point = {"step": 1, "metrics": {"val/loss": value}}
    assert (await api.say(lease, "reports", {"seq": 1, "points": [point]})).is_success
    done = await api.say(lease, "finish", {"state": "complete", "stop_reason": "budget"})
    assert done.is_success, done.text


async def another(api: Api, of: Lease) -> Lease:
    """The next trial of the same study."""
    study = of.grant["work"]["study"]
    await api.enqueue(study)
    return api.leased((await api.claim()).json()["grant"])


def is_genuine() -> Callable[..., bool]:
    """The function of docs/notifications.md."""
    scope: dict[str, Any] = {}
    exec(PAGE.partition("```python\n")[2].partition("```")[0], scope)
    found: Callable[..., bool] = scope["is_genuine"]
    return found


def test_what_happens_from_then_on_is_told_to_whoever_wants_it(play_on_each, receiver: Receiver) -> None:
    async def scene(api: Api) -> None:
        first = await api.lease()
        await end(api, first, 0.5)  # before anybody wants to hear of it
        secret = (await add(api, receiver.url, events=["new_best", "trial_failed", "study_stopped"]))[
            "secret"
        ]
        await add(api, receiver.url, "slack", "channel", events=["study_stopped"])
        for value in (0.7, 0.4):
            await end(api, await another(api, first), value)
        broken = await another(api, first)
        failed = {"state": "failed", "stop_reason": "error", "error": {"kind": "task", "message": "no"}}
        assert (said := await api.say(broken, "finish", failed)).is_success, said.text
        study = (await api.get("/studies")).json()["items"][0]
        await api.post(f"/studies/{study['name']}/stop")
        found = await told(api)
        assert {(d["state"], d["tries"], d["said"]) for d in found} == {("delivered", 1, "answered 200")}
        events = [m["event"] for m in receiver.messages() if "event" in m]
        assert sorted(events) == ["new_best", "study_stopped", "trial_failed"]
        (best,) = receiver.messages("new_best")
        assert (best["trial"], best["text"]) == (2, f"trial 2 is the best of {study['name']}: 0.4")
        assert best["url"].endswith(f"/ui/studies/{study['id']}")
        (slack,) = [m for m in receiver.messages() if list(m) == ["text"]]
        assert slack["text"].startswith(f"{study['name']} is stopped")
        _verify(secret, receiver)
        await told(api)
        assert len(receiver.got) == 4

    play_on_each(scene)


def _verify(secret: str, receiver: Receiver) -> None:
    """By the receiver that docs/notifications.md has."""
    headers, body = next(one for one in receiver.got if "Tunesmith-Signature" in one[0])
    genuine, ever = is_genuine(), {"seconds": 1e12}
    assert genuine(secret, headers, body, **ever)
    assert not genuine(secret, headers, body)  # the scene's clock stands in another year
    assert not genuine("another secret", headers, body, **ever)
    assert not genuine(secret, headers, body + b" ", **ever)
    assert not genuine(secret, headers | {"Tunesmith-Timestamp": "1"}, body, **ever)
    assert headers["Tunesmith-Delivery"] == json.loads(body)["id"]


def test_the_end_of_a_study_is_told_with_its_best(serve: Callable[..., Served], receiver: Receiver) -> None:
    server = serve("--notify-seconds", "1")
    target = {
        "name": "me",
        "kind": "webhook",
        "to": receiver.url,
        "events": ["study_complete", "stage_failed"],
    }
    assert server.people.post("/notify/targets", json=target).status_code == 201
    stage = {"kind": "coarse_grid", "name": "coarse", "epochs": 2, "axes": {"lr": [0.01, 0.03, 0.1]}}
    spec = study("told", task=TASK, stages=[stage])
    assert server.people.post("/studies", json=spec).status_code == 201

    async def work() -> None:
        worker = LightWorker(
            server.url, server.token("worker"), objective=lambda work, step: work.params["lr"]
        )
        await worker.register()
        while server.people.get("/studies/told").json()["state"] == "active":
            await worker.run_one(wait_seconds=1)
        await worker.client.aclose()

    asyncio.run(work())
    (said,) = until(receiver.messages)
    assert (said["event"], said["study"]) == ("study_complete", "told")
    assert said["text"] == "told is complete; its best is trial 0: 0.01"


def test_of_two_servers_each_message_is_sent_by_one(
    databases: Databases, tmp_path: Path, receiver: Receiver
) -> None:
    url = databases.make("postgresql")

    async def main() -> None:
        async with running(tmp_path / "a", url) as one, running(tmp_path / "b", url) as other:
            await add(one, receiver.url, events=["new_best"])
            for _ in range(5):
                await end(one, await one.lease(), 0.5)
            await asyncio.gather(told(one), told(other))
            found = await told(one)
            assert [(d["state"], d["tries"]) for d in found] == [("delivered", 1)] * 5
            assert len(receiver.got) == 5

    asyncio.run(main())
    databases.drop(url)


def test_what_is_refused_is_tried_again_and_given_up_after_a_while(play, receiver: Receiver) -> None:
    async def scene(api: Api) -> None:
        await add(api, receiver.url)
        receiver.answers = [500, 302, 200]  # a redirect is not followed
        await try_it(api)
        for rest in (0, 10, 20):
            api.clock.advance(rest * SECOND)
            (found,) = await told(api)
        assert (found["state"], found["tries"], found["said"]) == ("delivered", 3, "answered 200")
        receiver.answers = [503] * 3
        await try_it(api)
        for rest in (0, 10, 20, 3600):
            api.clock.advance(rest * SECOND)
            found = (await told(api))[0]
        assert (found["state"], found["tries"], found["said"]) == ("failed", 3, "answered 503")
        assert len(receiver.got) == 6
        assert (await api.call("DELETE", "/notify/targets/me")).status_code == 204
        assert await deliveries(api) == []

    play(scene, notify_tries=3)


def test_a_study_that_nobody_trains_is_told_of_once_and_one_deleted_takes_its_log_along(
    play_on_each, receiver: Receiver
) -> None:
    async def scene(api: Api) -> None:
        await add(api, receiver.url, events=["stuck"])
        assert (await api.post("/studies", json=study("idle"))).is_success
        await api.enqueue("idle", 2)
        assert await told(api) == []
        for _ in range(2):
            api.clock.advance(600 * SECOND)
            await told(api)
            await told(api)
        (message,) = receiver.messages("stuck")
        assert message["text"].startswith("idle has 2 trials to run, and none runs since 10 min")
        await api.post("/studies/idle/stop")
        gone = await api.call("DELETE", "/studies/idle", params={"name": "idle"})
        assert gone.is_success, gone.text
        assert await deliveries(api) == []

    play_on_each(scene)


class Mailbox(socketserver.StreamRequestHandler):
    """A mail server, as much of it as a letter needs."""

    letters: ClassVar[list[str]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in iter(self.rfile.readline, b""):
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                text = iter(self.rfile.readline, b".\r\n")
                self.letters.append(b"".join(text).decode())
            if word == b"EHLO":
                self.wfile.write(b"250-here\r\n250 AUTH PLAIN\r\n")
            else:
                self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 well\r\n")


def test_a_letter_is_sent_and_strange_targets_are_refused(play, receiver: Receiver) -> None:
    async def scene(api: Api) -> None:
        await add(api, "ann@example.org", "email")
        await try_it(api)
        (found,) = await told(api)
        assert (found["state"], found["said"]) == ("delivered", "taken by 127.0.0.1")
        (letter,) = Mailbox.letters
        assert "To: ann@example.org" in letter
        assert "This is a test" in letter
        assert f"<{found['id']}@tunesmith>" in letter
        for kind, to in (
            ("webhook", receiver.url), ("webhook", "file:///etc/passwd"),
            ("slack", "https://u:p@hooks.example.org"), ("email", "nobody"),
            ("email", "ann@example.org\r\nBcc: all@example.org"),
            ("webhook", "https://[::1"), ("webhook", "https://:secret@hooks.example.org/x"),
        ):  # fmt: skip
            made = await api.post("/notify/targets", json={"name": "x", "kind": kind, "to": to})
            assert made.status_code == 422, (kind, to, made.text)
        for name in ("lab/ops", "..", "."):
            made = await api.post(
                "/notify/targets", json={"name": name, "kind": "email", "to": "ann@example.org"}
            )
            assert made.status_code == 422, (name, made.text)
        await add(api, "https://hooks.example.org/services/secret", "slack", "channel")
        listed = (await api.get("/notify/targets")).text
        assert "https://hooks.example.org/…" in listed
        assert "services" not in listed

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as post:
        threading.Thread(target=post.serve_forever, daemon=True).start()
        play(
            scene, smtp_host="127.0.0.1", smtp_port=post.server_address[1], smtp_security="none",
            smtp_from="tunesmith@example.org", notify_hosts=("hooks.example.org",),
        )  # fmt: skip
        post.shutdown()


NOTICE = {
    "kind": "email", "destination": "ann@example.org", "key": "k1", "body": {"text": "over", "url": "http://x"},
}  # fmt: skip


def send(*passes: float, **changed: Any) -> str:
    """Send a letter, where so many seconds pass between looks at the clock."""
    ticks = itertools.accumulate(itertools.chain(passes, itertools.repeat(0.0)))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as post:
        threading.Thread(target=post.serve_forever, daemon=True).start()
        settings = Settings(
            smtp_host="127.0.0.1", smtp_port=post.server_address[1], smtp_security="none",
            smtp_from="tunesmith@example.org", notify_seconds=10, **changed,
        )  # fmt: skip
        try:
            return asyncio.run(Sender(settings, lambda: next(ticks)).send(NOTICE, 0))
        finally:
            post.shutdown()


def test_a_letter_is_sent_before_its_time_is_up_or_not_at_all() -> None:
    Mailbox.letters.clear()
    with pytest.raises(NotDeliveredError, match="no answer within 10 s"):
        send(0, 3, 8)
    assert Mailbox.letters == []
    assert send(0, 3, 6, 9) == "taken by 127.0.0.1"  # it took longer than a try may, and was taken
    assert len(Mailbox.letters) == 1


def test_a_password_that_cannot_be_sent_is_said_and_ends_the_try() -> None:
    with pytest.raises(NotDeliveredError, match="UnicodeEncodeError"):
        send(smtp_user="ann", smtp_password="ä")


def test_what_was_run_elsewhere_is_no_news(play, receiver: Receiver) -> None:
    async def scene(api: Api) -> None:
        await add(api, receiver.url, events=["trial_failed", "new_best"])
        old = {"kind": "imported", "name": "old", "epochs": 1, "trials": 2}
        assert (await api.post("/studies", json=study("old", stages=[old]))).is_success
        trials = [
            {"number": 0, "state": "complete", "value": 0.5, "params": {"lr": 0.1}},
            {"number": 1, "state": "failed", "params": {"lr": 0.2}},
        ]
        brought = await api.post("/studies/old/import", json={"stage": "old", "trials": trials})
        assert brought.json() == {"new": 2}, brought.text
        assert await told(api) == []

    play(scene)


def test_a_server_killed_between_sending_and_writing_down_sends_again_with_the_same_id(
    serve: Callable[..., Served], receiver: Receiver
) -> None:
    """And the command line says what became of it."""
    server = serve("--notify-seconds", "1")

    def tunesmith(*words: str) -> Any:
        return CliRunner().invoke(main, ["notify", *words, "--url", server.url, "--home", str(server.home)])

    made = tunesmith("add", "board", "--kind", "webhook", "--to", receiver.url, "--event", "stuck")
    assert made.exit_code == 0, made.output
    secret = made.output.splitlines()[0]

    def kill() -> None:
        receiver.before = lambda: None
        server.process.kill()

    receiver.before = kill
    assert tunesmith("test", "board").exit_code == 0
    until(lambda: server.process.process.poll() is not None, saw=lambda: server.process.said)
    server.start()
    until(lambda: "delivered" in tunesmith("log").output, saw=lambda: tunesmith("log").output)
    first, second = receiver.messages()
    assert first["id"] == second["id"]
    assert is_genuine()(secret, *receiver.got[1])
    listed = tunesmith("list").output
    assert "stuck" in listed
    assert secret not in listed + server.process.said
    assert tunesmith("remove", "board", "--yes").exit_code == 0
    assert tunesmith("test", "board").exit_code == 5
