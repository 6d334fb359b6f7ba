"""The API never names code: whatever a task is called, nothing is imported or run, and a worker knows its own
registry alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from service.conftest import DIGEST, TASK, study
from tunesmith_service.cli.study_file import parse
from tunesmith_service.ui.study_form import read_yaml

from .conftest import Watched, in_watched_process

NAMES = (
    "os.system",
    "os:system",
    "builtins.eval",
    "builtins:exec",
    "evil_payload",
    "evil_payload.run",
    "evil_payload:run",
    "antigravity",
    "this",
    "importlib.import_module('antigravity')",
    "__import__('os').system('touch owned')",
    "../tasks.py",
    "/tmp/tasks.py",
    "tasks.py::run",
    "file:///tmp/tasks.py",
    "http://127.0.0.1/tasks.py",
    "git+https://127.0.0.1/x",
    "pkg:pypi/evil_payload",
    "!!python/object/apply:os.system ['touch owned']",
    "!!python/module:antigravity",
    "!!python/name:os.system",
    "!!python/object/new:os.system [touch owned]",
    "{{7*7}}",
    "{{ cycler.__init__.__globals__.os.popen('id') }}",
    "{% import 'os' as os %}",
    "${7*7}",
    "${jndi:ldap://127.0.0.1/x}",
    "#{7*7}",
    "<%= 7*7 %>",
    "{0.__class__}",
    "{self.__init__.__globals__}",
    "%(x)s",
    "%n%n%n",
    "$(touch owned)",
    "`touch owned`",
    "; touch owned",
    "| touch owned",
    "&& touch owned",
    "touch${IFS}owned",
    "-rf",
    "--tasks=/tmp/x.py",
    "-m antigravity",
    "@/tmp/x",
    "' OR '1'='1",
    "'; DROP TABLE trials; --",
    "cos\\nsystem\\n(S'touch owned'\\ntR.",
    "gASV",
    "__main__",
    "__class__",
    "self",
    "None",
)

TAGS = (
    "a: !!python/object/apply:os.system ['touch owned']",
    "a: !!python/object/new:os.system ['touch owned']",
    "a: !!python/module:antigravity ''",
    "a: !!python/name:os.system ''",
    "a: !!python/object:evil_payload.X {}",
    "a: !!python/tuple [1, 2]",
    "a: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch owned']",
    "!!python/object/apply:os.system ['touch owned']",
    "%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system ['touch owned']",
    "a: !custom x",
)

WORKER = """
import json
from pathlib import Path
from tunesmith_workers.tasks import builtin, registry
from tunesmith_workers import supervisor, trainer, child
import torch
names = json.loads(Path(HOME, "names.json").read_text())
known = registry.Registry()
builtin_names = {entry.name for entry in known}
watched.watch(HITS, HOME)
for name in names:
    try:
        known[name]
    except registry.TaskError as error:
        assert "this worker has no task" in str(error)
    else:
        raise AssertionError(name)
"""


def test_the_service_takes_such_a_name_for_a_name(watched: Watched):
    people = watched.people
    worker = {
        "worker_id": "d" * 32,
        "boot_id": "b" * 32,
        "starts": 1,
        "name": NAMES[0],
        "version": NAMES[22],
        "tasks": dict.fromkeys(NAMES, DIGEST) | {TASK: DIGEST},
        "slots": [{"slot_id": "d" * 32, "devices": list(NAMES[:8])}],
    }
    bearer = {"Authorization": f"Bearer {watched.token('worker')}"}
    watched.post(f"/workers/{worker['worker_id']}", worker, "PUT", bearer)
    for i, name in enumerate(NAMES):
        made = watched.post("/studies", study(f"named {i}", task=name, notes=name))
        watched.post(f"/studies/{made['id']}/trials", {"params": [{"lr": 0.01}]})
        claim = {
            "claim_id": f"{i:031x}e",
            "worker_id": "d" * 32,
            "boot_id": "b" * 32,
            "slot_id": "d" * 32,
            "secret": "0" * 32,
        }
        grant = watched.post("/claims", claim, headers=bearer)["grant"]
        assert grant["work"]["task"] == name  # as it was written: the worker looks it up, or has none
        lease = bearer | {"Tunesmith-Lease": f"{grant['incarnation']}.{grant['attempt']}.{'0' * 32}"}
        error = {"kind": name, "message": name, "traceback": name}
        ended = {"state": "failed", "stop_reason": "error", "error": error}
        watched.post(f"/leases/{grant['trial_id']}/finish", ended, headers=lease)
        for path in ("", "/report?format=md", "/trials", "/trials/export?format=latex", "/findings"):
            answer = people.get(f"/studies/{made['id']}{path}")
            assert answer.status_code == 200, answer.text
        assert people.get(f"/studies/{made['id']}").json()["task"] == name
        watched.post(f"/studies/{made['id']}/stop", None)
    assert watched.hits() == []
    assert not (watched.home / "owned").exists()


def test_a_worker_looks_a_task_up_and_imports_nothing(tmp_path: Path):
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    assert in_watched_process(WORKER, tmp_path) == []


@pytest.mark.parametrize("text", TAGS)
def test_a_tag_of_yaml_makes_no_object(tmp_path: Path, text: str):
    for read in (read_yaml, parse):
        with pytest.raises(ValueError, match=r"constructor|tag|could not"):
            read(text, "study")
    script = "import json\nfrom pathlib import Path\nfrom tunesmith_service.ui.study_form import read_yaml\n"
    script += "watched.watch(HITS, HOME)\ntry: read_yaml(Path(HOME, 'study.yaml').read_text(), 'x')\n"
    script += "except ValueError: pass\nelse: raise AssertionError\n"
    (tmp_path / "study.yaml").write_text(text)
    hits = in_watched_process(script, tmp_path)
    assert [h for h in hits if "study.yaml" not in h] == []


def test_aliases_of_yaml_do_not_grow(tmp_path: Path):
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    with pytest.raises(ValueError, match=r"write out what \*a0 stands for"):
        read_yaml(laughs, "study")
