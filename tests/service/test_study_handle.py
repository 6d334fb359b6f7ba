"""A study in Python, against a real service: its tables, its waiting, what it says of mistakes."""

from __future__ import annotations

import asyncio
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from light import TASK, LightWorker
from processes import Server
from tunesmith_service.client import Client, Conflict, NotFound, Refused
from tunesmith_service.study_handle import Study

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


def test_the_page_about_python_runs_as_it_stands(client: Client, server: Server, done: Study, capsys: Any):
    """All that looks at a study; the address, the token and the study are this test's."""
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    code = page.partition("```python\n")[2].partition("study.enqueue")[0]
    code = code.replace("http://127.0.0.1:8787", server.url).replace(".tunesmith/", f"{server.home}/")
    code = re.sub(r"client\.create\(.*\)", f"client.study({done.name!r})", code)
    code = code.replace("after=120", "after=1")
    exec(compile(code, "docs/python.md", "exec"), {})
    assert "moved" in capsys.readouterr().out
