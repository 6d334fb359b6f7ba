"""By Ray: an actor a worker, placed by Ray, and started again by Ray wherever there is room.

| Ray | the worker |
|---|---|
| ends an actor, or its node's raylet ends | hands back within 25 s |
| loses the node | the leases run out after 30 s, and Ray starts the actor on another node |
| loses the head, and with it the cluster | hands back; launch again once there is a head |

Actors belong to the launch that made them, and live no longer: detached ones would hold their GPUs until
somebody thinks of them, and nobody would read what their workers say. Ray's own way to leave a launch on the
cluster is a job (`ray job submit -- tunesmith workers launch --on ray ...`), which has logs and an end.

What waits for room is what Ray's autoscaler makes room for, so a crew asks with actors that wait:
`ray.autoscaler.sdk.request_resources` has one value for the whole cluster, and would undo what others asked.
"""

from __future__ import annotations

import math
import re
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tunesmith_workers.launching.crew import Crew, LaunchError, token_in
from tunesmith_workers.launching.ray_actor import Worker, WorkerKilledError

NAMESPACE = "tunesmith"
LOOK_SECONDS = 5.0
"""Between two looks at the queue."""
KNOCK_SECONDS = 10.0
IDLE_SECONDS = 300
"""After so long without a trial a worker leaves that the queue brought."""

_KEYS = {"address": str, "viewer": Path, "least": int}
_RESOURCE = re.compile(r"resources\.(\S+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What Ray alone is told.

    Attributes:
        address: of the cluster, as `ray.init` takes it; auto: RAY_ADDRESS, or the one of this machine.
        resources: of a worker besides CPUs and GPUs, such as `{"tpu": 1.0}`.
        viewer: a file with a token of the role viewer, by which the launch reads the queue and has as many
            workers as there is work for, up to the crew's count; None: the count stays.
        least: workers that stay when there is no work.

    Raises: LaunchError.
    """

    address: str = "auto"
    resources: Mapping[str, float] = field(default_factory=dict)
    viewer: Path | None = None
    least: int = 0

    def __post_init__(self) -> None:
        if self.least < 0:
            raise LaunchError(f"least is at least 0, got {self.least}")
        if self.least and self.viewer is None:
            raise LaunchError("least goes with viewer: without it the count stays as it is")
        for name, amount in self.resources.items():
            if not amount > 0:
                raise LaunchError(f"resources.{name} is more than 0, got {amount}")


def cluster(options: Mapping[str, str]) -> Cluster:
    """A cluster by words, such as `{"address": "10.0.0.1:6379", "resources.tpu": "1"}`.

    Raises: LaunchError.
    """
    found: dict[str, Any] = {"resources": {}}
    for key, value in options.items():
        try:
            if named := _RESOURCE.fullmatch(key):
                found["resources"][named[1]] = float(value)
            elif key in _KEYS and value:
                found[key] = _KEYS[key](value)
            else:
                there = ", ".join([*_KEYS, "resources.NAME"])
                raise LaunchError(f"{key}={value} is nothing that Ray is told; there are {there}")
        except ValueError as e:
            raise LaunchError(f"{key} is a number, got {value!r}") from e
    return Cluster(**found)


def needs(crew: Crew, cluster: Cluster) -> dict[str, Any]:
    """What an actor asks Ray for."""
    return {"num_cpus": crew.cpus, "num_gpus": crew.gpus, "resources": dict(cluster.resources)}


def told(crew: Crew, cluster: Cluster, number: int) -> Crew:
    """The crew as the worker of this number is told: it leaves when idle, if the queue brought it."""
    if cluster.viewer is None or number <= cluster.least:
        return crew
    # Before a person's own options, whose word goes before ours.
    return replace(crew, options=("--exit-when-idle", str(IDLE_SECONDS), *crew.options))


def shown(crew: Crew, cluster: Cluster) -> str:
    """What `launch` would ask for, for people."""
    count = f"{cluster.least} to {crew.count}" if cluster.viewer else str(crew.count)
    asked = " ".join(f"{what}={amount}" for what, amount in needs(crew, cluster).items())
    command = shlex.join(told(crew, cluster, crew.count).arguments(Path("/dev/fd/N")))
    return (
        f"{count} actors on the cluster {cluster.address}, each with {asked} and\n"
        f"tunesmith worker --name {crew.name}-N {command}"
    )


def launch(
    crew: Crew, cluster: Cluster | None = None, *, say: Callable[[str], None] = print
) -> Mapping[str, int]:
    """Have the crew work on the cluster, and stay as long as it does: its actors end with this process.

    Args:
        say: is told who leaves.

    Returns: exit codes by name, once all have left that will not be asked again.
    Raises: LaunchError.
    """
    cluster = cluster or Cluster()
    token = crew.token()
    over: dict[str, int] = {}
    with _connection(cluster.address) as ray, _interruptible() as check:
        actors = _Actors(ray, crew, cluster, token)
        while len(over) < crew.count:
            check()
            count = crew.count if cluster.viewer is None else wanted(crew, cluster, cluster.viewer)
            actors.become(len(actors) if count is None else count, but=over)
            for name, code in actors.left():
                say(f"{name} has left with exit code {code}")
                if code or cluster.viewer is None:
                    over[name] = code
    return over


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Gives what raises KeyboardInterrupt if one came and was lost, as in a callback of Ray's own: else the
    launch would stay."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


class _Actors:
    """The actors of a launch, each with two answers to come: that it has begun, and its worker's exit code.

    `ray` is the module, which not everybody has.
    """

    def __init__(self, ray: Any, crew: Crew, cluster: Cluster, token: str) -> None:
        self._ray, self._crew, self._cluster, self._token = ray, crew, cluster, token
        # Ray asks for `work` again wherever it has started an actor anew.
        try:
            self._class = ray.remote(max_restarts=-1, max_task_retries=-1, **needs(crew, cluster))(Worker)
        except ValueError as e:
            raise LaunchError(f"Ray does not give a worker that: {e}") from e
        self._actors: dict[str, Any] = {}
        self._begun: dict[str, Any] = {}
        self._code: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._actors)

    def become(self, count: int, *, but: Mapping[str, int]) -> None:
        """So many, where that takes none away that has begun. `but`: names that are not asked again."""
        for number in range(1, self._crew.count + 1):
            name = f"{self._crew.name}-{number}"
            if len(self) < count and name not in self._actors and name not in but:
                self._ask(name, number)
        for name in reversed(list(self._actors)):
            if len(self) > count and not self._is_there(self._begun[name]):
                self._end(name)

    def left(self) -> Iterator[tuple[str, int]]:
        """Names and exit codes of those that have left, after at most LOOK_SECONDS."""
        if not self._actors:
            time.sleep(LOOK_SECONDS)
            return
        self._ray.wait(list(self._code.values()), timeout=LOOK_SECONDS)
        for name in [name for name, code in self._code.items() if self._is_there(code)]:
            try:
                code = self._ray.get(self._code[name])
            except self._ray.exceptions.RayError as e:
                raise LaunchError(f"Ray cannot run {name}: {e}") from e
            self._end(name)
            yield name, code

    def _ask(self, name: str, number: int) -> None:
        crew = told(self._crew, self._cluster, number)
        try:
            actor = self._class.options(name=name, namespace=NAMESPACE).remote(name, crew, self._token)
        except ValueError as e:  # also where another launch has the name
            raise LaunchError(f"Ray does not take {name}: {e}") from e
        self._actors[name] = actor
        self._begun[name] = actor.__ray_ready__.remote()
        self._code[name] = actor.work.options(retry_exceptions=[WorkerKilledError]).remote()

    def _end(self, name: str) -> None:
        del self._begun[name], self._code[name]
        self._ray.kill(self._actors.pop(name))

    def _is_there(self, answer: Any) -> bool:
        return bool(self._ray.wait([answer], timeout=0)[0])


def wanted(crew: Crew, cluster: Cluster, viewer: Path) -> int | None:
    """Workers for the trials that could run now or do; None while no server says.

    Raises: LaunchError if none ever will.
    """
    token = token_in(viewer, "viewer")
    for url in crew.url.split(","):
        if (trials := _trials(f"{url.strip().rstrip('/')}/metrics", token, viewer)) is not None:
            return min(crew.count, max(cluster.least, math.ceil(trials / crew.slots)))
    return None


def _trials(url: str, token: str, viewer: Path) -> float | None:
    """That could run now or do; None while the server does not answer. Raises: LaunchError."""
    try:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"})
    except httpx.HTTPError:
        return None
    except httpx.InvalidURL as e:
        raise LaunchError(f"{url} is no address: {e}") from e
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise LaunchError(
            f"the service shows nobody its queue for the token in {viewer} (HTTP {answer.status_code}): "
            "tunesmith token create NAME --role viewer --quiet makes one that may read it"
        )
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        return None
    try:
        families = text_string_to_metric_families(answer.text)
        found = {f.name: f.samples[0].value for f in families if f.samples}
        return found["tunesmith_trials_claimable"] + found["tunesmith_trials_running"]
    except (ValueError, KeyError) as e:
        raise LaunchError(f"{url} shows no queue of a Tunesmith service (HTTP {answer.status_code})") from e


def _knock(address: str) -> None:
    """Ray itself would try for minutes where nobody is. Raises: OSError."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


@contextmanager
def _connection(address: str) -> Iterator[Any]:
    """The module `ray`, connected. A connection that this process has already is taken, and left.

    Raises: LaunchError.
    """
    try:
        import ray  # noqa: PLC0415  (those who launch elsewhere need none)
    except ImportError as e:
        raise LaunchError("Ray is not installed here: pip install 'tunesmith[ray]'") from e
    if ray.is_initialized():
        yield ray
        return
    try:
        _knock(address)
        ray.init(address=address)
    except (OSError, RuntimeError, ValueError) as e:
        raise LaunchError(f"there is no Ray at {address}; --ray address=HOST:PORT says where ({e})") from e
    try:
        yield ray
    finally:
        ray.shutdown()
