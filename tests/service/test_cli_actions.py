"""On the command line: clone a study, vary a trial, extend a stage, write a note, tag trials."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tunesmith_service.cli.base import ExitCode

from .test_cli import SPEC, Command, done, home, refused, tunesmith, work_off

__all__ = ["home", "tunesmith"]


@pytest.fixture
def study(tunesmith: Command, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """The name of a study whose loss is lowest at the largest rate of its grid."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SPEC | {"name": request.node.name[5:100]}))
    name = done(tunesmith("study", "create", "-f", path, "--json"))["name"]
    yield name
    tunesmith("study", "stop", name, "--yes")


def test_a_study_is_cloned_and_the_difference_is_printed(tunesmith, study):
    asked = (
        "study",
        "clone",
        study,
        "a clone",
        "--set",
        "stages.coarse.epochs=5",
        "--set",
        "space.lr.high=10",
    )
    dry = tunesmith(*asked, "--dry-run")
    assert dry.exit_code == ExitCode.OK, dry.output
    lines = [line.split() for line in dry.output.splitlines()]
    assert ["stages.coarse.epochs", "2", "5"] in lines
    assert ["space.lr.high", "1", "10"] in lines
    assert "a clone" not in tunesmith("study", "list").output
    made = tunesmith(*asked)
    assert ["space.lr.high", "1", "10"] in [line.split() for line in made.output.splitlines()]
    spec = done(tunesmith("study", "show", "a clone", "--json"))["spec"]
    assert (spec["stages"][0]["epochs"], spec["space"]["lr"]["high"]) == (5, 10.0)
    tunesmith("study", "stop", "a clone", "--yes")
    assert "--set" in refused(tunesmith("study", "clone", study, "x", "--set", "epochs"), ExitCode.USAGE)
    assert "no stage of that name" in refused(
        tunesmith("study", "clone", study, "x", "--set", "stages.fine.epochs=1"), ExitCode.USAGE
    )


def test_a_study_is_printed_as_the_file_that_creates_one_like_it(tunesmith, study, tmp_path):
    file = tmp_path / "again.yaml"
    file.write_text(tunesmith("study", "file", study).output)
    assert "retries" not in file.read_text()
    assert "retries: 2" in tunesmith("study", "file", study, "--all").output
    done(tunesmith("study", "create", "-f", file, "--name", "once more", "--json"))
    was, now = (done(tunesmith("study", "show", name, "--json"))["spec"] for name in (study, "once more"))
    assert now == was | {"name": "once more"}
    tunesmith("study", "stop", "once more", "--yes")


def test_a_variant_names_the_trial_that_it_varies(tunesmith, study):
    (old,) = done(tunesmith("trial", "enqueue", study, "-p", "lr=0.5", "--json"))["numbers"]
    (new,) = done(tunesmith("trial", "enqueue", study, "--like", old, "-p", "lr=0.25", "--json"))["numbers"]
    told = done(tunesmith("trial", "show", study, new, "--json"))
    assert (told["variant_of"], told["params"]) == (old, {"lr": 0.25})
    assert f"variant of  #{old}" in tunesmith("trial", "show", study, new).output


def test_a_best_on_the_edge_is_extended(home, tunesmith, study):
    """The light worker's loss has its best at a rate of 0.1, the end of the grid: beyond it is worse."""
    work_off(home, tunesmith, study)
    assert f"tunesmith stage extend {study} coarse -p lr" in tunesmith("findings", study).output
    dry = tunesmith("stage", "extend", study, "--dry-run")
    assert dry.exit_code == ExitCode.OK, dry.output
    assert "ranges:\n  lr: [0.1, 1.0]\n" in dry.output
    assert "At most 3 trials, 6 epochs in all. Nothing was added." in dry.output
    added = done(tunesmith("stage", "extend", study, "coarse", "--set", "epochs=3", "--json"))
    assert (added["stages"][-1]["name"], added["stages"][-1]["state"]) == ("lr_beyond", "active")
    work_off(home, tunesmith, study)
    ended = done(tunesmith("study", "show", study, "--json"))
    tried = done(tunesmith("trial", "list", study, "--stage", "lr_beyond", "--json"))
    assert [round(t["params"]["lr"], 3) for t in tried] == [0.1, 0.316, 1.0]
    assert ended["best"]["params"]["lr"] == 0.1, "nothing beyond is better"
    none = tunesmith("stage", "extend", study, "lr_beyond")
    assert "proposes a stage" in refused(none, ExitCode.NOT_FOUND)


def test_a_note_is_read_set_and_edited(tunesmith, study, tmp_path, monkeypatch):
    assert "Nothing written yet." in tunesmith("study", "note", study).output
    assert tunesmith("study", "note", study, "--set", "lr 1 is too high").exit_code == ExitCode.OK
    tunesmith("study", "note", study, "--set", "-", input="from a pipe")
    assert tunesmith("study", "note", study).output == "from a pipe\n"
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "; and edited" >> "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    assert tunesmith("study", "note", study, "--edit").exit_code == ExitCode.OK
    assert done(tunesmith("study", "note", study, "--json")) == {
        "text": "from a pipe\n; and edited",
        "version": 3,
    }


def test_who_edits_a_note_that_has_changed_gets_both_texts(home, tunesmith, study, tmp_path, monkeypatch):
    """The editor is one that another person is quicker than, once."""
    other = f'{sys.executable} -m tunesmith_service study note "{study}" --set theirs'
    editor = tmp_path / "editor"
    editor.write_text(
        "#!/bin/sh\n"
        f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; {other} || exit 1; }}\n"
        'printf "mine" >> "$1"\n'
    )
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    assert tunesmith("study", "note", study, "--edit").exit_code == ExitCode.OK
    text = done(tunesmith("study", "note", study, "--json"))["text"]
    assert text.startswith("theirs\n")
    assert text.endswith("mine\nmine")
    assert "put both together" in text


def test_trials_are_tagged_listed_and_tried_again_together(tunesmith, study):
    numbers = [
        done(tunesmith("trial", "enqueue", study, "-p", f"lr={lr}", "--json"))["numbers"][0]
        for lr in (0.1, 0.2)
    ]
    assert "No tag was named" in refused(tunesmith("trial", "tag", study, *numbers), ExitCode.USAGE)
    assert "2 trials" in tunesmith("trial", "tag", study, *numbers, "--add", "odd", "--add", "look").output
    tunesmith("trial", "tag", study, numbers[0], "--remove", "odd")
    assert done(tunesmith("study", "tags", study, "--json")) == [
        {"tag": "look", "trials": 2}, {"tag": "odd", "trials": 1},
    ]  # fmt: skip
    found = done(tunesmith("trial", "list", study, "--filter", "tag:odd", "--json"))
    assert [t["number"] for t in found] == numbers[1:]
    for number in numbers:
        tunesmith("trial", "cancel", study, number, "--yes")
    again = done(tunesmith("trial", "retry", study, *numbers, "--json"))["numbers"]
    told = [done(tunesmith("trial", "show", study, n, "--json"))["retry_of"] for n in again]
    assert told == numbers
