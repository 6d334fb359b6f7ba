"""`make demo`: what it prints stands in its database, and it removes nothing that is not its own."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tunesmith_service.__main__ import main
from tunesmith_service.cli.base import ExitCode
from tunesmith_service.cli.demo import how_to_call, savings

DEMO = [sys.executable, "-m", "tunesmith_service", "demo"]


@pytest.mark.long
def test_the_demo_runs_four_stages_and_says_what_its_database_says(tmp_path):
    """The second run begins anew, in the folder that the first one left."""
    for _ in range(2):
        command = [*DEMO, "--home", ".demo"]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=600, check=False)
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    said = done.stdout

    with sqlite3.connect(tmp_path / ".demo" / "tunesmith.db") as database:
        stages = database.execute("SELECT name, kind, state, result FROM stages ORDER BY position").fetchall()
        trials = database.execute("SELECT count(*) FROM trials").fetchone()[0]
        best = database.execute("SELECT min(value) FROM trials WHERE state = 'complete'").fetchone()[0]
        counts = dict(
            database.execute(
                "SELECT s.name, count(*) FROM trials t JOIN stages s ON s.id = t.stage_id GROUP BY s.name"
            ).fetchall()
        )
    database.close()
    assert [kind for _, kind, _, _ in stages] == [
        "coarse_grid",
        "refine_grid",
        "random",
        "weight_decay_restarts",
    ]
    assert trials >= 40
    epochs = 0
    for name, kind, state, result in stages:
        spent = json.loads(result)["numbers"]["epochs"]
        epochs += spent
        assert re.search(
            rf"^{name} +{kind} +{state} +{counts[name]} +{spent} +0\.\d+$", said, re.MULTILINE
        ), said
        assert f"{name}: {json.loads(result)['why']}" in said
    assert re.search(rf"^all +complete +{trials} +{epochs} +{best:.4g}", said, re.MULTILINE), said
    assert re.search(rf"^#\d+ +\w+ +{best:.4g} ", said, re.MULTILINE), said
    grid = json.loads(stages[-1][3])["numbers"]["epochs_full_grid"]
    assert f"where a full grid takes {grid}" in said
    assert re.search(r"^Dashboard: http://127\.0\.0\.1:\d+/ui/", said, re.MULTILINE)
    assert "tunesmith up --home .demo" in said


def test_the_demo_leaves_a_folder_alone_that_is_not_its_own(tmp_path):
    for name in ("thesis.tex", "tunesmith.db"):  # the latter is of a service that people use
        (tmp_path / name).write_text("years of work")
        done = CliRunner().invoke(main, ["demo", "--home", str(tmp_path)])
        assert done.exit_code == ExitCode.USAGE
        assert "holds something that is not a demo's; nothing was removed" in done.stderr
        assert (tmp_path / name).exists()


def test_a_service_that_does_not_start_is_explained_by_its_own_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tunesmith.toml").write_text("ttl_secnods = 3\n")
    done = CliRunner().invoke(main, ["demo"])
    assert done.exit_code == ExitCode.FAILED
    assert "the service did not start" in done.stderr
    assert "did you mean ttl_seconds?" in done.stderr


def test_savings_are_told_in_epochs_and_shares():
    numbers = {"epochs": 130, "epochs_before_confirmation": 70, "epochs_full_grid": 280}
    said = savings({"result": {"numbers": numbers}})
    assert "70 epochs before confirmation and 130 with it" in said
    assert "a full grid takes 280: 75% and 54% fewer" in said
    assert "ended before a value was picked" in savings({"result": {"numbers": {"epochs": 20}}})


def test_its_last_lines_can_be_typed_whether_or_not_the_virtual_environment_is_active(monkeypatch):
    ours = Path(sys.executable).with_name("tunesmith")
    monkeypatch.setenv("PATH", str(ours.parent))
    assert how_to_call() == "tunesmith"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(ours.parents[2])
    assert how_to_call() == str(ours.relative_to(ours.parents[2]))
    monkeypatch.chdir("/")
    assert Path(how_to_call()).resolve() == ours.resolve()
