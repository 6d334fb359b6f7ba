"""The fleet's page: who is here, what ran where, and who may change it."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from light import LightWorker
from tunesmith_service import commands, db, migrate, wire
from tunesmith_service.blobs import BlobStore
from tunesmith_service.charts import timeline
from tunesmith_service.client import Lease
from tunesmith_service.security import Role, Who
from tunesmith_service.ui import fleet
from ui.conftest import Dashboard, csrf
from ui.seeding import Seeder


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("fleet")
    engine = db.open_engine(f"sqlite:///{home / 'tunesmith.db'}")
    migrate.upgrade(engine)
    blobs = BlobStore(home / "blobs")
    blobs.prepare()
    seeder = Seeder(engine, blobs)
    token = seeder.do(commands.CreateToken(None, "seed", "operator", "5eed" * 4, b"0" * 32, None, "seed"))
    seeder.some_of_everything(token)
    seeder.do(commands.Sweep())
    yield engine
    engine.dispose()


def test_a_lane_has_a_bar_for_each_attempt_and_says_how_it_ended(seeded):
    with seeded.connect() as conn:
        view = timeline.of_fleet(conn, None)
    assert view["lanes"] == ["gpu-a cuda:0"]
    assert view["shown"] == 36
    by_trial = {(n, a): s for n, a, s in zip(view["number"], view["attempt"], view["state"], strict=True)}
    assert by_trial[20, 1] == "pruned"
    assert by_trial[33, 1] == "failed"
    assert (by_trial[34, 1], by_trial[34, 2]) == ("lost", "running")
    assert view["end"][view["state"].index("running")] is None
    for start, end in zip(view["start"], view["end"], strict=True):
        assert view["from"] <= start <= (end or start) <= view["to"]
    assert 0 < view["idle"][0] < 1


def test_another_project_sees_no_lane_of_ours(seeded):
    with seeded.connect() as conn:
        assert timeline.of_fleet(conn, 2)["lanes"] == []


def test_the_fleet_counts_what_it_holds(seeded):
    who = Who(1, "k", "n", Role.OPERATOR, None)
    with seeded.connect() as conn:
        shown = fleet.screen(conn, who)
    (worker,) = shown.workers
    (held,) = [h for _, h in worker.slots]
    assert held is not None
    assert (held.number, held.done, held.progress) == (34, "7/20", 35.0)
    assert (worker.done, worker.failed) == (33, 1)
    assert (shown.throughput, shown.queue, shown.slots) == (34, 1, 1)
    assert shown.idle is not None
    assert 0 < shown.idle < 1


def test_the_studys_own_lanes_are_one_of_its_views(dashboard: Dashboard, person: httpx.Client):
    path = f"/studies/{dashboard.study}/views/timeline"
    view = person.get(f"/ui{path}").json()
    assert view["total"] == 36
    assert view == dashboard.api("GET", path).json() | {"to": view["to"], "idle": view["idle"]}
    some = person.get(f"/ui{path}?filter=stage:refine").json()
    assert set(some["number"]) <= set(range(24, 36))
    assert some["total"] == 12


def test_a_viewer_sees_the_fleet_and_may_neither_drain_nor_make_a_token(dashboard: Dashboard):
    with dashboard.login(dashboard.token("viewer")) as viewer:
        html = viewer.get("/ui/workers").text
        assert "gpu-a" in html
        assert "popovertarget" not in html
        word = {"Tunesmith-CSRF": csrf(html)}
        assert viewer.post(f"/ui/workers/{'1' * 32}/drain", headers=word).status_code == 403
        assert viewer.post("/ui/workers/token", headers=word).status_code == 403


def test_a_drained_worker_ends_its_trial_and_gets_no_other_until_it_is_undrained(
    dashboard: Dashboard, person: httpx.Client
):
    """Browser test 27, its part without a browser."""
    study = {
        "name": "drained", "task": "drained", "space": {"lr": [0.1, 0.2, 0.3]},
        "stages": [{"kind": "coarse_grid", "name": "grid", "epochs": 2}],
    }  # fmt: skip
    made = dashboard.api("POST", "/studies", json=study).json()["id"]
    cells = {"params": [{"lr": 0.1}, {"lr": 0.2}], "stage": "grid"}
    dashboard.api("POST", f"/studies/{made}/trials", json=cells)
    word = {"Tunesmith-CSRF": csrf(person.get("/ui/workers").text)}
    token = (dashboard.home / "worker.token").read_text().strip()

    worker = LightWorker(dashboard.url, token, name="to-be-drained", task="drained")

    async def hold() -> tuple[Lease, wire.WorkOrder]:
        await worker.register()
        held = await worker.claim()
        assert held is not None
        return held

    async def end(lease: Lease, work: wire.WorkOrder) -> bool:
        await worker.report(lease, work, 1, 1)
        await worker.finish(lease)
        return await worker.claim() is None

    with asyncio.Runner() as runner:
        held = runner.run(hold())
        assert person.post(f"/ui/workers/{worker.worker_id}/drain", headers=word).status_code == 204
        assert "draining" in person.get("/ui/workers").text
        assert runner.run(end(*held))
        assert person.post(f"/ui/workers/{worker.worker_id}/undrain", headers=word).status_code == 204
        assert runner.run(worker.claim()) is not None
        runner.run(worker.client.aclose())
    done = dashboard.api("GET", f"/studies/{made}/trials?state=complete").json()["items"]
    assert len(done) == 1


def test_joining_shows_a_workers_token_once_in_commands_that_work(dashboard: Dashboard, person: httpx.Client):
    word = {"Tunesmith-CSRF": csrf(person.get("/ui/workers").text)}
    part = person.post("/ui/workers/token", headers=word).text
    token = part.partition("printf %s ")[2].partition(" >")[0]
    assert f"tunesmith worker --url {dashboard.url} --token-file worker.token" in part

    async def join() -> None:
        worker = LightWorker(dashboard.url, token, name="joined")
        await worker.register()
        await worker.client.aclose()

    asyncio.run(join())
    html = person.get("/ui/workers").text
    assert ">joined</th>" in html
    assert token not in html
