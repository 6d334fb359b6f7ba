"""`tunesmith session …`: the browsers that a token has logged in."""

from __future__ import annotations

import click

from tunesmith_service.cli import views
from tunesmith_service.cli.base import PeopleGroup, Session
from tunesmith_service.cli.studies import yes_option


@click.group(cls=PeopleGroup, name="session")
def browsers() -> None:
    """List the browsers that your token has logged in, and log them out."""


@browsers.command("list")
def list_(session: Session) -> None:
    """List your dashboard sessions, the one that was used last first."""
    session.show(session.client.get("sessions")["items"], views.session_list)


@browsers.command()
@click.argument("key", required=False)
@click.option("--all", "everywhere", is_flag=True, help="Log out everywhere.")
@yes_option
def end(session: Session, key: str | None, everywhere: bool, yes: bool) -> None:
    """Log a browser out by its key, or all of them. Your token goes on working."""
    if (key is None) != everywhere or key == "":
        raise click.UsageError("Give the KEY of one session, or --all.")
    session.confirm("Log out everywhere?" if key is None else f"End session {key}?", yes=yes)
    session.client.delete("sessions", *([] if key is None else [key]))
    said = "You are logged out everywhere." if key is None else f"Session {key} has ended."
    session.show({"key": key, "ended": True}, lambda _: said)
