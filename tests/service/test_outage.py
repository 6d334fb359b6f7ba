"""While the database is away everything says 503, and when it is back all goes on without a restart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import httpx
import pytest
from databases import Postgres
from fastapi.routing import iter_route_contexts
from processes import until
from tunesmith_service import db
from tunesmith_service.ui import pages

from .conftest import Api, Served, running, study
from .test_security import MATRIX, VALUES, path_of
from .test_sessions import log_in, open_page

NO_DATABASE = {"GET /openapi.json"}
"""What says nothing of any row."""


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    made = Postgres()
    yield made
    made.close()


def pages_that_ask() -> list[str]:
    """Paths of what the dashboard shows to who has a session."""
    found = []
    for context in iter_route_contexts(pages.routes.routes):
        path = context.path or ""
        is_shown = "GET" in (context.methods or ()) and path.startswith("/ui/")
        if is_shown and path != "/ui/" and not any(word in path for word in ("login", "static", "session")):
            found.append(re.sub(r"{([^}]+)}", lambda m: VALUES.get(m[1], "1"), path))
    return found


def is_told(answer: httpx.Response) -> bool:
    """Whether it says that the database is away; a body that cannot be read may be refused before."""
    if answer.status_code == 422:
        return True
    return answer.status_code == 503 and answer.headers.get("retry-after") == "1"


def test_every_route_says_503_while_the_database_is_away(postgres: Postgres, tmp_path) -> None:
    async def asked(api: Api, secret: str) -> list[tuple[str, int]]:
        wrong = []
        for route in sorted(set(MATRIX) - NO_DATABASE):
            role = "worker" if MATRIX[route] == {"worker"} else "operator"
            answer = await api.call(*path_of(route), role=role)
            wrong += [] if is_told(answer) else [(route, answer.status_code)]
        for path in pages_that_ask():
            answer = await open_page(api, secret, path)
            wrong += [] if is_told(answer) else [(path, answer.status_code)]
        return wrong

    async def scene() -> None:
        async with running(tmp_path, postgres.url) as api:
            secret = await log_in(api)
            await api.token("worker")
            assert (await api.post("/studies", json=study())).status_code == 201
            await asyncio.to_thread(postgres.stop)
            assert await asked(api, secret) == []
            api.service.gate.forget()  # nobody's token is known either
            assert await asked(api, secret) == []
            assert (await api.get("/healthz", base="", token="")).status_code == 200
            ready = await api.get("/readyz", base="", token="")
            assert (ready.status_code, ready.json()["database"]) == (503, "does not answer")
            await asyncio.to_thread(postgres.start)
            assert (await api.get("/studies/study")).status_code == 200

    asyncio.run(asyncio.wait_for(scene(), 300))


def test_a_frozen_database_keeps_nobody_waiting_and_is_used_again_once_it_answers(
    postgres: Postgres, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(db, "ANSWER_SECONDS", 3.0)

    async def scene() -> None:
        async with running(tmp_path, postgres.url) as api:
            lease = await api.lease()
            postgres.freeze()
            try:
                for answer in (await api.say(lease, "heartbeat", {}), await api.get("/studies")):
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert (await api.get("/healthz", base="", token="")).status_code == 200
                assert (await api.get("/readyz", base="", token="")).status_code == 503
            finally:
                postgres.thaw()
            assert (await api.say(lease, "heartbeat", {})).status_code == 200
            assert (await api.get("/studies")).status_code == 200

    asyncio.run(asyncio.wait_for(scene(), 300))


def read_only(postgres: Postgres, said: str) -> None:
    """As a node is that a failover has left behind, for what is begun from here on."""
    engine = db.open_engine(f"{postgres.url}&target_session_attrs=any")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("SET default_transaction_read_only = off")
        conn.exec_driver_sql(f"ALTER SYSTEM SET default_transaction_read_only = {said}")
        conn.exec_driver_sql("SELECT pg_reload_conf()")
    engine.dispose()


def test_a_database_that_can_only_be_read_is_away_until_it_can_be_written(
    postgres: Postgres, tmp_path
) -> None:
    async def scene() -> None:
        async with running(tmp_path, postgres.url) as api:
            lease = await api.lease()

            async def beats(expected: int) -> None:
                """Beat until this is the answer: PostgreSQL is only about to read its settings again."""
                while (answer := await api.say(lease, "heartbeat", {})).status_code != expected:
                    assert answer.status_code in (200, 503), answer.text

            await asyncio.to_thread(read_only, postgres, "on")
            await beats(503)
            assert (await api.post("/studies", json=study("away"))).status_code == 503
            assert (await api.get("/readyz", base="", token="")).status_code == 503
            await asyncio.to_thread(read_only, postgres, "off")
            await beats(200)
            assert (await api.post("/studies", json=study("after"))).status_code == 201

    asyncio.run(asyncio.wait_for(scene(), 300))


def test_a_server_goes_on_after_its_database_was_restarted(postgres: Postgres, tmp_path_factory) -> None:
    """With planner and sweeper, which must come back by themselves as well."""

    def ready(server: Served) -> httpx.Response:
        return httpx.get(f"{server.url}/readyz", timeout=30)

    environ = {"TUNESMITH_DATABASE_URL": postgres.url}
    with Served(tmp_path_factory.mktemp("served"), environ=environ) as server:
        pid = server.process.pid
        assert server.people.post("/studies", json=study("before")).status_code == 201
        postgres.stop()
        until(lambda: ready(server).status_code == 503)
        assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200
        assert server.people.post("/studies", json=study("away")).status_code == 503
        postgres.start()
        until(lambda: ready(server).status_code == 200, saw=lambda: server.process.said)
        assert server.people.post("/studies", json=study("after")).status_code == 201
        planned = lambda: server.people.get("/studies/after/trials").json()["items"]  # noqa: E731
        assert len(until(planned, saw=lambda: server.process.said)) > 0
        assert server.process.pid == pid
        assert server.process.process.poll() is None


def test_a_connection_that_was_closed_at_rest_is_not_used(databases) -> None:
    url = databases.make("postgresql")
    engine, other = db.open_engine(url), db.open_engine(url)
    with engine.connect() as conn:
        before = conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with other.connect() as conn:
        ended = f"SELECT pg_terminate_backend({before}, 10000)"
        assert conn.exec_driver_sql(ended).scalar_one()
    with engine.connect() as conn:
        assert conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != before
    for each in (engine, other):
        each.dispose()
    databases.drop(url)


def test_statements_on_postgresql_end_after_five_seconds(databases) -> None:
    url = databases.make("postgresql")
    engine = db.open_engine(url)
    with engine.connect() as conn:
        assert conn.exec_driver_sql("SHOW statement_timeout").scalar_one() == "5s"
        assert conn.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    engine.dispose()
    databases.drop(url)
