"""What people read and decide about checks, over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from tunesmith_service.commands import EndStage, Propose
from tunesmith_service.wire import LEASE_HEADER

from .conftest import Api, study

FINDINGS = [
    {"kind": "balance", "level": "warn", "sentence": "One class of ten has 1 %.", "rule": "", "next_step": "",
     "numbers": {"share": 0.01}, "trials": []},
    {"kind": "initial_loss", "level": "fail", "sentence": "The first loss is 73.7.", "rule": "log C",
     "next_step": "Average it.", "numbers": {}, "trials": [0]},
    {"kind": "labels", "level": "pass", "sentence": "Labels lie in range.", "rule": "", "next_step": "",
     "numbers": {}, "trials": []},
]  # fmt: skip
RESULT = {
    "ranking": [], "why": "The first loss is 73.7, log C is 2.3.", "chosen": {}, "failed": True,
    "blocks": True, "findings": FINDINGS, "numbers": {"forecast": {"coarse": {"seconds": 3600.0}}},
}  # fmt: skip
RANGE = {"kind": "lr_range_test", "name": "range", "epochs": 1}


async def blocked(api: Api) -> None:
    stages = [RANGE, *study()["stages"]]
    assert (await api.post("/studies", json=study(stages=stages))).status_code == 201
    n = (await api.get("/studies/study")).json()["event_n"]
    assert await api.service.writer.submit(EndStage(1, "range", RESULT, n))


def test_findings_come_the_gravest_first_with_their_stage(play):
    async def scene(api: Api) -> None:
        await blocked(api)
        found = (await api.get("/studies/study/findings", role="viewer")).json()["items"]
        assert [(f["stage"], f["level"], f["kind"]) for f in found] == [
            ("range", "fail", "initial_loss"), ("range", "warn", "balance"), ("range", "pass", "labels"),
        ]  # fmt: skip
        assert found[0] == FINDINGS[1] | {"stage": "range", "proposes": None}
        only = (await api.get("/studies/study/findings?level=warn&stage=range")).json()["items"]
        assert [f["kind"] for f in only] == ["balance"]
        assert (await api.get("/studies/study/findings?stage=coarse")).json()["items"] == []
        assert (await api.get("/studies/study/findings?level=bad")).status_code == 422

    play(scene)


def test_a_blocked_study_says_by_what_and_goes_on_once_overridden(play):
    async def scene(api: Api) -> None:
        await blocked(api)
        shown = (await api.get("/studies/study")).json()
        assert (shown["state"], shown["blocked_by"], shown["stage"]) == ("paused", "range", None)
        refused = await api.post("/studies/study/resume")
        assert refused.status_code == 409
        assert "tunesmith stage override study range --reason" in refused.json()["detail"]
        override = "/studies/study/stages/range/override"
        assert (await api.post(override, role="viewer", json={"reason": "so"})).status_code == 403
        told = await api.post(override, role="researcher", json={"reason": "summed on purpose"})
        assert told.status_code == 200, told.text
        shown = told.json()
        assert (shown["state"], shown["blocked_by"], shown["stage"]) == ("active", None, "coarse")
        kept = shown["stages"][0]["override"]
        assert (kept["reason"], kept["actor"]) == ("summed on purpose", "researcher:a researcher")
        assert shown["stages"][0]["result"]["findings"] == FINDINGS

    play(scene)


def test_stages_of_any_name_are_overridden_and_skipped(play):
    async def scene(api: Api) -> None:
        stages = [{**RANGE, "name": "look/before?"}, {**study()["stages"][0], "name": "a/b#c"}]
        assert (await api.post("/studies", json=study(stages=stages))).status_code == 201
        n = (await api.get("/studies/study")).json()["event_n"]
        assert await api.service.writer.submit(EndStage(1, "look/before?", RESULT, n))
        at = [f"/studies/study/stages/{quote(s['name'], safe='')}" for s in stages]
        told = await api.post(f"{at[0]}/override", json={"reason": "so"})
        assert (told.status_code, told.json()["stage"]) == (200, "a/b#c")
        told = await api.post(f"{at[1]}/skip", json={"reason": "so"})
        assert (told.status_code, told.json()["state"]) == (200, "complete")

    play(scene)


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 2001}, {"why": "x"}])
def test_an_override_needs_a_reason(play, body: dict[str, Any]):
    async def scene(api: Api) -> None:
        await blocked(api)
        told = await api.post("/studies/study/stages/range/override", json=body)
        assert told.status_code == 422
        assert (await api.get("/studies/study")).json()["state"] == "paused"

    play(scene)


def test_measured_time_is_divided_by_the_slots_that_are_there(play):
    async def scene(api: Api) -> None:
        await blocked(api)
        coarse = (await api.get("/studies/study")).json()["stages"][1]
        assert coarse["time"] == {"seconds": 3600.0, "gpu_hours": 1.0}
        await api.register(slots=4)
        measured, coarse = (await api.get("/studies/study")).json()["stages"]
        assert coarse["time"] == {"seconds": 900.0, "gpu_hours": 1.0}
        assert measured["time"] is None

    play(scene)


def test_a_stage_that_measures_takes_no_trials_by_hand(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study(stages=[RANGE, *study()["stages"]]))
        told = await api.post("/studies/study/trials", json={"params": [{"lr": 0.01}]})
        assert told.status_code == 409
        assert "stage range measures and takes no trials by hand" in told.json()["detail"]
        other = await api.post("/studies/study/trials", json={"params": [{"lr": 0.01}], "stage": "coarse"})
        assert other.status_code == 201

    play(scene)


def test_reads_of_the_test_set_show_with_the_trial_and_the_study(play):
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study())).status_code == 201
        worker = await api.register()
        for i in range(2):
            work = {"epochs": 1, "seed": 0, "kind": "evaluate", "read_test": True}
            await api.service.writer.submit(
                Propose(1, "coarse", f"e{i}", i, {"lr": 0.01}, work, None, {}, 0, draft=False)
            )
            grant = (await api.claim(worker)).json()["grant"]
            headers = {LEASE_HEADER: f"{grant['incarnation']}.{grant['attempt']}.5ec1e7{'0' * 26}"}
            path = f"/leases/{grant['trial_id']}"
            body = {"seq": 1, "points": [{"step": 1, "metrics": {"test/accuracy": 0.9}}]}
            told = await api.post(f"{path}/reports", role="worker", headers=headers, json=body)
            assert told.status_code == 200, told.text
            finish = {"state": "complete", "stop_reason": "budget"}
            assert (await api.post(f"{path}/finish", role="worker", headers=headers, json=finish)).is_success
        shown = (await api.get("/studies/study")).json()
        assert shown["test_reads"] == [
            {"trial": 0, "stage": "coarse", "nth": 1}, {"trial": 1, "stage": "coarse", "nth": 2},
        ]  # fmt: skip
        assert len(shown["warnings"]) == 1
        assert "Trial #1 (coarse) was the 2nd of this project" in shown["warnings"][0]
        trials = (await api.get("/studies/study/trials")).json()["items"]
        assert [(t["kind"], t["unit"], t["value"], t["test_read"]) for t in trials] == [
            ("evaluate", "step", None, 1), ("evaluate", "step", None, 2),
        ]  # fmt: skip
        assert shown["best"] is None

    play(scene)


def test_a_test_metric_outside_the_final_stage_is_refused_with_what_to_do(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        body = {"seq": 1, "points": [{"step": 1, "metrics": {"val/loss": 1.0, "test/loss": 1.0}}]}
        told = await api.say(lease, "reports", body)
        assert told.status_code == 422
        assert told.json()["detail"] == (
            "Metric test/loss: only the `final` stage may read the test set, once and last of all; "
            "report val/ metrics here."
        )

    play(scene)


def test_a_trial_says_what_its_curve_shows(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        falls = {step: 2.3 * 0.8**step for step in range(1, 13)}
        body = {"seq": 1, "points": [
            {"step": s, "metrics": {"train/loss": v, "val/loss": v if s < 5 else 0.8 + 0.2 * s}}
            for s, v in falls.items()
        ]}  # fmt: skip
        assert (await api.say(lease, "reports", body)).is_success
        study_name = lease.grant["work"]["study"]
        shown = (await api.get(f"/studies/{study_name}/trials/0")).json()["findings"]
        assert "overfit" in [f["kind"] for f in shown]
        assert all(f["sentence"] and f["trials"] == [0] for f in shown)

    play(scene)


def test_a_study_that_names_no_stages_gets_those_of_its_recipe(play):
    bare = {k: v for k, v in study().items() if k != "stages"}

    async def scene(api: Api) -> None:
        planned = (await api.post("/studies?dry_run=true", json=bare)).json()
        assert planned["recipe"] == "standard"
        assert len(planned["stages"]) > 2
        assert planned["likely_epochs"] <= planned["epochs"]
        assert any("weight_decay_restarts is left out" in note for note in planned["notes"]), (
            "lr alone varies"
        )
        assert (await api.get("/studies")).json()["items"] == []
        made = await api.post("/studies", json=bare | {"recipe": "quick"})
        assert (made.status_code, made.json()["recipe"]) == (201, "quick")
        shown = (await api.get("/studies/study")).json()
        assert [s["name"] for s in shown["stages"]] == list(made.json()["forecast"])
        assert shown["stages"][0]["state"] == "active"
        added = await api.post("/studies/study/stages", json={"kind": "random", "epochs": 2, "trials": 3})
        assert added.status_code == 201, added.text
        both = await api.post("/studies", json=study("both") | {"recipe": "quick"})
        assert both.status_code == 422
        assert "leave one of them out" in both.json()["detail"]

    play(scene)
