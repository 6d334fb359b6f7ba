"""What a person reads when a command on the server's side cannot do its work, and its exit code."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import certificate
from click.testing import CliRunner, Result
from databases import Databases
from processes import PATIENCE_SECONDS, Process, free_port
from sqlalchemy import make_url
from tunesmith_service.__main__ import main
from tunesmith_service.cli.base import ExitCode
from tunesmith_service.serve import run
from tunesmith_service.settings import Settings, SettingsError
from tunesmith_service.up import LocalWorkers

NOWHERE = "postgresql://me:secret@127.0.0.1:9/db"


def tunesmith(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def started(*words: object) -> Process:
    return Process([sys.executable, "-m", "tunesmith_service", *map(str, words)])


def refused(result: Result, code: ExitCode) -> str:
    """What it said; nothing but that was raised."""
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, result.output
    return result.stderr


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    for words in (["migrate"], ["backup", str(tmp_path / "backup")]):
        done = tunesmith(*words, "--home", tmp_path / "lived")
        assert done.exit_code == ExitCode.OK, done.output
    return tmp_path / "backup"


# --- folders and files ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_home_that_cannot_be_made_is_a_sentence(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with started(command, "--home", tmp_path / "file" / "home", "--port", "0") as process:
        assert process.ends() == ExitCode.USAGE
        assert f"Error: {tmp_path}/file/home: Not a directory" in process.said
        assert "Hint: see that it is there and that this user may write it" in process.said
        assert "Traceback" not in process.said


def test_folders_that_cannot_be_written_are_a_sentence(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    for words in (
        ("migrate", "--home", below),
        ("backup", below, "--home", tmp_path / "lived"),
        ("restore", backup, "--home", below),
    ):
        assert f"Error: {below}: Not a directory\nHint: " in refused(tunesmith(*words), ExitCode.USAGE)


def test_a_tls_file_that_cannot_be_used_is_named_before_anything_is_opened(tmp_path: Path) -> None:
    home, (cert, key) = tmp_path / "home", certificate(tmp_path)
    wrong, locked = tmp_path / "wrong.pem", tmp_path / "locked.pem"
    wrong.write_text("none")
    lock = ["openssl", "rsa", "-in", key, "-aes128", "-passout", "pass:word", "-out", locked]
    subprocess.run(lock, check=True, capture_output=True)
    for chosen, said in (
        ((tmp_path / "none.pem", key), r"--tls-cert names .*/none\.pem, which cannot be read: No such file"),
        ((cert, tmp_path / "none.pem"), r"--tls-key names .*/none\.pem, which cannot be read: No such file"),
        ((wrong, key), r"--tls-cert names .*/wrong\.pem, which holds no certificate"),
        ((cert, wrong), r"--tls-key names .*/wrong\.pem, which is no private key .* with .*/cert\.pem"),
        ((cert, locked), r"--tls-key names .*/locked\.pem, which asks for a pass phrase"),
    ):
        settings = Settings(home=home, port=0, tls_cert=chosen[0], tls_key=chosen[1])
        with pytest.raises(SettingsError, match=said):
            run(settings)
    assert not home.exists()
    files = ("--tls-cert", wrong, "--tls-key", key)
    with started("serve", "--home", home, "--port", "0", *files) as process:
        assert process.ends() == ExitCode.USAGE
        assert f"Error: --tls-cert names {wrong}, which holds no certificate in PEM format" in process.said


# --- databases ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "--database-url is no address of a database; write postgresql+psycopg://"),
        ("postgresql://me:secret@host:port/db", "--database-url is no address of a database; write"),
        ("mysql://me:secret@host/db", "the database is SQLite or PostgreSQL, got mysql; write"),
    ],
    ids=["no address", "no port", "another database"],
)
def test_an_address_of_no_database_is_a_usage_error(url: str, said: str, tmp_path: Path) -> None:
    told = refused(tunesmith("migrate", "--home", tmp_path, "--database-url", url), ExitCode.USAGE)
    assert said in told
    assert "secret" not in told


@pytest.mark.parametrize("command", ["migrate", "backup"])
def test_a_database_that_does_not_answer_is_exit_code_3(command: str, tmp_path: Path) -> None:
    words = [command, *([tmp_path / "to"] if command == "backup" else [])]
    told = refused(tunesmith(*words, "--home", tmp_path, "--database-url", NOWHERE), ExitCode.UNREACHABLE)
    assert "the database at postgresql://me:***@127.0.0.1:9/db does not answer: connection failed" in told
    assert "Hint: see that PostgreSQL runs" in told


def test_a_server_whose_database_does_not_answer_ends_with_exit_code_3(tmp_path: Path) -> None:
    with started("serve", "--home", tmp_path, "--port", "0", "--database-url", NOWHERE) as process:
        assert process.ends() == ExitCode.UNREACHABLE
        assert "Error: the database at postgresql://me:***@127.0.0.1:9/db does not answer" in process.said
        assert "Traceback" not in process.said


def test_postgresql_that_lets_nobody_in_is_exit_code_3(databases: Databases, tmp_path: Path) -> None:
    empty = databases.empty_postgresql()
    stranger = make_url(empty).set(username="stranger").render_as_string(hide_password=False)
    told = refused(tunesmith("migrate", "--home", tmp_path, "--database-url", stranger), ExitCode.UNREACHABLE)
    databases.drop(empty)
    assert 'FATAL: role "stranger" does not exist' in told
    assert "its host, port, user, password and name right" in told


def test_postgresql_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not there
    told = refused(tunesmith("migrate", "--home", tmp_path, "--database-url", NOWHERE), ExitCode.FAILED)
    assert "pip install 'tunesmith[postgres]'" in told


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "tunesmith.db").write_text("none" * 1000)
    for words in (("migrate",), ("backup", tmp_path / "to")):
        told = refused(tunesmith(*words, "--home", tmp_path), ExitCode.FAILED)
        assert f"SQLite cannot use {tmp_path}/tunesmith.db: file is not a database" in told
        assert "the newest good backup can be restored" in told


def test_a_database_without_this_version_s_tables_says_how_to_get_them(tmp_path: Path) -> None:
    assert tunesmith("migrate", "--home", tmp_path).exit_code == ExitCode.OK
    connection = sqlite3.connect(tmp_path / "tunesmith.db")
    connection.execute("DROP TABLE instance")
    connection.commit()
    connection.close()
    told = refused(tunesmith("backup", tmp_path / "to", "--home", tmp_path), ExitCode.FAILED)
    assert "no such table: instance\nHint: `tunesmith migrate` brings it up to date" in told


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("nobody expects this")

    monkeypatch.setattr("tunesmith_service.migrate.upgrade", broken)
    assert isinstance(tunesmith("migrate", "--home", tmp_path).exception, ValueError)


@pytest.mark.parametrize(
    "words",
    [
        lambda home: ("migrate", "--home", home),
        lambda home: ("backup", home / "to", "--home", home),
        lambda home: ("serve", "--home", home, "--port", "0"),
    ],
    ids=["migrate", "backup", "serve"],
)
def test_ctrl_c_is_exit_code_130(words: Callable[[Path], tuple[object, ...]], tmp_path: Path) -> None:
    """While PostgreSQL takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_SECONDS)
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/db"
        with started(*words(tmp_path), "--database-url", url) as process:
            connection, _ = silent.accept()
            with connection:
                process.signal(signal.SIGINT)
                assert process.ends() == ExitCode.INTERRUPTED, process.said
            assert "Traceback" not in process.said


# --- `up` beyond this machine ---------------------------------------------------------------------


def test_workers_of_up_need_a_name_that_the_certificate_may_have(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, host="0.0.0.0", tls_cert=tmp_path / "c", tls_key=tmp_path / "k")
    with pytest.raises(SettingsError, match=r"--host 0\.0\.0\.0 is no name .* give it with --public-url"):
        LocalWorkers(settings, 1, [])
    LocalWorkers(settings, 0, [])


def test_up_speaks_tls_to_its_own_worker_as_well(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    url = f"https://localhost:{(port := free_port())}"
    flags = ["--home", tmp_path, "--host", "0.0.0.0", "--port", port, "--public-url", url]
    flags += ["--tls-cert", cert, "--tls-key", key]
    environ = {"CUDA_VISIBLE_DEVICES": "", "SSL_CERT_FILE": str(cert)}
    command = [sys.executable, "-m", "tunesmith_service", "up", *map(str, flags)]
    with Process(command, directory=tmp_path, environ=environ) as up:
        assert f"{url}/ui/login#code=" in up.says("Open the dashboard, once:")
        up.says("event=registered")
        up.signal(signal.SIGINT)
        assert up.ends() == 0, up.said


def test_up_behind_a_proxy_starts_workers_that_pass_it_by(tmp_path: Path) -> None:
    url = "https://tunesmith.example.org/lab"
    flags = ["--home", tmp_path, "--host", "0.0.0.0", "--port", free_port(), "--public-url", url]
    command = [sys.executable, "-m", "tunesmith_service", "up", "--behind-proxy", *map(str, flags)]
    with Process(command, directory=tmp_path, environ={"CUDA_VISIBLE_DEVICES": ""}) as up:
        assert f"{url}/ui/login#code=" in up.says("Open the dashboard, once:")
        up.says("event=registered")
        up.signal(signal.SIGINT)
        assert up.ends() == 0, up.said
