"""`tunesmith import …`"""

from __future__ import annotations

import click

from tunesmith_service.cli import text
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleGroup, Session


@click.group("import", cls=PeopleGroup)
def import_() -> None:
    """Bring what other programs found, as a study that goes on from there."""


@import_.command("optuna")
@click.option(
    "--storage", required=True, metavar="URL|FILE",
    help="Optuna's: sqlite:///trials.db, postgresql://…, or the file of SQLite or a journal.",
)  # fmt: skip
@click.option("--study", default="", help="The Optuna study; may be left out where there is only one.")
@click.option("--name", default="", help="Of the study here; default: the same, - for each /.")
@click.option("--task", default="", help="What workers train in stages that you add; default: imported.")
@click.option("--metric", default="", help="What its values measure; default: Optuna's name of it.")
@click.option(
    "--epochs", type=click.IntRange(min=1),
    help="How long its trials were; default: by the steps of their intermediate values.",
)  # fmt: skip
@click.option(
    "--objective", type=click.IntRange(min=0), metavar="INDEX", help="Which of several decides, from 0."
)
def optuna_(
    session: Session, *, storage: str, study: str, name: str, task: str, metric: str, epochs: int | None,
    objective: int | None,
) -> None:  # fmt: skip
    """Make a study of an Optuna study's finished trials. Said again, it goes on where it broke off."""
    from tunesmith_service.interchange import optuna_import  # noqa: PLC0415  (Optuna takes a second to load)

    try:
        found = optuna_import.read(
            storage, study, name=name, task=task, metric=metric, epochs=epochs, objective=objective
        )
    except ValueError as e:
        raise CommandError(ExitCode.USAGE, str(e)) from e
    for note in found.notes:
        session.note(note)
    new = optuna_import.bring(session.client, found)
    told = {"study": found.spec["name"], "trials": len(found.trials), "new": new}
    session.show(told, lambda t: f"Study {t['study']}: {text.count(t['trials'], 'trial')}, {t['new']} new")
