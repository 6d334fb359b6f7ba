"""A worker that breaks one trial after another is set aside, and the trials lose no retry by it."""

from __future__ import annotations

import pytest
from factories import PROJECT, Bench, Grant, Slot
from tunesmith_service import commands as c
from tunesmith_service import store
from tunesmith_service.clock import SECOND

from .conftest import Api, study

MINUTE = 60 * SECOND
FAULT = {"state": "failed", "stop_reason": "error", "retryable": True}


def breaks(bench: Bench, slot: Slot, *, after: int = SECOND, **how: object) -> Grant:
    """The slot claims a trial, and a fault of its machine ends it."""
    grant = bench.claim(slot)
    bench.clock.advance(after)
    bench.finish(grant, **{**FAULT, **how})
    return grant


def minutes_aside(bench: Bench, slot: Slot) -> int:
    """How long the slot's worker is still set aside; 0 if it is not."""
    with bench.engine.connect() as conn:
        (worker,) = (w for w in store.workers(conn, PROJECT) if w.id == slot.worker_id)
    return (
        round(((worker.aside_until_us or 0) - bench.clock.now_us()) / MINUTE) if worker.aside_until_us else 0
    )


@pytest.fixture
def study_id(bench: Bench) -> int:
    made = bench.study()
    for _ in range(8):
        bench.trial(made)
    return made


def test_after_three_faults_on_different_trials_a_worker_gets_no_trial_for_ten_minutes(
    bench: Bench, study_id: int
) -> None:
    slot = bench.register()[0]
    broken = [breaks(bench, slot) for _ in range(3)]
    until = bench.do(bench.ask(slot))
    assert until == c.Nothing(retry_at_us=bench.clock.now_us() + 10 * MINUTE)
    failures = [bench.row(study_id, g.number).failures for g in broken]
    assert failures == [0, 0, 0]
    assert bench.row(study_id, broken[2].number).not_before_us == 0  # at once: it is not its fault
    bench.seconds(600)
    assert bench.claim(slot).attempt == 2


def test_each_time_it_is_set_aside_for_twice_as_long_until_it_works_again(
    bench: Bench, study_id: int
) -> None:
    slot = bench.register()[0]
    spans = []
    for n in range(3):
        if n == 2:
            bench.finish(bench.claim(slot), "pruned", "diverged")
        for _ in range(3):
            breaks(bench, slot)
        bench.sweep()
        spans.append(minutes_aside(bench, slot))
        bench.clock.advance(spans[-1] * MINUTE)
    assert spans == [10, 20, 10]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"retryable": False}, "an error of the trial itself"),
        ({"after": 61 * SECOND}, "a fault after it had worked for a while"),
        ({"state": "pruned", "stop_reason": "diverged", "retryable": False}, "a divergence"),
    ],
)
def test_what_says_nothing_of_the_machine_sets_nobody_aside(
    bench: Bench, study_id: int, how: dict[str, object], why: str
) -> None:
    slot = bench.register()[0]
    for _ in range(4):
        breaks(bench, slot, **how)  # type: ignore[arg-type]
    bench.sweep()
    assert minutes_aside(bench, slot) == 0, why


def test_one_trial_that_fails_again_and_again_sets_nobody_aside(bench: Bench) -> None:
    study_id, slot = bench.study(retries=5), bench.register()[0]
    bench.trial(study_id)
    for _ in range(4):
        breaks(bench, slot)
        bench.seconds(60)
    bench.sweep()
    assert minutes_aside(bench, slot) == 0
    assert bench.row(study_id, 0).failures == 4


def test_three_slots_that_break_at_once_are_one_workers_three_faults(bench: Bench, study_id: int) -> None:
    slots = bench.register(3)
    grants = [bench.claim(s) for s in slots]
    bench.batch(*(c.Finish(g.lease, "failed", "error", retryable=True) for g in grants))
    bench.sweep()
    assert minutes_aside(bench, slots[0]) == 10
    assert [bench.row(study_id, g.number).failures for g in grants] == [0, 0, 0]


def test_the_last_retry_is_not_lost_to_a_worker_that_is_set_aside_by_it(bench: Bench) -> None:
    study_id, slot = bench.study(retries=0), bench.register()[0]
    for _ in range(3):
        bench.trial(study_id)
    broken = [breaks(bench, slot) for _ in range(3)]
    assert [bench.row(study_id, g.number).state for g in broken] == ["failed", "failed", "waiting"]


def test_a_person_lets_it_work_again_at_once(bench: Bench, study_id: int) -> None:
    slot = bench.register()[0]
    for _ in range(3):
        breaks(bench, slot)
    bench.sweep()
    bench.do(c.DrainWorker(PROJECT, slot.worker_id, draining=False))
    assert minutes_aside(bench, slot) == 0
    breaks(bench, slot)  # the earlier ones are forgotten
    bench.sweep()
    assert minutes_aside(bench, slot) == 0


def test_people_see_who_is_set_aside_and_until_when(play) -> None:
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study("broken"))).status_code == 201
        await api.enqueue("broken", 3)
        worker = await api.register()
        for _ in range(3):
            grant = (await api.claim(worker)).json()["grant"]
            header = {"Tunesmith-Lease": f"1.{grant['attempt']}.5ec1e7{'0' * 26}"}
            path = f"/leases/{grant['trial_id']}/finish"
            assert (await api.post(path, role="worker", headers=header, json=FAULT)).status_code == 200
        shown = (await api.get("/workers")).json()["items"][0]
        assert shown["aside_until"] == "2025-06-15T15:16:40Z"
        assert (await api.claim(worker)).json()["grant"] is None
        assert (await api.post(f"/workers/{shown['id']}/undrain")).status_code == 204
        assert (await api.get("/workers")).json()["items"][0]["aside_until"] is None

    play(scene)
