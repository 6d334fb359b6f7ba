"""The audit log: every action once, in its transaction, in a chain that shows each change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import pytest
from databases import Databases
from factories import PROJECT, Bench, spec
from sqlalchemy import Engine, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from tunesmith_service import audit_store, batches, db, sessions, tables
from tunesmith_service import commands as c
from tunesmith_service.admission import REFUSED_EVERY_US, TrimAudit
from tunesmith_service.audit import DAY_US
from tunesmith_service.audit_actions import ACTIONS
from tunesmith_service.audit_chain import START, Broken, Entry, Link, first_broken
from tunesmith_service.errors import Refused
from tunesmith_service.origin import Audited

from .conftest import Api, study
from .test_crash_points import COMMANDS, World, world

A = tables.audit


def entries(engine: Engine) -> list[Entry]:
    """The whole log, the oldest first."""
    with engine.connect() as conn:
        return audit_store.page(conn, None, newest_first=False, limit=10_000)


def ends(engine: Engine) -> audit_store.Ends:
    with engine.connect() as conn:
        return audit_store.ends(conn)


def broken(engine: Engine, noted: Link | None = None) -> Broken | None:
    """What is wrong with the log as it stands in the database."""
    found = ends(engine)
    return first_broken(entries(engine), found.anchor, found.head, noted)


# --- what is written ------------------------------------------------------------------------------


def test_every_command_of_people_has_its_line() -> None:
    audited = {kind for kind in batches.HANDLERS if issubclass(kind, Audited)}
    assert set(ACTIONS) - audited == {c.BeginIncarnation}  # of no server
    workers = {c.Register, c.Claim, c.Renew, c.Report, c.CommitSnapshot, c.AppendLog, c.CommitArtifact,
               c.Finish, c.Release}  # fmt: skip
    ours = {c.Sweep, c.Grace, c.Propose, c.Redraw, c.Prune, c.EndStage, c.FailStage, c.TouchTokens,
            c.TouchSessions, c.ForgetBlobs, c.QueueNotices, c.QueueTest, c.TakeNotices,
            c.EndNotice}  # fmt: skip
    assert set(batches.HANDLERS) - audited == workers | ours


@pytest.mark.parametrize("name", COMMANDS)
def test_an_action_leaves_one_entry_and_asked_again_no_other(url: str, name: str) -> None:
    made: World = world(url)
    command = COMMANDS[name](made)
    last = ends(made.bench.engine).head.n
    made.bench.do(command)
    new = [e for e in entries(made.bench.engine) if e.n > last]
    made.bench.do(command)
    assert [e for e in entries(made.bench.engine) if e.n > last] == new
    if isinstance(command, Audited):
        (entry,) = new
        assert entry.action == ACTIONS[type(command)].named(command)
        changes = ACTIONS[type(command)].every_us is None
        assert (entry.before != entry.after) == changes
        assert entry.actor == getattr(command, "actor", "worker:workers" if entry.key_id else "service")
    else:
        assert new == []
    assert broken(made.bench.engine) is None
    made.bench.engine.dispose()


def test_what_is_refused_leaves_nothing(bench: Bench) -> None:
    study_id = bench.study()
    before = entries(bench.engine)
    for command in (
        c.CreateStudy(PROJECT, spec(), "test"), c.DeleteStudy(study_id, "other", "test"),
        c.CancelTrial(study_id, 7, "test"), c.RevokeToken("nobody", "test"),
        c.RedeemLoginCode(b"x" * 32, b"y" * 32, 2**53), c.EndSession(b"z" * 32),
    ):  # fmt: skip
        outcome = bench.do(command)
        assert outcome is None or isinstance(outcome, Refused), outcome
    assert entries(bench.engine) == before


def test_an_entry_says_whose_request_it_was_and_from_where(play_on_each) -> None:
    async def scene(api: Api) -> None:
        token = await api.token("researcher")
        made = await api.post("/studies", json=study("ours"), token=token)
        stopped = await api.post("/studies/ours/stop", token=token)
        (entry,) = [e for e in entries(api.service.engine) if e.action == "study.stop"]
        assert entry.request_id == stopped.headers["Tunesmith-Request-Id"]
        assert entry.request_id != made.headers["Tunesmith-Request-Id"]
        assert (entry.actor, entry.key_id) == ("researcher:a researcher", token.split("_")[1])
        assert (entry.address, entry.project_id) == ("127.0.0.1", 1)
        assert entry.subject == f"study {made.json()['id']} ours"
        assert entry.at_us == api.clock.now_us()
        assert broken(api.service.engine) is None

    play_on_each(scene)


def test_a_login_is_of_the_token_whose_code_it_was(play) -> None:
    async def scene(api: Api) -> None:
        token = await api.token("viewer")
        code = (await api.post("/login-codes", token=token)).json()["code"]
        sent = {"Origin": "http://127.0.0.1", "User-Agent": "Firefox/140.0 Linux"}
        answer = await api.call("POST", "/ui/login", base="", token="", data={"code": code}, headers=sent)
        assert answer.status_code == 303
        begun = entries(api.service.engine)[-1]
        assert begun.action == "session.begin"
        assert (begun.actor, begun.key_id) == ("viewer:a viewer", token.split("_")[1])
        assert begun.request_id == answer.headers["Tunesmith-Request-Id"]
        assert begun.detail == {"browser": "Firefox on Linux"}
        key = (await api.get("/sessions", token=token)).json()["items"][0]["key"]
        assert (await api.call("DELETE", f"/sessions/{key}", token=token)).status_code == 204
        ended = entries(api.service.engine)[-1]
        assert (ended.action, ended.subject) == ("session.end", begun.subject)
        assert (ended.before, ended.after) == (begun.after, None)

    play(scene)


def test_what_the_service_does_by_itself_is_nobodys_request(play) -> None:
    async def scene(api: Api) -> None:
        minted = entries(api.service.engine)[:2]
        assert [(e.action, e.actor, e.address, e.request_id) for e in minted] == [
            ("token.create", "start", "", "")
        ] * 2

    play(scene)


def test_who_was_refused_with_a_token_or_code_is_noted_once_an_hour_with_how_often(play) -> None:
    async def scene(api: Api) -> None:
        made = (await api.post("/tokens", json={"name": "ann", "role": "admin"})).json()
        token, key_id = made["token"], made["key_id"]
        await api.call("DELETE", f"/tokens/{key_id}")
        last = entries(api.service.engine)[-1].n

        async def refused(times: int) -> list[Entry]:
            for _ in range(times):
                first = await api.get("/studies", token=token)
                assert first.status_code == 401
            await api.service._note_use()
            return [e for e in entries(api.service.engine) if e.n > last]

        (entry,) = await refused(3)
        assert (entry.action, entry.actor, entry.key_id) == ("token.refused", "admin:ann", key_id)
        assert (entry.subject, entry.project_id) == (f"token {key_id} ann", 1)
        assert (entry.address, bool(entry.request_id)) == ("127.0.0.1", True)
        assert entry.detail == {"why": "revoked", "tries": 3}
        assert await refused(500) == [entry]
        api.clock.advance(REFUSED_EVERY_US)
        assert (await refused(1))[1].detail == {"why": "revoked", "tries": 501}
        assert broken(api.service.engine) is None

    play(scene)


def test_another_secret_and_a_code_that_is_none_are_a_strangers(play) -> None:
    async def scene(api: Api) -> None:
        last = entries(api.service.engine)[-1].n
        _, key_id, secret = (await api.token("viewer")).split("_")
        await api.get("/studies", token=f"tsm_{key_id}_{secret[:-8]}{'0' * 8}")
        for code in ("guessed", "again"):
            sent = {"data": {"code": code}, "headers": {"Origin": "http://127.0.0.1"}}
            answer = await api.call("POST", "/ui/login", base="", token="", **sent)
            assert answer.status_code == 403
        await api.service._note_use()
        new = [e for e in entries(api.service.engine) if e.n > last and e.action.endswith(".refused")]
        assert [(e.action, e.actor, e.key_id, e.subject, e.detail) for e in new] == [
            (
                "token.refused",
                "stranger",
                "",
                f"token {key_id} a viewer",
                {"why": "wrong secret", "tries": 1},
            ),
            ("login.refused", "stranger", "", "login code", {"why": "no such code", "tries": 2}),
        ]

    play(scene)


def test_strangers_do_not_fill_the_log(play) -> None:
    """Tokens that nobody made, however many; requests beyond one's role; pages without a session."""

    async def scene(api: Api) -> None:
        viewer = await api.token("viewer")
        before = entries(api.service.engine)
        for i in range(200):
            unknown = f"tsm_{i:016x}_{i:064x}"
            assert (await api.get("/studies", token=unknown)).status_code == 401
            assert (await api.get("/tokens", token=viewer)).status_code == 403
            page = await api.call("GET", "/ui/settings", base="", token="")
            assert page.status_code in (303, 401)
        await api.service._note_use()
        assert entries(api.service.engine) == before

    play(scene)


def test_servers_and_restarts_note_one_refusal_an_hour_between_them(bench: Bench) -> None:
    before = len(entries(bench.engine))
    for hour, new in ((0, 1), (0, 1), (1, 2)):
        bench.clock.advance(hour * REFUSED_EVERY_US)
        bench.do(c.NoteRefusal("workers", "expired", 7))
        assert len(entries(bench.engine)) == before + new


def test_no_secret_gets_into_the_log(play) -> None:
    async def scene(api: Api) -> None:
        made = await api.post("/tokens", json={"name": "ann", "role": "admin"})
        token = made.json()["token"]
        code = (await api.post("/login-codes", token=token)).json()["code"]
        cookie = await sessions.redeem(api.service, code)
        await api.call("DELETE", f"/tokens/{token.split('_')[1]}")
        told = (await api.get("/audit")).text + json.dumps([repr(e) for e in entries(api.service.engine)])
        for secret in (token, token.rpartition("_")[2], code, cookie):
            assert secret not in told
            assert sessions.hash_secret(secret).hex() not in told

    play(scene)


# --- the chain ------------------------------------------------------------------------------------


@pytest.fixture
def log(bench: Bench) -> Engine:
    """A database whose log has some entries."""
    study_id = bench.study()
    for state in ("paused", "active") * 3:
        bench.do(c.MoveStudy(study_id, state, "test", "on and off"))
    return bench.engine


def without_guards(engine: Engine, statement: Any) -> None:
    """Change the log as somebody may who owns the database."""
    with db.writing(engine).begin() as conn:
        if engine.dialect.name == "postgresql":
            conn.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        else:
            for trigger in ("audit_change", "audit_end", "audit_birth"):
                conn.execute(text(f"DROP TRIGGER {trigger}"))
        conn.execute(statement)


@pytest.mark.parametrize("name", [f.name for f in fields(Entry) if f.name != "n"])
def test_a_changed_field_breaks_the_chain_there(log: Engine, name: str) -> None:
    was = getattr(entries(log)[3], name)
    other = (
        was + 1 if isinstance(was, int) else {"reason": ""} if isinstance(was, dict) else f"0{was or ''}"[:64]
    )
    without_guards(log, update(A).where(A.c.n == 4).values({name: other}))
    found = broken(log)
    assert found is not None
    assert found.n == 4


def test_a_removed_entry_breaks_it_where_it_was(log: Engine) -> None:
    without_guards(log, delete(A).where(A.c.n == 4))
    assert broken(log) == Broken(4, "is missing; 5 follows on 3")


def test_a_removed_end_breaks_it_too(log: Engine) -> None:
    last = entries(log)[-1].n
    without_guards(log, delete(A).where(A.c.n == last))
    assert broken(log) == Broken(last, f"is missing; the chain went on to {last}")


def test_a_chain_made_anew_does_not_hold_what_was_noted(log: Engine) -> None:
    found = entries(log)
    noted = Link(found[4].n, found[4].hash)
    assert broken(log, noted) is None
    anew: list[Entry] = []
    for entry in found:
        actor = "somebody else" if entry.n == 2 else entry.actor
        forged = replace(entry, actor=actor, previous=anew[-1].hash if anew else START)
        anew.append(replace(forged, hash=forged.reckoned()))
    head = Link(anew[-1].n, anew[-1].hash)
    assert first_broken(anew, Link(0, START), head) is None
    told = first_broken(anew, Link(0, START), head, noted)
    assert told is not None
    assert told.n == noted.n
    short = first_broken(found[:3], Link(0, START), Link(3, found[2].hash), noted)
    assert short == Broken(4, "is missing; the chain went on to 5")


GUARDED = (
    update(A).values(actor="nobody"),
    delete(A).where(A.c.n == 3),
    insert(A).from_select(list(A.c), select(A).where(A.c.n == 2)),
    update(tables.audit_chain).values(head_n=1),
    update(tables.audit_chain).values(anchor_n=10**6),
    delete(tables.audit_chain),
)


@pytest.mark.parametrize("statement", GUARDED, ids=str)
def test_the_database_refuses_all_but_the_next_entry(log: Engine, statement: Any) -> None:
    before = entries(log)
    with pytest.raises(DBAPIError, match=r"audit|ck_audit_chain_order"), db.writing(log).begin() as conn:
        conn.execute(statement)
    assert entries(log) == before


def test_nor_does_it_replace_or_empty(log: Engine) -> None:
    before = entries(log)
    statement = "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE n = 2"
    if log.dialect.name == "postgresql":
        statement = "TRUNCATE audit"
    with pytest.raises(DBAPIError, match="audit log"), db.writing(log).begin() as conn:
        conn.execute(text(statement))
    assert entries(log) == before


def test_servers_that_write_at_once_write_one_chain(databases: Databases) -> None:
    url = databases.make("postgresql")
    servers = [Bench(db.open_engine(url)) for _ in range(2)]
    studies = [servers[0].study(f"study-{i}") for i in range(2)]

    def on_and_off(i: int) -> None:
        for state in ("paused", "active") * 10:
            servers[i].do(c.MoveStudy(studies[i], state, f"server {i}", "again"))

    with ThreadPoolExecutor(2) as both:
        list(both.map(on_and_off, range(2)))
    found = entries(servers[0].engine)
    assert broken(servers[0].engine) is None
    assert [sum(e.actor == f"server {i}" for e in found) for i in range(2)] == [20, 20]
    for server in servers:
        server.engine.dispose()
    databases.drop(url)


# --- its time -------------------------------------------------------------------------------------


def test_what_is_too_old_goes_and_the_rest_can_be_verified(log: Engine) -> None:
    bench = Bench(log)
    old = entries(log)
    bench.clock.advance(400 * DAY_US)
    made = bench.study("later")
    bench.clock.advance(2 * DAY_US)
    trim = TrimAudit(older_than_us=bench.clock.now_us() - 400 * DAY_US)
    assert bench.do(trim) == Link(old[-1].n, old[-1].hash)
    left = entries(log)
    assert [e.action for e in left] == ["study.create", "audit.trim"]
    assert left[0].subject == f"study {made} later"
    assert left[1].detail == {"until": old[-1].n, "hash": old[-1].hash}
    assert ends(log).anchor == Link(old[-1].n, old[-1].hash)
    assert broken(log) is None
    without_guards(log, delete(A).where(A.c.n == left[0].n))
    assert broken(log) == Broken(left[0].n, f"is missing; {left[1].n} follows on {old[-1].n}")


def test_less_than_a_days_worth_stays_with_the_rest(log: Engine) -> None:
    bench = Bench(log)
    before = entries(log)
    bench.do(TrimAudit(older_than_us=before[0].at_us + DAY_US - 1))
    assert entries(log) == before


def test_the_service_keeps_entries_as_long_as_it_was_told(play) -> None:
    async def scene(api: Api) -> None:
        api.clock.advance(29 * DAY_US)
        await api.service._collect()
        assert ends(api.service.engine).anchor.n == 0
        api.clock.advance(3 * DAY_US)
        await api.service._collect()
        assert ends(api.service.engine).anchor.n > 0
        assert broken(api.service.engine) is None

    play(scene, audit_days=30)


# --- who reads it ---------------------------------------------------------------------------------


def actions(page: dict[str, Any]) -> Sequence[str]:
    return [item["action"] for item in page["items"]]


def test_an_admin_sees_the_projects_and_an_operator_all(play) -> None:
    async def scene(api: Api) -> None:
        with db.writing(api.service.engine).begin() as conn:
            made = insert(tables.projects).values(name="other").returning(tables.projects.c.id)
            other = conn.execute(made).scalar_one()
        await api.post("/studies", json=study("ours"), role="admin")
        await api.post("/studies", json=study("theirs"), role="admin", project=other)
        all_ = (await api.get("/audit?action=study")).json()
        assert [item["project_id"] for item in all_["items"]] == [other, 1]
        ours = (await api.get("/audit", role="admin")).json()
        assert {item["project_id"] for item in ours["items"]} == {1}
        assert actions(ours)[0] == "study.create"

    play(scene)


def test_pages_come_in_either_order(play) -> None:
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        for verb in ("pause", "resume", "stop"):
            assert (await api.post(f"/studies/study/{verb}")).status_code == 200
        first = (await api.get("/audit?limit=2")).json()
        assert actions(first) == ["study.stop", "study.resume"]
        rest = (await api.get(f"/audit?action=study&cursor={first['next_cursor']}")).json()
        assert actions(rest) == ["study.pause", "study.create"]
        assert rest["next_cursor"] is None
        oldest = (await api.get("/audit?order=oldest&action=study")).json()
        assert actions(oldest) == ["study.create", "study.pause", "study.resume", "study.stop"]
        ends_ = (await api.get("/audit/head")).json()
        assert ends_["head"] == {"n": first["items"][0]["n"], "hash": first["items"][0]["hash"]}

    play(scene)
