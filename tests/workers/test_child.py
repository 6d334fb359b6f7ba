"""The real child process, over a real socket."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from training import make_work, same_bits
from tunesmith_workers import child as child_module
from tunesmith_workers import messages, snapshots
from tunesmith_workers.snapshots import SnapshotCorrupt
from tunesmith_workers.tasks import digits

PATIENCE = 180.0  # seconds; only a hang is that slow, even where many share the machine
COMMAND = [sys.executable, "-P", "-m", "tunesmith_workers.child"]
COMMAND += [part for name in ("SIGTERM", "SIGINT", "SIGUSR1") for part in ("--ignore", name)]
PARAMS = {
    "optimizer": "adamw",
    "lr": 0.003,
    "batch_size": 64,
    "hidden": 32,
    "dropout": 0.2,
    "schedule": "one_cycle",
}

TASKS = """
import sys, warnings
import torch
from tunesmith_workers.loop import train

@train("prints")
def prints(trial):
    print("hello from", trial.params["name"])
    print("to stderr", file=sys.stderr)
    trial.artifact("source", __file__)
    trial.report(1, {"val/loss": float("inf")})

@train("fails")
def fails(trial):
    return {}["nothing"]

@train("exits")
def exits(trial):
    sys.exit("enough")

@train("eats")
def eats(trial):
    torch.empty(2**50)

@train("waits")
def waits(trial):
    epoch = 0
    while not trial.should_stop():
        epoch += 1
        trial.report(epoch, {"val/loss": 1.0})
"""


class Child:
    """A child process and our end of its socket."""

    def __init__(self, scratch: Path, *arguments: str) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        with theirs:
            command = [*COMMAND, "--fd", str(theirs.fileno()), *arguments]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
            )
        self.scratch, self._socket, self._lines = scratch, ours, ours.makefile("rb")

    def hear(self) -> dict[str, Any]:
        return messages.decode(self._lines.readline())

    def say(self, message: dict[str, Any]) -> None:
        self._socket.sendall(messages.encode(message))

    def start(self, resume: Path | None = None, **work: Any) -> None:
        order = make_work(**({"task": "digits", "params": PARAMS} | work)).model_dump(mode="json")
        resume_path = str(resume) if resume else None
        self.say({"do": "run", "work": order, "resume": resume_path, "scratch": str(self.scratch)})

    def until(self, word: str) -> list[dict[str, Any]]:
        """All it says up to the first message of this kind."""
        heard = [self.hear()]
        while heard[-1]["say"] != word:
            heard.append(self.hear())
        return heard

    def run(self, resume: Path | None = None, **work: Any) -> list[dict[str, Any]]:
        self.start(resume, **work)
        return self.until("ended")

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)
        self._lines.close()
        self._socket.close()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A warm child; the tests of this module go through it one after another."""
    scratch = tmp_path_factory.mktemp("warm")
    (scratch / "my_tasks.py").write_text(TASKS)
    (scratch / "flowers.csv").write_text("a,y\n" + "".join(f"{i % 7},{i % 3}\n" for i in range(60)))
    data = f"flowers={scratch / 'flowers.csv'}"
    save_file(digits.task().build({"hidden": 32}).state_dict(), scratch / "start.safetensors")
    weights = f"start={scratch / 'start.safetensors'}"
    files = ["--tasks", str(scratch / "my_tasks.py"), "--data", data, "--weights", weights]
    found = Child(scratch, *files, "--threads", "1")
    ready = found.hear()
    assert ready["say"] == "ready"
    assert set(ready["tasks"]) == {"digits", "flowers", "prints", "fails", "exits", "eats", "waits"}
    assert ready["devices"] == ["cpu"]
    assert ready["versions"]["torch"] == torch.__version__
    yield found
    found.close()


def end_of(heard: list[dict[str, Any]]) -> tuple[Any, ...]:
    last = heard[-1]
    return last["state"], last["stop_reason"], last["retryable"]


def without_seconds(heard: list[dict[str, Any]]) -> list[Any]:
    points = [m["points"][0] for m in heard if m["say"] == "points"]
    clocks = {"sys/epoch_seconds", "sys/train_seconds", "sys/samples_per_second"}
    return [(p["step"], {k: v for k, v in p["metrics"].items() if k not in clocks}) for p in points]


def test_a_trial_says_its_points_its_snapshot_and_how_it_ended(child):
    heard = child.run(epochs=2, keep_snapshot=True)
    assert [m["say"] for m in heard] == ["log", "points", "points", "snapshot", "log", "ended"]
    assert heard[2]["points"][0]["step"] == 2
    snapshot = heard[3]
    assert (snapshot["step"], snapshot["batch"], snapshot["final"]) == (2, 0, True)
    content = Path(snapshot["path"]).read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (snapshot["sha256"], snapshot["size"])
    assert heard[-1] == {
        "say": "ended", "state": "complete", "stop_reason": "budget", "error": None, "retryable": False
    }  # fmt: skip


def test_a_data_file_is_a_task(child):
    assert end_of(child.run(task="flowers", params={"lr": 0.1})) == ("complete", "budget", False)


def test_a_trial_starts_from_weights_that_the_child_was_given(child):
    params = {"hidden": 32, "lr": 0.0, "init_from": "start"}
    heard = child.run(params=params, epochs=1, keep_snapshot=True)
    assert "starts from start" in heard[0]["text"]
    snapshot = next(m for m in heard if m["say"] == "snapshot")
    given = load_file(child.scratch / "start.safetensors")
    assert same_bits(dict(sorted(snapshots.load(Path(snapshot["path"]))["model"].items())), given)


def test_a_trial_after_ten_others_equals_the_same_trial_in_a_fresh_child(child, tmp_path):
    for other in range(10):
        optimizer = {"optimizer": ("momentum", "adam")[other % 2], "lr": 0.05, "hidden": 16 + other}
        assert child.run(params=optimizer, seed=other, epochs=1)[-1]["state"] == "complete"
    warm = child.run(epochs=3, keep_snapshot=True, number=11)
    fresh = Child(tmp_path)
    try:
        assert fresh.hear()["say"] == "ready"
        alone = fresh.run(epochs=3, keep_snapshot=True, number=11)
    finally:
        fresh.close()
    assert without_seconds(warm) == without_seconds(alone)
    one, other = (snapshots.load(Path(heard[-3]["path"])) for heard in (warm, alone))
    assert same_bits(one, other)
    assert warm[-3]["sha256"] == alone[-3]["sha256"]


def test_a_trial_handed_back_in_the_middle_goes_on_to_the_same_bits(child):
    long = {"epochs": 10_000, "params": PARAMS | {"schedule": "constant"}, "number": 20}
    child.start(**long)
    first = child.until("points")
    child.say({"do": "hand_back"})
    first += child.until("ended")
    assert end_of(first) == ("released", None, False)
    snapshot = first[-3]
    steps = len(without_seconds(first))
    assert snapshot["step"] == steps
    rest = child.run(Path(snapshot["path"]), **long | {"epochs": steps + 2})
    whole = child.run(**long | {"epochs": steps + 2})
    assert without_seconds(first) + without_seconds(rest) == without_seconds(whole)


def test_an_abandoned_trial_ends_without_a_snapshot(child):
    child.start(epochs=10_000)
    child.until("points")
    child.say({"do": "abandon"})
    heard = child.until("ended")
    assert end_of(heard) == ("abandoned", None, False)
    assert not [m for m in heard if m["say"] == "snapshot"]


def test_a_wish_sent_with_the_order_is_not_lost(child):
    child.start(epochs=10_000)
    child.say({"do": "hand_back"})
    assert end_of(child.until("ended")) == ("released", None, False)


def test_a_loop_of_one_s_own_prints_into_the_log_and_may_diverge(child):
    heard = child.run(task="prints", params={"name": "a loop"})
    log = "".join(m["text"] for m in heard if m["say"] == "log")
    assert log == "hello from a loop\nto stderr\n"
    assert next(m for m in heard if m["say"] == "points")["points"] == [
        {"step": 1, "metrics": {"val/loss": "Infinity"}}
    ]
    artifact = next(m for m in heard if m["say"] == "artifact")
    assert (artifact["name"], Path(artifact["path"]).read_text()) == ("source", TASKS)
    assert end_of(heard) == ("pruned", "diverged", False)


def test_a_loop_that_asks_whether_to_stop_is_released(child):
    child.start(task="waits", epochs=10**9)
    child.until("points")
    child.say({"do": "hand_back"})
    assert end_of(child.until("ended")) == ("released", None, False)


@pytest.mark.parametrize(
    ("task", "kind", "message", "retryable"),
    [
        ("fails", "KeyError", "'nothing'", False),
        ("exits", "SystemExit", "enough", False),
        ("eats", "out_of_memory", "can't allocate memory", True),
        ("dogits", "TaskError", "this worker has no task 'dogits'; it has digits", False),
    ],
)
def test_an_error_fails_the_trial_with_what_a_person_needs(child, task, kind, message, retryable):
    heard = child.run(task=task)
    assert end_of(heard) == ("failed", "error", retryable)
    error = heard[-1]["error"]
    assert error["kind"] == kind
    assert message in error["message"]
    assert error["traceback"].startswith("Traceback (most recent call last):")


def test_a_corrupt_snapshot_fails_the_trial_as_such(child, tmp_path):
    (tmp_path / "snapshot").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    heard = child.run(tmp_path / "snapshot")
    assert end_of(heard) == ("failed", "error", False)
    assert heard[-1]["error"]["kind"] == "snapshot_corrupt"
    assert "snapshot: not a readable safetensors file" in heard[-1]["error"]["message"]


def test_an_order_that_makes_no_sense_fails_and_the_child_goes_on(child):
    child.say({"do": "run", "work": {"task": "digits"}, "resume": None, "scratch": str(child.scratch)})
    heard = child.until("ended")
    assert heard[-1]["error"]["kind"] == "ValidationError"
    assert child.run(epochs=1)[-1]["state"] == "complete"


def test_signals_to_end_are_the_supervisor_s_to_answer(child):
    child.start(epochs=10_000)
    child.until("points")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(child.process.pid, number)
    for _ in range(3):
        child.until("points")
    child.say({"do": "abandon"})
    assert child.until("ended")[-1]["state"] == "abandoned"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out_of_memory",
        ),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device_fault"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device_fault"),
        (RuntimeError("shapes cannot be multiplied"), "RuntimeError"),
        (SnapshotCorrupt("x"), "snapshot_corrupt"),
    ],
)
def test_faults_of_the_machine_are_told_from_those_of_the_trial(error, kind):
    ending = child_module.failure(error)
    assert ending.error["kind"] == kind
    assert ending.retryable == (kind in {"out_of_memory", "device_fault"})


def test_a_data_file_that_cannot_be_used_ends_the_child_with_one_clear_line(tmp_path):
    (tmp_path / "bad.csv").write_text("age,y\n,1\n" + "1,0\n2,1\n" * 20)
    bad = Child(tmp_path, "--data", f"bad={tmp_path / 'bad.csv'}")
    try:
        _, said = bad.process.communicate(timeout=PATIENCE)
        assert bad.process.returncode == 1
        assert said == (
            f"--data bad={tmp_path / 'bad.csv'}: column 'age' has 1 missing or infinite values in 41 rows; "
            "fill them in or drop those rows\n"
        )
    finally:
        bad.close()


PARENT = """
import json, socket, subprocess, sys
ours, theirs = socket.socketpair()
command = [*json.loads(sys.argv[1]), "--fd", str(theirs.fileno())]
child = subprocess.Popen(command, pass_fds=[theirs.fileno(), ours.fileno()])  # so no end of file comes
lines = ours.makefile("rb")
lines.readline()
ours.sendall(sys.argv[2].encode() + b"\\n")
lines.readline()  # it trains
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_in_the_middle_of_training_dies_when_its_parent_is_killed(tmp_path):
    """Its socket stays open in the child itself, so only the parent-death signal can end it."""
    work = make_work(task="digits", params=PARAMS, epochs=10**6).model_dump(mode="json")
    order = json.dumps({"do": "run", "work": work, "resume": None, "scratch": str(tmp_path)})
    command = [sys.executable, "-c", PARENT, json.dumps(COMMAND), order]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        orphan = psutil.Process(int(parent.stdout.readline()))
        assert orphan.is_running()
        parent.kill()
        parent.wait(PATIENCE)
        gone, alive = psutil.wait_procs([orphan], timeout=PATIENCE)
    assert gone
    assert not alive


def test_a_child_whose_socket_ends_leaves_at_once(child):
    """The last test of this module: it ends the warm child, in the middle of a trial."""
    child.start(epochs=10**6)
    child.until("points")
    child.hang_up()
    assert child.process.wait(PATIENCE) == 1
