"""`tunesmith export optuna`, `mlflow` and `wandb`: a study in the storage of another program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tunesmith_service.cli import text
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleCommand, Session
from tunesmith_service.cli.studies import study_argument
from tunesmith_service.interchange import mlflow_runs, wandb_runs
from tunesmith_service.interchange.points import AlreadyThere

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an earlier export of this study.")


@contextmanager
def _exporting() -> Iterator[None]:
    try:
        yield
    except AlreadyThere as e:
        raise CommandError(ExitCode.CONFLICT, str(e)) from e
    except ValueError as e:
        raise CommandError(ExitCode.USAGE, str(e)) from e


@click.command("optuna", cls=PeopleCommand)
@study_argument
@click.option(
    "--storage", required=True, metavar="URL|FILE",
    help="Optuna's: sqlite:///trials.db, postgresql://…, or a file: SQLite's (.db), else a journal.",
)  # fmt: skip
@click.option("--name", default="", help="Of the Optuna study; default: the study's own.")
@click.option("--stage", default="", help="This stage alone, as STUDY/STAGE.")
@overwrite_option
def optuna_(session: Session, study: str, *, storage: str, name: str, stage: str, overwrite: bool) -> None:
    """Write an Optuna study: values, states, intermediate values, distributions, attributes."""
    from tunesmith_service.interchange import optuna_export  # noqa: PLC0415  (Optuna takes a second to load)

    with _exporting():
        made = optuna_export.export(
            session.client.study(study), storage, name=name, stage=stage, overwrite=overwrite
        )
    if made.left_out:
        session.note(
            f"{text.count(made.left_out, 'trial')} that measured and have no objective are left out."
        )
    told = asdict(made) | {"storage": storage}
    session.show(told, lambda t: f"Optuna study {t['name']} with {text.count(t['trials'], 'trial')}")


@click.command("mlflow", cls=PeopleCommand)
@study_argument
@click.option(
    "--tracking-uri", required=True, metavar="URI", help="Such as http://127.0.0.1:5000, sqlite:///mlflow.db."
)
@click.option("--experiment", default="", help="Made if it is not there; default: the study's name.")
@overwrite_option
def mlflow_(session: Session, study: str, *, tracking_uri: str, experiment: str, overwrite: bool) -> None:
    """Write MLflow runs: one for the study, and a child for each trial that was begun."""
    with _exporting():
        made = mlflow_runs.export(
            session.client.study(study), tracking_uri, experiment=experiment, overwrite=overwrite
        )
    session.show(asdict(made), lambda t: f"Run {t['run_id']} of experiment {t['experiment']}, {_children(t)}")


@click.command("wandb", cls=PeopleCommand)
@study_argument
@click.option(
    "--dir", "directory", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where to; `wandb sync DIR/wandb` sends it.",
)  # fmt: skip
@click.option("--project", default="tunesmith", show_default=True, help="That the runs will belong to.")
@overwrite_option
def wandb_(session: Session, study: str, *, directory: Path, project: str, overwrite: bool) -> None:
    """Write offline runs of Weights & Biases, one for each trial that was begun; nothing is sent."""
    with _exporting():
        made = wandb_runs.export(session.client.study(study), directory, project=project, overwrite=overwrite)
    told = asdict(made) | {"directory": str(directory)}
    session.show(told, lambda t: f"{_children(t)} in {directory}\nSend them: wandb sync {directory}/wandb")


def _children(told: dict[str, Any]) -> str:
    return f"{text.count(told['trials'], 'trial')} with {text.count(told['points'], 'point')}"


COMMANDS = (optuna_, mlflow_, wandb_)
"""They join `tunesmith export`."""
