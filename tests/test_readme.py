"""Whoever follows the README word by word gets a finished study."""

from __future__ import annotations

import re
import shutil

import pages
import pytest
from pages import ROOT, environment, shell
from processes import Process, until
from tunesmith_service.cli.config import said_address

SETUP = ("make setup\n", "source .venv/bin/activate\n")


def block(name: str) -> str:
    """The commands under `<!-- own-data: name -->`."""
    return pages.block("README.md", f"own-data: {name}")


def without_setup(script: str) -> str:
    """The tests run inside what `make setup` made."""
    for line in SETUP:
        script = script.replace(line, "")
    return script


def test_the_set_up_that_the_readme_asks_for_is_the_makefiles():
    assert block("prepare").startswith("".join(SETUP))
    assert block("tune").startswith(SETUP[1])
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.long
def test_the_own_data_example_ends_with_a_finished_study(tmp_path):
    shell(without_setup(block("prepare")), tmp_path)
    assert len((tmp_path / "cancer.csv").read_text().splitlines()) == 1 + 569

    # Beside other services of this machine: any free port, found through the home as a person's would be.
    serve = [*block("serve").split(), "--port", "0"]
    executable = shutil.which(serve[0], path=environment()["PATH"])
    assert executable is not None
    with Process([executable, *serve[1:]], directory=tmp_path) as process:
        until(lambda: said_address(tmp_path / ".tunesmith"), saw=lambda: process.said)
        said = shell(without_setup(block("tune")), tmp_path)
        process.signal(2)
        assert process.ends() == 0, process.said
    assert re.search(r"^study +cancer \(complete\)$", said, re.MULTILINE), said
    stages = re.findall(r"^(coarse_grid|refine_grid|weight_decay_restarts) +\1 +done", said, re.MULTILINE)
    assert len(stages) == 3, said
    assert re.search(r"Best: #\d+ \(\w+\) val/loss 0\.\d+ ", said), said
    assert "/ui/login#code=" in said
