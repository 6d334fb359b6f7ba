"""Workers over HTTP: claims that wait, leases that fence, and what a late worker reads."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time

import httpx
import pytest
from light import LightWorker
from processes import until
from tunesmith_service.clock import SECOND

from .conftest import Api, Served, study

POINT = {"seq": 1, "points": [{"step": 1, "metrics": {"val/loss": 0.5}}]}


def test_a_worker_claims_reports_and_finishes(play_on_each):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        assert lease.grant["attempt"] == 1
        assert lease.grant["work"]["params"] == {"lr": 0.001}
        assert (await api.say(lease, "heartbeat", {})).json() == {"ttl_seconds": 30.0}
        assert (await api.say(lease, "reports", POINT)).json() == {"duplicate": False, "ttl_seconds": 30.0}
        assert (await api.say(lease, "reports", POINT)).json()["duplicate"] is True
        ended = await api.say(lease, "finish", {"state": "complete", "stop_reason": "budget"})
        assert ended.json() == {"state": "complete", "stop_reason": "budget", "claim": None}
        shown = (await api.get(f"/studies/{lease.grant['work']['study']}/best")).json()["items"]
        assert [(t["number"], t["value"]) for t in shown] == [(0, 0.5)]

    play_on_each(scene)


def test_an_expired_lease_is_told_so_and_its_trial_goes_to_another(play_on_each):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        api.clock.advance(30 * SECOND + 1)
        await api.service.sweeper.tick()
        answer = await api.say(lease, "reports", POINT)
        assert answer.status_code == 409
        problem = answer.json()
        assert problem["type"] == "urn:tunesmith:lease_lost"
        assert "Attempt 1 of trial 0 has ended" in problem["detail"]
        assert "stop working on it" in problem["detail"]
        api.clock.advance(60 * SECOND)
        assert (await api.claim()).json()["grant"]["attempt"] == 2
        assert (await api.say(lease, "heartbeat", {})).status_code == 409

    play_on_each(scene)


def test_a_wrong_secret_holds_nothing(play_on_each):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        right = lease.headers["Tunesmith-Lease"]
        lease.headers["Tunesmith-Lease"] = right[:-1] + "f"
        answer = await api.say(lease, "finish", {"state": "complete", "stop_reason": "budget"})
        assert answer.status_code == 409
        assert "not known here; claim again" in answer.json()["detail"]
        lease.headers["Tunesmith-Lease"] = right
        assert (await api.say(lease, "heartbeat", {})).status_code == 200

    play_on_each(scene)


@pytest.mark.parametrize("header", ["", "1", "1.1", "a.1.x", "1.-1.x", "1.1.x.y", "²·1.x"])
def test_a_lease_that_cannot_be_read_says_how_to_write_it(play, header):
    async def scene(api: Api) -> None:
        headers = {"Tunesmith-Lease": header.encode()}
        answer = await api.call("POST", "/leases/1/heartbeat", role="worker", headers=headers, json={})
        assert answer.status_code == 422
        assert "Tunesmith-Lease: incarnation.attempt.secret" in answer.json()["detail"]

    play(scene)


def test_a_gap_in_the_reports_says_where_to_go_on(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        answer = await api.say(lease, "reports", POINT | {"seq": 3})
        assert answer.status_code == 409
        assert answer.json()["type"] == "urn:tunesmith:seq_gap"
        assert answer.json()["outcome"] == {"expected_seq": 1}

    play(scene)


def test_a_trial_of_another_project_does_not_exist(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        stranger = await add_project(api)
        headers = lease.headers
        path = f"/leases/{lease.trial_id}/heartbeat"
        answer = await api.post(path, role="worker", project=stranger, headers=headers, json={})
        assert answer.status_code == 404
        assert (await api.say(lease, "heartbeat", {})).status_code == 200

    play(scene)


async def add_project(api: Api) -> int:
    from sqlalchemy import insert
    from tunesmith_service import db, tables

    with db.writing(api.service.engine).begin() as conn:
        return conn.execute(
            insert(tables.projects).values(name="other").returning(tables.projects.c.id)
        ).scalar_one()


def test_the_same_claim_again_gets_the_same_lease(play):
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study())).status_code == 201
        await api.enqueue("study", 2)
        worker = await api.register()
        again = {"claim_id": secrets.token_hex(16)}
        first = (await api.claim(worker, **again)).json()
        assert (await api.claim(worker, **again)).json() == first
        assert first["grant"]["work"]["number"] == 0

    play(scene)


def test_a_claim_waits_until_a_trial_comes(play_on_each):
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study())).status_code == 201
        worker = await api.register()
        waiting = asyncio.create_task(api.claim(worker, wait_seconds=20))
        while not len(api.service.room):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        started = time.monotonic()
        await api.enqueue("study")
        assert (await waiting).json()["grant"]["work"]["number"] == 0
        assert time.monotonic() - started < 15  # not at the end of its 20 s

    play_on_each(scene)


def test_the_end_of_a_backoff_is_waited_for(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        failed = {"state": "failed", "stop_reason": "error", "retryable": True}
        failed["error"] = {"kind": "out_of_memory", "message": "CUDA out of memory"}
        assert (await api.say(lease, "finish", failed)).json()["state"] == "waiting"
        worker = await api.register()
        assert (await api.claim(worker)).json()["grant"] is None
        waiting = asyncio.create_task(api.claim(worker, wait_seconds=20))
        while not len(api.service.room):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        api.clock.advance(60 * SECOND)
        assert (await waiting).json()["grant"]["attempt"] == 2

    play(scene)


# --- on a real server -----------------------------------------------------------------------------


def test_a_study_goes_from_creation_to_its_best_trial_over_http(served: Served):
    made = served.people.post("/studies", json=study("whole"))
    assert made.status_code == 201
    assert made.json()["forecast"]["coarse"].items() >= {"trials": 4, "epochs": 12, "snapshots": 0}.items()

    async def work() -> None:
        worker = LightWorker(served.url, served.token("worker"))
        await worker.register()
        while served.people.get("/studies/whole").json()["state"] != "complete":
            await worker.run_one(wait_seconds=2)  # the planner may take longer for its first trials
        await worker.client.aclose()

    asyncio.run(asyncio.wait_for(work(), 300))
    shown = served.people.get("/studies/whole").json()
    assert shown["counts"]["complete"] == 4
    assert shown["best"]["params"] == {"lr": 0.1}
    assert "4 cells of 3 epochs each" in shown["stages"][0]["result"]["why"]


def test_a_closed_socket_leaves_the_queue(served: Served):
    """Else the trial would go to nobody, and wait for its lease to run out."""
    assert served.people.post("/studies", json=study("sockets", task="sockets")).status_code == 201
    served.people.post("/studies/sockets/pause")

    async def scene() -> None:
        gone, stays = await ready(served, "sockets"), await ready(served, "sockets")
        leaving = asyncio.create_task(gone.claim(wait_seconds=20))
        await parked(served, 1)
        leaving.cancel()
        await gone.client.aclose()
        await parked(served, 0)
        waiting = asyncio.create_task(stays.claim(wait_seconds=20))
        await parked(served, 1)
        served.people.post("/studies/sockets/resume")
        assert await asyncio.wait_for(waiting, 60) is not None
        await stays.client.aclose()

    asyncio.run(scene())
    workers = {w["name"]: w["running"] for w in served.people.get("/workers").json()["items"]}
    assert workers["light"] <= 1


async def parked(served: Served, claims: int) -> None:
    """Once so many wait in the server."""
    line = f"tunesmith_claims_parked {claims:.1f}"
    await asyncio.to_thread(until, lambda: line in served.people.get(f"{served.url}/metrics").text)


async def ready(served: Served, task: str) -> LightWorker:
    worker = LightWorker(served.url, served.token("worker"))
    body = {
        "worker_id": worker.worker_id, "boot_id": worker.boot_id, "starts": 1, "name": worker.name,
        "version": "0", "tasks": {task: "d1" * 32},
        "slots": [{"slot_id": worker.slot_id, "devices": ["cpu"]}],
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=served.url) as client:
        bearer = {"Authorization": f"Bearer {served.token('worker')}"}
        answer = await client.put(f"/api/v1/workers/{worker.worker_id}", json=body, headers=bearer)
        assert answer.status_code == 200
    return worker


def test_a_lease_outlives_the_servers_death_and_shutdown_answers_those_who_wait(tmp_path):
    with Served(tmp_path) as served:
        assert served.people.post("/studies", json=study()).status_code == 201

        async def scene() -> None:
            first, second = LightWorker(served.url, served.token("worker")), await ready(served, "other")
            await first.register()
            while (claimed := await first.claim(wait_seconds=10)) is None:
                pass  # not planned yet
            served.process.signal(signal.SIGKILL)
            served.process.ends()
            served.start()
            await first.beat(claimed[0])  # the same lease, under the new process
            waiting = asyncio.create_task(second.claim(wait_seconds=20))
            await parked(served, 1)
            started = time.monotonic()
            served.process.signal(signal.SIGTERM)
            assert await waiting is None
            assert time.monotonic() - started < 10  # not at the end of its 20 s
            await first.client.aclose()
            await second.client.aclose()

        asyncio.run(asyncio.wait_for(scene(), 600))
        assert served.process.ends(60) == 0
        assert "Traceback" not in served.process.said
