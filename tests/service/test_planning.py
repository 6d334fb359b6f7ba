"""The planner process beside a real server: what it decides can be decided again from the log.

Light workers speak the real protocol; what they train does not matter here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from light import TASK, LightWorker
from processes import planner_of, until
from sqlalchemy import select
from tunesmith_service import event_log
from tunesmith_service.db import open_engine
from tunesmith_service.tables import studies
from tunesmith_studies.decisions import differences
from tunesmith_studies.log import Entry

Serve = Callable[..., Any]
SPACE = {"lr": {"low": 1e-3, "high": 1.0, "log": True}, "width": {"type": "int", "low": 8, "high": 64}}
TPE: dict[str, Any] = {
    "kind": "sampler", "epochs": 5, "trials": 24, "sampler": {"kind": "tpe", "n_startup_trials": 5},
    "pruner": {"kind": "median", "n_startup_trials": 3, "n_warmup_steps": 1},
}  # fmt: skip


def study(name: str, *stages: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"name": name, "task": TASK, "space": SPACE, "stages": list(stages), **changed}


def create(server: Any, spec: dict[str, Any]) -> int:
    answer = server.people.post("/studies", json=spec)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def work(
    server: Any, study_id: int, *, workers: int = 2, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Light workers run a study to its end; `meanwhile` is called once, after the eighth trial."""

    async def one(number: int, counted: list[int]) -> None:
        worker = LightWorker(server.url, server.token("worker"), name=f"light-{number}")
        await worker.register()
        while not await asyncio.to_thread(ended, server, study_id):
            if await worker.run_one(wait_seconds=1):
                counted.append(1)
                if len(counted) == 8:
                    await asyncio.to_thread(meanwhile)
        await worker.client.aclose()

    run(asyncio.wait_for(together(*(one(n, counted) for counted in [[]] for n in range(2))), 600))


def ended(server: Any, study_id: int) -> bool:
    return server.people.get(f"/studies/{study_id}").json()["state"] == "complete"


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    await asyncio.gather(*parts)


def run(part: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(part)


def log_of(server: Any, study_id: int) -> tuple[dict[str, Any], list[Entry]]:
    """Read beside the server: readers of a WAL disturb nobody."""
    engine = open_engine(f"sqlite:///{server.home / 'tunesmith.db'}")
    with engine.connect() as conn:
        spec = conn.execute(select(studies.c.spec).where(studies.c.id == study_id)).scalar_one()
        entries = event_log.entries_since(conn, study_id, 0)
    engine.dispose()
    return spec, entries


def test_every_decision_of_a_model_based_search_is_made_again_from_its_log(served: Any) -> None:
    study_id = create(served, study("model-based", TPE, fresh_wait_seconds=20))

    def kill_the_planner() -> None:
        before, starts = planner_of(served.process.pid), served.process.said.count("planner.started")
        before.kill()
        served.process.says("planner.started", times=starts + 1)
        assert planner_of(served.process.pid) != before

    work(served, study_id, meanwhile=kill_the_planner)
    spec, entries = log_of(served, study_id)
    planned = [e for e in entries if e.kind == "planned"]
    pruned = [e for e in entries if e.kind == "moved" and e.data["to"] == "pruned"]
    assert len(planned) == 24
    assert pruned, "the median rule must have stopped some of the trials"
    assert any(e.kind == "redrawn" for e in entries), "drafts that a finish made stale are redrawn"
    assert list(differences(spec, entries)) == []


def test_a_changed_decision_is_noticed_by_the_replay(served: Any) -> None:
    """The check itself is checked: another rate in the log is a decision that nobody made."""
    study_id = create(served, study("forged", TPE | {"trials": 6}))
    work(served, study_id)
    spec, entries = log_of(served, study_id)
    place = next(i for i, e in enumerate(entries) if e.kind == "planned")
    forged = entries[place].data | {"params": {"lr": 0.5, "width": 9}}
    entries[place] = Entry(entries[place].n, "planned", entries[place].trial, entries[place].stage, forged)
    assert any("params" in d for d in differences(spec, entries))


def open_loop(server: Any, name: str) -> Iterator[tuple[Any, ...]]:
    grid = {"kind": "coarse_grid", "epochs": 2, "axes": {"lr": 3, "width": 2}}
    rand = {"kind": "random", "epochs": 2, "trials": 6, "method": "sobol"}
    study_id = create(server, study(name, grid, rand, seed=11))
    work(server, study_id)
    _, entries = log_of(server, study_id)
    for e in entries:
        if e.kind == "planned":
            yield (
                e.stage,
                e.data["key"],
                e.data["ordinal"],
                tuple(e.data["params"].items()),
                str(e.data["work"]),
            )


def test_two_runs_of_an_open_loop_study_with_one_seed_propose_the_same_trials(served: Any) -> None:
    assert sorted(open_loop(served, "once")) == sorted(open_loop(served, "again"))


def test_claims_reports_and_heartbeats_are_answered_while_the_planner_computes(serve: Serve) -> None:
    """The planner spends 5 s of pure Python on each suggestion; the calls do not wait for it."""
    patch = Path(__file__).parent.parent / "patches" / "slow_sampler"
    environ = {"PYTHONPATH": str(patch), "TUNESMITH_TEST_SUGGESTION_SECONDS": "5"}
    server = serve(environ=environ)
    model = TPE | {"sampler": {"kind": "tpe", "n_startup_trials": 1, "multivariate": True}}
    create(server, study("thinks", model))
    grid = {"kind": "coarse_grid", "epochs": 1000, "axes": {"lr": 20}, "fixed": {"width": 8}}

    async def scene() -> None:
        worker = LightWorker(server.url, server.token("worker"))
        await worker.register()
        while not await worker.run_one(wait_seconds=10):  # the next suggestion is a model's
            pass
        planner = await asyncio.to_thread(planner_of, server.process.pid)
        idle = planner.cpu_times().user
        await asyncio.to_thread(until, lambda: planner.cpu_times().user > idle + 0.2)
        await asyncio.to_thread(create, server, study("other", grid))
        numbers = {"params": [{"lr": 0.01}], "stage": "coarse_grid"}
        answer = await asyncio.to_thread(server.people.post, "/studies/other/trials", json=numbers)
        assert answer.status_code == 201, answer.text
        started = planner.cpu_times().user
        lease_and_work = await worker.claim(wait_seconds=1)
        assert lease_and_work is not None, "a trial enqueued by hand needs no planner"
        lease, order = lease_and_work
        for seq in range(1, 41):
            await worker.report(lease, order, seq, seq)
            await worker.beat(lease)
        assert planner.cpu_times().user > started, "the planner was busy all the while"
        waiting = await asyncio.to_thread(server.people.get, "/studies/thinks/trials")
        assert len(waiting.json()["items"]) <= 2, "and it has not finished its suggestion"
        await worker.client.aclose()

    run(scene())
