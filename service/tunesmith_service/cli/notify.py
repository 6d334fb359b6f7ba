"""`tunesmith notify …`: who is told of what, and what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, get_args

import click

from tunesmith_service.cli import text
from tunesmith_service.cli.base import PeopleGroup, Session
from tunesmith_service.cli.studies import yes_option
from tunesmith_service.notices import Event

Answer = dict[str, Any]


@click.group(cls=PeopleGroup)
def notify() -> None:
    """Tell people and programs of what happens: webhook, Slack or e-mail. For operators."""


@notify.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["webhook", "slack", "email"]), required=True, help="How.")
@click.option("--to", required=True, metavar="URL|ADDRESS", help="Where.")
@click.option(
    "--event", "events", multiple=True, type=click.Choice(get_args(Event)),
    help="Of what; repeatable.  [default: all but new_best and study_paused]",
)  # fmt: skip
def add(session: Session, name: str, kind: str, to: str, events: tuple[str, ...]) -> None:
    """Tell somebody from now on. A webhook's secret is shown once, here."""
    body: Answer = {"name": name, "kind": kind, "to": to} | ({"events": list(events)} if events else {})
    session.show(session.client.post("notify", "targets", json=body), _added)


@notify.command("list")
def list_(session: Session) -> None:
    """List who is told of what."""
    session.show(session.client.get("notify", "targets")["items"], _targets)


@notify.command()
@click.argument("name")
def test(session: Session, name: str) -> None:
    """Send somebody a message that says that it is a test."""
    said = "A test is on its way; `tunesmith notify log` says what became of it."
    session.show(session.client.post("notify", "targets", name, "test"), lambda _: said)


@notify.command()
@click.argument("name")
@yes_option
def remove(session: Session, name: str, yes: bool) -> None:
    """Tell somebody no more; what was sent to them is forgotten."""
    session.confirm(f"Remove target {name}?", yes=yes)
    session.client.delete("notify", "targets", name)
    session.show({"name": name, "removed": True}, lambda _: f"{name} is told no more.")


@notify.command()
@click.option("-n", "most", type=click.IntRange(min=1), default=50, show_default=True, help="At most.")
def log(session: Session, most: int) -> None:
    """List what was sent, or waits to be, the newest first."""
    found = session.client.pages("notify", "deliveries", limit=min(most, 1000))
    session.show(list(islice(found, most)), _log)


def _added(answer: Answer) -> str:
    said = f"{answer['name']} is told from now on; try it with `tunesmith notify test`."
    if answer["secret"] is None:
        return said
    return f"{answer['secret']}\n{said} Above is the secret that signs its messages, shown this once."


def _targets(targets: Sequence[Answer]) -> str:
    rows = [(t["name"], t["kind"], t["to"], ", ".join(t["events"])) for t in targets]
    return text.table(("name", "kind", "to", "events"), rows)


def _log(deliveries: Sequence[Answer]) -> str:
    rows = [
        (
            text.moment(d["created_at"]),
            d["target"],
            d["event"],
            d["state"],
            d["tries"],
            d["said"] or "",
            d["text"],
        )
        for d in deliveries
    ]
    return text.table(("at", "target", "event", "state", "tries", "said", "text"), rows)
