"""docker-compose.yml against the Compose Specification's own schema, and what our recipe promises.

`data/compose-spec.json` is compose-spec.json of github.com/compose-spec/compose-spec (Apache-2.0), as the
npm package dclint 3.1.0 ships it.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
WORKERS = ("worker-cpu", "worker-gpu")
DOCKERFILES = ("service/Dockerfile", "workers/Dockerfile")


def environment(service: str) -> set[str]:
    return set(SERVICES[service].get("environment", {}))


def test_the_file_is_valid_by_the_compose_specification():
    schema = json.loads((Path(__file__).parent / "data" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(COMPOSE)


def test_the_schema_would_notice_a_wrong_key():
    schema = json.loads((Path(__file__).parent / "data" / "compose-spec.json").read_text())
    broken = COMPOSE | {"services": SERVICES | {"database": SERVICES["database"] | {"imagee": "postgres"}}}
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        jsonschema.Draft7Validator(schema).validate(broken)


def test_workers_start_only_under_their_profile():
    assert {name: s.get("profiles") for name, s in SERVICES.items()} == {
        "database": None,
        "service": None,
        "worker-cpu": ["cpu"],
        "worker-gpu": ["gpu"],
    }


def test_each_service_waits_for_a_healthy_one_before_it():
    for waiting, awaited in [("service", "database"), *((w, "service") for w in WORKERS)]:
        assert SERVICES[waiting]["depends_on"] == {awaited: {"condition": "service_healthy"}}
        assert SERVICES[awaited]["healthcheck"]["test"]


def test_the_gpu_worker_asks_for_gpus_and_the_cpu_worker_for_none():
    devices = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert "deploy" not in SERVICES["worker-cpu"]


def test_every_secret_comes_as_a_file_and_none_stands_in_the_environment():
    for name, service in SERVICES.items():
        mounted = {f"/run/secrets/{s}" for s in service.get("secrets", [])}
        named = {v for v in service.get("environment", {}).values() if str(v).startswith("/run/secrets/")}
        assert named == mounted, name
        secret = [k for k in environment(name) if re.search("PASSWORD|TOKEN|DATABASE_URL|SECRET", k)]
        assert all(k.endswith("_FILE") for k in secret), name
    assert all(set(s) == {"file"} for s in COMPOSE["secrets"].values())


def test_our_containers_run_without_root_and_without_rights():
    for name in ("service", *WORKERS):
        service = SERVICES[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
        assert dockerfile.index("USER tunesmith") < dockerfile.index("ENTRYPOINT"), name


def test_what_must_last_lives_in_named_volumes():
    assert set(COMPOSE["volumes"]) == {"database", "service"}
    home = "/var/lib/tunesmith"
    assert SERVICES["service"]["volumes"] == [f"service:{home}"]
    assert f"TUNESMITH_HOME={home}" in (ROOT / "service/Dockerfile").read_text()


def test_the_service_understands_every_setting_that_it_is_given():
    from tunesmith_service.settings import Settings

    known = {f"TUNESMITH_{name.upper()}" for name in Settings.model_fields}
    assert {v.removesuffix("_FILE") for v in environment("service")} <= known


def test_every_variable_of_the_file_stands_in_the_example_with_its_default():
    used = re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text())
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert dict(used) == example


@pytest.mark.parametrize("path", DOCKERFILES)
def test_an_image_gets_only_files_that_the_context_lets_through(path):
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in (ROOT / path).read_text().splitlines():
        if line.startswith("COPY "):
            copied |= set(line.split()[1:-1])
    assert copied
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("path", DOCKERFILES)
def test_an_image_installs_pinned_versions_and_extras_that_exist(path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = [line for line in (ROOT / path).read_text().splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    for line in installs:
        assert set(re.findall(r"\.\[(\w+)\]", line)) <= set(extras)


def test_the_worker_image_trains_with_the_torch_that_the_tests_use():
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert f"torch=={pinned[1]}" in (ROOT / "workers/Dockerfile").read_text()
    assert f"torch=={pinned[1]}" in (ROOT / "Makefile").read_text()
