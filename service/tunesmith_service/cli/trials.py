"""`tunesmith trial …`"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from tunesmith_service.cli import text, views
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleGroup, Session, as_shown
from tunesmith_service.cli.studies import fixed_of, study_argument, yes_option

STATES = ("waiting", "running", "complete", "pruned", "failed", "cancelled")
FOLLOW_SECONDS = 1.0

number_argument = click.argument("number", type=click.IntRange(min=0))


numbers_argument = click.argument("numbers", type=click.IntRange(min=0), nargs=-1, required=True)


@click.group(cls=PeopleGroup)
def trial() -> None:
    """Look into trials, and queue some by hand."""


@trial.command("list")
@study_argument
@click.option("--filter", "words", default="", help="Only those it picks: 'lr>=1e-3 val_loss<0.42'.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--stage", help="Only those of this stage.")
@click.option(
    "--sort", default="number", show_default=True, help="Any name of filters; - before it: downwards."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
def list_(
    session: Session, study: str, *, words: str, state: str | None, stage: str | None, sort: str, limit: int
) -> None:
    """List the trials of a study."""
    found = session.client.pages(
        "studies",
        study,
        "trials",
        filter=words or None,
        state=state,
        stage=stage,
        sort=sort,
        limit=min(limit, 1000),
    )
    first = list(itertools.islice(found, limit))
    session.show(first, lambda trials: views.trial_list(trials, fixed_of(session, study)))


@trial.command()
@study_argument
@number_argument
def show(session: Session, study: str, number: int) -> None:
    """Show one trial: its settings, attempts, curve, and why it failed."""
    answer = session.client.get("studies", study, "trials", number)
    curve = session.client.get("studies", study, "trials", number, "curve")
    session.show(answer | {"curve": curve}, views.trial_page)


@trial.command()
@study_argument
@number_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the trial ends.")
def logs(session: Session, study: str, number: int, follow: bool) -> None:
    """Print what a trial's training wrote, attempt by attempt."""
    if session.as_json and follow:
        raise CommandError(ExitCode.USAGE, "--json prints a log once.", "leave out --follow, or --json")
    shown: dict[int, int] = {}
    while True:
        found = session.client.get("studies", study, "trials", number)
        path = ("studies", study, "trials", number, "logs")
        chunks = [c for a in found["attempts"] for c in _new_chunks(session, path, a["attempt"], shown)]
        if session.as_json:
            session.show(chunks, views.log_text)
            return
        click.echo(as_shown(views.log_text(chunks), sys.stdout), nl=False)
        if not follow or found["state"] not in ("waiting", "running"):
            return
        time.sleep(FOLLOW_SECONDS)


def _new_chunks(
    session: Session, path: tuple[str | int, ...], attempt: int, shown: dict[int, int]
) -> Iterator[dict[str, Any]]:
    """What the attempt wrote behind the chunk of the number in `shown`, which is moved on."""
    for chunk in session.client.pages(*path, attempt=attempt, cursor=shown.get(attempt)):
        shown[attempt] = chunk["seq"]
        yield chunk


@trial.command()
@study_argument
@click.option("--stage", help="Stage to queue it in; else the active one.")
@click.option(
    "-p", "--param", "settings", multiple=True, metavar="NAME=VALUE", help="A hyperparameter; repeat."
)
@click.option(
    "--like",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Vary this trial: what -p leaves out is as there, and its page links the new one.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Train so long; else as the stage does.")
def enqueue(
    session: Session,
    study: str,
    *,
    stage: str | None,
    settings: tuple[str, ...],
    like: int | None,
    epochs: int | None,
) -> None:
    """Queue one trial by hand: `-p lr=0.01 -p optimizer=adam`, or `--like 12 -p lr=0.02`."""
    body: dict[str, Any] = {"params": [parse(settings)]}
    said = (("like", like), ("stage", stage), ("epochs", epochs))
    body |= {k: v for k, v in said if v is not None}
    session.show(session.client.post("studies", study, "trials", json=body), views.enqueued)


@trial.command()
@study_argument
@number_argument
@yes_option
def cancel(session: Session, study: str, number: int, yes: bool) -> None:
    """End one trial that waits or runs."""
    session.confirm(f"Cancel trial #{number} of {study}?", yes=yes)
    session.show(session.client.post("studies", study, "trials", number, "cancel"), views.cancelled)


@trial.command()
@study_argument
@numbers_argument
def retry(session: Session, study: str, numbers: tuple[int, ...]) -> None:
    """Queue failed or cancelled trials again, all or none, each as a new trial."""
    body = {"trials": list(numbers)}
    session.show(session.client.post("studies", study, "rerun", json=body), views.enqueued)


@trial.command()
@study_argument
@numbers_argument
@click.option("--add", multiple=True, metavar="WORD", help="A tag to give; repeat.")
@click.option("--remove", multiple=True, metavar="WORD", help="A tag to take away; repeat.")
def tag(
    session: Session, study: str, numbers: tuple[int, ...], add: tuple[str, ...], remove: tuple[str, ...]
) -> None:
    """Give trials tags and take others away, all or none; filters know them as tag:WORD."""
    if not (add or remove):
        raise CommandError(ExitCode.USAGE, "No tag was named.", "say which with --add or --remove")
    body = {"trials": list(numbers), "add": list(add), "remove": list(remove)}
    session.client.post("studies", study, "tags", json=body)
    shown = f"{text.count(len(numbers), 'trial')} of {study}"
    session.show(body, lambda _: f"Tags of {shown} are changed.")


@trial.command()
@study_argument
@number_argument
@yes_option
def prune(session: Session, study: str, number: int, yes: bool) -> None:
    """End one trial that runs, as pruned: what it showed so far counts."""
    session.confirm(f"Prune trial #{number} of {study} now?", yes=yes)
    session.show(session.client.post("studies", study, "trials", number, "prune"), views.cancelled)


@trial.command()
@study_argument
@click.argument("number", type=click.IntRange(min=0), required=False)
@click.option("--step", type=click.IntRange(min=0), help="Of those that `trial show` lists; else the last.")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
def snapshot(session: Session, study: str, number: int | None, step: int | None, out: Path) -> None:
    """Fetch the weights of a trial, or of the best, as a safetensors file."""
    told = session.client.study(study).download_snapshot(out, number=number, step=step)
    session.show(told | {"file": str(out)}, views.fetched)


def parse(settings: Iterable[str]) -> dict[str, Any]:
    """Hyperparameters as typed: a number where it reads like one, true, false, else text.

    >>> parse(["lr=1e-3", "width=64", "nesterov=true", "optimizer=adam"])
    {'lr': 0.001, 'width': 64, 'nesterov': True, 'optimizer': 'adam'}
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, written = setting.partition("=")
        if not (name and equals):
            raise ValueError(f"-p {setting}: write NAME=VALUE, such as -p lr=0.01")
        found[name.strip()] = _scalar(written.strip())
    return found


_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""As a study's file reads them."""


def _scalar(written: str) -> bool | int | float | str:
    for kind in (int, float):
        try:
            return kind(written)
        except ValueError:
            continue
    return _TRUTH.get(written.lower(), written)
