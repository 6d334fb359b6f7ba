"""Workers as actors of a real Ray: what is lost comes back, and every trial ends once."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, Server, until
from ray_cluster import Cluster
from tunesmith_service.client import Client

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    made: list[Cluster] = []

    def make(**options: int) -> Cluster:
        made.append(Cluster(tmp_path / f"ray-{len(made)}", **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


class Study:
    """Some trials on digits, and by hand more of them."""

    def __init__(self, people: Client, *, trials: int, epochs: int) -> None:
        self._people = people
        people.post("studies", json={
            "name": "on-ray", "task": "digits", "space": {"lr": {"low": 1e-4, "high": 1.0, "log": True}},
            "fixed": {"optimizer": "sgd", "hidden": 64},
            "objective": {"metric": "val/loss", "direction": "minimize"},
            "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": epochs, "axes": {"lr": trials}}],
        })  # fmt: skip

    def enqueue(self, count: int) -> None:
        params = [{"lr": 0.002 * (n + 1)} for n in range(count)]
        self._people.post("studies", "on-ray", "trials", json={"params": params, "stage": "grid"})

    def trials(self) -> list[dict[str, Any]]:
        return list(self._people.pages("studies", "on-ray", "trials"))

    def running(self, workers: set[str]) -> list[dict[str, Any]]:
        """What these train, an epoch of each done and half of them to come."""
        running = [t for t in self.trials() if t["state"] == "running" and t["worker"] in workers]
        return [t for t in running if 0 < t["step"] <= t["epochs"] / 2]

    def is_complete(self, trials: int) -> bool:
        return Counter(t["state"] for t in self.trials()) == {"complete": trials}

    def causes(self, trial: int) -> list[str]:
        """Why it moved from state to state."""
        log = self._people.pages("studies", "on-ray", "events")
        return [e["data"]["cause"] for e in log if e["kind"] == "moved" and e["trial"] == trial]

    def ends(self) -> Counter[int]:
        """How often each trial became complete."""
        log = self._people.pages("studies", "on-ray", "events")
        return Counter(e["trial"] for e in log if e["kind"] == "moved" and e["data"]["to"] == "complete")


def launched(cluster: Cluster, server: Server, count: int, *options: str) -> Process:
    """`options`: of Ray, then -- and the workers'."""
    command = [
        sys.executable, "-m", "tunesmith_service", "workers", "launch", "--on", "ray", "--url", server.url,
        "--token-file", str(server.home / "worker.token"), "--count", str(count), "--name", "crew",
        "--ray", f"address={cluster.address}", *options,
    ]  # fmt: skip
    return Process(command, environ=cluster.environ)


def test_a_node_that_is_lost_loses_and_doubles_no_trial(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(nodes=3, cpus=4)
    with Server(tmp_path / "home", ttl_seconds=20) as server, server.client() as people:
        study = Study(people, trials=60, epochs=60)
        with launched(cluster, server, 8) as launch:

            def said() -> str:
                return f"{Counter(t['state'] for t in study.trials())}\n{launch.said}"

            def are_all_there() -> bool:
                return sum(len(cluster.workers(node)) for node in cluster.nodes) == 8

            until(are_all_there, 600, saw=said)
            lost = cluster.nodes[-1]
            theirs = cluster.workers(lost)
            assert theirs, said()

            def halted() -> list[dict[str, Any]]:
                """What they train while the node stands still: they keep it."""
                if study.running(theirs):
                    cluster.halt(lost)
                    if taken := study.running(theirs):
                        return taken
                    cluster.go_on(lost)
                return []

            taken = until(halted, saw=said)
            cluster.lose(lost)
            people.post("studies", "on-ray", "pause")  # so that there is work left for those who come back
            until(are_all_there, saw=said)  # on the two nodes that are left

            def have_joined() -> bool:
                """A node is a machine, so who comes back on another one is somebody new of the same name."""
                names = Counter(w["name"] for w in people.pages("workers"))
                return len(names) == 8 and all(names[t["worker"]] == 2 for t in taken)

            until(have_joined, 600, saw=said)
            before = {t["number"] for t in study.trials() if t["state"] == "complete"}
            people.post("studies", "on-ray", "resume")
            until(lambda: study.is_complete(60), 600, saw=said)
        assert study.ends() == dict.fromkeys(range(60), 1), said()
        for trial in taken:
            assert study.causes(trial["number"]) == ["claim", "expired", "claim", "finish"]
        after = {t["worker"] for t in study.trials() if t["number"] not in before}
        assert theirs & after, said()  # those who came back train


def test_a_head_that_is_lost_loses_no_trial(make_cluster: MakeCluster, tmp_path: Path) -> None:
    with Server(tmp_path / "home") as server, server.client() as people:
        study = Study(people, trials=4, epochs=600)
        cluster = make_cluster(cpus=2)
        with launched(cluster, server, 2) as launch:
            taken = until(lambda: study.running({"crew-1", "crew-2"}), saw=lambda: launch.said)[0]
            people.post("studies", "on-ray", "pause")  # who notices last claims nothing of who noticed first
            cluster.behead()
            assert launch.ends() != 0, launch.said
        until(lambda: all(t["state"] != "running" for t in study.trials()), saw=study.trials)
        assert study.causes(taken["number"]) == ["claim", "release"]  # its worker has handed it back

        people.post("studies", "on-ray", "resume")
        cluster = make_cluster(cpus=2)
        with launched(cluster, server, 2, "--", "--exit-when-idle", "2") as launch:
            until(lambda: study.is_complete(4), 600, saw=lambda: launch.said)
            assert launch.ends() == 0, launch.said
        assert study.ends() == dict.fromkeys(range(4), 1)


def test_a_launch_that_is_over_leaves_nobody_behind(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(cpus=2)
    with Server(tmp_path / "home") as server, server.client() as people:
        study = Study(people, trials=2, epochs=20_000)
        with launched(cluster, server, 1) as launch:
            (taken,) = until(lambda: study.running({"crew-1"}), saw=lambda: launch.said)
            again = launched(cluster, server, 1)
            assert again.ends() == 2
            assert "crew-1" in again.said
            launch.signal(signal.SIGINT)
            launch.ends()
        until(lambda: not cluster.workers(cluster.nodes[0]))
        assert study.causes(taken["number"]) == ["claim", "release"]


def test_the_cluster_grows_and_shrinks_with_the_queue(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(cpus=1, most=3)
    with Server(tmp_path / "home") as server, server.client() as people:
        viewer = tmp_path / "viewer.token"
        viewer.write_text(people.post("tokens", json={"name": "ray", "role": "viewer"})["token"])
        with launched(
            cluster, server, 2, "--ray", f"viewer={viewer}", "--", "--exit-when-idle", "2"
        ) as launch:

            def said() -> str:
                return f"{cluster.size} nodes\n{launch.said}"

            launch.says("Connected to Ray cluster")
            study = Study(people, trials=2, epochs=12)
            study.enqueue(6)
            until(lambda: cluster.size == 3, saw=said)
            until(lambda: study.is_complete(8), 600, saw=said)
            until(lambda: cluster.size == 1, saw=said)
