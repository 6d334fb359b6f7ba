"""Databases to test on, and what stands in them. See `factories` for making studies and trials."""

from __future__ import annotations

import functools
import gc
import os
import ssl
from collections.abc import Iterator

import pytest
import swift_server
from databases import DIALECTS, Databases
from factories import Bench
from hypothesis import HealthCheck, settings
from processes import ROOMY
from sqlalchemy import Engine
from swift_server import Swift
from tunesmith_service import db

os.environ.update(ROOMY)
# Each request of a test's own would read the machine's authorities anew, which takes up to 0.1 s.
ssl.create_default_context = functools.cache(ssl.create_default_context)

MINUTES = ("test_simulation.py", "test_lease_model.py", "test_hostile.py", "test_scripts.py")

_quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
settings.register_profile(
    "default", deadline=None, max_examples=100, stateful_step_count=30, suppress_health_check=_quiet
)
settings.register_profile(
    "ci", deadline=None, max_examples=500, stateful_step_count=50, suppress_health_check=_quiet
)
settings.load_profile(
    "ci" if os.environ.get("CI") == "true" else os.environ.get("HYPOTHESIS_PROFILE", "default")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--api-examples",
        type=int,
        default=2,
        help="requests that are made up for each operation of the API, role and database",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes go first: a process that begins one last would end long after the others."""
    items.sort(key=lambda item: item.path.name not in MINUTES)


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: looking for garbage in it took a sixth of a simulation."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly when nobody looked at the dashboard through a browser: a row of s is easily missed."""
    for what, path, package in (
        ("Chromium", "/usr/bin/chromium", "chromium"), ("nginx", "/usr/sbin/nginx", "nginx-light"),
    ):  # fmt: skip
        skipped = [r for r in terminalreporter.stats.get("skipped", []) if f"no {what}" in str(r.longrepr)]
        if skipped:
            terminalreporter.write_line(
                f"{len(skipped)} browser tests were skipped: no {path} (apt-get install {package})"
            )


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    made = Databases()
    yield made
    made.close()


@pytest.fixture(params=DIALECTS)
def url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A fresh migrated database, once on SQLite and once on PostgreSQL."""
    made = databases.make(request.param)
    yield made
    databases.drop(made)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = db.open_engine(url)
    yield opened
    opened.dispose()


@pytest.fixture
def bench(engine: Engine) -> Bench:
    """Commands applied one after another with a clock turned by hand; see `factories.Bench`."""
    return Bench(engine)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """A real S3 server; every test takes a prefix of its own."""
    if swift_server.is_missing():
        pytest.skip("no Swift, which is for Linux alone: pip install 'tunesmith[test]'")
    made = Swift(tmp_path_factory.mktemp("swift"))
    yield made
    made.close()
