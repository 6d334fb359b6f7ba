"""The command `tunesmith worker`: what it refuses, in the words a person reads, and its exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from processes import Process, Server, Worker, free_port
from tunesmith_workers.__main__ import worker


def run(*arguments: str, **environ: str | None) -> Result:
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith("TUNESMITH_")}
    return CliRunner().invoke(worker, arguments, env=clean | {"CUDA_VISIBLE_DEVICES": ""} | environ)


def test_a_worker_without_a_token_says_where_one_comes_from(tmp_path: Path):
    result = run("--state", str(tmp_path))
    assert result.exit_code == 2
    assert "tunesmith token create" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "spam.npz"], "--data takes NAME=FILE, such as spam=spam.npz, got 'spam.npz'"),
        (["--weights", "net"], "--weights takes NAME=FILE, such as spam=spam.safetensors, got 'net'"),
        (["--devices", "0,0"], "--devices takes different names"),
        (["--devices", "0,1", "--slots", "4"], "--slots 4 is for CPU slots, but there are 2 GPUs"),
        (["--devices", "0,1,2", "--devices-per-slot", "2"], "3 devices cannot be dealt out 2 to a slot"),
        (["--name", "../x"], "--name takes letters"),
        (["--url", "localhost:8787"], "url is the service's address"),
        (["--token-file", "/no/such/file"], "No such file"),
        (["--url", "http://host:87x87"], "url is the service's address"),
    ],
)
def test_what_makes_no_worker_is_refused_with_what_to_say_instead(
    tmp_path: Path, options: list[str], words: str
):
    result = run("--state", str(tmp_path / "state"), *options, TUNESMITH_TOKEN="tsm_x")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


def test_every_option_has_a_help_line():
    assert [p.name for p in worker.params if isinstance(p, click.Option) and not p.help] == []


def test_the_worker_is_a_command_of_tunesmith():
    with Process([sys.executable, "-m", "tunesmith_service", "worker", "--help"]) as command:
        assert command.ends() == 0
        assert "--exit-when-idle" in command.said


@pytest.mark.parametrize(("flag", "name"), [("--data", "mine.csv"), ("--weights", "mine.safetensors")])
def test_a_file_that_cannot_be_used_ends_the_worker_with_the_trainer_s_words_and_exit_code_1(
    tmp_path: Path, flag: str, name: str
):
    file = tmp_path / name
    file.write_text("a,b\n1,\n")
    nobody = f"http://127.0.0.1:{free_port()}"
    with Worker(nobody, "tsm_x", tmp_path / "state", flag, f"mine={file}") as worker:
        assert worker.ends() == 1
        assert f"Error: {flag} mine=" in worker.said
        assert name in worker.said
        assert "Traceback" not in worker.said


def test_a_second_worker_on_one_state_directory_is_told_who_has_it(tmp_path: Path):
    nobody = f"http://127.0.0.1:{free_port()}"
    with Worker(nobody, "tsm_x", tmp_path) as first:
        first.says("event=started")
        with Worker(nobody, "tsm_x", tmp_path) as second:
            assert second.ends() == 1
            assert f"the worker with process id {first.pid} uses {tmp_path}" in second.said


def test_a_token_that_the_service_does_not_take_ends_the_worker_loudly_with_exit_code_4(tmp_path: Path):
    with Server(tmp_path / "home") as server:
        wrong = server.worker_token[:-1] + ("a" if server.worker_token[-1] != "a" else "b")
        with Worker(server.url, wrong, tmp_path / "state") as worker:
            assert worker.ends() == 4
            assert "Error: the service refuses this worker's token" in worker.said
            assert wrong not in worker.said


def test_what_is_no_token_at_all_ends_the_worker_loudly_too(tmp_path: Path):
    with Server(tmp_path / "home") as server, Worker(server.url, "tsm_x", tmp_path / "state") as worker:
        assert worker.ends() == 4
        assert "Error: the service refuses this worker's token" in worker.said


def test_a_worker_that_was_stopped_ends_with_the_code_that_was_asked_for(tmp_path: Path):
    """Of a Job of Kubernetes, which would take 0 for a completion."""
    with Server(tmp_path / "home") as server:
        said = ("--stopped-exit-code", "143")
        with Worker(server.url, server.worker_token, tmp_path / "state", *said) as worker:
            worker.says("event=registered")
            worker.process.terminate()
            assert worker.ends() == 143


@pytest.mark.parametrize("token", ["tsm_one\ntsm_two", "tsm_5f0c…", "tsm_a b"])
def test_a_token_that_no_request_can_carry_is_refused_before_anything_is_asked(tmp_path: Path, token: str):
    """Sent, it would fail like the network, and be tried again for ever."""
    file = tmp_path / "token"
    file.write_text(token)
    result = run("--state", str(tmp_path / "state"), "--token-file", str(file))
    assert result.exit_code == 2
    assert "the token is not one" in " ".join(result.output.split())
    assert token not in result.output


def test_a_child_gets_no_token_and_nobody_s_secrets(tmp_path: Path):
    """Its environment is read from the system, so nothing that the child does could hide it."""
    secrets = {"AWS_SECRET_ACCESS_KEY": "s3", "HF_TOKEN": "hf", "MY_PASSWORD": "pw", "PLAIN": "kept"}
    nobody = f"http://127.0.0.1:{free_port()}"
    with Worker(nobody, "tsm_x", tmp_path, "--cores", "3", environ=secrets) as worker:
        environ = Path(f"/proc/{worker.child_pid()}/environ").read_text().split("\0")
        names = {entry.partition("=")[0] for entry in environ}
        assert not names & {"TUNESMITH_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MY_PASSWORD"}
        assert "PLAIN=kept" in environ
        assert "CUDA_VISIBLE_DEVICES=" in environ
        assert "OMP_NUM_THREADS=3" in environ
        assert "tsm_x" not in Path(f"/proc/{worker.child_pid()}/cmdline").read_text()
