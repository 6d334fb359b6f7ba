"""Over HTTP: notes with their ETag, studies put away and deleted, trials tagged and tried again."""

from __future__ import annotations

from service.conftest import Api, study


def test_a_note_carries_an_etag_and_a_late_edit_is_told_what_it_says_now(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        empty = await api.get("/studies/study/note")
        assert (empty.json(), empty.headers["etag"]) == ({"text": "", "version": 0}, '"0"')
        mine = await api.call(
            "PUT", "/studies/study/note", json={"text": "mine"}, headers={"If-Match": '"0"'}
        )
        assert (mine.status_code, mine.headers["etag"]) == (200, '"1"')
        late = await api.call("PUT", "/studies/study/note", json={"text": "his"}, headers={"If-Match": '"0"'})
        assert late.status_code == 412
        assert late.json()["type"] == "urn:tunesmith:changed"
        assert late.json()["outcome"] == {"text": "mine", "version": 1}
        blind = await api.call("PUT", "/studies/study/note", json={"text": "his"})
        assert blind.status_code == 422
        assert (await api.get("/studies/study/note")).json() == {"text": "mine", "version": 1}

    play(scene)


def test_a_study_is_deleted_by_name_and_its_place_is_free(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        await api.enqueue("study", 3)
        assert (await api.call("DELETE", "/studies/study?name=study")).status_code == 409
        assert (await api.post("/studies/study/archive")).status_code == 409
        await api.post("/studies/study/stop")
        assert (await api.call("DELETE", "/studies/study?name=stud")).status_code == 422
        assert (await api.post("/studies/study/archive")).json()["archived"] is True
        assert (await api.get("/studies")).json()["items"] == []
        assert (await api.call("DELETE", "/studies/study?name=study")).status_code == 204
        assert (await api.get("/studies/study")).status_code == 404
        assert (await api.post("/studies", json=study())).status_code == 201
        assert (await api.get("/studies/study/trials")).json()["items"] == []

    play(scene)


def test_a_cancelled_trial_is_tried_again_and_tagged(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        (number,) = await api.enqueue("study")
        path = f"/studies/study/trials/{number}"
        assert (await api.post(f"{path}/prune")).status_code == 409
        await api.post(f"{path}/cancel")
        again = (await api.post(f"{path}/retry")).json()["numbers"]
        assert again == [number + 1]
        body = {"trials": [number, *again], "add": ["look"]}
        assert (await api.post("/studies/study/tags", json=body)).status_code == 204
        told = (await api.get(f"/studies/study/trials/{again[0]}")).json()
        assert (told["retry_of"], told["tags"], told["state"]) == (number, ["look"], "waiting")
        assert (await api.post("/studies/study/rerun")).status_code == 409
        assert (await api.get("/studies/study/tags")).json()["items"] == [{"tag": "look", "trials": 2}]
        bad = await api.post("/studies/study/tags", json={"trials": [number], "add": [" "]})
        assert bad.status_code == 422

    play(scene)


def test_named_trials_are_tried_again_all_or_none(play):
    async def scene(api: Api) -> None:
        await api.post("/studies", json=study())
        numbers = await api.enqueue("study", 3)
        for number in numbers[:2]:
            await api.post(f"/studies/study/trials/{number}/cancel")
        both = await api.post("/studies/study/rerun", json={"trials": numbers})
        assert (both.status_code, "is waiting" in both.json()["detail"]) == (409, True)
        again = await api.post("/studies/study/rerun", json={"trials": numbers[:2]})
        assert (again.status_code, again.json()) == (201, {"numbers": [3, 4]})
        told = [(await api.get(f"/studies/study/trials/{n}")).json()["retry_of"] for n in (3, 4)]
        assert told == numbers[:2]

    play(scene)
