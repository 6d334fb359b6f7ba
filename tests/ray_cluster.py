"""A Ray of several nodes on this machine: real head, raylets and actors, each node with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from processes import free_port
from ray._private.node import Node
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import Cluster as Raylets
from ray.util import get_node_ip_address

SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
"""A node that is lost is missed within 2 s, not 30."""
COMMANDS = (
    "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
    "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
"""Keys without which the autoscaler refuses its configuration."""


class Cluster:
    """Up once it is made, the head first. `environ` is what a launch needs to find it.

    Args:
        most: nodes that Ray's autoscaler may add, as further raylets on this machine. (Ray's own
            AutoscalingCluster begins with `ray stop`, which ends every Ray of the machine.)
    """

    def __init__(self, home: Path, *, nodes: int = 1, cpus: int = 4, most: int = 0) -> None:
        # Ray's sockets lie in there, and a socket's path has room for 107 bytes.
        self._temporary = Path(tempfile.mkdtemp(prefix="ray-"))
        self.environ = {
            "RAY_TMPDIR": str(self._temporary), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a head is waited for no longer; 60 otherwise
        }  # fmt: skip
        self._raylets = Raylets()
        scaling = self._autoscaling(cpus, most) if most else {}
        for number in range(nodes):
            own = {"XDG_STATE_HOME": str(home / f"node-{number}")}
            own |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"} if most else {}
            told: dict[str, Any] = {} if number else {"_system_config": SOON, "include_dashboard": False}
            with mock.patch.dict(os.environ, self.environ | own):
                self._raylets.add_node(num_cpus=0 if most else cpus, **told, **scaling)

    def _autoscaling(self, cpus: int, most: int) -> dict[str, Any]:
        port = free_port()
        head, node = ({"resources": {"CPU": n}, "node_config": {}} for n in (0, cpus))
        provider = {
            "type": "fake_multinode", "gcs_address": f"{get_node_ip_address()}:{port}",
            "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
        }  # fmt: skip
        told = {
            "cluster_name": "here", "max_workers": most, "idle_timeout_minutes": 0.05,
            "upscaling_speed": most,
            "provider": provider, "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {**head, "max_workers": 0}, "node": {**node, "max_workers": most},
            },
            **{key: {} for key in ("auth", "file_mounts", "docker")},
            **{key: [] for key in COMMANDS},
        }  # fmt: skip
        config = self._temporary / "autoscaling.json"
        config.write_text(json.dumps(told))
        known = dict.fromkeys(
            ("RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_CLOUD_INSTANCE_ID"), FAKE_HEAD_NODE_ID
        )
        return {"autoscaling_config": str(config), "gcs_server_port": port, "env_vars": known}

    @property
    def address(self) -> str:
        return str(self._raylets.address)

    @property
    def nodes(self) -> list[Node]:
        """The head first. Without those that the autoscaler has added."""
        return sorted(self._raylets.list_all_nodes(), key=lambda node: not node.is_head())

    @property
    def size(self) -> int:
        """Nodes that live, the autoscaler's too."""
        return len(self._raylets.global_state._live_node_ids())

    def workers(self, node: Node) -> set[str]:
        """Names of the workers that run on it."""
        found = set()
        for process in _descendants(node):
            with suppress(psutil.Error):
                line = process.cmdline()
                if "tunesmith_workers" in line and line[0] != "sh":
                    found.add(line[line.index("--name") + 1])
        return found

    def halt(self, node: Node) -> None:
        """Every process of it stands still."""
        _signal(_descendants(node), signal.SIGSTOP)

    def go_on(self, node: Node) -> None:
        _signal(_descendants(node), signal.SIGCONT)

    def lose(self, node: Node) -> None:
        """As if its plug were pulled: no process of it does anything more."""
        self.halt(node)  # else those that go later would see the first ones go
        _signal(_descendants(node), signal.SIGKILL)
        self._raylets.remove_node(node, allow_graceful=False)

    def behead(self) -> None:
        """The head's own processes are killed; the actors on it live to see that."""
        for started in self._raylets.head_node.all_processes.values():
            for one in started:
                one.process.kill()

    def close(self) -> None:
        """Every process ends; a cluster that has lost its head may be closed too."""
        theirs = [process for node in self.nodes for process in _descendants(node)]
        self._raylets.shutdown()
        _signal(theirs, signal.SIGKILL)
        shutil.rmtree(self._temporary, ignore_errors=True)


def _descendants(node: Node) -> list[psutil.Process]:
    """All processes of a node: raylet, actors, their workers and trainers."""
    found = []
    for started in node.all_processes.values():
        for one in started:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(one.process.pid)
                found += [process, *process.children(recursive=True)]
    return found


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
