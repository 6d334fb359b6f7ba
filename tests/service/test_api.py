"""What people do over HTTP, and what they read when something is wrong."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from .conftest import Api, Served, running, study

BAD_STUDIES = {
    "unknown stage": (
        study(stages=[{"kind": "corse_grid", "epochs": 1}]),
        "/stages/0",
        "unknown kind 'corse_grid'; it is one of 'preflight', 'lr_range_test', 'coarse_grid'",
    ),
    "log with a zero bound": (
        study(space={"lr": {"low": 0, "high": 1, "log": True}}),
        "/space/lr",
        "log: true needs low > 0, got low=0; to allow 0 beside a log range write a positive low",
    ),
    "empty grid": (
        study(stages=[{"kind": "coarse_grid", "epochs": 1, "axes": {"lr": []}}]),
        "/stages/0",
        "the grid is empty: axis lr has no values; give some, or a number of points",
    ),
    "a space that misses what the stage needs": (
        study(stages=[{"kind": "weight_decay_restarts", "epochs": 5}]),
        "/stages/0",
        "the space misses weight_decay, which this stage varies; add it to space, or give the stage values",
    ),
    "a sampler named by its kind alone": (
        study(stages=[{"kind": "sampler", "sampler": "tpe", "epochs": 1, "trials": 3}]),
        "/stages/0/sampler",
        'holds settings of its own, such as {kind: …}, got "tpe"',
    ),
    "an unknown pruner beside a sampler": (
        study(
            stages=[
                {
                    "kind": "sampler",
                    "sampler": {"kind": "tpe"},
                    "epochs": 1,
                    "trials": 3,
                    "pruner": {"kind": "mean"},
                }
            ]
        ),
        "/stages/0/pruner",
        "unknown kind 'mean'; it is one of 'nop', 'median'",
    ),
    "no epoch": (
        study(stages=[{"kind": "random", "epochs": 0, "trials": 3}]),
        "/stages/0/epochs",
        "Input should be greater than or equal to 1, got 0",
    ),
    "a misspelt field": (study(spaces={}), "/spaces", "is not a field here; check its spelling"),
    "the test set as objective": (
        study(objective={"metric": "test/loss"}),
        "/objective",
        "the test set never decides",
    ),
    "a name that leads up": (study(".."), "/name", "its name stands in addresses"),
    "a name with a slash": (study("a/b"), "/name", "its name stands in addresses; a-b would do"),
    "another's id as its name": (study("1"), "/name", "a number alone is a study's id"),
}


@pytest.mark.parametrize("what", BAD_STUDIES)
def test_a_study_that_cannot_run_is_refused_with_the_place_and_what_to_do(play, what):
    spec, pointer, message = BAD_STUDIES[what]

    async def scene(api: Api) -> None:
        answer = await api.post("/studies", json=spec)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"] == "urn:tunesmith:unprocessable"
        assert problem["request_id"] == answer.headers["tunesmith-request-id"]
        found = [e["message"] for e in problem["errors"] if e["pointer"].startswith(pointer)]
        assert any(message in m for m in found), problem
        assert message in problem["detail"]
        assert (await api.get("/studies")).json()["items"] == []

    play(scene)


def test_a_task_that_no_worker_serves_is_accepted_and_said(play):
    async def scene(api: Api) -> None:
        created = (await api.post("/studies", json=study())).json()
        waits = "no worker serves task 'light' now; the study waits for one (tasks served: none)"
        assert created["warnings"] == [waits]
        assert (await api.get("/studies/study")).json()["waiting_for"] == waits
        await api.register()
        assert (await api.get("/studies/study")).json()["waiting_for"] is None
        assert (await api.post("/studies", json=study("second"))).json()["warnings"] == []

    play(scene)


def test_more_devices_than_any_slot_has_are_said_before_and_while_a_study_waits_for_them(play):
    async def scene(api: Api) -> None:
        await api.register()
        pair = study(resources={"gpus": 2})
        waits = "each trial asks for 2 GPUs, and the largest slot that serves the task has 1: "
        waits += "start a worker with --devices-per-slot 2"
        assert (await api.post("/studies?dry_run=true", json=pair)).json()["warnings"] == [waits]
        assert (await api.post("/studies", json=pair)).json()["warnings"] == [waits]
        known = (await api.get("/studies/study")).json()
        assert (known["waiting_for"], known["gpus"]) == (waits, 2)
        refused = await api.post("/studies", json=study("none", resources={"gpus": 0}))
        assert refused.json()["errors"][0]["pointer"] == "/resources/gpus"

    play(scene)


def test_a_dry_run_forecasts_and_creates_nothing(play):
    async def scene(api: Api) -> None:
        answer = await api.post("/studies?dry_run=true", json=study())
        assert answer.status_code == 200
        assert (answer.json()["trials"], answer.json()["epochs"]) == (4, 12)
        assert (await api.get("/studies")).json()["items"] == []

    play(scene)


def test_the_same_key_and_body_get_the_stored_answer_and_another_body_is_refused(play_on_each):
    async def scene(api: Api) -> None:
        key = {"Idempotency-Key": "k1"}
        first = await api.post("/studies", json=study(), headers=key)
        again = await api.post("/studies", json=study(), headers=key)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json()["id"] == first.json()["id"]
        other = await api.post("/studies", json=study("other"), headers=key)
        assert other.status_code == 422
        assert other.json()["type"] == "urn:tunesmith:key_reused"
        without = await api.post("/studies", json=study())
        assert without.status_code == 409
        assert "A study named study exists already" in without.json()["detail"]

    play_on_each(scene)


def test_lists_come_in_pages_that_miss_and_repeat_nothing(play_on_each):
    async def scene(api: Api) -> None:
        for n in range(5):
            assert (await api.post("/studies", json=study(f"s{n}"))).status_code == 201
        assert await pages(api, "/studies", "name") == ["s4", "s3", "s2", "s1", "s0"]
        await api.enqueue("s0", 5)
        assert await pages(api, "/studies/s0/trials", "number") == [0, 1, 2, 3, 4]
        assert await pages(api, "/studies/s0/trials?sort=-number", "number") == [4, 3, 2, 1, 0]
        assert await pages(api, "/studies/s0/events", "n") == list(range(1, 8))

    async def pages(api: Api, path: str, field: str) -> list:
        found, cursor = [], ""
        while cursor is not None:
            more = f"&cursor={cursor}" if cursor else ""
            page = (await api.get(f"{path}{'&' if '?' in path else '?'}limit=2{more}")).json()
            assert len(page["items"]) <= 2
            found += [item[field] for item in page["items"]]
            cursor = page["next_cursor"]
        return found

    play_on_each(scene)


def test_an_unchanged_study_is_not_sent_again(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        first = await api.get("/studies/study")
        tag = {"If-None-Match": first.headers["etag"]}
        assert (await api.get("/studies/study", headers=tag)).status_code == 304
        await api.enqueue("study")
        assert (await api.get("/studies/study", headers=tag)).status_code == 200

    play(scene)


def test_a_study_is_paused_resumed_and_stopped(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        await api.enqueue("study", 2)
        assert (await api.post("/studies/study/pause")).json()["state"] == "paused"
        assert (await api.claim()).json()["grant"] is None
        assert (await api.post("/studies/study/resume")).json()["state"] == "active"
        assert (await api.post("/studies/1/stop", json={"reason": "enough"})).json()["state"] == "stopped"
        shown = (await api.get("/studies/study")).json()
        assert (shown["reason"], shown["counts"]["cancelled"]) == ("enough", 2)
        again = await api.post("/studies/study/resume")
        assert again.status_code == 409
        assert "has ended as stopped" in again.json()["detail"]

    play(scene)


def test_a_stage_can_be_added_and_skipped(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        added = await api.post("/studies/study/stages", json={"kind": "refine_grid", "epochs": 5})
        assert added.status_code == 201, added.text
        assert [s["name"] for s in added.json()["stages"]] == ["coarse", "refine_grid"]
        wrong = {"kind": "refine_grid", "epochs": 5, "source": "corse"}
        refused = await api.post("/studies/study/stages", json=wrong)
        assert refused.status_code == 422
        assert "its source 'corse' is no earlier stage; earlier ones are: coarse" in refused.json()["detail"]
        skipped = await api.post("/studies/study/stages/refine_grid/skip", json={"reason": "no need"})
        assert skipped.json()["stages"][1]["state"] == "skipped"
        unknown = await api.post("/studies/study/stages/none/skip")
        assert unknown.status_code == 404

    play(scene)


def test_trials_by_hand_must_lie_in_the_space_all_or_none(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        wrong = {"params": [{"lr": 0.01}, {"lr": 5.0}, {}]}
        refused = await api.post("/studies/study/trials", json=wrong)
        assert refused.status_code == 422
        assert refused.json()["errors"] == [
            {"pointer": "/params/1", "message": "lr=5.0 is outside the space, which has [0.001, 0.1]"},
            {"pointer": "/params/2", "message": "lr is missing"},
        ]
        assert (await api.get("/studies/study/trials")).json()["items"] == []

    play(scene)


def test_a_trial_is_shown_with_its_attempts_curve_log_and_error(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        name = lease.grant["work"]["study"]
        metrics = {"val/loss": 0.5, "train/loss": "NaN", "val/ratio": "-Infinity"}
        report = {"seq": 1, "points": [{"step": 1, "metrics": metrics}]}
        assert (await api.say(lease, "reports", report)).status_code == 200
        assert (await api.say(lease, "logs", {"seq": 1, "text": "épöch 1\x00\n"})).status_code == 200
        error = {"kind": "ValueError", "message": "no such file", "traceback": "…"}
        await api.say(lease, "finish", {"state": "failed", "stop_reason": "error", "error": error})
        trial = (await api.get(f"/studies/{name}/trials/0")).json()
        assert (trial["state"], trial["error"]["message"], trial["worker"]) == ("failed", "no such file", "w")
        assert [a["ending"] for a in trial["attempts"]] == ["finish"]
        curve = (await api.get(f"/studies/{name}/trials/0/curve")).json()
        assert curve["points"] == [{"step": 1, "metrics": metrics}]
        logged = (await api.get(f"/studies/{name}/trials/0/logs")).json()
        assert [c["text"] for c in logged["items"]] == ["épöch 1\x00\n"]
        assert (await api.get(f"/studies/{name}/trials/1")).status_code == 404

    play(scene)


def test_a_cancelled_trial_is_no_longer_its_workers(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        path = f"/studies/{lease.grant['work']['study']}/trials/0/cancel"
        assert (await api.post(path)).json()["state"] == "cancelled"
        assert (await api.post(path)).json()["state"] == "cancelled"  # again changes nothing
        told = await api.say(lease, "heartbeat", {})
        assert told.status_code == 409
        assert told.json()["type"] == "urn:tunesmith:already_final"
        assert told.json()["outcome"] == {"state": "cancelled", "stop_reason": "cancelled"}

    play(scene)


def test_a_drained_worker_is_told_so(play):
    async def scene(api: Api) -> None:
        worker = await api.register()
        await api.post("/studies", json=study())
        await api.enqueue("study")
        assert (await api.post(f"/workers/{worker['worker_id']}/drain")).status_code == 204
        assert (await api.claim(worker)).json() == {"grant": None, "draining": True, "ended": False}
        assert (await api.post(f"/workers/{worker['worker_id']}/undrain")).status_code == 204
        assert (await api.claim(worker)).json()["grant"] is not None
        assert (await api.post("/workers/none/drain")).status_code == 404

    play(scene)


# --- bodies ---------------------------------------------------------------------------------------


def test_nan_in_json_is_refused_with_how_to_write_it(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        body = b'{"seq": 1, "points": [{"step": 1, "metrics": {"val/loss": NaN}}]}'
        headers = {**lease.headers, "Content-Type": "application/json"}
        path = f"/leases/{lease.trial_id}/reports"
        answer = await api.post(path, role="worker", content=body, headers=headers)
        assert answer.status_code == 422
        assert 'write the string "NaN" in quotes' in answer.json()["detail"]

    play(scene)


def test_a_body_is_json_and_says_so(play):
    async def scene(api: Api) -> None:
        as_form = await api.post("/studies", content=b"a=1", headers={"Content-Type": "text/plain"})
        assert as_form.status_code == 422
        assert "send the body as Content-Type: application/json, not text/plain" in as_form.json()["detail"]
        zipped = await api.post("/studies", json={}, headers={"Content-Encoding": "gzip"})
        assert zipped.status_code == 400
        assert "Content-Encoding: gzip is not read" in zipped.json()["detail"]
        missing = await api.post("/studies")
        assert missing.status_code == 422

    play(scene)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("reports", {"seq": "1"}, "/seq"),
        ("reports", {"seq": True}, "/seq"),
        ("reports", {"seq": 1.5}, "/seq"),
        ("reports", {"points": [{"step": "1", "metrics": {"loss": 1}}]}, "/points/0/step"),
        ("reports", {"points": [{"step": 1, "metrics": {"loss": True}}]}, "/points/0/metrics/loss"),
        ("reports", {"points": [{"step": 1, "metrics": {"loss": "1"}}]}, "/points/0/metrics/loss"),
        ("finish", {"state": "complete", "stop_reason": "budget", "retryable": "no"}, "/retryable"),
    ],
)
def test_what_a_worker_sends_is_taken_as_it_stands(play, path: str, body: dict[str, Any], pointer: str):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        if path == "reports":
            body.update({"seq": 1, "points": [{"step": 1, "metrics": {"loss": 1}}]} | body)
        answer = await api.say(lease, path, body)
        assert (answer.status_code, [e["pointer"] for e in answer.json()["errors"]]) == (422, [pointer])

    play(scene)


def test_a_slot_that_is_registered_twice_is_named(play):
    async def scene(api: Api) -> None:
        worker = await api.register()
        worker["slots"] *= 2
        answer = await api.call("PUT", f"/workers/{worker['worker_id']}", role="worker", json=worker)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "/slots"
        assert error["message"].startswith(f"slot {worker['slots'][0]['slot_id']} stands twice")

    play(scene)


def test_json_has_one_kind_of_number(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        points = [{"step": 1.0, "metrics": {"loss": 1}}]
        assert (await api.say(lease, "reports", {"seq": 1.0, "points": points})).status_code == 200
        token = await api.post("/tokens", json={"name": "a", "days": 30})
        assert token.status_code == 201

    play(scene)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/tokens", {"name": "a", "days": "30"}, "/days"),
        ("/studies/study/trials", {"params": [{"lr": 0.01}], "epochs": "3"}, "/epochs"),
        ("/studies/study/tags", {"trials": ["0"], "add": ["odd"]}, "/trials/0"),
        ("/studies/study/rerun", {"trials": [True]}, "/trials/0"),
    ],
)
def test_what_people_send_is_taken_as_it_stands(play, path: str, body: dict[str, Any], pointer: str):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        await api.enqueue("study")
        answer = await api.post(path, json=body)
        assert (answer.status_code, [e["pointer"] for e in answer.json()["errors"]]) == (422, [pointer])

    play(scene)


def test_an_over_long_body_is_refused_before_it_is_read(served: Served):
    spec = json.dumps(study("long") | {"notes": "x" * 2**20}).encode()
    answer = served.people.post("/studies", content=spec, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:tunesmith:too_large"
    assert f"the body is {len(spec)} bytes long; at most 1048576 are read" in answer.json()["detail"]

    def unannounced():
        for _ in range(40):
            yield b"x" * 2**15

    streamed = served.people.post(
        "/studies", content=unannounced(), headers={"Content-Type": "application/json"}
    )
    assert streamed.status_code == 413
    assert "longer than 1048576 bytes" in streamed.json()["detail"]
    assert served.people.get("/studies").status_code == 200


def test_a_body_that_stops_coming_is_cut_off(play):
    async def scene(api: Api) -> None:
        async def stalls():
            yield b'{"name": '
            await asyncio.Event().wait()

        answer = await api.post("/studies", content=stalls(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 408
        assert "did not come within 0.05 s" in answer.json()["detail"]

    play(scene, body_seconds=0.05)


def test_long_urls_and_headers_are_refused(served: Served):
    long_url = served.people.get("/studies", params={"cursor": "1" * 5000})
    assert long_url.status_code == 400
    assert "longer than 4096 bytes" in long_url.json()["detail"]
    long_header = served.people.get("/studies", headers={"X-Long": "x" * 17_000})
    assert long_header.status_code in (400, 431)


def test_what_is_not_there_is_a_problem_document_too(play):
    async def scene(api: Api) -> None:
        nowhere = await api.get("/nowhere")
        assert (nowhere.status_code, nowhere.json()["type"]) == (404, "urn:tunesmith:not_found")
        method = await api.call("PATCH", "/studies")
        assert (method.status_code, method.json()["type"]) == (405, "urn:tunesmith:method_not_allowed")
        assert method.headers["Allow"] == "GET, POST"  # two routes have that path
        cursor = await api.get("/studies?cursor=abc")
        assert cursor.status_code == 422
        assert "cursor is not one of ours" in cursor.json()["detail"]
        await api.post("/studies", json=study())
        await api.enqueue("study")
        for wrong in (
            "/studies?cursor=٣", "/studies/study/views/curves?pick=٣", f"/studies/study/events?after={2**63}",
            f"/studies/study/trials/0/logs?attempt={2**63}",
        ):  # fmt: skip
            assert (await api.get(wrong)).status_code == 422
        limit = await api.get("/studies?limit=0")
        assert limit.json()["errors"][0]["pointer"] == "query:limit"

    play(scene)


# --- health ---------------------------------------------------------------------------------------


def test_readiness_names_the_part_that_is_not(play):
    async def scene(api: Api) -> None:
        assert (await api.get("/healthz", base="", token="")).json()["status"] == "alive"
        assert (await api.get("/readyz", base="", token="")).json()["ready"] is True
        sweeper = api.service.sweeper
        sweeper._monotonic = lambda: sweeper._ticked + 11
        answer = await api.get("/readyz", base="", token="")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["sweeper"].startswith("last good tick 11 s ago")

    play(scene)


def test_a_database_that_is_away_is_503_with_retry_after_and_comes_back(databases, tmp_path):
    """The server keeps its connections to PostgreSQL in a pool, so they all break at once."""
    url = databases.make("postgresql")
    name = url.partition("@/")[2].partition("?")[0]
    admin = create_engine(url.replace(f"/{name}?", "/postgres?"), isolation_level="AUTOCOMMIT")

    def allow(yes: bool) -> None:
        with admin.connect() as conn:
            conn.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {yes}"))
            if not yes:
                kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                conn.execute(text(kill), {"name": name})

    async def scene() -> None:
        async with running(tmp_path, url) as api:
            lease = await api.lease()
            await asyncio.to_thread(allow, False)
            for answer in (
                await api.say(lease, "heartbeat", {}),
                await api.get("/studies"),
                await api.post("/studies", json=study("other")),
            ):
                assert answer.status_code == 503, answer.text
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["type"] == "urn:tunesmith:unavailable"
            assert (await api.get("/healthz", base="", token="")).status_code == 200
            assert (await api.get("/readyz", base="", token="")).status_code == 503
            await asyncio.to_thread(allow, True)
            assert (await api.say(lease, "heartbeat", {})).status_code == 200
            await api.service.sweeper.tick()
            assert (await api.get("/readyz", base="", token="")).status_code == 200

    try:
        asyncio.run(asyncio.wait_for(scene(), 300))
    finally:
        admin.dispose()
        databases.drop(url)


def test_the_port_of_the_shared_server_answers_only_http(served: Served):
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(b"\x16\x03\x01\x00\x00\r\n\r\n")
        assert b"400" in raw.recv(100)


def test_a_read_that_outlasts_the_server_leaves_no_connection_open(url: str, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    held: list[Any] = []

    def read(conn: Connection) -> None:
        held.append(conn.connection.dbapi_connection)
        begun.set()
        go_on.wait(30)

    async def main() -> None:
        async with running(tmp_path, url) as api:
            asked = asyncio.create_task(api.service.read(read))
            await asyncio.to_thread(begun.wait, 30)
        held[0].execute("SELECT 1")
        go_on.set()
        await asked

    asyncio.run(main())
    with pytest.raises(Exception, match="closed"):
        held[0].execute("SELECT 1")
