"""`tunesmith audit`: what was done, and the first entry that somebody has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text
from tunesmith_service import db
from tunesmith_service.__main__ import main
from tunesmith_service.cli.base import ExitCode

from .conftest import Served, study

Command = Callable[..., Result]


@pytest.fixture
def own(serve: Callable[..., Served]) -> Served:
    served = serve()
    assert served.people.post("/studies", json=study("audited")).status_code == 201
    assert served.people.post("/studies/audited/stop").status_code == 200
    return served


@pytest.fixture
def tunesmith(own: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(w) for w in words], env={"TUNESMITH_HOME": str(own.home)})

    return run


def test_what_was_done_is_listed_the_newest_first(tunesmith: Command):
    said = tunesmith("audit", "list", "-n", 2)
    assert said.exit_code == ExitCode.OK, said.output
    assert [line.split()[3] for line in said.stdout.splitlines()[1:]] == ["study.stop", "study.create"]
    assert "operator:first operator" in said.stdout
    assert "127.0.0.1" in said.stdout
    tokens = json.loads(tunesmith("audit", "list", "--action", "token.create", "--json").stdout)
    assert [t["detail"]["role"] for t in tokens] == ["worker", "operator"]


def test_a_whole_log_is_verified_and_its_head_told(own: Served, tunesmith: Command):
    said = tunesmith("audit", "verify")
    assert said.exit_code == ExitCode.OK, said.output
    noted = said.stdout.splitlines()[-1]
    assert own.people.post("/studies", json=study("later")).status_code == 201
    assert tunesmith("audit", "verify", "--noted", noted).exit_code == ExitCode.OK
    wrong = f"{noted.partition(':')[0]}:{'0' * 64}"
    refused = tunesmith("audit", "verify", "--noted", wrong)
    assert refused.exit_code == ExitCode.FAILED
    assert "is not the one that was noted" in refused.stderr
    assert tunesmith("audit", "verify", "--noted", "head").exit_code == ExitCode.USAGE


def test_the_first_broken_entry_is_told(own: Served, tunesmith: Command):
    engine = db.open_engine(f"sqlite:///{own.home / 'tunesmith.db'}")
    with db.writing(engine).begin() as conn:
        conn.execute(text("DROP TRIGGER audit_change"))
        conn.execute(text("UPDATE audit SET actor = 'somebody else' WHERE n IN (3, 4)"))
    engine.dispose()
    said = tunesmith("audit", "verify")
    assert said.exit_code == ExitCode.FAILED
    assert "Entry 3 of the audit log was changed" in said.stderr


def test_an_admin_cannot_follow_the_whole_chain_and_is_told(own: Served, tunesmith: Command, tmp_path: Path):
    made = own.people.post("/tokens", json={"name": "ann", "role": "admin"}).json()
    file = tmp_path / "admin.token"
    file.write_text(made["token"])
    refused = tunesmith("audit", "verify", "--token-file", file)
    assert refused.exit_code == ExitCode.AUTH
    assert "this needs the role operator" in refused.stderr
    assert tunesmith("audit", "list", "--token-file", file).exit_code == ExitCode.OK
