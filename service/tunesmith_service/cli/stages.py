"""`tunesmith stage …`"""

from __future__ import annotations

import click

from tunesmith_service.cli import study_file, views
from tunesmith_service.cli.base import PeopleGroup, Session
from tunesmith_service.cli.studies import study_argument, yes_option


@click.group(cls=PeopleGroup)
def stage() -> None:
    """Add stages to a study that runs, skip some, or override a check that blocks it."""


@stage.command()
@study_argument
@click.option("-f", "--file", "source", required=True, metavar="FILE", help="One stage, as in a study file.")
def add(session: Session, study: str, source: str) -> None:
    """Add a stage at the end of a study; one that was complete becomes active again."""
    session.show(
        session.client.post("studies", study, "stages", json=study_file.read(source)), views.study_page
    )


@stage.command()
@study_argument
@click.argument("name")
@click.option("--reason", default="skipped by hand", show_default=True, help="Kept with the stage.")
@yes_option
def skip(session: Session, study: str, name: str, reason: str, yes: bool) -> None:
    """Skip a stage: its waiting trials are cancelled, running ones go on."""
    session.confirm(f"Skip stage {name} of study {study}?", yes=yes)
    answer = session.client.post("studies", study, "stages", name, "skip", json={"reason": reason})
    session.show(answer, views.study_page)


@stage.command()
@study_argument
@click.argument("name")
@click.option("--reason", required=True, help="Why to go on all the same; it is kept with the stage.")
def override(session: Session, study: str, name: str, reason: str) -> None:
    """Go on past a check that failed and blocks the study. The stage stays failed."""
    answer = session.client.post("studies", study, "stages", name, "override", json={"reason": reason})
    session.show(answer, views.study_page)
