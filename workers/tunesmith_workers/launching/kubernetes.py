"""By Kubernetes: manifests for `kubectl apply -f -`, a pod a worker.

| Kubernetes | the worker |
|---|---|
| takes the pod away (drain, preemption, scaling down, a new image): SIGTERM | hands back within 25 s |
| loses the node | the leases run out after 30 s, and the trials go on elsewhere |
| finds `alive` in its state older than ALIVE_SECONDS | is killed and started again |

A Deployment keeps workers there; a Job ends once all have been idle for as long as `--exit-when-idle` says.
With `most`, KEDA scales the Deployment by the queue: it reads the trials that could be claimed from the
service's own `/metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from tunesmith_workers.launching.crew import Crew, LaunchError

GRACE_SECONDS = 40
"""Between SIGTERM and SIGKILL: a worker needs 25 to hand back."""
ALIVE_SECONDS = 60
STOPPED = 143
"""Exit code of a job's worker after SIGTERM, as of a process that it ended: 0 would be a completion."""
HOME, SECRET, TOKEN = "/var/lib/tunesmith", "/run/secrets/tunesmith", "token"
WRITTEN = {"home": HOME, "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108
"""All that a worker may write, by volume."""
USER = 10001  # of the images

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?")
_OBJECT = (re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?"), "a-z, 0-9, - and dots, at most 253")
_WORDS = {
    "namespace": (re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"), "a-z, 0-9 and -, at most 63"),
    "secret": _OBJECT,
    "viewer": _OBJECT,
    "memory": (re.compile(r"\d+(\.\d+)?([kMGTPE]|[KMGTPE]i)?"), "a number with a unit, such as 16Gi"),
    "gpu": (re.compile(r"[a-z0-9][-.a-z0-9]*/[A-Za-z0-9][-._A-Za-z0-9]*"), "a vendor's, such as amd.com/gpu"),
}
"""What the API server takes for each, and how that is said."""
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What Kubernetes alone is told.

    Attributes:
        image: of the workers, such as registry.example.org/tunesmith-worker:0.2.0.
        kind: whether workers stay, or leave when there is nothing left to do.
        secret: one that is there already and has the worker's token under `token`; None: made of the file.
        memory: of a pod, as Kubernetes writes it, such as 16Gi.
        gpu: the resource that a GPU is here, such as nvidia.com/gpu.
        most: workers that KEDA may scale a Deployment up to; None: the count stays.
        viewer: a secret with a token of the role viewer under `token`, by which KEDA reads the queue.

    Raises: LaunchError.
    """

    image: str
    namespace: str = "default"
    kind: Literal["deployment", "job"] = "deployment"
    secret: str | None = None
    memory: str | None = None
    gpu: str = "nvidia.com/gpu"
    most: int | None = None
    viewer: str | None = None

    def __post_init__(self) -> None:
        for name, (pattern, wanted) in _WORDS.items():
            word = getattr(self, name)
            if word is not None and not pattern.fullmatch(word):
                raise LaunchError(f"Kubernetes takes no {name} {word!r}: it is {wanted}")
        if self.most is not None and self.kind == "job":
            raise LaunchError(
                "a job has as many workers as it was given: scale a deployment, or leave it out"
            )
        if (self.most is None) != (self.viewer is None):
            raise LaunchError(
                "most and viewer go together: KEDA scales up to most, and reads the queue with a token of "
                "the role viewer (kubectl create secret generic NAME --from-file=token=viewer.token)"
            )


def cluster(options: Mapping[str, str]) -> Cluster:
    """A cluster by words, such as `{"image": "worker:1", "memory": "16Gi"}`. Raises: LaunchError."""
    known = {f.name for f in fields(Cluster)}
    if unknown := sorted(set(options) - known):
        raise LaunchError(
            f"{unknown[0]} is nothing that Kubernetes is told; there are {', '.join(sorted(known))}"
        )
    if not options.get("image"):
        raise LaunchError(
            "name the workers' image, such as --kubernetes image=registry.example.org/tunesmith-worker"
        )
    found: dict[str, Any] = dict(options)
    if "most" in found:
        if not found["most"].isdecimal():
            raise LaunchError(f"most is a number of workers, got {found['most']!r}")
        found["most"] = int(found["most"])
    if found.get("kind", "job") not in ("job", "deployment"):
        raise LaunchError(f"kind is deployment or job, got {found['kind']!r}")
    return Cluster(**found)


def manifests(crew: Crew, cluster: Cluster) -> list[Manifest]:
    """What `kubectl apply` makes of the crew. Raises: LaunchError."""
    if not _NAME.fullmatch(crew.name):
        raise LaunchError(
            f"{crew.name!r} names nothing in Kubernetes: take a-z, 0-9 and -, at most 52 of them"
        )
    if cluster.kind == "job" and not any(o.startswith("--exit-when-idle") for o in crew.options):
        raise LaunchError("a job that shall end needs workers that leave: add -- --exit-when-idle 600")
    found = [] if cluster.secret else [_secret(crew, cluster)]
    found += (
        [_job(crew, cluster)]
        if cluster.kind == "job"
        else [_deployment(crew, cluster), _budget(crew, cluster)]
    )
    if cluster.most is not None:
        found += [_authentication(crew, cluster), _scaled(crew, cluster, cluster.most)]
    return found


def written(found: Sequence[Manifest]) -> str:
    """As YAML."""
    return yaml.safe_dump_all(found, sort_keys=False)


def _labels(crew: Crew) -> Manifest:
    return {"app.kubernetes.io/name": "tunesmith-worker", "app.kubernetes.io/instance": crew.name}


def _meta(crew: Crew, cluster: Cluster) -> Manifest:
    return {"name": crew.name, "namespace": cluster.namespace, "labels": _labels(crew)}


def _secret(crew: Crew, cluster: Cluster) -> Manifest:
    try:
        token = crew.token()
    except LaunchError as e:
        raise LaunchError(f"{e}, or a secret that is there with --kubernetes secret=NAME") from e
    return {
        "apiVersion": "v1", "kind": "Secret", "metadata": _meta(crew, cluster), "type": "Opaque",
        "stringData": {TOKEN: token},
    }  # fmt: skip


def _deployment(crew: Crew, cluster: Cluster) -> Manifest:
    spec = {
        "selector": {"matchLabels": _labels(crew)},
        # A worker that goes costs what it has not saved since its last step, so none is started beforehand:
        # GPUs are rarely spare.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "template": _pod(crew, cluster, restart="Always"),
    }
    if cluster.most is None:  # else it is KEDA's to say, also when this is applied again
        spec = {"replicas": crew.count, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _meta(crew, cluster), "spec": spec}


def _job(crew: Crew, cluster: Cluster) -> Manifest:
    spec = {
        "parallelism": crew.count,
        "completions": crew.count,
        "backoffLimit": 3 * crew.count,
        # A pod that the cluster takes away is neither done, since its worker then ends with STOPPED, nor has
        # it failed: another takes its place, for which its trials wait.
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
        },
        "template": _pod(crew, cluster, restart="Never"),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _meta(crew, cluster), "spec": spec}


def _budget(crew: Crew, cluster: Cluster) -> Manifest:
    """Drains take one worker after the other, so trials find others to go on with."""
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": _meta(crew, cluster),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _labels(crew)}},
    }  # fmt: skip


def _pod(crew: Crew, cluster: Cluster, *, restart: str) -> Manifest:
    resources: dict[str, Any] = {"requests": {"cpu": str(crew.cpus)}, "limits": {}}
    if cluster.memory:
        resources["requests"]["memory"] = resources["limits"]["memory"] = cluster.memory
    if crew.gpus:
        resources["limits"][cluster.gpu] = str(crew.gpus)
    container = {
        "name": "worker",
        "image": cluster.image,
        "args": [
            "worker", "--name", "$(POD_NAME)", "--state", f"{HOME}/state",
            *(("--stopped-exit-code", str(STOPPED)) if cluster.kind == "job" else ()),
            *crew.arguments(Path(SECRET, TOKEN)),
        ],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": resources,
        "livenessProbe": {
            "exec": {"command": ["sh", "-c", alive_command(f"{HOME}/state")]},
            "initialDelaySeconds": 60, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 3,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "token", "mountPath": SECRET, "readOnly": True},
            *({"name": name, "mountPath": path} for name, path in WRITTEN.items()),
        ],
    }  # fmt: skip
    spec = {
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "token", "secret": {"secretName": cluster.secret or crew.name, "defaultMode": 0o440}},
            {"name": "home", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # loaders' processes share batches there
        ],
    }  # fmt: skip
    return {"metadata": {"labels": _labels(crew)}, "spec": spec}


def alive_command(state: str) -> str:
    """A shell's test whether the worker with this state directory is awake."""
    return f"test $(($(date +%s) - $(stat -c %Y {state}/alive))) -lt {ALIVE_SECONDS}"


def _authentication(crew: Crew, cluster: Cluster) -> Manifest:
    """`/metrics` wants a token, as all routes do; a worker's is not enough."""
    target = {"parameter": "token", "name": cluster.viewer, "key": TOKEN}
    return {
        "apiVersion": "keda.sh/v1alpha1", "kind": "TriggerAuthentication", "metadata": _meta(crew, cluster),
        "spec": {"secretTargetRef": [target]},
    }  # fmt: skip


def _scaled(crew: Crew, cluster: Cluster, most: int) -> Manifest:
    """A worker for each `slots` trials that could run now or do: those that wait, and those under way."""
    first = crew.url.partition(",")[0].rstrip("/")
    where: Mapping[str, str] = {"url": f"{first}/metrics", "format": "prometheus"}
    triggers = [
        {
            "type": "metrics-api",
            "metadata": {
                **where,
                "valueLocation": metric,
                "targetValue": str(crew.slots),
                "authMode": "bearer",
            },
            "authenticationRef": {"name": crew.name},
            "name": name,
        }
        for name, metric in (
            ("waiting", "tunesmith_trials_claimable"),
            ("running", "tunesmith_trials_running"),
        )
    ]
    spec = {
        "scaleTargetRef": {"name": crew.name},
        "minReplicaCount": 0,
        "maxReplicaCount": most,
        "pollingInterval": 15,
        "cooldownPeriod": 300,
        "advanced": {"scalingModifiers": {"formula": "waiting + running", "target": str(crew.slots)}},
        "triggers": triggers,
    }
    head = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
    return {**head, "metadata": _meta(crew, cluster), "spec": spec}
