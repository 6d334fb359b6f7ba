"""The process that commits: it does what the writer would, and is started anew whenever it has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import DIALECTS, Databases
from factories import Bench, report
from processes import until
from sqlalchemy import select
from tunesmith_service import commands as c
from tunesmith_service import db, tables
from tunesmith_service.errors import LeaseLost, Unavailable
from tunesmith_service.tx import TTL_US
from tunesmith_service.writer_process import Setup, WriterProcess


@pytest.fixture(params=DIALECTS)
def bench(databases: Databases, request: pytest.FixtureRequest) -> Iterator[Bench]:
    url = databases.make(request.param)
    bench = Bench(db.open_engine(url))
    yield bench
    bench.engine.dispose()
    databases.drop(url)


@pytest.fixture
def process(bench: Bench) -> Iterator[WriterProcess]:
    url = bench.engine.url.render_as_string(hide_password=False)
    process = WriterProcess(Setup(url, TTL_US, {}, "text"))
    yield process
    process.stop()


def test_it_commits_what_the_writer_would(bench: Bench, process: WriterProcess) -> None:
    study = bench.study()
    bench.trial(study)
    grant = bench.claim()
    late = c.Lease(grant.lease.trial_id, 1, 9, b"s" * 32)
    asked = [report(grant, 1, 0.5), c.Renew(late), c.Finish(grant.lease, "complete", "budget")]
    batch = process.commit(asked, bench.clock.now_us())
    kept, lost, ended = batch.outcomes
    assert (kept, ended) == (c.Kept(), c.Ended("complete", "budget"))
    assert isinstance(lost, LeaseLost)
    assert (batch.changed, dict(batch.moved)) == ({study}, {("finish", "complete"): 1})
    assert [row.value for row in bench.rows(select(tables.trials.c.value))] == [0.5]


def test_one_that_was_killed_is_started_anew(bench: Bench, process: WriterProcess) -> None:
    study = bench.study()
    process.commit([c.Sweep()], bench.clock.now_us())
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="send the same request again"):
        process.commit([c.SkipStage(study, "random", "test", "why")], bench.clock.now_us())
    batch = process.commit([c.SkipStage(study, "random", "test", "why")], bench.clock.now_us())
    assert not isinstance(batch.outcomes[0], Exception)


def test_a_signal_to_all_does_not_end_it_before_the_server(bench: Bench, process: WriterProcess) -> None:
    process.commit([c.Sweep()], bench.clock.now_us())
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGTERM)
    os.kill(first, signal.SIGINT)
    process.commit([c.Sweep()], bench.clock.now_us())
    assert process.pid == first


def test_the_next_server_waits_until_it_has_ended(tmp_path: Path) -> None:
    """The lock of a killed server's file is its writer's until that has written what it was given."""
    path = tmp_path / "a.db"
    reading, writing = os.pipe()
    if (server := os.fork()) == 0:
        os.close(writing)
        with db.hold(path) as held:
            if (writer := os.fork()) == 0:
                os.read(reading, 1)  # until the test says so
                os._exit(0)
            assert held >= 0
            (tmp_path / "holds").write_text(str(writer))
            signal.pause()
    until((tmp_path / "holds").exists)
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(db, "LAST_WRITE_SECONDS", -1.0)
        with pytest.raises(db.AlreadyServed), db.hold(path):
            pass
    os.close(writing)
    with db.hold(path):
        assert (tmp_path / "a.db.lock").read_text().strip() == str(os.getpid())
