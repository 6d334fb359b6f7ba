"""Arrows point one way: `workers ──HTTP──▶ service ──▶ studies`. What each package may import is read
from its source, so an import inside a function counts as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import Worker, free_port

REPOSITORY = Path(__file__).parents[1]
ROOTS = {
    "tunesmith_studies": REPOSITORY / "studies",
    "tunesmith_service": REPOSITORY / "service",
    "tunesmith_workers": REPOSITORY / "workers",
}
FREE_OF_OPTUNA = {"curves", "space", "trial", "vocabulary"}  # of studies, so workers may import them
NO_TORCH = [
    "__main__", "supervisor", "slot", "attempt", "delivery", "devices", "state", "messages", "gang_process",
]  # fmt: skip
THE_WORLD = {  # clock, files, network, processes, databases
    "asyncio", "fcntl", "glob", "http", "httpx", "io", "multiprocessing", "os", "pathlib", "psycopg",
    "requests", "select", "shutil", "signal", "socket", "sqlalchemy", "sqlite3", "ssl", "subprocess",
    "tempfile", "threading", "time", "torch", "urllib",
}  # fmt: skip
ASKS_FOR_TORCH = {"tunesmith_service.cli.doctor"}  # whether this machine could train; inside a function


@dataclass(frozen=True)
class Import:
    by: str  # the importing module, such as tunesmith_workers.slot
    what: str  # the imported module or name, such as tunesmith_service.wire

    @property
    def top(self) -> str:
        return self.what.partition(".")[0]


def imports(package: str) -> Iterator[Import]:
    for file in (ROOTS[package] / package).rglob("*.py"):
        path = file.relative_to(ROOTS[package]).with_suffix("")
        by = ".".join(path.parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (Import(by, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{by} imports relatively; say the whole name"
                base = node.module or ""
                yield from (Import(by, f"{base}.{alias.name}") for alias in node.names)


def test_the_reader_of_imports_sees_those_inside_functions():
    seen = set(imports("tunesmith_service")) | set(imports("tunesmith_workers"))
    assert Import("tunesmith_service.cli.doctor", "torch") in seen
    assert Import("tunesmith_workers.slot", "tunesmith_service.wire") in seen


def test_studies_are_pure():
    for one in imports("tunesmith_studies"):
        assert one.top not in THE_WORLD, f"{one.by} reaches into the world with {one.what}"
        assert one.top not in ("tunesmith_service", "tunesmith_workers"), f"{one.by} imports {one.what}"


def test_optuna_stays_where_samplers_and_pruners_and_its_own_storages_are():
    homes = ("samplers", "pruners", "optuna_rows", "cmaes_replay", "importance")
    homes += ("optuna_storage", "optuna_space", "optuna_export", "optuna_import")
    users = {one.by for package in ROOTS for one in imports(package) if one.top == "optuna"}
    assert users, "nobody imports Optuna: this test looks in the wrong place"
    strangers = {by for by in users if by.rpartition(".")[2] not in homes}
    assert not strangers


def test_the_service_knows_neither_workers_nor_torch():
    for one in imports("tunesmith_service"):
        assert one.top != "tunesmith_workers", f"{one.by} imports {one.what}"
        assert one.top != "torch" or one.by in ASKS_FOR_TORCH, f"{one.by} imports torch"


def test_workers_know_the_contract_alone():
    allowed = [f"tunesmith_service.{m}" for m in ("wire", "client")]
    allowed += [f"tunesmith_studies.{m}" for m in FREE_OF_OPTUNA]
    for one in imports("tunesmith_workers"):
        if one.top in ("tunesmith_service", "tunesmith_studies"):
            assert any(f"{one.what}.".startswith(f"{ok}.") for ok in allowed), f"{one.by} imports {one.what}"


def test_the_contract_needs_little():
    ours = {"pydantic", "httpx", "tunesmith_service"}
    needs = {"wire": {"pydantic"}, "errors": set(), "client": ours, "exchange": ours, "piping": set()}
    needs |= dict.fromkeys(("asking", "async_client", "calls", "direct", "servers"), ours)
    needs["study_flows"] = ours | {"pandas"}  # inside a function, for those who want tables
    needs["study_handle"] = ours | {"pandas"}  # its name, for types
    for one in imports("tunesmith_service"):
        name = one.by.removeprefix("tunesmith_service.")
        if name in needs and one.top not in sys.stdlib_module_names:
            assert one.top in needs[name], f"{one.by} imports {one.what}"
            if one.top == "tunesmith_service":
                assert one.what.split(".")[1] in needs


def test_no_package_bears_a_name_that_people_give_their_own():
    for package, home in ROOTS.items():
        assert not (home / "__init__.py").exists()
        assert (home / package / "py.typed").exists()


def python(code: str, directory: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


def test_values_that_workers_share_need_no_optuna():
    names = ", ".join(f"tunesmith_studies.{name}" for name in sorted(FREE_OF_OPTUNA))
    answer = python(f"import sys, {names}; print(sorted(m for m in sys.modules if m in ('optuna', 'torch')))")
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")


def test_a_supervisor_imports_neither_torch_nor_optuna_nor_the_service_behind_the_contract():
    names = ", ".join(f"tunesmith_workers.{name}" for name in NO_TORCH)
    loaded = (
        "sorted(m for m in sys.modules if m.startswith('tunesmith_service.') or m in ('torch', 'optuna'))"
    )
    answer = python(f"import sys, {names}; print({loaded})")
    names = (
        "asking", "async_client", "calls", "client", "direct", "errors", "exchange", "piping", "servers",
        "study_flows", "study_handle", "wire",
    )  # fmt: skip
    expected = [f"tunesmith_service.{name}" for name in names]
    assert (answer.stdout.strip(), answer.stderr) == (str(expected), "")


@pytest.mark.parametrize("own", ["at_start", "as_tasks_neighbour"])
def test_a_worker_starts_in_a_directory_with_packages_named_like_our_folders(tmp_path: Path, own: str):
    """People keep `utils/`, `workers/`, `service/` and `studies/` of their own; ours must not meet them,
    and their task file must find its neighbours."""
    for name in ("workers", "service", "studies", "utils", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"KIND = 'their own {name}'\n")
    options = ["--once"]
    if own == "as_tasks_neighbour":
        (tmp_path / "my_tasks.py").write_text("import utils, workers\nraise ValueError(utils.KIND)\n")
        options += ["--tasks", "my_tasks.py"]
    nobody = f"http://127.0.0.1:{free_port()}"
    with Worker(nobody, "tsm_x", tmp_path / "state", *options, directory=tmp_path) as worker:
        if own == "at_start":
            worker.says("event=service_away", "no answer from")
        else:
            assert worker.ends() == 1
            assert "Error: their own utils" in worker.said
