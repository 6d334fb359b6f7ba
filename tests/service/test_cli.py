"""The command line against a real service: answers, exit codes, and what a person reads when it says no."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from light import DIGEST, TASK, LightWorker
from processes import Process, until
from tunesmith_service import wire
from tunesmith_service.__main__ import main
from tunesmith_service.cli import trials
from tunesmith_service.cli.base import ExitCode
from tunesmith_service.cli.config import said_address

Command = Callable[..., Result]

SPEC: dict[str, Any] = {
    "name": "little",
    "task": TASK,
    "space": {"lr": {"low": 1e-3, "high": 1.0, "log": True}},
    "stages": [{"kind": "coarse_grid", "name": "coarse", "epochs": 2, "axes": {"lr": [1e-3, 1e-2, 1e-1]}}],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a service that runs as `tunesmith serve`."""
    where = tmp_path_factory.mktemp("home") / ".tunesmith"
    command = [sys.executable, "-m", "tunesmith_service", "serve", "--home", str(where), "--port", "0"]
    with Process(command) as process:
        until(lambda: said_address(where), saw=lambda: process.said)
        yield where


@pytest.fixture
def tunesmith(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command as a person in an empty folder would, who names the home alone."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, **options: Any) -> Result:
        return CliRunner().invoke(main, [str(w) for w in words], env={"TUNESMITH_HOME": str(home)}, **options)

    return run


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A study file whose study is named after the test."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SPEC | {"name": request.node.name[:100]}))
    return str(path)


@pytest.fixture
def study(tunesmith: Command, file: str) -> Iterator[str]:
    """The name of a study of its own, stopped in the end so that no other test's worker meets it."""
    name = done(tunesmith("study", "create", "-f", file, "--json"))["name"]
    yield name
    tunesmith("study", "stop", name, "--yes")


def done(result: Result) -> Any:
    """The JSON that a command printed; it must have ended well."""
    assert result.exit_code == ExitCode.OK, result.output
    return json.loads(result.stdout)


def refused(result: Result, code: ExitCode) -> str:
    """What a command said on standard error; it must have ended with `code` and printed nothing else."""
    assert result.exit_code == code, result.output
    return result.stderr


def work_off(home: Path, tunesmith: Command, study: str) -> None:
    """Be the worker of a study until it has ended."""

    async def work() -> None:
        worker = LightWorker(said_address(home), (home / "worker.token").read_text().strip())
        await worker.register()
        try:
            while done(tunesmith("study", "show", study, "--json"))["state"] == "active":
                await worker.run_one(wait_seconds=0.5)
        finally:
            await worker.client.aclose()

    asyncio.run(asyncio.wait_for(work(), 300))


# --- a study from a file to its best trial --------------------------------------------------------


def test_a_study_is_planned_created_worked_off_and_read(home, tunesmith, file):
    planned = done(tunesmith("study", "create", "-f", file, "--dry-run", "--json"))
    assert (planned["trials"], planned["epochs"]) == (3, 6)
    name = planned["name"]
    assert name not in tunesmith("study", "list").output  # a dry run creates nothing

    created = tunesmith("study", "create", "-f", file)
    assert created.exit_code == ExitCode.OK
    assert f"Study {name} is active: at most 3 trials in 1 stage." in created.output
    assert "Warning" in created.output  # no worker serves the task yet

    work_off(home, tunesmith, name)
    ended = tunesmith("study", "wait", name)
    assert ended.exit_code == ExitCode.OK
    assert f"Study {name} is complete. Best: #2 (coarse) val/loss 0.3333  lr=0.1" in ended.output
    watched = tunesmith("study", "watch", name)
    assert watched.exit_code == ExitCode.OK
    assert f"{name} complete: coarse 3/3, best #2 val/loss 0.3333" in watched.output

    page = tunesmith("study", "show", name).output
    assert re.search(r"coarse +coarse_grid +done +3/3 +6 +0\.3333", page)
    assert "3 cells of 2 epochs each" in page  # the stage says why
    assert re.search(rf"^{name} +complete .* 0\.3333 ", tunesmith("study", "list").output, re.MULTILINE)
    assert re.search(r"#2 +coarse +0\.3333 +lr=0\.1", tunesmith("best", name).output)
    assert [t["number"] for t in done(tunesmith("best", name, "--top", 2, "--json"))] == [2, 1]

    trials = done(tunesmith("trial", "list", name, "--json"))
    assert [(t["number"], t["state"], t["step"]) for t in trials] == [(n, "complete", 2) for n in range(3)]
    one = tunesmith("trial", "show", name, 2).output
    assert "complete, budget" in one
    assert re.search(r"^ +2 +0\.3333$", one, re.MULTILINE)  # its curve


def test_json_is_what_the_api_said(tunesmith, study):
    listed = done(tunesmith("study", "list", "--json"))
    shown = done(tunesmith("study", "show", study, "--json"))
    summary = next(s for s in listed if s["name"] == study)
    assert {k: shown[k] for k in ("id", "name", "task", "metric", "created_at")} == {
        k: summary[k] for k in ("id", "name", "task", "metric", "created_at")
    }
    assert shown["spec"]["space"]["lr"]["low"] == 1e-3


def test_a_dry_run_refuses_what_a_creation_would(tunesmith, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(SPEC | {"space": {"lr": {"low": 0, "high": 1, "log": True}}}))
    for extra in (["--dry-run"], []):
        said = refused(tunesmith("study", "create", "-f", bad, *extra), ExitCode.USAGE)
        assert "/space" in said
        assert "log: true needs low > 0, got low=0" in said


def test_one_thing_wrong_is_said_once_and_several_line_by_line(tunesmith, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(SPEC | {"task": 7}))
    one = refused(tunesmith("study", "create", "-f", bad), ExitCode.USAGE)
    assert one == "Error: /task: Input should be a valid string, got 7\n"
    bad.write_text(yaml.safe_dump({k: v for k, v in SPEC.items() if k != "task"} | {"space": 3}))
    two = refused(tunesmith("study", "create", "-f", bad), ExitCode.USAGE).splitlines()
    assert two[0] == "Error: 2 things are wrong:"
    assert two[1] == "  /task: is missing"
    assert two[2].startswith("  /space: ")


def test_an_unknown_stage_is_named(tunesmith, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(SPEC | {"stages": [{"kind": "coarse_gird", "epochs": 1}]}))
    said = refused(tunesmith("study", "create", "-f", bad), ExitCode.USAGE)
    assert "coarse_gird" in said
    assert "coarse_grid" in said


# --- steering -------------------------------------------------------------------------------------


def test_a_study_is_paused_resumed_and_stopped(tunesmith, study):
    assert f"{study} is paused" in tunesmith("study", "pause", study).output
    assert f"{study} is active" in tunesmith("study", "resume", study).output
    said = refused(tunesmith("study", "stop", study), ExitCode.USAGE)  # nobody is there to be asked
    assert "--yes" in said
    assert f"{study} is stopped" in tunesmith("study", "stop", study, "--yes").output
    refused(tunesmith("study", "resume", study), ExitCode.CONFLICT)


def test_waiting_for_a_study_that_is_stopped_ends_badly(tunesmith, study):
    tunesmith("study", "stop", study, "--yes")
    for verb in ("wait", "watch"):
        result = tunesmith("study", verb, study)
        assert result.exit_code == ExitCode.ENDED_BADLY
        assert f"study {study} ended stopped" in result.stderr


def test_waiting_gives_up_in_time_and_says_how_far_it_came(tunesmith, study):
    said = refused(tunesmith("study", "wait", study, "--timeout", 0), ExitCode.TIMEOUT)
    assert f"study {study} is still active" in said


def test_a_stage_is_added_and_skipped(tunesmith, study, tmp_path):
    stage = tmp_path / "stage.yaml"
    stage.write_text("{kind: refine_grid, name: finer, epochs: 3, top: 1}")
    added = done(tunesmith("stage", "add", study, "-f", stage, "--json"))
    assert [s["name"] for s in added["stages"]] == ["coarse", "finer"]
    refused(tunesmith("stage", "add", study, "-f", stage), ExitCode.USAGE)  # the name is taken
    skipped = done(tunesmith("stage", "skip", study, "finer", "--reason", "dear", "--yes", "--json"))
    assert [(s["state"], s["reason"]) for s in skipped["stages"]][1] == ("skipped", "dear")


# --- trials ---------------------------------------------------------------------------------------


def test_a_trial_is_queued_by_hand_like_another_and_cancelled(home, tunesmith, study):
    (number,) = done(tunesmith("trial", "enqueue", study, "-p", "lr=0.5", "--epochs", 1, "--json"))["numbers"]
    (like,) = done(tunesmith("trial", "enqueue", study, "--like", number, "-p", "lr=2e-1", "--json"))[
        "numbers"
    ]
    first, second = (done(tunesmith("trial", "show", study, n, "--json")) for n in (number, like))
    assert (first["params"]["lr"], first["epochs"], first["hand"]) == (0.5, 1, True)
    assert (second["params"]["lr"], second["stage"]) == (0.2, "coarse")
    assert tunesmith("trial", "cancel", study, like, "--yes").output == f"Trial #{like} is cancelled.\n"
    listed = tunesmith("trial", "list", study, "--state", "cancelled").output
    assert re.search(rf"^#{like} +coarse +cancelled", listed, re.MULTILINE)
    assert tunesmith("trial", "logs", study, number).output == ""


def test_a_log_has_every_attempt_and_is_followed_over_them(home, tunesmith, file, monkeypatch):
    study = done(tunesmith("study", "create", "-f", file, "--json"))["name"]
    tunesmith("trial", "enqueue", study, "-p", "lr=0.5")

    async def attempt(*texts: str) -> tuple[LightWorker, Any, Any]:
        worker = LightWorker(said_address(home), (home / "worker.token").read_text().strip())
        await worker.register()
        while (claimed := await worker.claim(wait_seconds=10)) is None:
            pass  # not planned yet
        lease, work = claimed
        for seq, text in enumerate(texts, start=1):
            await worker.client.log(lease, wire.LogChunk(seq=seq, text=text))
        return worker, lease, work

    async def first() -> int:
        worker, lease, work = await attempt("one\n", "two\n")
        await worker.client.release(lease, wire.Release(cause="shutdown"))
        await worker.client.aclose()
        return int(work.number)

    async def second() -> None:
        worker, lease, _ = await attempt("three\n")
        await worker.finish(lease)
        await worker.client.aclose()

    number = asyncio.run(first())
    monkeypatch.setattr(trials, "time", SimpleNamespace(sleep=lambda seconds: asyncio.run(second())))
    assert tunesmith("trial", "logs", study, number, "-f").output == "one\ntwo\nthree\n"
    assert tunesmith("trial", "logs", study, number).output == "one\ntwo\nthree\n"
    told = [(c["attempt"], c["seq"]) for c in done(tunesmith("trial", "logs", study, number, "--json"))]
    assert told == [(1, 1), (1, 2), (2, 1)]
    assert "--json prints a log once" in refused(
        tunesmith("trial", "logs", study, number, "-f", "--json"), ExitCode.USAGE
    )
    tunesmith("study", "stop", study, "--yes")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "lr=7"], "lr=7 is outside the space, which has [0.001, 1]"),
        (["-p", "lr"], "NAME=VALUE"),
        (["-p", "lr=@x"], "lr='@x' is outside the space"),
        (["-p", "lr=a: b: c"], "is outside the space"),
        ([], "lr is missing"),
    ],
)
def test_a_trial_outside_the_space_is_refused(tunesmith, study, words, said):
    assert said in refused(tunesmith("trial", "enqueue", study, *words), ExitCode.USAGE)


# --- saying no ------------------------------------------------------------------------------------


def test_what_is_not_there_is_said_and_has_its_code(tunesmith, study):
    assert "no study 'nowhere'" in refused(tunesmith("study", "show", "nowhere"), ExitCode.NOT_FOUND)
    assert "no trial 99" in refused(tunesmith("trial", "show", study, 99), ExitCode.NOT_FOUND)
    none = refused(tunesmith("token", "revoke", "0" * 16, "--yes"), ExitCode.NOT_FOUND)
    assert "Hint: `tunesmith token list` has those that there are" in none


def test_a_name_can_be_taken_once(tunesmith, file, study):
    said = refused(tunesmith("study", "create", "-f", file), ExitCode.CONFLICT)
    assert study in said
    assert done(tunesmith("study", "create", "-f", file, "--name", f"{study} again", "--json"))
    tunesmith("study", "stop", f"{study} again", "--yes")


def test_an_error_is_the_problem_document_with_json_and_has_a_traceback_with_debug(tunesmith):
    document = json.loads(refused(tunesmith("study", "show", "nowhere", "--json"), ExitCode.NOT_FOUND))
    assert (document["type"], document["status"]) == ("urn:tunesmith:not_found", 404)
    assert document["exit_code"] == ExitCode.NOT_FOUND
    traced = refused(tunesmith("study", "show", "nowhere", "--debug"), ExitCode.NOT_FOUND)
    assert "Traceback" in traced
    assert "Traceback" not in refused(tunesmith("study", "show", "nowhere"), ExitCode.NOT_FOUND)


def test_nobody_there_is_exit_code_3_and_says_what_to_do(tunesmith):
    said = refused(tunesmith("study", "list", "--url", "http://127.0.0.1:9"), ExitCode.UNREACHABLE)
    assert "no answer from http://127.0.0.1:9" in said
    assert "tunesmith up" in said


def test_a_wrong_token_is_exit_code_4(tunesmith, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text(f"tsm_{'0' * 16}_{'0' * 64}")
    said = refused(tunesmith("study", "list", "--token-file", wrong), ExitCode.AUTH)
    assert "not known here" in said
    assert "--token-file" in said


def test_a_token_does_what_its_role_allows_until_it_is_revoked(tunesmith, tmp_path, file):
    secret = tunesmith("token", "create", "reader", "--role", "viewer", "--quiet").output
    assert re.fullmatch(r"tsm_[0-9a-f]{16}_[0-9a-f]{64}\n", secret)
    held = tmp_path / "viewer.token"
    held.write_text(secret)
    done(tunesmith("study", "list", "--token-file", held, "--json"))
    said = refused(tunesmith("study", "create", "-f", file, "--token-file", held), ExitCode.AUTH)
    assert "needs the role researcher" in said
    key_id = secret.split("_")[1]
    listed = tunesmith("token", "list").output
    assert re.search(rf"^{key_id} +reader +viewer", listed, re.MULTILINE)
    assert secret.split("_")[2].strip() not in listed
    assert tunesmith("token", "revoke", key_id, "--yes").exit_code == ExitCode.OK
    until(lambda: tunesmith("study", "list", "--token-file", held).exit_code == ExitCode.AUTH, 5)


def test_login_prints_a_link_to_this_service(home, tunesmith):
    link, hint = tunesmith("login").output.splitlines()
    assert link.startswith(f"{said_address(home)}/ui/login#code=")
    assert hint == "It opens once, within 10 min 00 s."


def test_nothing_but_a_terminal_gets_ansi(tunesmith, study):
    for words in (["study", "list"], ["study", "show", study], ["doctor"], ["trial", "list", study]):
        result = tunesmith(*words, color=True)
        assert "\x1b" not in result.output, words


# --- completion -----------------------------------------------------------------------------------


def test_a_shell_completes_commands_and_names_of_studies(tunesmith, file, home, monkeypatch, request):
    def completed(*words: str, begun: str) -> list[str]:
        complete = ShellComplete(main, {}, "tunesmith", "_TUNESMITH_COMPLETE")
        return [one.value for one in complete.get_completions(list(words), begun)]

    assert tunesmith("study", "create", "-f", file).exit_code == 0
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    name = request.node.name[:100]
    assert completed("study", "show", begun="test_a_shell") == [name]
    assert completed("study", begun="sh") == ["show"]
    assert completed("study", "show", "--url", "http://127.0.0.1:9", begun="test_a_shell") == []


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor_finds_a_study_that_no_worker_serves_and_says_how_to_start_one(tunesmith, tmp_path):
    lonely = tmp_path / "lonely.yaml"
    lonely.write_text(yaml.safe_dump(SPEC | {"name": "lonely", "task": "spam"}))
    tunesmith("study", "create", "-f", lonely)
    result = tunesmith("doctor")
    assert result.exit_code == ExitCode.FAILED
    assert "study lonely: waits: no worker online serves task 'spam'" in result.stdout
    assert "`--data spam=FILE` for a data file" in result.stdout
    assert "not in order: study lonely" in result.stderr
    tunesmith("study", "stop", "lonely", "--yes")


def test_doctor_ends_well_where_nothing_is_wrong(home, tunesmith):
    for name in [s["name"] for s in done(tunesmith("study", "list", "--json")) if s["state"] == "active"]:
        tunesmith("study", "stop", name, "--yes")
    findings = {f["name"]: f for f in done(tunesmith("doctor", "--json"))}
    assert findings["server"]["state"] == findings["database"]["state"] == "ok"
    assert said_address(home) in findings["server"]["detail"]


@pytest.mark.parametrize(("free", "said"), [(1.9, "fail"), (9, "warn"), (11, "ok")])
def test_doctor_warns_of_a_disk_long_before_a_service_refuses_anything(tunesmith, monkeypatch, free, said):
    like_disk_usage = namedtuple("usage", "total used free")
    shown = like_disk_usage(100 * 2**30, 0, int(free * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shown)
    findings = {f["name"]: f for f in json.loads(tunesmith("doctor", "--json").stdout)}
    assert findings["disk"]["state"] == said
    assert "GB of 107.4 GB free" in findings["disk"]["detail"]


def test_doctor_without_a_service_fails_with_a_line_that_starts_one(tunesmith):
    result = tunesmith("doctor", "--url", "http://127.0.0.1:9")
    assert result.exit_code == ExitCode.FAILED
    assert "start one with `tunesmith up`" in result.stdout


def test_a_study_pins_the_digest_that_it_began_with(home, tunesmith, study):
    """What doctor compares workers with; see test_cli_files for what it then says."""

    async def claim_once() -> None:
        worker = LightWorker(said_address(home), (home / "worker.token").read_text().strip(), name="old")
        await worker.register()
        while not await worker.run_one(wait_seconds=10):
            pass  # not planned yet
        await worker.client.aclose()

    asyncio.run(claim_once())
    assert done(tunesmith("study", "show", study, "--json"))["task_digest"] == DIGEST
    assert re.search(rf"ok  study {study}: \d worker\(s\) serve {TASK}", tunesmith("doctor").stdout)


def test_browsers_are_listed_and_logged_out_from_the_command_line(tunesmith, home, tmp_path):
    held = tmp_path / "viewer.token"
    held.write_text(tunesmith("token", "create", "at three desks", "--role", "viewer", "--quiet").output)
    url = said_address(home)
    mine = ("--token-file", held)

    def log_in() -> str:
        link = done(tunesmith("login", *mine, "--json"))["url"]
        code = {"code": link.partition("code=")[2]}
        answer = httpx.post(f"{url}/ui/login", data=code, headers={"Origin": url}, timeout=60)
        return answer.headers["set-cookie"]

    browsers = [log_in().partition(";")[0] for _ in range(3)]

    def open_() -> list[bool]:
        pages = [
            httpx.get(f"{url}/ui/studies", headers={"Cookie": cookie}, timeout=60) for cookie in browsers
        ]
        return [page.status_code == 200 for page in pages]

    assert open_() == [True] * 3
    listed = done(tunesmith("session", "list", *mine, "--json"))
    assert len(listed) == 3
    assert "another browser" in tunesmith("session", "list", *mine).output
    key = min(listed, key=lambda s: s["begun_at"])["key"]
    assert f"Session {key} has ended." in tunesmith("session", "end", key, *mine, "--yes").output
    assert open_() == [False, True, True]
    refused(tunesmith("session", "end", key, *mine, "--yes"), ExitCode.NOT_FOUND)
    for wrong in ((), (key, "--all"), ("", "--yes")):
        assert tunesmith("session", "end", *wrong, *mine).exit_code == ExitCode.USAGE
    assert "You are logged out everywhere." in tunesmith("session", "end", "--all", *mine, "--yes").output
    assert open_() == [False] * 3
    assert tunesmith("study", "list", *mine).exit_code == ExitCode.OK  # the token goes on working
