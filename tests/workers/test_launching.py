"""What is asked of Slurm, Ray and Kubernetes, and what a person is told who asks for something else.

`test_slurm.py` has a real Slurm, `test_ray.py` a real Ray. Kubernetes' manifests are held against the schemas
of its API (of the package kubernetes-validate), the probe and the signals against a real worker.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from processes import Process, Server, Worker, free_port, until
from tunesmith_workers.launching import Crew, LaunchError, kubernetes, local, ray, slurm
from tunesmith_workers.launching.command import workers

TOKEN = f"tsm_5f0c8a3e9b7d4c21_{'5ec1e7' + '0' * 58}"
VERSIONS = ("1.37", "1.36", "1.35")
CREW = Crew("http://tunesmith:8787", Path("worker.token"), count=8, slots=2, gpus_per_slot=1, cpus_per_slot=4,
            options=("--data", "spam=/data/my spam.csv"), name="crew")  # fmt: skip


STUDY = {
    "name": "queued", "task": "digits", "space": {"lr": {"low": 1e-4, "high": 1.0, "log": True}},
    "objective": {"metric": "val/loss"},
    "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": 1, "axes": {"lr": 2}}],
}  # fmt: skip


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    token = tmp_path / "worker.token"
    token.write_text(f"{TOKEN}\n")
    return Crew("http://tunesmith:8787", token, count=3, name="crew", options=("--exit-when-idle", "600"))


# --- crews ---


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"count": 0}, "count is at least 1, got 0"),
        ({"slots": 0}, "slots is at least 1"),
        ({"gpus_per_slot": -1}, "gpus_per_slot is at least 0"),
        ({"name": "my lab"}, "'my lab' names no worker"),
        ({"name": "x" * 41}, "at most 40"),
        ({"options": ("--url=http://x",)}, "--url follows from the launch itself"),
        ({"options": ("--once", "--slots", "3")}, "--slots follows from the launch itself"),
    ],
)
def test_what_makes_no_crew_is_refused(wrong: dict[str, Any], told: str):
    with pytest.raises(LaunchError, match=told):
        Crew("http://x", Path("t"), **wrong)


def test_a_worker_is_told_its_share_of_a_machine():
    assert CREW.machine() == ["--cores", "8", "--devices-per-slot", "1"]
    on_cpu = Crew("http://x", Path("t"), count=4, slots=2, cpus_per_slot=3)
    assert on_cpu.machine() == ["--cores", "6", "--devices", "cpu", "--slots", "2"]


def test_here_one_process_has_the_slots_of_all():
    crew = Crew("http://x", Path("t"), count=4, slots=2, options=("--once",))
    assert local.command(crew, {})[-7:] == ["--cores", "8", "--devices", "cpu", "--slots", "8", "--once"]


def test_here_the_first_gpus_are_the_workers():
    environ = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    crew = Crew("http://x", Path("t"), count=2, gpus_per_slot=1)
    made = local.command(crew, environ)
    assert made[-6:] == ["--cores", "2", "--devices-per-slot", "1", "--devices", "4,5"]
    with pytest.raises(
        LaunchError, match="3 workers of 1 slots with 2 GPUs need 6, and this machine shows 4"
    ):
        local.command(Crew("http://x", Path("t"), count=3, gpus_per_slot=2), environ)


# --- Slurm ---


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_slurm_is_asked_for_an_array_that_comes_back():
    script = slurm.script(CREW, {"partition": "gpu", "time": "4:00:00", "exclusive": ""})
    assert directives(script) == [
        "job-name=crew", "array=1-8", "ntasks=1", "cpus-per-task=8", "gres=gpu:2", "output=crew-%A_%a.log",
        "open-mode=append", "requeue", "signal=B:USR1@90", "partition=gpu", "time=4:00:00", "exclusive",
    ]  # fmt: skip
    assert "'spam=/data/my spam.csv'" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "written"),
    [("two words", '"two words"'), ("run #7", '"run #7"'), ('a "b" c', r'"a \"b\" c"'), ("v100:2", "v100:2")],
)
def test_sbatch_reads_a_value_whole(value: str, written: str):
    assert f"comment={written}" in directives(slurm.script(CREW, {"comment": value}))


def test_a_persons_own_word_goes_before_ours():
    assert "cpus-per-task=2" in directives(slurm.script(CREW, {"cpus-per-task": "2"}))


@pytest.mark.parametrize("key", ["array", "requeue", "signal", "x y", "Time", "", "--time"])
def test_slurm_is_told_nothing_that_the_script_lives_on(key: str):
    with pytest.raises(LaunchError, match=r"leave it out|no option of sbatch"):
        slurm.script(CREW, {key: "1"})


def test_what_stands_in_the_token_file_is_one(crew: Crew):
    crew.token_file.write_text("study: mine\n")
    with pytest.raises(LaunchError, match="holds no token; `tunesmith token create"):
        kubernetes.manifests(crew, kubernetes.cluster({"image": "w:1"}))


def launched(*words: str, **environ: str) -> Any:
    return CliRunner().invoke(workers, ["launch", *words, "--dry-run"], env=environ)


def test_options_of_another_engine_are_named():
    said = launched("--on", "local", "--slurm", "partition=gpu")
    assert (said.exit_code, "--slurm partition=gpu says nothing to local; leave it out" in said.output) == (
        2,
        True,
    )


def test_without_a_word_workers_are_those_of_the_service_that_runs_here(tmp_path: Path):
    home = tmp_path / "home"
    with Server(home) as server:
        said = launched("--on", "local", TUNESMITH_HOME=str(home))
    assert f"--url {server.url} --token-file {home}/worker.token" in said.output


def test_a_line_more_makes_no_command_of_its_own():
    with pytest.raises(LaunchError, match="no option of sbatch"):
        slurm.script(CREW, {"comment": "x\nrm -rf ~"})


def test_without_a_slurm_a_person_is_told_where_to_launch_from(crew: Crew, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="there is no sbatch here"):
        slurm.launch(crew)


def test_a_token_that_the_jobs_could_not_read_is_named_before_they_are_submitted():
    with pytest.raises(LaunchError, match=r"worker\.token is no file"):
        slurm.launch(CREW)


@pytest.mark.parametrize("again", [False, True], ids=["over", "time_is_up"])
def test_the_script_queues_again_only_once_its_time_is_up(tmp_path: Path, crew: Crew, again: bool):
    """Run by bash, with a worker and an scontrol that leave what they were told."""
    for name, does in {
        "worker": f"trap 'echo handed back >> {tmp_path}/told; exit 0' USR1\n"
        f"echo ready >> {tmp_path}/told; while [[ ! -e {tmp_path}/over ]]; do sleep 0.02; done; exit 3",
        "scontrol": f'echo "$@" >> {tmp_path}/told',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    script = re.sub(r"^.*-m tunesmith_workers.*&$", f"{tmp_path}/worker &", slurm.script(crew), flags=re.M)
    told = tmp_path / "told"
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    with Process(["bash", "-c", script], environ=environ) as job:
        until(lambda: told.exists() and "ready" in told.read_text())
        if again:
            job.signal(signal.SIGUSR1)
        else:
            job.signal(signal.SIGTERM)  # Slurm sends it to the worker too
            (tmp_path / "over").touch()
        code = job.ends()
    assert told.read_text().splitlines()[1:] == (["handed back", "requeue 17"] if again else [])
    assert code == (0 if again else 3)


# --- Ray ---


def test_ray_is_asked_for_what_a_worker_needs():
    found = ray.cluster({"address": "10.0.0.1:6379", "resources.tpu": "1", "resources.disk": "0.5"})
    assert ray.needs(CREW, found) == {
        "num_cpus": 8, "num_gpus": 2, "resources": {"tpu": 1.0, "disk": 0.5},
    }  # fmt: skip
    assert "8 actors on the cluster 10.0.0.1:6379" in ray.shown(CREW, found)


def test_without_a_ray_a_person_is_told_how_to_say_where(crew: Crew):
    nowhere = f"127.0.0.1:{free_port()}"
    with pytest.raises(LaunchError, match=f"no Ray at {nowhere}.*refused"):
        ray.launch(crew, ray.Cluster(nowhere))


def test_workers_that_the_queue_brings_leave_when_it_is_empty(crew: Crew):
    follows = ray.cluster({"viewer": "viewer.token", "least": "1"})
    assert ray.told(crew, follows, 1) == crew
    # The last word is a person's own.
    assert ray.told(crew, follows, 2).options == ("--exit-when-idle", "300", "--exit-when-idle", "600")
    assert ray.told(crew, ray.cluster({}), 2) == crew


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"namespace": "lab"}, "namespace=lab is nothing that Ray is told; there are address"),
        ({"address": ""}, "address= is nothing"),
        ({"resources.": "1"}, "is nothing that Ray is told"),
        ({"resources.tpu": "one"}, r"resources\.tpu is a number, got 'one'"),
        ({"resources.tpu": "0"}, r"resources\.tpu is more than 0"),
        ({"least": "1"}, "least goes with viewer"),
        ({"least": "-1", "viewer": "v"}, "least is at least 0, got -1"),
    ],
)
def test_what_ray_is_not_told_is_refused(told: dict[str, str], says: str):
    with pytest.raises(LaunchError, match=says):
        ray.cluster(told)


def test_as_many_workers_are_wanted_as_there_is_work_for(tmp_path: Path):
    viewer = tmp_path / "viewer.token"
    cluster = ray.Cluster(viewer=viewer, least=1)
    with Server(tmp_path / "home") as server, server.client() as people:
        crew = Crew(server.url, server.home / "worker.token", count=8, slots=2)
        with pytest.raises(LaunchError, match="cannot be read"):
            ray.wanted(crew, cluster, viewer)
        viewer.write_text("")
        with pytest.raises(LaunchError, match=r"holds no token; .*--role viewer"):
            ray.wanted(crew, cluster, viewer)
        viewer.write_text(server.worker_token)
        with pytest.raises(LaunchError, match=r"HTTP 403.*--role viewer"):
            ray.wanted(crew, cluster, viewer)
        viewer.write_text(people.post("tokens", json={"name": "ray", "role": "viewer"})["token"])
        until(lambda: ray.wanted(crew, cluster, viewer) == 1)  # nothing to do
        people.post("studies", json=STUDY)
        for more, workers in ((5, 3), (30, 8)):  # rounded up; never more than the crew has
            params = [{"lr": 0.001 * (n + 1)} for n in range(more)]
            people.post("studies", "queued", "trials", json={"params": params, "stage": "grid"})
            until(lambda workers=workers: ray.wanted(crew, cluster, viewer) == workers)
        beside = replace(crew, url=f"http://127.0.0.1:{free_port()}, {server.url}")
        until(lambda: ray.wanted(beside, cluster, viewer) == 8)  # one of two servers answers
        with pytest.raises(LaunchError, match="shows no queue of a Tunesmith service"):
            ray.wanted(replace(crew, url=f"{server.url}/ui/static"), cluster, viewer)
        with pytest.raises(LaunchError, match="is no address"):
            ray.wanted(replace(crew, url="http://host:87x87"), cluster, viewer)
    assert ray.wanted(crew, cluster, viewer) is None  # gone, not empty


def actor(server: Server, state: Path) -> Process:
    """The process of an actor as Ray runs it."""
    code = (
        "import sys; from pathlib import Path; from tunesmith_workers.launching.crew import Crew\n"
        "from tunesmith_workers.launching.ray_actor import Worker\n"
        "print('over', Worker('crew-1', Crew(sys.argv[1], Path('nowhere')), sys.argv[2]).work())"
    )
    return Process(
        [sys.executable, "-c", code, server.url, server.worker_token], environ={"XDG_STATE_HOME": str(state)}
    )


def supervisor(state: Path) -> int:
    return int((state / "tunesmith" / "workers" / "crew-1" / "lock").read_text())


def test_a_killed_actor_s_worker_hands_back_once_before_the_next_one_begins(tmp_path: Path):
    with Server(tmp_path / "home") as server, actor(server, tmp_path) as first:
        first.says("event=registered")  # so it has the token
        line = Path(f"/proc/{supervisor(tmp_path)}/cmdline").read_text()
        environ = Path(f"/proc/{supervisor(tmp_path)}/environ").read_text()
        with actor(server, tmp_path) as second:
            first.kill()  # waits until nobody has its output any more: the worker has left
            second.says("event=started")
            os.kill(supervisor(tmp_path), signal.SIGTERM)
            second.says("over 0")
        assert first.said.count("event=stopping") == first.said.count("event=stopped") == 1
        secret = server.worker_token
        assert secret not in line
        assert secret not in environ


def test_an_actor_whose_worker_is_killed_asks_for_another(tmp_path: Path):
    with Server(tmp_path / "home") as server, actor(server, tmp_path) as only:
        only.says("event=started")
        os.kill(supervisor(tmp_path), signal.SIGKILL)
        assert only.ends() == 1
        assert "WorkerKilledError: crew-1 was killed (exit code 137)" in only.said


# --- Kubernetes ---

CLUSTERS = {
    "deployment": {},
    "job": {"kind": "job"},
    "of_their_own_secret": {"secret": "worker-token", "namespace": "lab", "memory": "16Gi"},
    "scaled": {"most": "16", "viewer": "reads-metrics"},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("told", CLUSTERS.values(), ids=CLUSTERS)
def test_manifests_are_valid_by_the_schemas_of_the_last_three_versions(
    told: dict[str, str], version: str, crew: Crew
):
    text = kubernetes.written(kubernetes.manifests(crew, kubernetes.cluster({"image": "w:1", **told})))
    for manifest in yaml.safe_load_all(text):
        if not manifest["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_would_notice_a_wrong_key(crew: Crew):
    found = kubernetes.manifests(crew, kubernetes.cluster({"image": "w:1"}))
    deployment = next(m for m in found if m["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["graceSeconds"] = 40
    with pytest.raises(kubernetes_validate.ValidationError, match="graceSeconds"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(m for m in found if m["kind"] == kind)


def test_a_pod_gets_what_its_crew_needs_and_may_write_nowhere_else(crew: Crew):
    told = kubernetes.cluster({"image": "w:1", "memory": "1.5Gi", "secret": "there", "gpu": "amd.com/gpu"})
    found = kubernetes.manifests(CREW, told)
    assert [m["kind"] for m in found] == ["Deployment", "PodDisruptionBudget"]
    spec = found[0]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "1.5Gi"}, "limits": {"memory": "1.5Gi", "amd.com/gpu": "2"},
    }  # fmt: skip
    assert container["args"][-2:] == ["--data", "spam=/data/my spam.csv"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["terminationGracePeriodSeconds"] > 25
    assert spec["volumes"][0]["secret"]["secretName"] == "there"
    assert of_kind(kubernetes.manifests(crew, kubernetes.cluster({"image": "w"})), "Secret")[
        "stringData"
    ] == {"token": TOKEN}


def test_a_scaled_deployment_follows_the_metrics_that_the_service_has(crew: Crew, tmp_path: Path):
    found = kubernetes.manifests(crew, kubernetes.cluster({"image": "w", **CLUSTERS["scaled"]}))
    assert "replicas" not in of_kind(found, "Deployment")["spec"]
    triggers = of_kind(found, "ScaledObject")["spec"]["triggers"]
    how = of_kind(found, "TriggerAuthentication")
    assert {t["authenticationRef"]["name"] for t in triggers} == {how["metadata"]["name"]}
    assert how["spec"]["secretTargetRef"][0]["name"] == "reads-metrics"
    with Server(tmp_path / "home") as server, server.client() as people:
        token = people.post("tokens", json={"name": "keda", "role": "viewer"})["token"]
        told = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert told.status_code == 200
        for trigger in triggers:
            assert f"\n{trigger['metadata']['valueLocation']} " in told.text


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "name the workers' image"),
        ({"image": "w", "replicas": "3"}, "replicas is nothing that Kubernetes is told"),
        ({"image": "w", "most": "many"}, "most is a number"),
        ({"image": "w", "kind": "pod"}, "kind is deployment or job"),
        ({"image": "w", "kind": "job", "most": "3"}, "a job has as many workers"),
        ({"image": "w", "most": "3"}, "most and viewer go together"),
        ({"image": "w", "namespace": "My Team"}, "takes no namespace 'My Team': it is a-z"),
        (
            {"image": "w", "memory": "16 GB"},
            "takes no memory '16 GB': it is a number with a unit, such as 16Gi",
        ),
        ({"image": "w", "secret": "token_of_mine"}, "takes no secret 'token_of_mine'"),
        ({"image": "w", "gpu": "nvidia"}, "takes no gpu 'nvidia': it is a vendor's"),
    ],
)
def test_what_kubernetes_is_not_told_is_refused(told: dict[str, str], says: str):
    with pytest.raises(LaunchError, match=says):
        kubernetes.cluster(told)


def test_names_jobs_and_tokens_that_would_not_do_are_refused(crew: Crew, tmp_path: Path):
    plain = kubernetes.cluster({"image": "w"})
    with pytest.raises(LaunchError, match="names nothing in Kubernetes"):
        kubernetes.manifests(Crew("http://x", crew.token_file, name="My_Crew"), plain)
    with pytest.raises(LaunchError, match="--exit-when-idle"):
        kubernetes.manifests(
            Crew("http://x", crew.token_file), kubernetes.cluster({"image": "w", "kind": "job"})
        )
    with pytest.raises(LaunchError, match="cannot be read"):
        kubernetes.manifests(Crew("http://x", tmp_path / "no"), plain)


def test_a_jobs_worker_that_is_taken_away_has_not_completed_it():
    options = (*CREW.options, "--exit-when-idle", "600")
    for kind, code in (("job", ["--stopped-exit-code", "143"]), ("deployment", [])):
        told = kubernetes.cluster({"image": "w", "kind": kind, "secret": "there"})
        found = kubernetes.manifests(replace(CREW, options=options), told)
        args = of_kind(found, kind.capitalize())["spec"]["template"]["spec"]["containers"][0]["args"]
        assert args[5 : 5 + len(code)] == code
        assert args[5 + len(code)] == "--url"


def test_the_probe_tells_a_worker_that_is_awake_from_one_that_hangs(tmp_path: Path):
    state = tmp_path / "state"

    def probe() -> bool:
        command = ["sh", "-c", kubernetes.alive_command(str(state))]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    assert not probe()
    with Server(tmp_path / "home") as server, Worker(server.url, server.worker_token, state) as worker:
        until(probe)
        long_ago = time.time() - 2 * kubernetes.ALIVE_SECONDS
        worker.signal(signal.SIGSTOP)
        os.utime(state / "alive", (long_ago, long_ago))
        assert not probe()
        worker.signal(signal.SIGCONT)
        until(probe)
        worker.says("event=registered")
        worker.signal(signal.SIGTERM)
        assert worker.ends(kubernetes.GRACE_SECONDS) == 0


# --- the command ---


def test_the_command_prints_what_it_would_run(crew: Crew):
    run = CliRunner().invoke
    given = ["--url", "http://x", "--token-file", str(crew.token_file), "--count", "2"]
    told = run(
        workers, ["launch", "--on", "slurm", *given, "--slurm", "time=1:00:00", "--dry-run", "--", "--once"]
    )
    assert (told.exit_code, "#SBATCH --time=1:00:00" in told.output, " --once " in told.output) == (
        0,
        True,
        True,
    )
    told = run(workers, ["launch", "--on", "local", *given, "--dry-run"])
    assert "--slots 2" in told.output
    told = run(workers, ["launch", "--on", "ray", *given, "--dry-run", "--ray", "resources.tpu=1"])
    assert "'tpu': 1.0" in told.output
    told = run(workers, ["launch", "--on", "kubernetes", *given, "--kubernetes", "image=w"])
    assert [m["kind"] for m in yaml.safe_load_all(told.output)] == [
        "Secret",
        "Deployment",
        "PodDisruptionBudget",
    ]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--on", "moon"], "'moon' is not one of"),
        (["--on", "slurm", "--count", "0"], "count is at least 1"),
        (["--on", "slurm", "--slurm", "=1"], "--slurm takes KEY=VALUE"),
        (["--on", "ray", "--ray", "tpu=1"], "tpu=1 is nothing that Ray is told"),
        (["--on", "kubernetes"], "name the workers' image"),
        (["--on", "local", "--", "--token", "x"], "--token follows from the launch itself"),
    ],
)
def test_the_command_says_what_is_wrong(typed: list[str], says: str):
    told = CliRunner().invoke(workers, ["launch", *typed])
    assert (told.exit_code, says in told.output) == (2, True), told.output
