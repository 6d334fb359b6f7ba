"""Several processes that train one trial: the real launcher, gloo on the CPU, two ranks."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import torch
from processes import Server, Worker, is_alive, until
from training import make_work, points, run, same_bits, tree
from tunesmith_workers import gang_process, snapshots
from tunesmith_workers.child_process import ChildStartError, Death, cleaned
from tunesmith_workers.gang import Gang as Ranks
from tunesmith_workers.gang_process import GangProcess
from tunesmith_workers.tasks.registry import Entry, Registry

PATIENCE = 180.0  # seconds; only a hang is that slow, even where many share the machine
T = TypeVar("T")

TASKS = """
import os, time
from pathlib import Path
import torch
from torch import nn
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.loop import train
from tunesmith_workers.tasks.registry import Task, register

def splits():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(150, 6, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return Splits(Split(x[:101], y[:101]), Split(x[101:], y[101:]))

def build(params):
    norm = nn.BatchNorm1d(8) if params.get("norm") else nn.Identity()
    drop = nn.Dropout(0.2) if params.get("drop") else nn.Identity()
    layers = nn.Sequential(nn.Linear(6, 8), norm, nn.Tanh(), drop, nn.Linear(8, 3)).double()
    layers.idle = nn.Linear(2, 2)  # never used: without a gradient
    layers.forward = lambda x: layers[4](layers[3](layers[2](layers[1](layers[0](x)))))
    return layers

@register("exact")
def exact():
    return Task(splits(), classes=3, build=build)

@train("own")
def own(trial):
    model = nn.Linear(6, 1).double()
    wrapped = nn.parallel.DistributedDataParallel(model) if trial.world_size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = splits().train.x[trial.rank :: trial.world_size]
    for epoch in range(trial.restore(model=model, optimizer=optimizer), trial.epochs):
        optimizer.zero_grad()
        loss = (wrapped(x) - x[:, :1]).square().mean()
        loss.backward()
        optimizer.step()
        trial.report(epoch + 1, {"val/loss": loss.item() if epoch < 30 else float("nan"), "rank": trial.rank})
        if trial.snapshot_due():
            trial.snapshot(model=model, optimizer=optimizer)
        if trial.should_stop():
            return

@train("fails on one")
def fails_on_one(trial):
    if trial.rank == 1:
        raise KeyError("only here")
    torch.distributed.barrier()

@train("stays behind")
def stays_behind(trial):
    trial.report(1, {"val/loss": 1.0})
    while trial.rank == 1 and not (trial.scratch / "enough").exists():
        time.sleep(0.01)

def held(model, inputs):
    held.steps += model.training
    while held.steps > 21 and os.environ["RANK"] == "1" and not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
held.steps = 0

@register("held")
def _():
    def hooked(params):
        model = build(params)
        model.register_forward_pre_hook(held)
        return model
    return Task(splits(), classes=3, build=hooked)
"""


def ranks_of(launcher: int) -> list[int]:
    """Process ids of a launcher's trainers, rank 0 first."""
    found = [p for p in psutil.Process(launcher).children() if "tunesmith_workers.child" in p.cmdline()]
    return [p.pid for p in sorted(found, key=lambda p: int(p.environ()["RANK"]))]


class Gang:
    """A slot's trainers and an event loop for them."""

    def __init__(self, scratch: Path, tasks: Path, ranks: int = 2) -> None:
        self._loop, self.scratch = asyncio.new_event_loop(), scratch
        arguments = ["--tasks", str(tasks), "--threads", "1", "--ignore", "SIGTERM"]
        environ = cleaned(os.environ) | {"OMP_NUM_THREADS": "1"}
        try:
            self.process = self.do(GangProcess.start_gang(ranks, arguments, environ))
        except ChildStartError:
            self._end()
            raise

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(what, PATIENCE))

    def start(self, resume: Path | None = None, gpus: int | None = 2, **work: Any) -> None:
        order = make_work(**({"task": "exact", "gpus": gpus} | work)).model_dump(mode="json")
        where = {"resume": str(resume) if resume else None, "scratch": str(self.scratch)}
        self.do(self.process.say({"do": "run", "work": order, **where}))

    def until(self, word: str) -> list[Any]:
        """All that is said up to the first message of this kind, or the death of the gang."""
        heard: list[Any] = []
        while not heard or (not isinstance(heard[-1], Death) and heard[-1]["say"] != word):
            heard.append(self.do(self.process.next()))
        return heard

    def run(self, resume: Path | None = None, **work: Any) -> list[Any]:
        self.start(resume, **work)
        return self.until("ended")

    def ranks(self) -> list[int]:
        return ranks_of(self.process.pid)

    def close(self) -> None:
        self.do(self.process.kill())
        self._end()

    def _end(self) -> None:
        self.do(asyncio.sleep(0))  # what was closed is gone then
        self._loop.close()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tasks") / "my_tasks.py"
    file.write_text(TASKS)
    return file


@pytest.fixture(scope="module")
def exact(tasks: Path) -> Entry:
    registry = Registry()
    registry.add_file(tasks)
    return registry["exact"]


@pytest.fixture(scope="module")
def gang(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """A warm gang; the tests of this module go through it one after another."""
    found = Gang(tmp_path_factory.mktemp("warm"), tasks)
    yield found
    found.close()


def end_of(heard: list[Any]) -> tuple[Any, ...]:
    return heard[-1]["state"], heard[-1]["stop_reason"]


def snapshot_of(heard: list[Any]) -> dict[str, Any]:
    return snapshots.load(Path([m for m in heard if m["say"] == "snapshot"][-1]["path"]))


def curve(heard: list[Any]) -> list[dict[str, Any]]:
    return [p["metrics"] for m in heard if m["say"] == "points" for p in m["points"]]


PARAMS = {"lr": 0.1, "batch_size": 16, "weight_decay": 0.01, "init": "he"}
"""101 samples: six batches of 16 and one of 5, which two ranks share as two and three."""


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "momentum", "schedule": "one_cycle"},
        {"optimizer": "adamw", "clip_norm": 0.05, "label_smoothing": 0.1},
        {"optimizer": "nesterov", "accumulation": 3, "mixup": 0.4},
        {"optimizer": "sgd", "batch_size": 3},
    ],
)
def test_two_processes_train_as_one_does_with_the_same_global_batch(gang, exact, tmp_path, more):
    asked = {"task": "exact", "params": PARAMS | more, "epochs": 20, "steps": 20, "keep_snapshot": True}
    alone = run(exact, make_work(**asked), tmp_path)
    heard = gang.run(**asked)
    assert end_of(heard) == ("complete", "budget")
    one, two = tree(alone), snapshot_of(heard)
    assert one["steps"] == two["steps"] == 20
    for name, weights in one["model"].items():
        assert (weights - two["model"][name]).abs().max() < 1e-8, name
    for mine, theirs in zip(points(alone), curve(heard), strict=True):
        for name in (n for n in mine.metrics if not n.startswith("sys/")):
            assert mine.metrics[name] == pytest.approx(theirs[name], rel=0, abs=1e-8), name


@pytest.mark.parametrize("size", [2, 3, 7])
def test_parts_hold_each_sample_once_and_weigh_as_the_whole(size):
    for samples in range(1, 60):
        parts = [Ranks(rank, size).part(samples) for rank in range(size)]
        rows = [range(samples)[p.rows] for p in parts]
        weights = torch.zeros(samples, dtype=torch.float64)
        for part, own in zip(parts, rows, strict=True):
            weights[list(own)] += 1 / part.divisor
        assert weights.sum() == pytest.approx(1)
        assert weights.max() == pytest.approx(weights.min())
        assert sum(len(own) for part, own in zip(parts, rows, strict=True) if part.counts) == samples
        assert all(min(2, samples) <= len(own) <= part.largest for part, own in zip(parts, rows, strict=True))


def test_a_trial_that_asks_for_no_gpus_runs_on_the_first_rank_as_ever(gang, exact, tmp_path):
    asked = {"task": "exact", "params": PARAMS | {"drop": 1, "norm": 1}, "keep_snapshot": True}
    heard = gang.run(gpus=None, **asked)
    assert same_bits(tree(run(exact, make_work(**asked), tmp_path)), snapshot_of(heard))


def test_a_resumed_trial_of_two_equals_one_never_interrupted_to_the_bit(gang):
    """With dropout and batch norm, whose draws and statistics differ between the ranks."""
    asked = {"params": PARAMS | {"drop": 1, "norm": 1, "optimizer": "adam"}, "validate_every": 3}
    gang.start(epochs=10_000, **asked)
    for _ in range(5):  # past a batch whose parts differ in size
        gang.until("points")
    gang.do(gang.process.say({"do": "hand_back"}))
    handed = gang.until("ended")
    assert end_of(handed) == ("released", None)
    before = snapshot_of(handed)
    asked |= {"epochs": before["epoch"] + 3, "keep_snapshot": True}
    position = Path([m for m in handed if m["say"] == "snapshot"][-1]["path"])
    resumed, whole = gang.run(position, **asked), gang.run(**asked)
    one, two = snapshot_of(resumed), snapshot_of(whole)
    assert one["steps"] > before["steps"] > 0
    assert same_bits(one, two)
    assert curve(resumed)[-1]["train/loss"] == curve(whole)[-1]["train/loss"]


@pytest.mark.parametrize(("first", "then"), [(2, None), (None, 2)])
def test_a_snapshot_goes_on_on_another_number_of_ranks(gang, exact, tmp_path, first, then):
    asked = {"params": PARAMS | {"optimizer": "momentum"}, "epochs": 20, "keep_snapshot": True}
    half = gang.run(gpus=first, steps=10, **asked)
    position = Path([m for m in half if m["say"] == "snapshot"][-1]["path"])
    rest = snapshot_of(gang.run(position, gpus=then, steps=20, **asked))
    whole = tree(run(exact, make_work(task="exact", steps=20, **asked), tmp_path))
    assert rest["steps"] == 20
    for name, weights in whole["model"].items():
        assert (weights - rest["model"][name]).abs().max() < 1e-8, name


def test_a_loop_of_one_s_own_has_its_rank_and_stops_on_all_at_once(gang):
    heard = gang.run(task="own", epochs=3, keep_snapshot=True)
    assert end_of(heard) == ("complete", "budget")
    assert [p["rank"] for p in curve(heard)] == [0, 0, 0]
    assert set(snapshot_of(heard)["model"]) == {"weight", "bias"}
    assert end_of(gang.run(task="own", epochs=10_000)) == ("pruned", "diverged")
    assert end_of(gang.run(task="own", epochs=2)) == ("complete", "budget")  # all are at rest again
    assert gang.process.is_alive


def test_more_devices_than_the_slot_has_fail_the_trial_with_both_numbers(tasks, tmp_path):
    """No gang is used again after a trial that failed: what its ranks still say would be of the next one."""
    with closing(Gang(tmp_path, tasks)) as gang:
        heard = gang.run(gpus=3)
    assert heard[-1]["error"]["message"] == "the study asks for 3 devices a trial, and this slot has 2"


def test_signals_to_end_are_the_supervisor_s_to_answer(gang):
    gang.start(epochs=10_000)
    gang.until("points")
    for pid in (gang.process.pid, *gang.ranks()):
        os.kill(pid, signal.SIGTERM)
    for _ in range(3):
        gang.until("points")
    gang.do(gang.process.say({"do": "abandon"}))
    assert end_of(gang.until("ended")) == ("abandoned", None)


def test_a_gang_of_which_one_stays_behind_is_not_used_again(gang, monkeypatch):
    monkeypatch.setattr(gang_process, "SETTLE_SECONDS", 0.1)
    heard = gang.run(task="stays behind", epochs=1)
    (gang.scratch / "enough").touch()
    assert end_of(heard) == ("complete", "budget")
    assert not gang.process.is_alive


def test_what_fails_on_one_rank_fails_the_trial_with_its_own_words(gang):
    """Rank 0 waits for it meanwhile, and would wait for ever."""
    heard = gang.run(task="fails on one")
    assert (heard[-1]["state"], heard[-1]["error"]["kind"]) == ("failed", "KeyError")
    assert "only here" in heard[-1]["error"]["traceback"]


def test_nothing_is_left_once_the_launcher_is_killed(gang):
    """The last test of this gang."""
    ranks = gang.ranks()
    assert len(ranks) == 2
    os.kill(gang.process.pid, signal.SIGKILL)
    death = gang.do(gang.process.next())
    assert isinstance(death, Death)
    assert "of the trainer is gone" in str(death)
    until(lambda: not any(map(is_alive, ranks)))  # their sockets are closed a moment before


def test_a_task_file_that_cannot_be_used_is_said_in_one_line(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ChildStartError) as told:
        Gang(tmp_path, tmp_path / "empty.py")
    said = f"{tmp_path / 'empty.py'}: registers no task; decorate a function with @register or @train"
    assert str(told.value) == said


def test_a_lost_rank_sends_the_trial_back_and_it_goes_on_from_its_snapshot(tasks, tmp_path):
    """A real service and worker. Rank 1 is killed while rank 0 waits for its gradient."""
    study = {
        "name": "pair", "task": "held", "resources": {"gpus": 2}, "snapshot_every_seconds": 1e-6,
        "space": {"lr": {"low": 0.01, "high": 0.1}}, "fixed": {"batch_size": 16},
        "stages": [{"kind": "random", "trials": 1, "epochs": 6}],
    }  # fmt: skip
    options = ["--devices", "cpu", "--devices-per-slot", "2", "--tasks", str(tasks)]
    with (
        Server(tmp_path / "home") as server,
        server.client() as client,
        Worker(server.url, server.worker_token, tmp_path / "state", *options) as worker,
    ):
        client.post("studies", json=study)

        def trial() -> Any:
            return client.get("studies", "pair", "trials", 0)

        def is_in_the_fourth_epoch() -> Any:
            known = client.get("studies", "pair", "trials")["items"]
            return known and 3 in trial()["snapshots"]

        until(is_in_the_fourth_epoch, PATIENCE, saw=lambda: worker.said)
        os.kill(ranks_of(worker.child_pid())[1], signal.SIGKILL)
        lost_at = time.monotonic()
        worker.says("trainer_died", "rank 1 of 2 of the trainer is gone", seconds=PATIENCE)
        assert time.monotonic() - lost_at < 10  # torchrun alone would wait for half a minute
        tasks.with_name("go").touch()
        until(lambda: trial()["state"] == "complete", PATIENCE, saw=lambda: worker.said)
        first, second = trial()["attempts"]
        assert (first["ending"], first["resume_step"]) == ("retry", 0)
        assert (second["ending"], second["resume_step"]) == ("finish", 3)
        assert trial()["step"] == 6
