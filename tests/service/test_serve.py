"""The commands that run a service, and what a person reads when one cannot."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from processes import Process, free_port, is_alive, until
from tunesmith_service.__main__ import main
from tunesmith_service.settings import Settings, unit_of

from .conftest import Served


def tunesmith(*arguments: str, directory=None, environ=None) -> Process:
    return Process(
        [sys.executable, "-m", "tunesmith_service", *arguments], directory=directory, environ=environ
    )


def test_a_second_server_on_the_same_sqlite_file_is_refused_naming_the_first(served: Served):
    second = tunesmith("serve", "--home", str(served.home), "--port", str(free_port()))
    with second:
        assert second.ends() == 1
        assert f"is open in process {served.process.pid}; SQLite serves one server" in second.said
        assert "Traceback" not in second.said
    migrate = tunesmith("migrate", "--home", str(served.home))
    with migrate:
        assert migrate.ends() == 1
        assert f"is open in process {served.process.pid}" in migrate.said
    assert served.people.get("/studies").status_code == 200


def test_a_port_that_is_taken_is_said_before_anything_is_opened(served: Served, tmp_path):
    with tunesmith("serve", "--home", str(tmp_path / "other"), "--port", str(served.port)) as second:
        assert second.ends() == 2
        assert f"127.0.0.1:{served.port} cannot be listened on: Address already in use" in second.said
    assert not (tmp_path / "other").exists()


def test_a_second_service_of_the_same_home_and_port_is_told_that_it_runs_already(served: Served):
    with tunesmith("serve", "--home", str(served.home), "--port", str(served.port)) as second:
        assert second.ends() == 2
        said = f"a service already runs from this home, process {served.process.pid} at http://127.0.0.1"
        assert said in second.said


def test_several_processes_in_one_server_are_refused(tmp_path):
    result = CliRunner().invoke(
        main, ["serve", "--home", str(tmp_path)], env={"WEB_CONCURRENCY": "4"}, catch_exceptions=False
    )
    assert result.exit_code == 2
    assert "start several servers on one PostgreSQL instead" in result.output


def test_settings_that_do_not_go_together_are_a_usage_error():
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "--behind-proxy if a proxy in front speaks TLS" in result.output


def test_the_server_tells_commands_on_this_machine_where_it_is(served: Served):
    said = json.loads((served.home / "server.json").read_text())
    assert said == {"url": served.url, "pid": served.process.pid}


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_a_flag_with_its_help_line_and_unit(name):
    shown = " ".join(CliRunner().invoke(main, ["serve", "--help"], terminal_width=200).output.split())
    assert f"--{name.replace('_', '-')}" in shown
    assert f"{Settings.model_fields[name].description} [{unit_of(name)}]" in shown


@pytest.mark.parametrize("command", ["serve", "up", "migrate", "worker"])
def test_every_command_has_help(command):
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    options = re.findall(r"^  (-.*)$", result.output, re.MULTILINE)
    assert options
    assert command in CliRunner().invoke(main, ["--help"]).output


def test_migrate_makes_a_database_that_serve_takes(tmp_path):
    result = CliRunner().invoke(main, ["migrate", "--home", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "is up to date" in result.output
    assert (tmp_path / "tunesmith.db").exists()


def test_up_runs_a_service_and_a_worker_and_ends_both(tmp_path):
    port = str(free_port())
    flags = ["--home", str(tmp_path), "--port", port, "--slots", "2"]
    with tunesmith("up", *flags, directory=tmp_path, environ={"CUDA_VISIBLE_DEVICES": ""}) as up:
        link = up.says("Open the dashboard, once:").split()[-1]
        assert link.startswith(f"http://127.0.0.1:{port}/ui/login#code=")
        token = (tmp_path / "operator.token").read_text().strip()
        bearer = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer, timeout=60) as c:
            workers = until(lambda: c.get("/api/v1/workers").json()["items"], saw=lambda: up.said)
        assert [(w["name"], len(w["slots"])) for w in workers] == [("local-0", 2)]
        assert "digits" in workers[0]["tasks"]
        children = _children(up.pid)
        assert len(children) >= 2  # planner and worker
        up.signal(signal.SIGINT)
        assert up.ends() == 0, up.said
        assert not any(is_alive(pid) for pid in children)


def test_up_ends_when_its_worker_cannot_start(tmp_path):
    flags = ["--home", str(tmp_path), "--port", str(free_port()), "--data", "spam=missing.csv"]
    with tunesmith("up", *flags, directory=tmp_path) as up:
        assert up.ends() == 1
        assert "missing.csv" in up.said
        assert "worker 0 ended with exit code 1; what it said stands above" in up.said


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(p) for p in (task / "children").read_text().split()]
    return found
