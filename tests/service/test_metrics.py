"""What a server tells Prometheus, who may ask, and that the alerts that we ship ask for what it tells."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families
from statements import statements
from tunesmith_service.clock import SECOND
from tunesmith_service.places import Priority
from tunesmith_service.settings import Settings

from .conftest import Api, study

ALERTS = Path(__file__).parents[2] / "docs/operating/alerts.yml"
GUIDE = ALERTS.parents[1] / "operating.md"


async def told(api: Api) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus writes them."""
    answer = await api.get("/metrics", base="", role="viewer")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_viewers_token_may_ask_and_nobody_without_one(play):
    async def scene(api: Api) -> None:
        for role, status in (
            ("viewer", 200), ("researcher", 200), ("admin", 200), ("operator", 200), ("worker", 403),
        ):  # fmt: skip
            assert (await api.get("/metrics", base="", role=role)).status_code == status
        assert (await api.get("/metrics", base="", token="")).status_code == 401

    play(scene)


def test_trials_are_counted_as_they_stand(play_on_each):
    async def scene(api: Api) -> None:
        for name in ("open", "narrow", "paused"):
            limits = {"limits": {"max_concurrent": 1}} if name == "narrow" else {}
            assert (await api.post("/studies", json=study(name, **limits))).status_code == 201
            await api.enqueue(name, 3)
        assert (await api.post("/studies/paused/pause")).status_code == 200
        assert (await api.claim()).json()["grant"]["work"]["study"] == "open"
        found = await told(api)
        assert found["tunesmith_trials_waiting"] == 8
        assert found["tunesmith_trials_claimable"] == 2 + 1
        assert found["tunesmith_trials_running"] == 1

    play_on_each(scene)


def test_a_scrape_reads_as_much_however_many_trials_there_are(play):
    async def scene(api: Api) -> None:
        assert (await api.post("/studies", json=study("s"))).status_code == 201
        await told(api)
        reads = []
        for n in (1, 99):
            await api.enqueue("s", n)
            with statements(api.service.engine) as sent:
                await told(api)
            reads.append([s for s in sent if "FROM trials" in s or "FROM studies" in s])
        assert len(reads[0]) == len(reads[1]) == 1
        assert "FROM studies" in reads[1][0]

    play(scene)


def test_expiries_requeues_and_zombies(play_on_each):
    async def scene(api: Api) -> None:
        lost, released, failed = [await api.lease() for _ in range(3)]
        await api.say(released, "release", {"cause": "preempted"})
        error = {"kind": "cuda", "message": "m"}
        again = {"state": "failed", "stop_reason": "error", "error": error, "retryable": True}
        assert (await api.say(failed, "finish", again)).json()["state"] == "waiting"
        api.clock.advance(31 * SECOND)
        await api.service.sweeper.tick()
        assert (await api.say(lost, "heartbeat", {})).status_code == 409
        assert (
            await api.say(lost, "finish", {"state": "complete", "stop_reason": "budget"})
        ).status_code == 409
        found = await told(api)
        assert found['tunesmith_lease_expiries_total{cause="expired"}'] == 1
        assert found['tunesmith_lease_expiries_total{cause="reboot"}'] == 0
        for cause, n in {"expired": 1, "release": 1, "retry": 1, "reboot": 0}.items():
            assert found[f'tunesmith_trials_requeued_total{{cause="{cause}"}}'] == n
        assert found['tunesmith_fenced_writes_total{kind="renew"}'] == 1
        assert found['tunesmith_fenced_writes_total{kind="finish"}'] == 1
        assert found['tunesmith_commands_total{kind="renew"}'] == 1
        assert found['tunesmith_answers_total{status="409"}'] == 2

    play_on_each(scene)


def test_a_slot_that_starts_anew_is_told_apart(play):
    async def scene(api: Api) -> None:
        worker = await api.register()
        await api.post("/studies", json=study("s"))
        await api.enqueue("s")
        assert (await api.claim(worker)).json()["grant"] is not None
        again = await api.call(
            "PUT",
            f"/workers/{worker['worker_id']}",
            role="worker",
            json=worker | {"boot_id": "b" * 32, "starts": 2},
        )
        assert again.status_code == 200
        found = await told(api)
        assert found['tunesmith_lease_expiries_total{cause="reboot"}'] == 1
        assert found['tunesmith_trials_requeued_total{cause="reboot"}'] == 1

    play(scene)


def test_answers_waits_and_refusals(play):
    async def scene(api: Api) -> None:
        lease = await api.lease()
        await api.say(lease, "heartbeat", {})
        await api.get("/studies/none")
        await api.token("viewer")
        await api.service.know_tokens()
        before = await told(api)
        places = [await api.service.places.enter(Priority.DASHBOARD) for _ in range(3)]
        assert (await api.get("/studies")).status_code == 429
        found = await told(api)  # under load it is answered
        assert found["tunesmith_requests_in_flight"] == 4  # this one holds the reserved place
        assert found['tunesmith_requests_shed_total{priority="dashboard"}'] == 1
        assert (
            found['tunesmith_answers_total{status="429"}']
            == before['tunesmith_answers_total{status="429"}'] + 1
        )
        assert found['tunesmith_answers_total{status="4xx"}'] == 1
        assert found['tunesmith_request_seconds_count{priority="keep"}'] >= 1
        assert found["tunesmith_claim_wait_seconds_count"] == 1
        assert found["tunesmith_batch_commands_count"] == found["tunesmith_batch_seconds_count"] > 0
        for place in places:
            place.leave()

    play(scene, in_flight=4, waiting=0)


def test_what_stands_beside_requests(play):
    async def scene(api: Api) -> None:
        api.service.sweeper._ticked -= 11
        found = await told(api)
        assert 11 <= found["tunesmith_sweeper_age_seconds"] < 30
        assert found["tunesmith_planner_up"] == 0
        assert found["tunesmith_disk_free_bytes"] > 0
        assert found["tunesmith_disk_reserve_bytes"] == 12345
        assert found['tunesmith_database_connections{state="in_use"}'] >= 0

    play(scene, reserve_bytes=12345)


def test_no_label_holds_what_somebody_wrote(play):
    """Names of studies, trials, workers, metrics and tokens, and paths that nobody routes."""

    async def scene(api: Api) -> None:
        lease = await api.lease()
        report = {"seq": 1, "points": [{"step": 1, "metrics": {"val/secretmetric": 1.0}}]}
        assert (await api.say(lease, "reports", report)).status_code == 200
        await api.post("/studies", json=study("secretstudy"))
        await api.get("/secretpath")
        text = (await api.get("/metrics", base="", role="viewer")).text
        assert not re.search(r"secret|study-", text)
        labels = set(re.findall(r'(\w+)="', text))
        assert labels == {"cause", "kind", "status", "priority", "state", "le"}

    play(scene)


def test_alerts_ask_for_what_is_told(play):
    async def scene(api: Api) -> None:
        names = {re.sub(r"{.*", "", name) for name in await told(api)}
        (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            asked = re.findall(r"tunesmith_\w+", rule["expr"])
            assert asked
            assert set(asked) <= names, rule["alert"]
            assert rule["alert"] in GUIDE.read_text()
        assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) == 4

    play(scene)


def test_labels_in_alerts_have_values_that_there_are(play):
    async def scene(api: Api) -> None:
        found = await told(api)
        for name, label in re.findall(r"(tunesmith_\w+){(\w+=\"\w+\")}", ALERTS.read_text()):
            assert f"{name}{{{label}}}" in found

    play(scene)


def test_the_guide_names_every_metric_and_no_other(play):
    async def scene(api: Api) -> None:
        text = (await api.get("/metrics", base="", role="viewer")).text
        told = {f.name for f in text_string_to_metric_families(text) if not f.name.endswith("_created")}
        section = GUIDE.read_text().partition("## Metrics")[2].partition("Each server tells its own")[0]
        named = {name.removesuffix("_total") for name in re.findall(r"`(tunesmith_\w+)", section)}
        assert named == told

    play(scene)


def test_the_guides_limits_are_settings_with_the_defaults_that_it_gives():
    section = GUIDE.read_text().partition("## Limits")[2].partition("## Metrics")[0]
    rows = re.findall(r"^\|[^|]*\| ([^|]*) \| (`[^|]*) \|", section, re.MULTILINE)
    assert len(rows) >= 20
    for told, names in rows:
        wanted = [getattr(Settings(), name) for name in re.findall(r"`(\w+)`", names)]
        found = [_number(n, unit) for n, unit in re.findall(r"(\d[\d,]*)(?: (MiB|KiB|GiB))?", told)]
        assert all(value in found for value in wanted), (told, names)


def _number(digits: str, unit: str) -> int:
    return int(digits.replace(",", "")) * {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
