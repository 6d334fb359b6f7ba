"""What a newcomer stands on: the pinned set-up, the Makefile, and a README that is true."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): v for name, v in pins}


def needed() -> set[str]:
    """Every distribution that Tunesmith with all its extras pulls in here, by name."""
    found: set[str] = set()
    todo = [("tunesmith", {"worker", "postgres", "test", "lint"})]
    while todo:
        name, extras = todo.pop()
        for text in requires(name) or []:
            wanted = Requirement(text)
            marker = wanted.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in ({""} | extras)):
                continue
            key = canonicalize_name(wanted.name)
            if key not in found:
                found.add(key)
                todo.append((key, wanted.extras))
    return found


def test_everything_that_is_installed_for_tunesmith_is_pinned():
    """A CUDA build of torch brings packages of its own, which torch itself pins; setuptools comes
    with a virtual environment."""
    of_torch = {n for n in needed() if n.startswith(("nvidia-", "cuda-")) or n in ("triton", "setuptools")}
    assert needed() - of_torch - set(pinned()) == set()


def test_this_environment_has_the_pinned_versions():
    wrong = {}
    for name in needed() & set(pinned()):
        try:
            have = version(name).partition("+")[0]  # torch adds +cpu
        except PackageNotFoundError:
            have = "missing"
        if have != pinned()[name]:
            wrong[name] = (have, pinned()[name])
    assert wrong == {}


def test_the_server_alone_needs_no_torch():
    server = {Requirement(r).name for r in requires("tunesmith") or [] if "extra ==" not in r}
    assert len(server) <= 25
    assert not server & {"torch", "scikit-learn", "pyarrow", "safetensors"}


def test_make_lists_what_it_can_do():
    shown = subprocess.run(
        ["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True
    ).stdout
    assert {"demo", "test", "lint", "setup"} <= set(re.findall(r"make ([a-z-]+)", shown))


def test_make_says_which_python_it_needs(tmp_path):
    """An interpreter that is too old stops the set-up with a sentence, before anything is installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", str(tmp_path), "setup", f"PYTHON={old}"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.18" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_of_a_page_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    local = [t for t in targets if "://" not in t]
    assert [t for t in local if not (page.parent / t).exists()] == []


def test_the_tasks_that_the_readme_shows_are_tasks(tmp_path):
    from tunesmith_workers.tasks.builtin import registry

    blocks = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@" in b]
    assert len(blocks) == 2
    files = []
    for number, block in enumerate(blocks):
        files.append(tmp_path / f"readme_tasks_{number}.py")
        files[-1].write_text(block)
    assert {"moons", "line"} <= set(registry(files).digests())
