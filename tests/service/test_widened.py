"""A space that the border rule has widened is open to people as well."""

from __future__ import annotations

from tunesmith_service.commands import EndStage

from .conftest import Api, study

RESULT = {
    "ranking": [], "why": "The best lay at the border.", "chosen": {"widened": {"lr": [1e-3, 0.3]}},
    "failed": False, "blocks": False, "findings": [], "numbers": {},
}  # fmt: skip


def test_trials_by_hand_may_lie_where_the_border_rule_has_widened_the_space(play):
    async def scene(api: Api) -> None:
        stages = [{"kind": "lr_range_test", "name": "range"}, *study()["stages"]]
        await api.post("/studies", json=study(stages=stages))
        beyond = {"stage": "coarse", "params": [{"lr": 0.3}]}
        refused = await api.post("/studies/study/trials", json=beyond)
        assert refused.status_code == 422
        assert "outside the space, which has [0.001, 0.1]" in refused.json()["detail"]
        n = (await api.get("/studies/study")).json()["event_n"]
        assert await api.service.writer.submit(EndStage(1, "range", RESULT, n))
        assert (await api.post("/studies/study/trials", json=beyond)).status_code == 201
        too_far = await api.post("/studies/study/trials", json={"stage": "coarse", "params": [{"lr": 1.0}]})
        assert "outside the space, which has [0.001, 0.3]" in too_far.json()["detail"]

    play(scene)
