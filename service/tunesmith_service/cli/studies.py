"""`tunesmith study …` and `tunesmith best`."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Container
from typing import Any

import click
from tunesmith_studies.findings import GRAVEST_FIRST
from tunesmith_studies.study import StudySpec
from tunesmith_studies.written import short

from tunesmith_service.cli import study_file, views, watching
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleCommand, PeopleGroup, Session
from tunesmith_service.cli.config import find
from tunesmith_service.client import Client
from tunesmith_service.errors import Changed, TunesmithError


def _study_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion: nothing where no service answers at once."""
    given = ctx.params
    try:
        where = find(given.get("url"), given.get("token_file"), given.get("home"))
        with Client(where.url, where.token(), retry_for=0) as client:
            found = client.get("studies", limit=100)["items"]
    except (TunesmithError, ValueError, OSError):
        return []
    return [study["name"] for study in found if study["name"].startswith(incomplete)]


study_argument = click.argument("study", shell_complete=_study_names)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(cls=PeopleGroup)
def study() -> None:
    """Create, follow and steer studies."""


@study.command()
@click.option(
    "-f", "--file", "source", required=True, metavar="FILE",
    help="A study file, - for standard input, or the name of a shipped example such as digits-demo.",
)  # fmt: skip
@click.option("--name", help="A name for the study, instead of the one in the file.")
@click.option("--dry-run", is_flag=True, help="Only say how many trials, epochs and bytes it plans.")
@click.option("--watch", "watch_it", is_flag=True, help="Follow it until it ends.")
def create(session: Session, source: str, name: str | None, dry_run: bool, watch_it: bool) -> None:
    """Create a study from a file. Workers start on it at once.

    A dry run checks the file and forecasts the most that the study may run; nothing is created.
    """
    spec = study_file.read(source)
    if name is not None:
        spec["name"] = name
    if dry_run:
        session.show(session.client.post("studies", json=spec, dry_run=True), views.forecast)
        return
    created = session.client.post("studies", json=spec)
    if watch_it:
        session.note(views.begun(created))
        _watch(session, created["name"])
    else:
        session.show(created, views.created)


@study.command("list")
@click.option("--archived", is_flag=True, help="Those put away, too.")
def list_(session: Session, archived: bool) -> None:
    """List studies, newest first."""
    found = list(session.client.pages("studies", archived=True if archived else None))
    session.show(found, views.study_list)


@study.command()
@study_argument
def show(session: Session, study: str) -> None:
    """Show a study: its stages, why they chose what they chose, and its best trial."""
    session.show(session.client.get("studies", study), views.study_page)


@study.command()
@study_argument
def watch(session: Session, study: str) -> None:
    """Follow a study until it ends; exit code 7 if it ended badly."""
    _watch(session, study)


def _watch(session: Session, study: str) -> None:
    last = watching.follow(session, watching.until_ended(session, study))
    session.show(last, views.study_page)
    watching.judge(last)


@study.command()
@study_argument
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up with exit code 8.")
def wait(session: Session, study: str, timeout: float | None) -> None:
    """Wait in silence until a study ends; exit code 7 if it ended badly."""
    (last,) = deque(watching.until_ended(session, study, timeout=timeout), maxlen=1)
    session.show(last, views.ended)
    watching.judge(last)


@study.command()
@study_argument
def pause(session: Session, study: str) -> None:
    """Hand out no more trials; those that run go on."""
    session.show(session.client.post("studies", study, "pause"), views.moved)


@study.command()
@study_argument
def resume(session: Session, study: str) -> None:
    """Go on with a paused study."""
    session.show(session.client.post("studies", study, "resume"), views.moved)


@study.command()
@study_argument
@yes_option
def stop(session: Session, study: str, yes: bool) -> None:
    """End a study: its waiting and running trials are cancelled. There is no way back."""
    session.confirm(f"Stop study {study} and cancel its trials?", yes=yes)
    session.show(session.client.post("studies", study, "stop"), views.moved)


@study.command()
@study_argument
def rerun(session: Session, study: str) -> None:
    """Queue all failed trials again whose stage is still to run."""
    session.show(session.client.post("studies", study, "rerun"), views.enqueued)


@study.command()
@study_argument
@click.option("--undo", is_flag=True, help="Bring it back.")
def archive(session: Session, study: str, undo: bool) -> None:
    """Put a study away that is not active: lists leave it out."""
    session.show(session.client.post("studies", study, "unarchive" if undo else "archive"), views.put_away)


@study.command()
@study_argument
@yes_option
def delete(session: Session, study: str, yes: bool) -> None:
    """Delete a study that has ended, with all its trials. There is no way back."""
    name = session.client.get("studies", study)["name"]
    session.confirm(f"Delete study {name} with its trials, curves and snapshots for good?", yes=yes)
    session.client.delete("studies", study, name=name)
    session.show({"name": name, "deleted": True}, lambda _: f"Study {name} is deleted.")


@study.command()
@study_argument
@click.argument("name")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PATH=VALUE",
    help="A field and its new value: space.lr.high=1, stages.coarse.epochs=5; nothing behind the sign takes "
    "it away. Repeat.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would differ, and what it plans.")
def clone(session: Session, study: str, name: str, settings: tuple[str, ...], dry_run: bool) -> None:
    """Create a study NAME like another one, with some fields changed; print the difference."""
    body = {"name": name, "changes": study_file.changes(settings)}
    answer = session.client.post("studies", study, "clone", json=body, dry_run=dry_run or None)
    session.show(answer, views.clone_forecast if dry_run else views.cloned)


@study.command()
@study_argument
@click.option("--set", "text", metavar="TEXT", help="Replace it by this text; - reads standard input.")
@click.option("--edit", is_flag=True, help="Write it in your editor.")
def note(session: Session, study: str, text: str | None, edit: bool) -> None:
    """Print a study's note, or replace it. Who edits at once with another person gets both texts."""
    found = session.client.get("studies", study, "note")
    if edit:
        found = _edited(session, study, found["text"], found["version"])
    elif text is not None:
        text = sys.stdin.read() if text == "-" else text
        found = session.client.put("studies", study, "note", json={"text": text}, version=found["version"])
    session.show(found, lambda answer: answer["text"] or "Nothing written yet.")


BOTH = "\n\n(Above is what it says now, below what you wrote: put both together, then save.)\n\n"


def _edited(session: Session, study: str, text: str, version: int) -> Any:
    while True:
        mine = click.edit(text)
        if mine is None:
            raise CommandError(ExitCode.FAILED, "Nothing was saved, so the note stays as it is.")
        try:
            body = {"text": mine.rstrip("\n")}  # the editor ends with a line
            return session.client.put("studies", study, "note", json=body, version=version)
        except Changed as changed:
            now = changed.outcome or {}
            text, version = f"{now['text']}{BOTH}{mine}", int(now["version"])


@study.command()
@study_argument
@click.option("--all", "whole", is_flag=True, help="Every field, those with their usual value too.")
def file(session: Session, study: str, whole: bool) -> None:
    """Print a study as the file that creates one like it."""
    spec = session.client.get("studies", study)["spec"]
    written = spec if whole else short(StudySpec.from_json(spec))
    session.show(spec, lambda _: study_file.written(written).rstrip())


@study.command("tags")
@study_argument
def list_tags(session: Session, study: str) -> None:
    """List the tags of a study's trials; `tunesmith trial tag` gives them."""
    session.show(session.client.get("studies", study, "tags")["items"], views.tags)


@click.command(cls=PeopleCommand)
@study_argument
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="So many trials.")
def best(session: Session, study: str, top: int) -> None:
    """Show the best trial of a study, or the best few."""
    found = session.client.get("studies", study, "best", top=top)["items"]
    session.show(found, lambda trials: views.best(trials, session.client.get("studies", study)))


@click.command(cls=PeopleCommand)
@study_argument
@click.option("--level", type=click.Choice(GRAVEST_FIRST), help="Only those of this level.")
@click.option("--stage", help="Only those of this stage.")
@click.option("--numbers", is_flag=True, help="The rule and the numbers behind each, too.")
def findings(session: Session, study: str, level: str | None, stage: str | None, numbers: bool) -> None:
    """Show what a study's checks and curves showed, the gravest first, and what to do."""
    found = session.client.get("studies", study, "findings", level=level, stage=stage)["items"]
    session.show(found, lambda items: views.findings(study, items, numbers=numbers, passed=level == "pass"))


def fixed_of(session: Session, study: str) -> Container[str]:
    """Names of the settings that a study fixes, which every trial would repeat."""
    fixed: dict[str, Any] = session.client.get("studies", study)["spec"]["fixed"]
    return fixed
