"""Final stages through a real service and a real worker: an ensemble, and the test set read and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from processes import Server, Worker, until
from tunesmith_service.client import Client


def study(name: str) -> dict[str, Any]:
    return {
        "name": name, "task": "digits", "space": {"lr": {"low": 0.01, "high": 0.3, "log": True}},
        "fixed": {"optimizer": "momentum", "momentum": 0.9, "hidden": 16, "batch_size": 128},
        "stages": [
            {"kind": "coarse_grid", "epochs": 1, "axes": {"lr": [0.05, 0.2]}},
            {"kind": "cross_validation", "epochs": 1, "folds": 3, "top": 2},
            {"kind": "final", "epochs": 2, "top": 2, "honest_seeds": 3},
        ],
    }  # fmt: skip


def ended(client: Client, name: str) -> dict[str, Any] | None:
    found = client.get("studies", name)
    return dict(found) if found["state"] in ("complete", "stopped") else None


@pytest.mark.long
def test_a_second_final_stage_is_told_that_the_test_set_was_read_before(tmp_path: Path) -> None:
    with Server(tmp_path / "home") as server:
        client = server.client()
        with client, Worker(server.url, server.worker_token, tmp_path / "worker") as worker:
            for nth, name in enumerate(("first", "second"), start=1):
                client.post("studies", json=study(name))
                found = until(lambda name=name: ended(client, name), 600, saw=lambda: worker.said[-3000:])
                assert found["state"] == "complete"
                the_winner_was_evaluated(client, name, found["stages"][-1]["result"], nth)


def the_winner_was_evaluated(client: Client, name: str, result: dict[str, Any], nth: int) -> None:
    """Three models of it, alone and averaged, by the nth trial that read this task's test set."""
    trials = list(client.pages("studies", name, "trials", stage="final"))
    (evaluation,) = [t for t in trials if t["kind"] == "evaluate"]
    assert (evaluation["state"], evaluation["test_read"]) == ("complete", nth)
    kinds = {f["kind"] for f in result["findings"]}
    assert ("test_read_again" in kinds) is (nth == 2)
    assert "evaluation_disagrees" not in kinds
    assert result["numbers"]["members"] == 3
    assert result["numbers"]["ensemble"].keys() == {"loss", "accuracy"}
    assert result["numbers"]["test"]["ensemble"].keys() == {"loss", "accuracy"}
    detail = client.get("studies", name, "trials", evaluation["number"])
    assert set(detail["artifacts"]) == {"confusion.json", "predictions.json", "mistakes.json"}
