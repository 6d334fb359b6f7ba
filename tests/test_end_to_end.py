"""A real service, two real workers, real training: a worker killed in mid-epoch, the service killed once.

At the end nothing is lost, nothing ran twice, and the log explains every decision.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, free_port, until
from sqlalchemy import select
from tunesmith_service import event_log
from tunesmith_service.client import Client
from tunesmith_service.db import open_engine
from tunesmith_service.tables import studies, trials
from tunesmith_studies.decisions import differences
from tunesmith_studies.log import Entry

TTL = 3
STUDY: dict[str, Any] = {
    "name": "kill-me",
    "task": "digits",
    "space": {
        "lr": {"low": 1e-3, "high": 0.3, "log": True},
        "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True, "zero": True},
    },
    "fixed": {"optimizer": "momentum", "model": "cnn", "batch_size": 32},
    "stages": [
        {"kind": "coarse_grid", "epochs": 8, "axes": {"lr": 4, "weight_decay": [0, 1e-3]}},
        {"kind": "refine_grid", "epochs": 10, "top": 1, "continue_snapshots": True},
    ],
}


class Cluster:
    """One service and its workers, each a process as a person starts it."""

    def __init__(self, home: Path, database_url: str) -> None:
        self.home, self.database_url, self.port = home, database_url, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.acknowledged = home / "acknowledged.jsonl"
        self.processes: list[Process] = []
        self.clients: list[Client] = []
        self.service = self.serve()

    def _start(self, *arguments: str, environ: dict[str, str] | None = None) -> Process:
        command = [sys.executable, "-m", "tunesmith_service", *arguments]
        process = Process(command, directory=self.home, environ=environ)
        self.processes.append(process)
        return process

    def serve(self) -> Process:
        flags = ["--home", str(self.home), "--port", str(self.port), "--ttl-seconds", str(TTL)]
        flags += ["--sweep-seconds", "0.2", "--database-url", self.database_url]
        return self._start("serve", *flags)

    def worker(self, name: str) -> Process:
        patch = Path(__file__).parent / "patches" / "acknowledged"
        environ = {"PYTHONPATH": str(patch), "TUNESMITH_TEST_ACKNOWLEDGED": str(self.acknowledged)}
        arguments = ["worker", "--url", self.url, "--token-file", str(self.home / "worker.token")]
        return self._start(
            *arguments, "--name", name, "--state", str(self.home / name), "--slots", "1",
            "--cores", "1", environ=environ,  # two trainers on all cores would only wait for each other
        )  # fmt: skip

    def client(self) -> Client:
        file = self.home / "operator.token"
        until(file.exists, saw=lambda: self.service.said)
        found = Client(self.url, file.read_text().strip(), retry_for=60)
        self.clients.append(found)
        return found

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.__exit__(None, None, None)


@pytest.fixture
def cluster(tmp_path: Path, url: str) -> Iterator[Cluster]:
    """On SQLite and on PostgreSQL."""
    found = Cluster(tmp_path, url)
    yield found
    found.close()


def running_on(client: Client, worker: str, least: int) -> dict[str, Any] | None:
    """A trial that `worker` is training and of which `least` epochs have come."""
    for trial in client.get("studies", STUDY["name"], "trials", state="running")["items"]:
        if trial["worker"] == worker and trial["step"] >= least:
            return dict(trial)
    return None


def log_of(cluster: Cluster, study_id: int) -> tuple[dict[str, Any], list[Entry], dict[int, int]]:
    """The study's specification and log, and trial numbers by id."""
    engine = open_engine(cluster.database_url)
    with engine.connect() as conn:
        entries = event_log.entries_since(conn, study_id, 0)
        spec = conn.execute(select(studies.c.spec).where(studies.c.id == study_id)).scalar_one()
        numbers = {row.id: row.number for row in conn.execute(select(trials.c.id, trials.c.number))}
    engine.dispose()
    return spec, entries, numbers


def test_a_killed_worker_and_a_killed_service_lose_nothing_and_run_nothing_twice(cluster: Cluster) -> None:
    client = cluster.client()
    first, _second = cluster.worker("first"), cluster.worker("second")
    created = client.post("studies", json=STUDY)
    assert created["warnings"] == [] or "digits" in created["warnings"][0]

    victim = until(lambda: halted(client, first), saw=lambda: first.said)
    first.signal(signal.SIGKILL)  # in the middle of a later epoch: an epoch has been reported
    until(
        lambda: client.get("studies", STUDY["name"], "trials", victim["number"])["attempt"] >= 2,
        60, saw=lambda: cluster.service.said,
    )  # fmt: skip
    cluster.worker("third")

    until(lambda: running_on(client, "second", least=1))
    cluster.service.signal(signal.SIGKILL)
    cluster.service.ends()
    cluster.service = cluster.serve()

    study = until(lambda: finished(client), 600, saw=lambda: cluster.service.said[-3000:])
    assert study["state"] == "complete", study
    cluster.service.signal(signal.SIGTERM)
    cluster.service.ends()

    spec, entries, numbers = log_of(cluster, created["id"])
    every_cell_ran_once(entries, study)
    every_acknowledged_report_is_there(entries, cluster.acknowledged, numbers)
    assert list(differences(spec, entries)) == []


def halted(client: Client, first: Process) -> dict[str, Any] | None:
    """What the worker "first" trains while it stands still: it can end nothing any more."""
    if running_on(client, "first", least=1):
        first.signal(signal.SIGSTOP)
        if (found := running_on(client, "first", least=1)) and found["step"] <= found["epochs"] / 2:
            return found
        first.signal(signal.SIGCONT)
    return None


def finished(client: Client) -> dict[str, Any] | None:
    study = client.get("studies", STUDY["name"])
    return dict(study) if study["state"] in ("complete", "stopped") else None


def every_cell_ran_once(entries: list[Entry], study: dict[str, Any]) -> None:
    """Each key has one trial, each trial one ending, which is complete, or pruned for its reason."""
    planned = {e.trial: (e.stage, e.data["key"]) for e in entries if e.kind == "planned"}
    ends = [e for e in entries if e.kind == "moved" and e.data["to"] not in ("waiting", "running")]
    assert Counter(planned.values()).most_common(1)[0][1] == 1
    assert Counter(e.trial for e in ends) == Counter(list(planned))
    assert {e.data["to"] for e in ends} <= {"complete", "pruned"}
    assert all(e.data["stop_reason"] == "diverged" for e in ends if e.data["to"] == "pruned")
    assert sum(stage == "coarse_grid" for stage, _ in planned.values()) == 8
    assert [s["state"] for s in study["stages"]] == ["done", "done"]


def every_acknowledged_report_is_there(
    entries: list[Entry], acknowledged: Path, numbers: dict[int, int]
) -> None:
    """What workers were told is kept stands in the log, once, points of dropped attempts too."""
    stored = Counter(
        (e.trial, e.data["attempt"], e.data["seq"], json.dumps(e.data["points"], sort_keys=True))
        for e in entries
        if e.kind == "reported"
    )
    told = {
        (numbers[t["trial_id"]], t["attempt"], t["seq"], json.dumps(t["points"], sort_keys=True))
        for t in map(json.loads, acknowledged.read_text().splitlines())
    }
    assert set(stored.values()) == {1}
    assert len(told) > 8
    assert told <= stored.keys()
