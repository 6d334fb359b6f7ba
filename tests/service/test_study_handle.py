"""A study in Python, against a real service: its tables, its waiting, what it says of mistakes."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from light import TASK, LightWorker
from processes import Server
from tunesmith_service import study_flows
from tunesmith_service.calls import Call
from tunesmith_service.client import (
    AsyncClient,
    AsyncStudy,
    Client,
    Conflict,
    NotFound,
    Refused,
    Study,
    StudyBlockedError,
    Unavailable,
)

RATES = [1e-3, 1e-2, 1e-1]
SPEC: dict[str, Any] = {
    "name": "little <b>",
    "task": TASK,
    "space": {"lr": {"low": 1e-3, "high": 1.0, "log": True}},
    "stages": [{"kind": "coarse_grid", "name": "coarse", "epochs": 2, "axes": {"lr": RATES}}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with server.client() as made:
        yield made


@pytest.fixture(scope="module")
def done(client: Client, server: Server) -> Study:
    """A study of three complete trials; one of them went through an infinite loss."""
    study = client.create(SPEC)

    async def work() -> None:
        worker = LightWorker(server.url, server.worker_token, objective=objective)
        await worker.register()
        while study.state == "active":
            await worker.run_one(wait_seconds=1)
        await worker.client.aclose()

    asyncio.run(work())
    return study


def objective(work: Any, step: int) -> float:
    return math.inf if step == 1 and work.params["lr"] == 1e-3 else abs(work.params["lr"] - 0.01) + 1 / step


def test_a_study_is_found_by_name_and_among_all(client: Client, done: Study):
    assert client.study(done.name).name == done.name
    assert done.name in [study.name for study in client.studies()]
    with pytest.raises(NotFound):
        client.study("no such")


def test_a_study_that_has_ended_is_not_waited_for(done: Study):
    assert done.wait() == "complete"
    assert [stage["state"] for stage in done.stages] == ["done"]
    assert done.best is not None
    assert (done.best["params"]["lr"], done.best["value"]) == (0.01, 0.5)


def test_trials_as_a_table_has_the_names_that_optuna_has(done: Study):
    table = done.trials_dataframe()
    assert list(table["number"]) == [0, 1, 2]
    assert sorted(table["params_lr"]) == RATES
    assert table.set_index("params_lr")["value"][0.01] == 0.5
    assert set(table["state"]) == {"complete"}
    assert (table["duration"].dt.total_seconds() >= 0).all()
    assert table["metrics_val/loss"].notna().all()
    assert list(done.trials_dataframe("lr>0.05")["params_lr"]) == [0.1]
    assert done.trials_dataframe("lr>0.5").empty


def test_what_has_not_ended_has_no_duration_yet(client: Client):
    study = client.create(SPEC | {"name": "begun"})
    (number,) = study.enqueue([{"lr": 0.5}])
    study.stop()
    table = study.trials_dataframe(f"number:{number}")
    assert table["duration"].isna().all()


def test_a_study_that_a_check_blocks_is_not_waited_for():
    waiting = study_flows.wait("first", None, lambda: 0.0)
    assert next(waiting) == Call("GET", ("studies", "first"))
    blocked = {"state": "paused", "blocked_by": "preflight", "reason": "a strange first loss"}
    with pytest.raises(StudyBlockedError, match=r"first is paused, .* preflight blocks it: a strange"):
        waiting.send(blocked)


def test_times_with_and_without_a_fraction_make_one_column(client: Client):
    old = {"kind": "imported", "name": "old", "epochs": 1, "trials": 2}
    study = client.create(SPEC | {"name": "mixed", "stages": [old]})
    trial = {"state": "complete", "value": 0.5, "params": {"lr": 0.1}}
    starts = ("2026-01-05T09:30:00Z", "2026-01-05T09:30:00.25Z")
    trials = [trial | {"number": n, "started_at": at, "ended_at": at} for n, at in enumerate(starts)]
    client.post("studies", study.name, "import", json={"stage": "old", "trials": trials})
    assert list(study.trials_dataframe()["datetime_start"].dt.microsecond) == [0, 250_000]


def test_curves_as_a_table_keep_what_is_not_finite(done: Study):
    table = done.metrics_dataframe()
    assert len(table) == 6
    first = table.merge(done.trials_dataframe()[["number", "params_lr"]]).query(
        "params_lr == 0.001 and step == 1"
    )
    assert list(first["val/loss"]) == [math.inf]
    assert list(done.metrics_dataframe("lr>0.5").columns) == ["number", "step"]


def test_events_come_in_order_and_from_where_one_knows_them(done: Study):
    numbers = [event["n"] for event in done.events()]
    assert numbers == sorted(numbers)
    assert [event["n"] for event in done.events(after=numbers[-3])] == numbers[-2:]


def test_a_notebook_shows_it_without_running_what_people_wrote(done: Study):
    html = done._repr_html_()
    assert "little &lt;b&gt;" in html
    assert "<b>little" in html
    assert "coarse_grid" in html
    assert "lr=0.01" in html


def test_a_study_is_waited_for_and_steered(client: Client):
    study = client.create(SPEC | {"name": "steered"})
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now == 3:
            study.stop()

    with pytest.raises(TimeoutError, match="steered is active after 2 s"):
        study.wait(2, clock=lambda: now, sleep=sleep)
    study.pause()
    assert study.state == "paused"
    study.resume()
    numbers = study.enqueue([{"lr": 0.5}, {"lr": 0.6}])
    assert [t["params"]["lr"] for t in study.trials() if t["number"] in numbers] == [0.5, 0.6]
    assert study.wait(clock=lambda: now, sleep=sleep) == "stopped"
    assert study.best is None
    assert "steered" in study._repr_html_()


def test_a_spec_that_is_none_says_where_it_is_wrong(client: Client):
    with pytest.raises(Refused, match="space"):
        client.create(SPEC | {"name": "wrong", "space": {"lr": {"low": 1, "high": 0}}})
    with pytest.raises(Conflict):
        client.create(SPEC)


def test_without_pandas_a_person_is_told_what_to_install(done: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        done.trials_dataframe()


def run(page: str, server: Server, study: str) -> dict[str, Any]:
    """A block of docs/python.md; the address, the token and the study are this test's."""
    code = page.replace("http://127.0.0.1:8787", server.url).replace(".tunesmith/", f"{server.home}/")
    code = re.sub(r"client\.create\(.*\)", f"client.study({study!r})", code)
    code = code.replace("after=120", "after=1").replace('client.study("first")', f"client.study({study!r})")
    scope: dict[str, Any] = {}
    exec(compile(code, "docs/python.md", "exec"), scope)
    return scope


def test_the_page_about_python_runs_as_it_stands(server: Server, done: Study, capsys: Any):
    """All that looks at a study, by either client."""
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    _, looking, _, steering, _, awaiting, *_ = re.split(r"```(?:python)?\n", page)
    run(looking, server, done.name)["client"].close()
    assert "moved" in capsys.readouterr().out
    run("from pathlib import Path\n" + awaiting, server, done.name)
    told = capsys.readouterr().out
    assert "moved" in told
    assert "params_lr" in told
    with server.client() as client:
        exec(steering, {"study": (steered := client.create(SPEC | {"name": "steered by the page"}))})
        assert steered.state == "stopped"
        assert [t["params"]["lr"] for t in steered.trials() if t["hand"]] == [0.05, 0.2]


def test_an_async_study_says_the_same_and_is_steered_alike(client: Client, server: Server, done: Study):
    token = (server.home / "operator.token").read_text().strip()

    async def main() -> None:
        async with AsyncClient(server.url, token) as line:
            study = await line.study(done.name)
            assert done.name in [one.name for one in await line.studies()]
            assert (await study.show(), await study.best(), await study.stages()) == (
                done.show(), done.best, done.stages,
            )  # fmt: skip
            assert await study.wait() == await study.state() == "complete"
            assert [t async for t in study.trials("lr>0.05")] == list(done.trials("lr>0.05"))
            assert [e async for e in study.events()] == list(done.events())
            assert await study.curve(0) == done.curve(0)
            assert (await study.trials_dataframe()).equals(done.trials_dataframe())
            assert (await study.metrics_dataframe()).equals(done.metrics_dataframe())
            other = await line.create(SPEC | {"name": "steered by one who awaits"})
            await other.pause()
            assert await other.state() == "paused"
            await other.resume()
            (number,) = await other.enqueue([{"lr": 0.5}])
            assert number in [t["number"] async for t in other.trials()]
            await other.stop()
            assert await other.wait() == "stopped"
            with pytest.raises(NotFound):
                await line.study("no such")

    asyncio.run(main())


def test_every_method_of_a_study_has_its_twin():
    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(AsyncStudy) == names(Study)
    assert names(Client) - names(AsyncClient) == {"ask", "close"}  # these have a thread, or block
    for name in ("get", "post", "put", "delete", "pages", "download", "call", "study", "create"):
        one, other = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert one.parameters == other.parameters, name


def test_one_who_awaits_is_told_after_a_while_that_nobody_answers():
    now, pauses = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def main() -> None:
        transport = httpx.MockTransport(refuse)
        async with AsyncClient("http://a", "t", transport=transport, clock=lambda: now, sleep=sleep) as line:
            await line.get("studies")

    with pytest.raises(Unavailable, match="no answer from http://a: refused"):
        asyncio.run(main())
    assert len(pauses) > 2
    assert now < 10
