"""One study that planning cannot cope with stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from factories import WORK, Bench, stage
from processes import until
from simulation.server import LoopPlanner
from sqlalchemy import select, update
from tunesmith_service import commands as c
from tunesmith_service import planner as planning
from tunesmith_service import planner_link, tables
from tunesmith_service.db import writing
from tunesmith_service.disk import Disk
from tunesmith_service.errors import NoSpace
from tunesmith_service.planner import Desk, StudyPlanner
from tunesmith_service.planner_link import PlannerLink
from tunesmith_service.writer import Writer
from tunesmith_studies.log import Entry


@asynccontextmanager
async def linked(
    bench: Bench, disk: Disk | None = None, kind: type[PlannerLink] = PlannerLink
) -> AsyncIterator[PlannerLink]:
    """A planner process beside the bench's database."""
    writer = Writer(bench.engine, bench.clock, disk=disk)
    await writer.start()
    link = kind(bench.engine, writer)
    writer.on_commit(link.changed)
    await link.start()
    try:
        yield link
    finally:
        await link.stop()
        await writer.stop()


def proposed(bench: Bench, study: int) -> int:
    return int(bench.study_row(study).trial_n)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_study_that_cannot_be_read_keeps_no_other_from_being_planned(bench: Bench) -> None:
    poisoned, healthy = bench.study("poisoned"), bench.study("healthy")
    with writing(bench.engine).begin() as conn:
        spec = conn.execute(select(tables.studies.c.spec).where(tables.studies.c.id == poisoned)).scalar_one()
        broken = {**spec, "stages": [stage(kind="of a version to come")]}
        conn.execute(update(tables.studies).where(tables.studies.c.id == poisoned).values(spec=broken))

    async def scene() -> None:
        async with linked(bench):
            await asyncio.to_thread(until, lambda: proposed(bench, healthy) > 0)

    asyncio.run(scene())
    assert proposed(bench, poisoned) == 0


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_while_a_long_log_is_read_other_studies_have_their_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = bench.study("long")
    bench.batch(*(c.MoveStudy(long, state, "test", "") for state in ("paused", "active") * 5))
    short = bench.study("short")
    monkeypatch.setattr(planning, "CHUNK", 10)
    answered: list[tuple[int, bool]] = []

    class Noted(LoopPlanner):
        async def _receive(self) -> dict[str, Any]:
            answer = await super()._receive()
            answered.append((answer["study"], answer["done"]))
            return answer

    async def scene() -> None:
        async with linked(bench, kind=Noted):
            await asyncio.to_thread(until, lambda: answered.count((long, True)) > 1)

    asyncio.run(scene())
    assert answered[:5] == [(long, True), (short, False), (short, True), (long, False), (long, True)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_refused_proposal_does_not_start_the_planner_again(bench: Bench) -> None:
    study = bench.study()
    start = {"trial": 7, "step": 3}
    refused = {
        "do": "propose", "stage": "random", "key": "a", "ordinal": 0, "params": {"lr": 0.1}, "work": WORK,
        "start": start, "sampler_state": {}, "planned_at": 2, "draft": False,
    }  # fmt: skip
    good = refused | {"key": "b", "start": None}

    async def scene() -> None:
        writer = Writer(bench.engine, bench.clock)
        await writer.start()
        await PlannerLink(bench.engine, writer)._submit(study, [refused, good])
        await writer.stop()

    asyncio.run(scene())
    assert bench.row(study, 0).key == "b"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_planning_goes_on_by_itself_once_the_disk_has_room(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_link, "NO_ROOM_REST_SECONDS", 0.01)
    study, asked = bench.study(), []

    class Full(Disk):
        full = True

        def check(self, size: int = 0) -> None:
            asked.append(size)
            if self.full:
                raise NoSpace("full")

    async def scene() -> None:
        disk = Full(tmp_path)
        async with linked(bench, disk):
            await asyncio.to_thread(until, lambda: asked)
            assert proposed(bench, study) == 0
            disk.full = False
            await asyncio.to_thread(until, lambda: proposed(bench, study) > 0)

    asyncio.run(scene())


def test_a_pruner_that_raises_fails_its_stage_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int | None:
        raise ValueError("no such rung")

    monkeypatch.setattr(planning, "first_pruned_step", broken)
    told = {"name": "random", "pruner": {"kind": "median"}}
    planner = StudyPlanner({"name": "s", "task": "t", "space": SPACE, "stages": [stage(**told)]})
    planned = {"key": "a", "ordinal": 0, "params": {"lr": 0.1}, "work": WORK}
    running = {"from": "waiting", "to": "running", "attempt": 1}
    points = {"attempt": 1, "seq": 1, "points": [{"step": 1, "metrics": {"val/loss": 0.5}}]}
    planner.feed(
        [
            Entry(1, "stage", None, "random", {"state": "active", "reason": None, "result": None}),
            Entry(2, "planned", 0, "random", planned),
            Entry(3, "moved", 0, "random", running),
            Entry(4, "reported", 0, "random", points),
        ]
    )
    assert planner.verdicts() == []
    assert planner.decide(4) == [
        {"do": "fail_stage", "stage": "random", "reason": "its pruner raised ValueError: no such rung"}
    ]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_drafts_are_given_out_as_many_at_a_time_as_are_drawn_in_a_tenth_of_a_second(bench: Bench) -> None:
    drawn = stage("tpe", kind="sampler", sampler={"kind": "random"})
    study = bench.study(stages=[drawn])
    times = iter((0.0, 0.02, 1.0, 1.5, 2.0, 2.01))
    desk = Desk(bench.engine, clock=lambda: next(times))
    list(desk.answers({"study": study, "spec": bench.study_row(study).spec}))

    def given(slots: int) -> int:
        return len(list(desk.answers({"study": study, "plan": slots}))[-1]["commands"])

    assert [given(8), given(8), given(8)] == [1, 5, 1]  # at first one, in 20 ms; then 100 ms each


def test_drafts_that_a_slot_stands_idle_for_are_drawn_before_the_others() -> None:
    told = {"kind": "sampler", "sampler": {"kind": "random"}, "trials": 50}
    planner = StudyPlanner({"name": "s", "task": "t", "space": SPACE, "stages": [stage(**told)]})
    active = {"state": "active", "reason": None, "result": None}
    entries = [Entry(1, "stage", None, "random", active)]

    def put(kind: Any, trial: int, **data: Any) -> None:
        entries.append(Entry(planner.log.at + len(entries) + 1, kind, trial, "random", data))

    def decide() -> list[str]:
        planner.feed(entries)
        entries.clear()
        return [command["do"] for command in planner.decide(3)]

    planned = {"params": {"lr": 0.1}, "work": WORK, "draft": True}
    for i in range(5):
        put("planned", i, key=f"point:{i}", ordinal=i, planned_at=1, **planned)
    for i in range(3):
        put("moved", i, **{"from": "waiting", "to": "running", "attempt": 1})
    assert decide() == ["propose"]  # a third draft, as two wait and every slot is taken
    put("moved", 0, **{"from": "running", "to": "complete", "stop_reason": "budget", "value": 0.5})
    assert decide() == ["redraw"]  # one slot is free, both drafts are stale
    put("redrawn", 3, params={"lr": 0.2}, sampler_state={}, planned_at=planner.log.at)
    assert decide() == ["redraw", "propose"]


SPACE = {"lr": {"low": 1e-4, "high": 1.0, "log": True}}
