"""The API by its own description: Schemathesis makes requests of docs/openapi.json, good and bad ones, by
each role and on each database, and checks each answer against it. No answer is a fault of ours; 503 and
507 say what is the matter.

`pytest tests/service/test_schemathesis.py --api-examples 100` makes a hundred for each operation.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import DIALECTS, Databases
from tunesmith_service.api import examples

from .conftest import Served
from .rows import LEASE, RESUMED, STUDY, Rows, log_in, settle

HERE = Path(__file__).parent
FILE = HERE.parents[1] / "docs" / "openapi.json"
DESCRIPTION: dict[str, Any] = json.loads(FILE.read_text())
ROLES = ("worker", "operator", "admin", "researcher", "viewer", "nobody")
REACH = {
    "worker": {"worker"}, "operator": {"viewer", "researcher", "admin", "operator"},
    "admin": {"viewer", "researcher", "admin"}, "researcher": {"viewer", "researcher"}, "viewer": {"viewer"},
}  # fmt: skip
"""Roles that an operation may ask for and a token of this role has."""
SPECIFICATIONS = ("create_study", "add_stage")
"""Their bodies have so many fields that all cases at the bounds of each are 9 in 10 of all requests."""
WIDEST = ("worker", "operator")
"""Between them they reach every operation; what others reach they reach by the same code."""
MANY, LONG = 20, 100
"""From so many examples on the widest roles try all bounds of what an operation takes and go from one to
another, and every operation of theirs should have been done; from so many on, all roles."""
NEVER_DONE = {
    "override_stage": "nothing blocks a study that no planner plans",
    "end_session": "end_sessions comes before",
}


@pytest.fixture(scope="module", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def described(
    dialect: str, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server that limits nobody and plans nothing: what stands in it is what requests have left."""
    url = databases.make(dialect)
    environ = {} if dialect == "sqlite" else {"TUNESMITH_DATABASE_URL": url}
    home = tmp_path_factory.mktemp("described")
    with Served(home, "--no-planner", "--ttl-seconds=3600", environ=environ) as server:
        yield server
    databases.drop(url)


@pytest.mark.parametrize("role", ROLES)
def test_every_answer_is_one_that_the_description_knows(
    described: Served, dialect: str, role: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    many = int(pytestconfig.getoption("--api-examples"))
    rows = settle(described, role)
    token, key, session = _token(described, role)
    # What a specification may be does not depend on who reads it, nor on where it is kept.
    at_bounds = role == "operator" and (dialect == "sqlite" or many >= LONG)
    (tmp_path / "schemathesis.toml").write_text(_config(rows, key, session, role, at_bounds))
    settled = {"lasting": _lasting(rows, key), "spare": rows.spare, "reported": rows.reported}
    environ = {"PYTHONPATH": str(HERE), "TOKEN": token, "SETTLED": json.dumps(settled)}
    environ |= {k: v for k, v in os.environ.items() if k not in ("CI", "PYTHONPATH")}  # CI: other examples
    command = [
        sys.executable, "-m", "schemathesis.cli", "--no-color", "run", str(FILE), "--url", described.url,
        "--max-examples", str(many), "--seed", "1", "--continue-on-failure",
        "--phases", (phases := _phases(dialect, role, many)),
        "--report", "json", "--report-json-path", "report.json",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, _told(done.stdout) + done.stderr[-2000:]
    assert described.people.get("/studies").status_code == 200
    if "coverage" in phases and role in REACH:
        assert _never_done(json.loads((tmp_path / "report.json").read_text()), role) == set()


def _token(server: Served, role: str) -> tuple[str, str, str]:
    """A token of this role, the key by which it is listed, and that of a session; nobody has none."""
    if role == "nobody":
        return "", "none", "none"
    made = server.people.post("/tokens", json={"name": f"tries as {role}", "role": role}).json()
    return made["token"], made["key_id"], "none" if role == "worker" else log_in(server, made["token"])


def _lasting(rows: Rows, key: str) -> dict[str, list[Any]]:
    """What requests find and do not end."""
    return {
        "study": [STUDY, str(rows.study_id)], "number": list(range(10)), "trial_id": rows.leased,
        "sha256": [examples.SHA256, *rows.blobs], "worker_id": [examples.WORKER_ID], "key_id": [key],
    }  # fmt: skip


def _phases(dialect: str, role: str, many: int) -> str:
    """A quick run makes up few requests of its own, and those on one database."""
    if many >= (MANY if role in WIDEST else LONG):
        return "examples,coverage,fuzzing,stateful"
    is_wide = role in WIDEST and dialect == "sqlite"
    return "examples,fuzzing" if many >= MANY or is_wide else "examples"


def _config(rows: Rows, key: str, session: str, role: str, at_bounds: bool) -> str:
    """That of the file beside this one, and what it does not know."""
    found = _lasting(rows, key) | {
        "key_id": rows.spare["key_id"], "key": [session], "etag": [f'"{n}"' for n in range(4)],
        "lease": [LEASE], "resumed": [rows.resumed], "lease_resumed": [RESUMED], "seq": [1],
        "snapshot": rows.blobs[1:],
        "stage": ["coarse"], "artifact": ["confusion.json"], "lived": [0, 4], "kept": [2],
        "compared": [f"{rows.study_id}:0,{rows.study_id}:4"],
        "filter": ["", "state:complete", "lr>=1e-3 val/loss<0.9", "tag:odd"],
        "sort": ["number", "-value", "lr"], "columns": ["", "number,lr,val/loss"],
    }  # fmt: skip
    lines = [(HERE / "schemathesis.toml").read_text()]
    lines += [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in found.items()]
    if role != "nobody":
        lines.append('[auth.openapi.token]\nbearer = "${TOKEN}"')
    if not at_bounds:
        names = json.dumps(SPECIFICATIONS)
        lines.append(f"[[operations]]\ninclude-operation-id = {names}\nphases.coverage.enabled = false")
    return "\n".join(lines) + "\n"


def _never_done(report: dict[str, Any], role: str) -> set[str]:
    """Operations within the role's reach that answered no request with a 2xx."""
    done = {
        label
        for label, phases in report["valid_rates"].items()
        if any(rate["accepted"] for rate in phases.values())
    }
    mine = {
        f"{method.upper()} {path}": operation["operationId"]
        for path, methods in DESCRIPTION["paths"].items()
        for method, operation in methods.items()
        if operation.get("x-tunesmith-role") in REACH[role]
    }
    return {name for label, name in mine.items() if label not in done and name not in NEVER_DONE}


def _told(output: str) -> str:
    """What was found, without what tells of progress."""
    return re.sub(r"(?s)\A.*?(?==+ (FAILURES|ERRORS) =)", "", output)[-20_000:]
