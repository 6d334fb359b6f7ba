"""A crash before BEGIN, before COMMIT and after COMMIT but before the answer; the client then repeats.

The database must end as if nothing had happened. A crash is an exception at that point, after which
engine and connections are thrown away and the database is opened anew; one test kills a real process.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import pytest
from databases import DIALECTS, Databases
from factories import DIGEST, PROJECT, TASK, TTL, WORK, Bench, brought, report, sha256, spec, stage
from sqlalchemy import event, select
from tunesmith_service import batches, db, event_log, migrate, tables, wire
from tunesmith_service import commands as c
from tunesmith_service.audit import DAY_US
from tunesmith_service.clock import ManualClock
from tunesmith_service.errors import TunesmithError
from tunesmith_service.notice_tables import targets
from tunesmith_service.notices import Notice

POINTS = ("before BEGIN", "before COMMIT", "after COMMIT")
RESULT = {"ranking": [], "why": "because", "chosen": {}, "numbers": {}, "failed": False}


class Crash(BaseException):
    """The process ends here: nothing of ours may catch it and go on."""


class World:
    """The state that each command meets: one running trial with a report and a snapshot, one waiting."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.study = bench.study(stages=[stage(), stage("next")])
        bench.trial(self.study, key="a")
        bench.trial(self.study, key="b", ordinal=1, draft=True)
        bench.trial(self.study, key="c", ordinal=2)
        self.slot, self.free = bench.register(2)
        self.grant = bench.claim(self.slot)
        bench.report(self.grant, 1, 0.5)
        bench.snapshot(self.grant, 1)
        soon = bench.clock.now_us() + 1
        bench.batch(*(c.CreateLoginCode(code * 32, bench.token_id, soon) for code in (b"c", b"u")))
        bench.do(c.RedeemLoginCode(b"u" * 32, b"f" * 32, soon))


def register(w: World) -> c.Command:
    """The worker of the running trial starts anew."""
    slot = {"slot_id": w.grant.claim.slot_id, "devices": ["cpu"]}
    ids = {"worker_id": w.grant.claim.worker_id, "boot_id": "b" * 32}
    body = wire.Register(
        **ids, starts=2**53, name="w", version="2", tasks={TASK: DIGEST}, slots=[wire.Slot(**slot)]
    )
    return c.Register(PROJECT, w.bench.token_id, body)


def proposal(w: World) -> c.Command:
    """A branch from the running trial's snapshot."""
    return c.Propose(w.study, "random", "new", 3, {"lr": 0.2}, WORK, {"trial": 0, "step": 1}, {}, 4, False)


def override(w: World) -> c.Command:
    """Past a check that has failed and blocks the study."""
    result = {"ranking": [], "why": "no", "chosen": {}, "numbers": {}, "failed": True, "blocks": True}
    w.bench.do(c.EndStage(w.study, "random", result, w.bench.event_n(w.study)))
    return c.OverrideStage(w.study, "random", "test", "on purpose")


def again(w: World) -> c.Command:
    w.bench.do(c.CancelTrial(w.study, 2, "test"))
    return c.Retry(w.study, (2,), "test", c.Idempotency("s", "k", b"h" * 32))


def bring(w: World) -> c.Command:
    """Two trials of elsewhere, one that has come already."""
    w.bench.do(c.EndStage(w.study, "random", RESULT, w.bench.event_n(w.study)))
    w.bench.do(c.SkipStage(w.study, "next", "test", "enough"))
    w.bench.do(c.AddStage(w.study, {"kind": "imported", "name": "old", "epochs": 3, "trials": 9}, "test"))
    w.bench.do(c.ImportTrials(w.study, "old", (brought(0),), "test"))
    return c.ImportTrials(w.study, "old", (brought(0), brought(1), brought(2)), "test")


def put_away(w: World) -> c.Command:
    w.bench.do(c.MoveStudy(w.study, "paused", "test", "later"))
    return c.PutAway(w.study, True, "test")


def delete(w: World) -> c.Command:
    """The last piece: the trials have gone with the first."""
    w.bench.do(c.MoveStudy(w.study, "stopped", "test", "enough"))
    assert w.bench.do(c.DeleteStudy(w.study, "study", "test")) is False
    return c.DeleteStudy(w.study, "study", "test")


def trim(w: World) -> c.Command:
    """What the log holds is older than that by more than a day."""
    w.bench.clock.advance(3 * DAY_US)
    return c.TrimAudit(w.bench.clock.now_us() - DAY_US)


def expire(w: World) -> c.Command:
    w.bench.clock.advance(TTL + 1)
    return c.Sweep()


def target(name: str) -> c.Command:
    return c.AddTarget(name, "webhook", "https://example.org/hook", ("study_complete",), "secret")


def queue(w: World) -> c.QueueNotices:
    """After the first target came, which set the cursor to the newest event."""
    n = w.bench.event_n(w.study)
    (to,) = w.bench.rows(select(targets.c.id))
    return c.QueueNotices(w.study, n, n + 1, (Notice(to.id, "d" * 32, "study_complete", n, {"text": "x"}),))


def end_notice(w: World) -> c.Command:
    w.bench.do(target("me"))
    w.bench.do(queue(w))
    (taken,) = w.bench.do(c.TakeNotices(8, 30))
    return c.EndNotice(taken["id"], taken["tries"], True, "answered 200")


COMMANDS: dict[str, Callable[[World], c.Command]] = {
    "register": register,
    "claim": lambda w: w.bench.ask(w.free),
    "renew": lambda w: c.Renew(w.grant.lease),
    "report": lambda w: report(w.grant, 2, 0.25),
    "commit snapshot": lambda w: c.CommitSnapshot(w.grant.lease, 2, sha256("two"), 7),
    "append log": lambda w: c.AppendLog(w.grant.lease, 1, sha256("log"), 3),
    "commit artifact": lambda w: c.CommitArtifact(w.grant.lease, "plot.png", sha256("plot"), 3),
    "finish": lambda w: c.Finish(w.grant.lease, "complete", "budget"),
    "finish with the last report and the next claim": lambda w: c.Finish(
        w.grant.lease, "complete", "budget", report=report(w.grant, 2, 0.25), claim=w.bench.ask(w.slot)
    ),
    "finish, retryable": lambda w: c.Finish(w.grant.lease, "failed", "error", retryable=True),
    "release": lambda w: c.Release(w.grant.lease, "preempted"),
    "sweep": expire,
    "propose": lambda w: c.Propose(
        w.study, "random", "new", 3, {"lr": 0.2}, WORK, {"trial": 0, "step": 1}, {}, 4, False
    ),
    "redraw": lambda w: c.Redraw(w.study, 1, {"lr": 0.7}, {}, 1000),
    "prune": lambda w: c.Prune(w.study, 0, 5, 1),
    "end stage": lambda w: c.EndStage(w.study, "random", RESULT, 5),
    "fail stage": lambda w: c.FailStage(w.study, "random", "it raised"),
    "create study": lambda w: c.CreateStudy(
        PROJECT, spec("other"), "test", c.Idempotency("s", "k", b"h" * 32)
    ),
    "add stage": lambda w: c.AddStage(w.study, stage("last"), "test"),
    "skip stage": lambda w: c.SkipStage(w.study, "random", "test", "enough"),
    "override stage": override,
    "stop study": lambda w: c.MoveStudy(w.study, "stopped", "test", "enough"),
    "pause study": lambda w: c.MoveStudy(w.study, "paused", "test", "later"),
    "enqueue": lambda w: c.Enqueue(
        w.study, "random", ({"lr": 0.3}, {"lr": 0.4}), WORK, "test", c.Idempotency("s", "k", b"h" * 32)
    ),
    "cancel trial": lambda w: c.CancelTrial(w.study, 0, "test"),
    "drain worker": lambda w: c.DrainWorker(PROJECT, w.grant.claim.worker_id, True),
    "create token": lambda w: c.CreateToken(PROJECT, "ann", "researcher", "key", b"s" * 32, None, "test"),
    "revoke token": lambda w: c.RevokeToken("workers", "test"),
    "touch tokens": lambda w: c.TouchTokens({w.bench.token_id: w.bench.clock.now_us()}),
    "create login code": lambda w: c.CreateLoginCode(b"d" * 32, w.bench.token_id, w.bench.clock.now_us() + 9),
    "redeem login code": lambda w: c.RedeemLoginCode(b"c" * 32, b"e" * 32, w.bench.clock.now_us() + 9),
    "end session": lambda w: c.EndSession(b"f" * 32),
    "replace a session": lambda w: c.RedeemLoginCode(
        b"c" * 32, b"e" * 32, w.bench.clock.now_us() + 9, "Firefox on Linux", b"f" * 32
    ),
    "touch sessions": lambda w: c.TouchSessions({b"f" * 32: w.bench.clock.now_us() + 61 * 1_000_000}, 1),
    "end sessions": lambda w: c.EndSessions(w.bench.token_id),
    "note a refusal": lambda w: c.NoteRefusal("workers", "wrong secret", 3),
    "trim the audit log": trim,
    "forget blobs": lambda w: c.ForgetBlobs(w.bench.clock.now_us() + 1),
    "try again": again,
    "import trials": bring,
    "prune now": lambda w: c.PruneNow(w.study, 0, "test"),
    "put away": put_away,
    "add a target": lambda w: target("me"),
    "remove a target": lambda w: (w.bench.do(target("me")), c.RemoveTarget("me"))[1],
    "queue notices": lambda w: (w.bench.do(target("me")), queue(w))[1],
    "queue a test": lambda w: (w.bench.do(target("me")), c.QueueTest("me", "e" * 32, {"text": "x"}))[1],
    "take notices": lambda w: (w.bench.do(target("me")), w.bench.do(queue(w)), c.TakeNotices(8, 30))[2],
    "end a notice": end_notice,
    "delete study": delete,
    "write note": lambda w: c.WriteNote(w.study, "seen", 0, "test"),
    "tag trials": lambda w: c.TagTrials(w.study, (0, 2), ("good",), ()),
}

SECOND_ANSWERS: dict[str, Any] = {
    "report": c.Kept(duplicate=True),
    "commit snapshot": c.Kept(duplicate=True),
    "append log": c.Kept(duplicate=True),
    "sweep": c.Swept(()),
    "propose": None,
    "redraw": False,
    "prune": False,
    "end stage": False,
    "fail stage": False,
    "forget blobs": [],
    "import trials": 0,
    "add stage": "conflict",
    "add a target": "conflict",
    "remove a target": "not_found",
    "queue notices": False,
    "take notices": [],
    "end a notice": False,
    "write note": "changed",
    "create token": "already_created",
    "redeem login code": "login_code_invalid",
    "replace a session": "login_code_invalid",
}
"""What is answered to a command that had been committed already, where it differs from the first answer."""


OWNERS = {
    "trial_id": "trials", "stage_id": "stages", "study_id": "studies", "token_id": "tokens",
    "start_snapshot_id": "snapshots", "target_id": "targets", "resume_snapshot_id": "snapshots",
}  # fmt: skip


def dump(bench: Bench) -> dict[str, list[Any]]:
    """Every row there is, but for the instance's random name. Ids count as their rank: PostgreSQL
    burns one in a transaction that is rolled back. So do those in the audit log, whose hashes cover them."""
    rows = {t.name: bench.rows(select(t)) for t in tables.metadata.sorted_tables if t.name != "instance"}
    rank = {
        name: {row.id: i for i, row in enumerate(sorted(found, key=lambda r: r.id))}
        for name, found in rows.items()
        if "id" in tables.metadata.tables[name].c
    }

    def plain(table: str, column: str, value: Any) -> Any:
        owner = table if column == "id" else OWNERS.get(column)
        if (table, column) == ("idempotency", "answer"):
            return type(value)  # of a study it is the id
        if (table, column) == ("audit", "subject"):
            return re.sub(r" \d+", " id", value)
        if column in ("previous", "hash", "head_hash"):
            return len(value)
        return rank[owner][value] if owner is not None and value is not None else value

    return {
        name: sorted(repr([plain(name, c, v) for c, v in row._mapping.items()]) for row in found)
        for name, found in rows.items()
    }


def is_id(name: str) -> bool:
    """Whether the command's answer is a row's id."""
    return name in ("create study", "create token")


def crash_at(bench: Bench, point: str, command: c.Command) -> None:
    """Apply the command, and die at that point."""

    def die(*_: object) -> None:
        raise Crash(point)

    if point == "after COMMIT":
        batches.commit(bench.engine, [command], bench.clock.now_us())
    else:
        name = {"before BEGIN": "begin", "before COMMIT": "commit"}[point]
        event.listen(bench.engine, name, die, insert=True)
        with pytest.raises(Crash):
            batches.commit(bench.engine, [command], bench.clock.now_us())
    bench.engine.dispose()


def world(url: str) -> World:
    """The same world each time: ids start over, the clock stands at the same time."""
    factories.restart_ids()
    return World(Bench(db.open_engine(url), ManualClock()))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_repeated_command_ends_as_if_nothing_had_crashed(
    databases: Databases, dialect: str, name: str
) -> None:
    """One client sends one command again and again while the server dies at each point in turn."""
    url = databases.make(dialect)
    calm = world(url)
    command = COMMANDS[name](calm)
    answer, expected = calm.bench.do(command), dump(calm.bench)
    calm.bench.engine.dispose()
    databases.drop(url)

    url = databases.make(dialect)
    crashed = world(url)
    assert COMMANDS[name](crashed) == command
    before = dump(crashed.bench)
    server = crashed.bench
    for point in POINTS:
        crash_at(server, point, command)
        server = Bench(db.open_engine(url), crashed.bench.clock)
        assert dump(server) == (expected if point == "after COMMIT" else before), point
    told = server.do(command)
    told = told.type if isinstance(told, TunesmithError) else told
    assert told == SECOND_ANSWERS.get(name, answer) or (is_id(name) and isinstance(told, int))
    assert dump(server) == expected
    server.engine.dispose()
    databases.drop(url)


def test_every_kind_of_command_is_crashed(databases: Databases) -> None:
    url = databases.make("sqlite")
    made = world(url)
    kinds = {type(make(made)) for make in COMMANDS.values()}
    made.bench.engine.dispose()
    databases.drop(url)
    # Grace adds a time that the caller has measured: the server sends it once, at its start.
    assert kinds == set(batches.HANDLERS) - {c.Grace}


REPORTER = """
import sys; sys.path.insert(0, {tests!r})
from factories import Bench, report
from tunesmith_service import db
bench = Bench(db.open_engine({url!r}))
study = bench.study()
bench.trial(study)
grant = bench.claim()
print("go", flush=True)
for seq in range(1, 100_000):
    assert bench.do(report(grant, seq, 0.5)) is not None
    print(seq, flush=True)
"""


def test_what_was_acknowledged_outlives_a_sigkill(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/killed.db"
    engine = db.open_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    code = REPORTER.format(tests=str(Path(factories.__file__).parent), url=url)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "25":
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = [25, *map(int, process.stdout.read().split())]
        assert process.wait(30) == -signal.SIGKILL
    after = Bench(db.open_engine(url))
    stored = after.rows(select(tables.reports.c.seq, tables.reports.c.n).order_by(tables.reports.c.seq))
    assert [row.seq for row in stored] == list(range(1, len(stored) + 1))
    assert max(acknowledged) <= len(stored) <= max(acknowledged) + 1
    with after.engine.connect() as conn:
        log = event_log.entries_since(conn, 1, 0)
        assert conn.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    assert [e.n for e in log] == list(range(1, after.event_n(1) + 1))
    after.engine.dispose()
