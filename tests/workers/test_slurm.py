"""Workers as a job array of a real Slurm: what it takes away comes back, and every trial ends once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import Server, until
from slurm_cluster import Cluster, missing

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        bool(missing()), reason=f"no Slurm: {', '.join(missing())} (make test-slurm installs it)"
    ),
]

TRIALS, PLANNED, EPOCHS, WORKERS = 12, 2, 120, 3
SPEC = {
    "name": "on-slurm", "task": "digits", "space": {"lr": {"low": 1e-4, "high": 1.0, "log": True}},
    "fixed": {"optimizer": "sgd", "hidden": 64}, "objective": {"metric": "val/loss", "direction": "minimize"},
    "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": EPOCHS, "axes": {"lr": PLANNED}}],
}  # fmt: skip

COMMENT = 'two words, run #7 "here"'


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    home = tmp_path / "slurm"
    home.mkdir()
    made = Cluster(home)
    yield made
    made.close()


def launched(cluster: Cluster, server: Server, directory: Path, *options: str) -> str:
    """The id of the job array. `options` are the workers'."""
    command = [
        sys.executable, "-m", "tunesmith_service", "workers", "launch", "--on", "slurm", "--url", server.url,
        "--token-file", str(server.home / "worker.token"), "--count", str(WORKERS), "--name", "crew",
        "--slurm", f"comment={COMMENT}", "--", *options,
    ]  # fmt: skip
    environ = (
        os.environ | cluster.environ | {"XDG_STATE_HOME": str(directory / "state"), "OMP_NUM_THREADS": "1"}
    )
    done = subprocess.run(command, cwd=directory, env=environ, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Slurm's job ")
    return done.stdout.split()[2]


def send(signum: signal.Signals, pids: list[int]) -> None:
    """Who has ended by itself meanwhile, such as a trainer between two trials, is not missed."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


def test_what_slurm_requeues_or_kills_loses_and_doubles_no_trial(cluster: Cluster, tmp_path: Path) -> None:
    with Server(tmp_path / "home", ttl_seconds=10) as server, server.client() as people:
        people.post("studies", json=SPEC)
        params = [{"lr": 0.002 * (n + 1)} for n in range(TRIALS)]
        people.post("studies", "on-slurm", "trials", json={"params": params, "stage": "grid"})
        job = launched(cluster, server, tmp_path, "--exit-when-idle", "20")  # longer than a lost lease takes

        def trials() -> list[dict[str, Any]]:
            return list(people.pages("studies", "on-slurm", "trials"))

        def said() -> str:
            logs = "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(tmp_path.glob("crew-*.log")))
            stand = [(t["number"], t["state"], t["attempt"]) for t in trials()]
            return f"{stand}\n{cluster.states(job)}\n{logs}"

        def running(task: int, *others: int) -> dict[str, Any] | None:
            """What this task's worker trains, once a few epochs are done and while many are to come."""
            theirs = (
                t for t in trials() if t["worker"] == f"crew-{job}-{task}" and t["number"] not in others
            )
            return next((t for t in theirs if t["state"] == "running" and 3 <= t["step"] < EPOCHS // 2), None)

        def halted(task: int, *others: int) -> dict[str, Any] | None:
            """The same, of a task whose processes stand still from here on: what it trains, it keeps."""
            if running(task, *others):
                send(signal.SIGSTOP, pids := cluster.pids(job, task))
                if found := running(task, *others):
                    return found
                send(signal.SIGCONT, pids)
            return None

        preempted = until(lambda: running(1), saw=said)
        cluster.run("scontrol", "requeue", f"{job}_1")
        killed = until(lambda: halted(2, preempted["number"]), saw=said)
        send(signal.SIGKILL, cluster.pids(job, 2))
        until(lambda: [t["state"] for t in trials()] == ["complete"] * (TRIALS + PLANNED), 600, saw=said)
        until(lambda: not cluster.states(job), saw=said)  # idle workers have left by themselves

        log = list(people.pages("studies", "on-slurm", "events"))
        ends = Counter(e["trial"] for e in log if e["kind"] == "moved" and e["data"]["to"] == "complete")
        assert ends == dict.fromkeys(range(TRIALS + PLANNED), 1), said()
        by_number = {t["number"]: t for t in trials()}
        again = [e["data"] for e in log if e["kind"] == "moved" and e["trial"] == preempted["number"]]
        assert [e["cause"] for e in again] == ["claim", "release", "claim", "finish"], again
        assert again[2]["resume_step"] >= preempted["step"]  # it went on from its snapshot
        assert by_number[killed["number"]]["attempt"] == 2, said()
        names = Counter(w["name"] for w in people.pages("workers"))
        assert names == {f"crew-{job}-{task}": 1 for task in (1, 2, 3)}  # who came back is who it was
        assert "handing_back" in (tmp_path / f"crew-{job}_1.log").read_text()


def test_a_worker_whose_time_is_nearly_up_hands_back_and_queues_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    with Server(tmp_path / "home") as server, server.client() as people:
        people.post("studies", json=SPEC)
        job = launched(cluster, server, tmp_path)
        assert cluster.run("squeue", "--job", f"{job}_1", "--noheader", "--format", "%k") == COMMENT
        until(lambda: len(list(people.pages("workers"))) == WORKERS, saw=lambda: cluster.states(job))
        # As Slurm does where a job has a time limit; the shortest is a minute, of which 90 s are the warning.
        cluster.run("scancel", "--signal=USR1", "--batch", f"{job}_1")
        log = tmp_path / f"crew-{job}_1.log"
        until(lambda: log.read_text().count("event=started") == 2, saw=log.read_text)
        assert f"event=stopping worker=crew-{job}-1 cause=preempted" in log.read_text()
