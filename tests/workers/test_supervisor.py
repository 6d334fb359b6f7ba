"""Supervisors, trainers and a service as real processes, and what is left when one of them is killed.

The task trains when it is let: it goes on to the epoch that a file names, so a test decides where a
trial stands when something happens to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import Server, Worker, is_alive, until
from tunesmith_service import wire
from tunesmith_service.__main__ import main
from tunesmith_service.client import AsyncClient, Client, NotFound, WorkerClient
from tunesmith_workers import snapshots

TASK = """
import time
from pathlib import Path

import torch
from tunesmith_workers.loop import Trial, train

GATE = Path(__file__).with_name("gate")


@train("gated")
def gated(trial: Trial) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"])
    start = trial.restore(model=model, optimizer=optimizer)
    print("goes on from", start)
    for epoch in range(start, trial.epochs):
        while int(GATE.read_text() or 0) <= epoch and not trial.should_stop():
            time.sleep(0.005)
        if not trial.should_stop():
            trial.report(epoch + 1, {"val/loss": 1.0 / (epoch + 1)})
        if trial.snapshot_due():
            trial.snapshot(model=model, optimizer=optimizer)
        if trial.should_stop():
            return
"""
EPOCHS = 6
NUMBERS = itertools.count()
TTL_SECONDS, SWEEP_SECONDS, BACKOFF_SECONDS = 9.0, 2.0, 2.0
LONG_TTL_SECONDS = 600.0  # what comes back sooner does so without the lease's end


class House:
    """A service, one study in it, and the directory in which its workers run."""

    def __init__(self, directory: Path, server: Server, client: Client) -> None:
        self.directory, self.server, self.client = directory, server, client
        self.name = f"s{next(NUMBERS)}"  # of the study and its task: a service may have many tests' studies
        self.task_file = directory / "gated_tasks.py"
        self.code = TASK.replace("gated", self.name)
        self.task_file.write_text(self.code)
        self.let(0)

    def let(self, epochs: int) -> None:
        """Trials may train so many epochs."""
        part = self.directory / "gate.part"
        part.write_text(str(epochs))
        part.rename(self.directory / "gate")

    def study(self, *, rates: tuple[float, ...] = (0.1,), **more: Any) -> None:
        stage = {"name": "grid", "kind": "coarse_grid", "epochs": EPOCHS, "axes": {"lr": rates}}
        spec = {
            "name": self.name, "task": self.name, "space": {"lr": {"low": 0.001, "high": 1.0, "log": True}},
            "stages": [stage], "snapshot_every_seconds": 1e-9,
        }  # fmt: skip
        self.client.post("studies", json=spec | more)

    def worker(self, name: str = "one", *options: str) -> Worker:
        return Worker(
            self.server.url, self.server.worker_token, self.directory / name,
            "--tasks", str(self.task_file), *options, directory=self.directory,
        )  # fmt: skip

    def trial_is(self, number: int = 0, seconds: float = 60, **values: Any) -> Any:
        """The trial, once it is there and stands as told."""
        seen: list[Any] = [None]

        def look() -> Any:
            with contextlib.suppress(NotFound):  # not planned yet
                seen[0] = self.client.get("studies", self.name, "trials", number)
                return seen[0] if all(seen[0][name] == value for name, value in values.items()) else None

        return until(look, seconds, saw=lambda: seen[0])

    def steps(self, number: int = 0) -> list[int]:
        curve = self.client.get("studies", self.name, "trials", number, "curve")
        return [point["step"] for point in curve["points"]]

    def spool_holds(self, name: str, words: str) -> None:
        files = self.directory / name / "spool"
        until(lambda: [f for f in files.iterdir() if words in f.read_text()])

    def digest(self) -> str | None:
        found = [w["tasks"].get(self.name) for w in self.client.get("workers")["items"]]
        return next(filter(None, found), None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("service"), ttl_seconds=LONG_TTL_SECONDS) as server:
        yield server


@pytest.fixture
def house(tmp_path: Path, server: Server) -> Iterator[House]:
    with server.client() as client:
        yield House(tmp_path, server, client)


@pytest.fixture
def own_house(tmp_path: Path) -> Iterator[House]:
    """With a service that the test may kill."""
    with Server(tmp_path / "home", ttl_seconds=LONG_TTL_SECONDS) as server, server.client() as client:
        yield House(tmp_path, server, client)


@pytest.fixture
def hasty_house(tmp_path: Path) -> Iterator[House]:
    """With a service whose leases are short."""
    with Server(tmp_path / "home", ttl_seconds=TTL_SECONDS) as server, server.client() as client:
        yield House(tmp_path, server, client)


ALL = list(range(1, EPOCHS + 1))


def test_a_worker_is_not_idle_while_its_trainers_start(house: House):
    with house.worker("one", "--exit-when-idle", "1") as worker:
        assert worker.ends() == 0
        registered, idle = (said_at(worker.says(f"event={what}")) for what in ("registered", "idle"))
        assert (idle - registered).total_seconds() >= 1


def said_at(line: str) -> datetime:
    return datetime.fromisoformat(line.partition("timestamp=")[2].split()[0])


def test_a_worker_trains_a_study_to_its_end_and_leaves_when_idle(house: House):
    house.study(rates=(0.01, 0.1))
    house.let(EPOCHS)
    with house.worker("one", "--exit-when-idle", "1") as worker:
        assert worker.ends() == 0
        for number in (0, 1):
            trial = house.trial_is(number, state="complete", stop_reason="budget", attempt=1)
            assert trial["step"] == EPOCHS
            assert house.steps(number) == ALL
        assert worker.said.count("event=trainer_ready") == 1  # warm: both trials on one child
    assert list((house.directory / "one" / "spool").iterdir()) == []
    until(lambda: house.client.get("studies", house.name)["state"] == "complete")


def test_a_trial_of_a_killed_supervisor_is_resumed_by_its_successor_from_its_snapshot(house: House):
    house.study()
    house.let(3)
    with house.worker() as first:
        child = first.child_pid()
        first.says("event=snapshot_committed", "step=3")
        first.signal(signal.SIGKILL)
        until(lambda: not is_alive(child))  # the orphan does not train on
    with house.worker() as second:  # the same slot: handed back at once, not after the TTL
        second.says("event=registered")
        second.says("event=claimed", "attempt=2", "resume=3")
        house.let(EPOCHS)
        house.trial_is(state="complete", attempt=2)
    assert house.steps() == ALL


def test_a_supervisor_goes_on_when_its_state_was_put_back_from_a_copy(house: House):
    with house.worker() as worker:
        worker.says("event=registered")
        asyncio.run(register_later_start(house))
        house.study()
        house.let(EPOCHS)
        worker.says("event=superseded")
        house.trial_is(state="complete", attempt=1)


async def register_later_start(house: House) -> None:
    """As a start that the state directory knows nothing of."""
    (known,) = (w for w in house.client.get("workers")["items"] if house.name in w["tasks"])
    slots = [wire.Slot(slot_id=s["id"], devices=s["devices"]) for s in known["slots"]]
    body = wire.Register(
        worker_id=known["id"], boot_id=secrets.token_hex(16), starts=5, name=known["name"],
        version="1", tasks=known["tasks"], slots=slots,
    )  # fmt: skip
    client = WorkerClient(house.server.url, house.server.worker_token)
    await client.register(body)
    await client.aclose()


@pytest.mark.long
def test_a_killed_worker_s_trial_goes_to_another_machine_when_its_lease_expires(hasty_house: House):
    house = hasty_house
    house.study()
    house.let(2)
    with house.worker("one") as first, house.worker("two") as second:
        for worker in (first, second):
            worker.child_pid()
        until(lambda: "event=claimed" in first.said + second.said)
        holder, other = (first, second) if "event=claimed" in first.said else (second, first)
        holder.says("event=snapshot_committed", "step=2")
        holder.kill()
        killed = time.monotonic()
        other.says("event=claimed", "attempt=2", "resume=2")
        assert time.monotonic() - killed < TTL_SECONDS + 2 * SWEEP_SECONDS + BACKOFF_SECONDS
        house.let(EPOCHS)
        house.trial_is(state="complete", attempt=2)


@pytest.mark.long
def test_a_worker_that_was_suspended_learns_that_its_trial_is_another_s_and_ends_its_trainer(
    hasty_house: House,
):
    house = hasty_house
    house.study()
    house.let(2)
    with house.worker("one") as first, house.worker("two") as second:
        for worker in (first, second):
            worker.child_pid()
        until(lambda: "event=claimed" in first.said + second.said)
        holder, other = (first, second) if "event=claimed" in first.said else (second, first)
        holder.says("event=snapshot_committed", "step=2")
        child = holder.child_pid()
        for pid in (holder.pid, child):
            os.kill(pid, signal.SIGSTOP)
        other.says("event=claimed", "attempt=2", "resume=2")
        for pid in (child, holder.pid):
            os.kill(pid, signal.SIGCONT)
        holder.says("event=trial_gone", "lease_lost")
        until(lambda: not is_alive(child))
        house.let(EPOCHS)
        house.trial_is(state="complete", attempt=2)
    assert house.steps() == ALL


def test_nothing_is_lost_when_the_service_is_killed_and_started_again_while_training(own_house: House):
    house = own_house
    house.study()
    house.let(2)
    with house.worker() as worker:
        house.trial_is(step=2)
        house.server.kill()
        house.let(EPOCHS - 1)
        house.spool_holds("one", '"step": 5')
        with house.server.again():
            house.trial_is(step=EPOCHS - 1, attempt=1)
            house.let(EPOCHS)
            house.trial_is(state="complete", attempt=1)
            assert house.steps() == ALL
            worker.says("event=service_answers_again")


def test_a_supervisor_killed_while_the_service_is_away_leaves_what_its_successor_sends(own_house: House):
    house = own_house
    house.study(snapshot_every_seconds=600)
    house.let(2)
    with house.worker() as first:
        house.trial_is(step=2)
        house.server.kill()
        house.let(EPOCHS)
        house.spool_holds("one", '"finish"')
        first.kill()
    with house.server.again(), house.worker() as second:
        second.says("event=leftovers_sent")
        house.trial_is(state="complete", attempt=1)
        assert house.steps() == ALL


def test_a_killed_trainer_is_reported_within_two_seconds_and_the_trial_resumed_on_a_new_one(house: House):
    house.study()
    house.let(2)
    with house.worker() as worker:
        child = worker.child_pid()
        worker.says("event=snapshot_committed", "step=2")
        os.kill(child, signal.SIGKILL)
        killed = time.monotonic()
        worker.says("event=trainer_died", "SIGKILL")
        worker.says("event=attempt_ended", "state=waiting")
        assert time.monotonic() - killed < 2
        assert worker.child_pid(times=2) != child
        worker.says("event=claimed", "attempt=2", "resume=2")
        house.let(EPOCHS)
        house.trial_is(state="complete", attempt=2)
    assert house.steps() == ALL


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGTERM, "shutdown"), pytest.param(signal.SIGUSR1, "preempted", marks=pytest.mark.long)],
)
def test_a_signal_hands_the_trial_back_with_a_snapshot_and_costs_no_retry(
    house: House, number: signal.Signals, cause: str
):
    house.study(snapshot_every_seconds=600)
    house.let(4)
    with house.worker() as worker:
        house.trial_is(step=4)
        child, asked = worker.child_pid(), time.monotonic()
        worker.signal(number)
        assert worker.ends(25) == 0
        assert time.monotonic() - asked < 25
        worker.says("event=handing_back", f"cause={cause}")
        worker.says("event=snapshot_committed", "step=4")
        worker.says("event=attempt_ended", "state=waiting")
        assert not is_alive(child)
    house.trial_is(state="waiting", attempt=1)


def test_a_trial_that_is_cancelled_is_abandoned_and_the_slot_takes_the_next(house: House):
    house.study(rates=(0.01, 0.1), limits={"max_concurrent": 1})
    house.let(1)
    with house.worker() as worker:
        house.trial_is(0, step=1)
        house.client.post("studies", house.name, "trials", 0, "cancel")
        house.let(2)  # its next report is refused
        worker.says("event=trial_gone", "already_final")
        house.let(EPOCHS)
        house.trial_is(1, state="complete")
        assert worker.said.count("event=trainer_ready") == 1
    house.trial_is(0, state="cancelled")


def test_weights_come_out_by_the_page_about_python_and_by_the_command(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    house.study()
    study = house.client.study(house.name)
    with pytest.raises(NotFound, match="no best trial yet"):
        study.download_snapshot(house.directory / "none")
    house.let(EPOCHS)
    with house.worker():
        house.trial_is(state="complete")
    monkeypatch.chdir(house.directory)
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    scope: dict[str, Any] = {"Path": Path, "study": study}
    exec(page.partition("## Weights")[2].partition("```python")[2].partition("```")[0], scope)
    assert scope["saved"]["params"] == {"lr": 0.1}
    assert scope["saved"]["epoch"] == EPOCHS - 1  # the last, for no later stage goes on from its end
    assert scope["weights"]["weight"].shape == (1, 1)
    token = (house.server.home / "operator.token").read_text().strip()

    async def by_one_who_awaits() -> Any:
        async with AsyncClient(house.server.url, token) as client:
            return await (await client.study(house.name)).download_snapshot(Path("three"), step=3)

    assert asyncio.run(by_one_who_awaits()) == {"number": 0, "step": 3}
    assert snapshots.load(Path("three"))["epoch"] == 3
    known = {"TUNESMITH_URL": house.server.url, "TUNESMITH_TOKEN": token}
    words = ["trial", "snapshot", house.name, "0", "--step", "2", "-o", "two"]
    told = CliRunner().invoke(main, words, env=known)
    assert told.output == "Trial #0 at step 2: two\n"
    assert snapshots.load(Path("two"))["epoch"] == 2
    nowhere = CliRunner().invoke(main, [*words[:-1], "nowhere/two"], env=known)
    assert (nowhere.exit_code, nowhere.output) == (2, "Error: nowhere/two: No such file or directory\n")
    words[words.index("2")] = "9"
    refused = CliRunner().invoke(main, words, env=known)
    assert "has no snapshot at step 9; it has 1, 2, 3, 4, 5" in refused.output
    assert refused.exit_code == 5


def test_an_edited_task_file_restarts_the_trainer_and_a_broken_one_is_waited_for(house: House):
    with house.worker() as worker:
        worker.says("event=registered")
        before = house.digest()
        house.task_file.write_text("raise ValueError('half an edit')\n")
        worker.says("event=files_changed")
        worker.says("event=trainer_does_not_start", "half an edit")
        house.task_file.write_text(house.code + "# another loop\n")
        worker.says("event=task_changed", f"task={house.name}")
        assert until(house.digest) != before
        worker.signal(signal.SIGINT)
        assert worker.ends(20) == 0  # an idle one has nothing to hand back, for which it would have 25 s
