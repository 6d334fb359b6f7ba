"""`tunesmith stage …`"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from tunesmith_studies.differences import changed
from tunesmith_studies.study import free_name

from tunesmith_service.cli import study_file, views
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleGroup, Session
from tunesmith_service.cli.studies import study_argument, yes_option

dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what it would run; add nothing.")


@click.group(cls=PeopleGroup)
def stage() -> None:
    """Add stages to a study that runs, skip some, or override a check that blocks it."""


@stage.command()
@study_argument
@click.option("-f", "--file", "source", required=True, metavar="FILE", help="One stage, as in a study file.")
@dry_run_option
def add(session: Session, study: str, source: str, dry_run: bool) -> None:
    """Add a stage at the end of a study; one that was complete becomes active again."""
    _add(session, study, study_file.read(source), dry_run)


@stage.command()
@study_argument
@click.argument("name", required=False)
@click.option(
    "-p", "--param", metavar="NAME", help="Along which hyperparameter, where several lie on an edge."
)
@click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE", help="A field of the stage otherwise; repeat."
)
@dry_run_option
def extend(  # noqa: PLR0917
    session: Session,
    study: str,
    name: str | None,
    param: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Go on past an edge on which the best of a stage lies, with the stage that its finding proposes."""
    found = session.client.get("studies", study, "findings", stage=name)["items"]
    wanted = [f for f in found if f["proposes"] and param in (None, f["numbers"]["parameter"])]
    if len(wanted) != 1:
        raise CommandError(ExitCode.NOT_FOUND if not wanted else ExitCode.USAGE, *_which(study, wanted))
    taken = [s["name"] for s in session.client.get("studies", study)["stages"]]
    proposed = wanted[0]["proposes"]
    proposed |= {"name": free_name(proposed["name"], taken)}
    _add(session, study, changed(proposed, study_file.changes(settings)), dry_run)


def _which(study: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if not found:
        return f"No finding of {study} proposes a stage.", f"`tunesmith findings {study}` has what was found"
    ways = ", ".join(f"{f['stage']} -p {f['numbers']['parameter']}" for f in found)
    return f"{len(found)} findings of {study} propose a stage.", f"name one of: {ways}"


def _add(session: Session, study: str, stage: Mapping[str, Any], dry_run: bool) -> None:
    answer = session.client.post("studies", study, "stages", json=stage, dry_run=dry_run or None)
    session.show(answer, views.stage_forecast if dry_run else views.study_page)


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
