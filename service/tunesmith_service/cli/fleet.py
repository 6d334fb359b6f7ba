"""`tunesmith fleet …`: the workers, and which of them get trials."""

from __future__ import annotations

from typing import Any

import click

from tunesmith_service.cli import text
from tunesmith_service.cli.base import PeopleGroup, Session


@click.group(cls=PeopleGroup)
def fleet() -> None:
    """List workers; give one no new trial, or trials again."""


@fleet.command("list")
def list_(session: Session) -> None:
    """List the workers that ever registered."""
    session.show(list(session.client.pages("workers")), _table)


@fleet.command()
@click.argument("worker_id")
def drain(session: Session, worker_id: str) -> None:
    """Give a worker no new trial; those that it runs go on."""
    session.client.post("workers", worker_id, "drain")
    session.show({"id": worker_id, "draining": True}, lambda _: f"Worker {worker_id} gets no new trial.")


@fleet.command()
@click.argument("worker_id")
def undrain(session: Session, worker_id: str) -> None:
    """Give a worker trials again, at once; also one that was set aside for breaking them."""
    session.client.post("workers", worker_id, "undrain")
    session.show({"id": worker_id, "draining": False}, lambda _: f"Worker {worker_id} gets trials again.")


def _table(workers: list[dict[str, Any]]) -> str:
    if not workers:
        return "No worker has registered yet; start one with `tunesmith worker`."
    lines = [[w["id"], w["name"], _state(w), str(len(w["slots"])), str(w["running"])] for w in workers]
    return text.table(["id", "name", "state", "slots", "running"], lines)


def _state(worker: dict[str, Any]) -> str:
    if not worker["online"]:
        return "away"
    if worker["draining"]:
        return "draining"
    until = worker["aside_until"]
    return f"set aside until {text.moment(until)}" if until else "online"
