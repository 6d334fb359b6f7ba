"""docs/promises.md names tests and files that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
TESTS = sorted(set(re.findall(r"`([a-z_/]+\.py)::(\w+)`", PROMISES)))
FILES = sorted(set(re.findall(r"`([a-z_]+\.py)`", PROMISES)))
HOMES = (ROOT / "service" / "tunesmith_service", ROOT / "workers" / "tunesmith_workers")


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_the_test_that_holds_a_promise_is_there(file: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("file", FILES)
def test_the_file_that_keeps_a_promise_is_there(file: str) -> None:
    assert any((home / file).exists() for home in HOMES)


def test_every_promise_has_a_test_or_says_that_it_is_not_built() -> None:
    rows = [line for line in PROMISES.splitlines() if re.match(r"\| (?!promise|call|fault|-)", line)]
    assert len(rows) > 50
    assert [row for row in rows if "::test_" not in row and "not built" not in row] == []
