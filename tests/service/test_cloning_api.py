"""Over HTTP: a study cloned with something changed, a trial varied, a stage that a finding proposes."""

from __future__ import annotations

from typing import Any

from tunesmith_service import spaces, store
from tunesmith_service.commands import EndStage
from tunesmith_studies.findings import Finding

from .conftest import Api, study

TWO = {
    "space": {"lr": {"low": 1e-3, "high": 0.1, "log": True}, "optimizer": ["adam", "momentum"],
              "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "momentum"}}},
    "stages": [{"kind": "random", "name": "search", "epochs": 3, "trials": 4},
               {"kind": "random", "name": "later", "epochs": 5, "trials": 2}],
}  # fmt: skip
BEYOND = {"kind": "coarse_grid", "name": "lr_beyond", "source": "coarse", "epochs": 3, "around_best": True,
          "axes": {"lr": 3}, "ranges": {"lr": [0.1, 1.0]}}  # fmt: skip


async def end_stage(api: Api, name: str = "study", **result: Any) -> None:
    """The coarse grid of a study ends with this result."""
    event_n = (await api.get(f"/studies/{name}")).json()["event_n"]
    told = {"ranking": [], "chosen": {}, "numbers": {}, "failed": False, "why": "Told."} | result
    assert await api.service.writer.submit(EndStage(1, "coarse", told, event_n))


# --- studies --------------------------------------------------------------------------------------


def test_a_clone_says_what_differs_before_and_after_and_names_its_original(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study(priority=3))
        await api.post(
            "/studies/study/stages", json={"kind": "random", "name": "more", "epochs": 2, "trials": 3}
        )
        body = {"name": "wider", "changes": {"space.lr.high": 1.0, "stages.more.trials": 9}}
        wanted = [
            {"path": "space.lr.high", "was": 0.1, "now": 1.0},
            {"path": "stages.more.trials", "was": 3, "now": 9},
        ]
        dry = await api.post("/studies/study/clone?dry_run=true", json=body)
        assert (dry.status_code, dry.json()["differences"]) == (200, wanted)
        assert dry.json()["stages"]["more"]["trials"] == 9
        assert (await api.get("/studies/wider")).status_code == 404, "a dry run creates nothing"
        made = await api.post("/studies/study/clone", json=body)
        assert (made.status_code, made.json()["differences"]) == (201, wanted)
        told = (await api.get("/studies/wider")).json()
        assert told["spec"]["priority"] == 3
        assert [s["name"] for s in told["stages"]] == ["coarse", "more"]
        first = (await api.get("/studies/wider/events?limit=1")).json()["items"][0]
        assert first["data"]["cloned_from"] == 1
        assert (await api.post("/studies/study/clone", json=body)).status_code == 409

    play(scene)


def test_a_change_that_cannot_be_is_refused_at_its_place(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        gone = {"name": "x", "changes": {"stages.fine.epochs": 3}}
        answer = (await api.post("/studies/study/clone", json=gone)).json()
        assert (answer["status"], "there are coarse" in answer["detail"]) == (422, True)
        turned = {"name": "x", "changes": {"space.lr.low": 3}}
        answer = (await api.post("/studies/study/clone", json=turned)).json()
        assert (answer["status"], answer["errors"][0]["pointer"]) == (422, "/space/lr")
        assert [s["name"] for s in (await api.get("/studies")).json()["items"]] == ["study"]

    play(scene)


# --- trials ---------------------------------------------------------------------------------------


def test_a_variant_begins_with_a_trials_settings_and_names_it(play_on_each):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study(**TWO))
        params = {"lr": 0.01, "optimizer": "momentum", "momentum": 0.9}
        (old,) = (await api.post("/studies/study/trials", json={"params": [params]})).json()["numbers"]
        body = {"params": [{"lr": 0.02}, {"optimizer": "adam"}], "like": old, "epochs": 2}
        faster, other = (await api.post("/studies/study/trials", json=body)).json()["numbers"]
        told = [(await api.get(f"/studies/study/trials/{n}")).json() for n in (faster, other)]
        assert [t["variant_of"] for t in told] == [old, old]
        assert told[0]["params"] == params | {"lr": 0.02}
        assert told[1]["params"] == {"lr": 0.01, "optimizer": "adam"}, "what adam has not goes"
        assert [t["epochs"] for t in told] == [2, 2]
        planned = (await api.get("/studies/study/events")).json()["items"][-1]
        assert planned["data"]["variant_of"] == old

    play_on_each(scene)


def test_a_variant_stands_in_its_trials_stage_or_else_the_active_one(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study(**TWO))
        params = {"lr": 0.01, "optimizer": "adam"}
        ahead = {"params": [params], "stage": "later"}
        (old,) = (await api.post("/studies/study/trials", json=ahead)).json()["numbers"]
        again = {"params": [{}], "like": old}
        (same,) = (await api.post("/studies/study/trials", json=again)).json()["numbers"]
        assert (await api.get(f"/studies/study/trials/{same}")).json()["stage"] == "later"
        await api.post("/studies/study/stages/later/skip")
        (moved,) = (await api.post("/studies/study/trials", json=again)).json()["numbers"]
        assert (await api.get(f"/studies/study/trials/{moved}")).json()["stage"] == "search"
        missing = await api.post(
            "/studies/study/trials", json={"params": [{"optimizer": "momentum"}], "like": old}
        )
        assert (missing.status_code, "momentum is missing" in missing.json()["detail"]) == (422, True)
        nobody = await api.post("/studies/study/trials", json={"params": [{}], "like": 99})
        assert nobody.status_code == 404

    play(scene)


# --- stages ---------------------------------------------------------------------------------------


def test_what_a_finding_proposes_is_a_stage_that_can_be_added(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        finding = Finding("best_at_edge", "warn", "On the edge.", proposes=BEYOND).to_json()
        await end_stage(api, ranking=[{"trial": 0, "value": 0.5}], findings=[finding])
        assert (await api.get("/studies/study")).json()["state"] == "complete"
        (told,) = (await api.get("/studies/study/findings")).json()["items"]
        assert told["proposes"] == BEYOND
        dry = await api.post("/studies/study/stages?dry_run=true", json=told["proposes"])
        assert (dry.status_code, dry.json()["forecast"]["trials"]) == (200, 3)
        assert dry.json()["stage"] == BEYOND
        added = await api.post("/studies/study/stages", json=told["proposes"])
        assert (added.status_code, added.json()["state"]) == (201, "active"), "it was complete, and goes on"
        assert added.json()["stages"][-1]["state"] == "active"
        row = await api.service.read(store.find_study, 1, "study")
        assert row.spec["space"]["lr"]["high"] == 0.1, "what was written stays"
        drawn = await api.service.read(spaces.now, row)
        assert (drawn.spec["space"]["lr"]["low"], drawn.spec["space"]["lr"]["high"]) == (1e-3, 1.0)
        (number,) = await api.enqueue("study")
        assert (await api.get(f"/studies/study/trials/{number}")).json()["stage"] == "lr_beyond"
        far = await api.post("/studies/study/trials", json={"params": [{"lr": 0.9}]})
        assert far.status_code == 201, "the space is wider now"
        past = await api.post("/studies/study/trials", json={"params": [{"lr": 1.1}]})
        assert past.status_code == 422

    play(scene)


def test_a_stopped_study_takes_no_stage_and_says_what_does(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        await api.post("/studies/study/stop")
        answer = await api.post("/studies/study/stages", json={"kind": "random", "epochs": 1, "trials": 1})
        assert answer.status_code == 409
        assert "tunesmith study clone study" in answer.json()["detail"]

    play(scene)
