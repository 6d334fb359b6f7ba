"""A real supervisor, and a server that has places for what keeps leases and for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from processes import Server, filled, until

from .test_supervisor import EPOCHS, House

TTL_SECONDS = 9.0
FEW_PLACES = {
    "TUNESMITH_IN_FLIGHT": "8",
    "TUNESMITH_WAITING": "0",
    "TUNESMITH_BODY_SECONDS": "600",
}


def metric(server: Server, operator: str, name: str) -> float:
    text = httpx.get(
        f"{server.url}/metrics", headers={"Authorization": f"Bearer {operator}"}, timeout=60
    ).text
    return float(re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[0])


def test_a_trial_outlives_a_server_that_answers_beats_alone(tmp_path: Path):
    """For two lifetimes of its lease no report gets through; then all do, and nothing was done twice."""
    home = tmp_path / "service"
    home.mkdir()
    with (
        Server(home, ttl_seconds=TTL_SECONDS, environ=FEW_PLACES) as server,
        server.client() as client,
    ):
        operator = (home / "operator.token").read_text().strip()
        house = House(tmp_path, server, client)
        house.study()
        with house.worker():
            house.let(2)
            house.trial_is(state="running")
            until(lambda: house.steps() == [1, 2])
            with filled(server.port, operator):
                shed = 'tunesmith_requests_shed_total{priority="report"}'
                house.let(EPOCHS)
                until(lambda: metric(server, operator, shed) > 0)
                beats = 'tunesmith_commands_total{kind="renew"}'
                before = metric(server, operator, beats)
                until(lambda: metric(server, operator, beats) >= before + 6)
            trial = house.trial_is(state="complete")
        assert len(trial["attempts"]) == 1
        assert house.steps() == list(range(1, EPOCHS + 1))
        assert metric(server, operator, 'tunesmith_lease_expiries_total{cause="expired"}') == 0
