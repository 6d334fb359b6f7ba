"""`tunesmith token …`, `tunesmith login` and `tunesmith version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

import click

from tunesmith_service.cli import views
from tunesmith_service.cli.base import PeopleCommand, PeopleGroup, Session
from tunesmith_service.cli.studies import yes_option

ROLES = ("viewer", "researcher", "worker", "admin", "operator")


@click.group(cls=PeopleGroup)
def token() -> None:
    """Make, list and revoke the tokens that people and workers carry."""


@token.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(ROLES), default="researcher", show_default=True, help="What it may."
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    help="Expires after so many days; else a worker's after 30, others after 90.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the token alone, to go into a file.")
def create(session: Session, name: str, role: str, days: float | None, quiet: bool) -> None:
    """Make a token. It is shown once, here, and stored nowhere."""
    body: dict[str, Any] = {"name": name, "role": role}
    if days is not None:
        body["days"] = days
    session.show(session.client.post("tokens", json=body), views.secret_alone if quiet else views.new_token)


@token.command("list")
def list_(session: Session) -> None:
    """List tokens, without their secrets."""
    session.show(session.client.get("tokens")["items"], views.token_list)


@token.command()
@click.argument("key_id")
@yes_option
def revoke(session: Session, key_id: str, yes: bool) -> None:
    """End a token; whoever carries it is refused within a second."""
    session.confirm(f"Revoke token {key_id}?", yes=yes)
    session.client.delete("tokens", key_id)
    session.show({"key_id": key_id, "revoked": True}, lambda _: f"Token {key_id} is revoked.")


@click.command(cls=PeopleCommand)
@click.option("--open", "open_it", is_flag=True, help="Open it in a browser.")
def login(session: Session, open_it: bool) -> None:
    """Print a link that opens the dashboard once, without a password."""
    answer = session.client.post("login-codes")
    session.show(answer, views.login)
    if open_it:
        click.launch(answer["url"])


@click.command(cls=PeopleCommand)
def version(session: Session) -> None:
    """Print the versions of Tunesmith and of what decides its results."""
    session.show(versions(), lambda answer: "\n".join(f"{k} {v}" for k, v in answer.items()))


def versions() -> dict[str, str]:
    """Tunesmith, Python, and the installed packages that results depend on."""
    found = {"tunesmith": installed("tunesmith"), "python": platform.python_version()}
    for package in ("optuna", "numpy", "sqlalchemy", "fastapi", "torch"):
        try:
            found[package] = installed(package)
        except PackageNotFoundError:  # a server has no torch
            continue
    return found
