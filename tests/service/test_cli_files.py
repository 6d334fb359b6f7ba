"""What the command line reads and writes, without a service: files, settings, help, layout."""

from __future__ import annotations

import doctest
import io
import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from tunesmith_service.__main__ import main
from tunesmith_service.cli import doctor, study_file, text, trials, views, watching
from tunesmith_service.cli.base import ExitCode
from tunesmith_service.cli.config import find
from tunesmith_service.errors import Unauthorized
from tunesmith_service.settings import SettingsError
from tunesmith_service.ui import formats
from tunesmith_studies.study import StudySpec


def commands(group: click.Group, path: str = "tunesmith") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{path} {name}", command))
        if isinstance(command, click.Group):
            found += commands(command, f"{path} {name}")
    return found


@pytest.mark.parametrize(("name", "command"), commands(main), ids=lambda v: v if isinstance(v, str) else "")
def test_every_command_and_option_has_help(name, command):
    assert command.help, name
    without = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert without == []


def test_the_page_about_the_command_line_names_every_command():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    leaves = [path for path, c in commands(main) if not isinstance(c, click.Group) and not c.hidden]
    missing = [path for path in leaves if path.split()[-1] not in page]
    assert missing == []


def test_the_page_about_the_command_line_has_every_exit_code():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == {int(c) for c in ExitCode}


@pytest.mark.parametrize("raised", [KeyboardInterrupt, click.Abort])  # the latter at a question
def test_ctrl_c_ends_a_command_with_130(monkeypatch, raised):
    def interrupt(source: str) -> None:
        raise raised

    monkeypatch.setattr(study_file, "read", interrupt)
    done = CliRunner().invoke(main, ["study", "create", "-f", "any"])
    assert done.exit_code == ExitCode.INTERRUPTED


# --- study files ----------------------------------------------------------------------------------


def written(tmp_path: Path, content: str) -> str:
    path = tmp_path / "study.yaml"
    path.write_text(content)
    return str(path)


def test_a_number_with_an_exponent_is_a_number(tmp_path):
    file = written(tmp_path, "values: [1e-3, 1E5, -2e+2, .5e1, 3, 0.1, 1e, e3, 12e3x]")
    assert study_file.read(file)["values"] == [1e-3, 1e5, -2e2, 5.0, 3, 0.1, "1e", "e3", "12e3x"]


def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path):
    file = written(tmp_path, "space:\n  lr: 1\n  wd: 2\n  lr: 3\n")
    with pytest.raises(ValueError, match=r"study\.yaml: line 4: 'lr' stands twice, first in line 2"):
        study_file.read(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "`key: value` lines is needed, this is a list"),
        ("# nothing yet", "`key: value` lines is needed, this is empty"),
        ("a: .nan", "holds nan, which is no setting"),
        ("a: {b: [.inf]}", "holds inf, which is no setting"),
        ("a: [1, 2", "line 1, column 9 while parsing a flow sequence: expected ',' or ']'"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: !!binary aGk=", "holds a bytes, which is no setting"),
        ("a: 1\nname: {{ name }}", "line 2: a key is a word; text in braces or brackets is"),
    ],
)
def test_a_file_that_cannot_be_a_study_says_why(tmp_path, content, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        study_file.read(written(tmp_path, content))


def test_a_deadline_gets_a_time_zone(tmp_path):
    file = written(tmp_path, "deadline: 2030-01-02 03:04:05\nday: 2030-01-02\n")
    assert study_file.read(file) == {"deadline": "2030-01-02T03:04:05+00:00", "day": "2030-01-02"}


def test_a_name_that_is_no_file_gets_the_list_of_examples():
    with pytest.raises(ValueError, match=r"no file 'nothing' here.*digits-demo"):
        study_file.read("nothing")


@pytest.mark.parametrize("name", sorted(study_file.examples()))
def test_every_shipped_example_is_a_study(name):
    spec = StudySpec.from_json(study_file.read(name))
    assert spec.name == name


# --- where the service is -------------------------------------------------------------------------


def test_a_flag_wins_over_the_file_and_the_file_over_the_home(tmp_path):
    file = tmp_path / "tunesmith.toml"
    file.write_text('[client]\nurl = "http://file:1/"\ntoken_file = "/from/file"\n')
    home = tmp_path / "home"
    home.mkdir()
    (home / "server.json").write_text(json.dumps({"url": "http://home:1", "pid": 1}))

    def where(url=None, token=None, file=file, env=None):
        return find(url, token, home, env or {}, file)

    assert where("http://flag:1", Path("/flag")).url == "http://flag:1"
    assert where("http://flag:1", Path("/flag")).token_file == Path("/flag")
    assert where().url == "http://file:1"
    assert where().token_file == Path("/from/file")
    absent = tmp_path / "absent.toml"
    assert where(file=absent).url == "http://home:1"
    assert where(file=absent).token_file == home / "operator.token"
    (home / "server.json").unlink()
    assert where(file=absent).url == "http://127.0.0.1:8787"


def test_a_token_of_the_environment_wins_over_the_home_and_loses_to_a_flag(tmp_path):
    named = tmp_path / "token"
    named.write_text("from-file\n")
    env = {"TUNESMITH_TOKEN": "from-environment"}
    absent = tmp_path / "absent.toml"
    assert find("http://x", None, tmp_path, env, absent).token() == "from-environment"
    assert find("http://x", named, tmp_path, env, absent).token() == "from-file"
    with pytest.raises(Unauthorized, match=r"operator\.token cannot be read"):
        find("http://x", None, tmp_path, {}, absent).token()


def test_a_wrong_key_for_the_client_is_named(tmp_path):
    file = tmp_path / "tunesmith.toml"
    file.write_text('[client]\nserver = "http://x"\n')
    with pytest.raises(
        SettingsError, match=r"client\.server, which is no setting; it has url and token_file"
    ):
        find(None, None, None, {}, file)
    file.write_text('[client]\nurl = ["http://x", "http://y"]\n')
    with pytest.raises(SettingsError, match=r"client\.url is a text, such as .* several with commas"):
        find(None, None, None, {}, file)


def test_the_examples_in_our_docstrings_hold():
    for module in (text, trials, views):
        assert doctest.testmod(module).failed == 0


# --- layout ---------------------------------------------------------------------------------------


def test_columns_line_up_and_end_without_blanks():
    shown = text.table(("name", "n"), [("a", 1), ("long name", 0.000123456)], right=("n",))
    assert shown.splitlines() == [
        "name              n",
        "a                 1",
        "long name  1.235e-4",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (59.4, "59 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")]
)
def test_durations_are_for_people(seconds, said):
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (4e15, "4000.0 TB")]
)
def test_sizes_are_for_people(count, said):
    assert formats.size(count) == said


def test_progress_counts_what_a_stage_has_proposed_beyond_its_forecast():
    counts = dict.fromkeys(("waiting", "running", "failed", "cancelled"), 0) | {"complete": 5, "pruned": 2}
    stage = {"state": "active", "counts": counts, "forecast": {"trials": 6}}
    assert views.progress(stage) == "7/7"
    assert views.progress(stage | {"forecast": {"trials": 12}}) == "7/12"
    assert views.progress(stage | {"state": "done", "forecast": {"trials": 12}}) == "7/7"


# --- doctor's judgement ---------------------------------------------------------------------------

DIGEST, OTHER = "a" * 64, "b" * 64


def worker(
    digest: str = DIGEST, *, draining: bool = False, name: str = "gpu-a", devices: int = 1
) -> dict[str, object]:
    slots = [{"id": "0" * 32, "devices": [f"cuda:{i}" for i in range(devices)]}]
    same = {"draining": draining, "aside_until": None, "slots": slots}
    return {"name": name, "tasks": {"digits": digest}, **same}


def study(digest: str | None = DIGEST, task: str = "digits", gpus: int = 1) -> dict[str, object]:
    return {"name": "s", "task": task, "task_digest": digest, "gpus": gpus}


@pytest.mark.parametrize(
    ("asked", "online", "state", "said"),
    [
        (study(), [worker()], "ok", "1 worker(s) serve digits"),
        (study(None), [worker(OTHER)], "ok", "1 worker(s) serve digits"),
        (study(task="spam"), [worker()], "fail", "no worker online serves task 'spam'; they serve digits"),
        (study(), [], "fail", "they serve nothing"),
        (study(), [worker(OTHER)], "fail", f"began with digits@{'a' * 12}, gpu-a has digits@{'b' * 12}"),
        (study(), [worker(OTHER), worker(name="gpu-b")], "ok", "1 worker(s)"),
        (study(), [worker(draining=True)], "warn", "take no new trial"),
        (study(), [worker(OTHER), worker(draining=True)], "warn", "take no new trial"),
        (study(gpus=2), [worker(), worker(devices=4)], "ok", "1 worker(s)"),
        (
            study(gpus=4),
            [worker(devices=2)],
            "fail",
            "asks for 4 GPUs, the largest slot",
        ),
        (
            study(gpus=2),
            [worker(), worker(OTHER, devices=2)],
            "fail",
            "slot online that serves it has 1",
        ),
        (study(gpus=2), [worker(), worker(devices=2, draining=True)], "warn", "take no new trial"),
    ],
)
def test_doctor_says_why_a_study_gets_no_worker(asked, online, state, said):
    finding = doctor.serves(asked, online)
    assert (finding.state, said in finding.detail) == (state, True), finding
    assert (finding.fix != "") == (state != "ok")


def test_a_live_picture_says_what_a_study_waits_for():
    waits = "no worker serves task 'spam' now; the study waits for one"
    study = {"name": "s", "state": "active", "stages": [], "best": None, "waiting_for": waits}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(watching.picture(study))
    assert f"Waits: {waits}" in console.export_text()
