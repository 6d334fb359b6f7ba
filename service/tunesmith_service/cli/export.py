"""`tunesmith export …`"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tunesmith_service.cli import text
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleGroup, Session
from tunesmith_service.cli.studies import study_argument
from tunesmith_service.interchange import jsonl

INSPECTED = ("confusion.json", "predictions.json", "mistakes.json")
"""Artifacts that are drawn; `tunesmith_workers.inspection` says what they hold."""
MOST_BYTES = 16_000_000


@click.group(cls=PeopleGroup)
def export() -> None:
    """Write what a study found as files for other programs."""


@export.command()
@study_argument
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where to; `tensorboard --logdir DIR` shows it.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the runs of an earlier export into DIR.")
def tensorboard(session: Session, study: str, out: Path, overwrite: bool) -> None:
    """Write TensorBoard event files, a run a trial: curves, hyperparameters, images, confusion matrices."""
    try:
        from tunesmith_service.cli import event_files  # noqa: PLC0415  (not everybody has tensorboard)
    except ImportError as e:
        needed = "install it with: pip install 'tunesmith[export]'"
        raise CommandError(ExitCode.USAGE, f"the export needs tensorboard ({e})", needed) from e
    answer = session.client.get("studies", study)
    _make_room(event_files, out, overwrite=overwrite)
    event_files.write_study(out, answer)
    written = points_written = 0
    for trial in session.client.pages("studies", study, "trials", limit=100):
        if trial["started_at"] is None:
            continue
        at = ("studies", study, "trials", trial["number"])
        points = session.client.get(*at, "curve")["points"]
        event_files.write_trial(out, trial, points, list(_drawn(event_files, session, at)))
        written, points_written = written + 1, points_written + len(points)
    told = {"directory": str(out), "trials": written, "points": points_written}
    session.show(told, _told)


SUFFIXES = {
    ".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".md": "markdown", ".tex": "latex",
}  # fmt: skip


@export.command()
@study_argument
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where to; it is replaced.",
)  # fmt: skip
@click.option(
    "--format", "kind", type=click.Choice(tuple(SUFFIXES.values())), help="Default: as FILE's name ends."
)
@click.option("--filter", "words", default="", help="Only those it picks: 'lr>=1e-3 val_loss<0.42'.")
@click.option("--sort", default="number", show_default=True, help="Any name of filters; `-`: downwards.")
@click.option(
    "--columns", default="", help="Names of filters, a comma between them; default: the page's. Not of jsonl."
)
def trials(
    session: Session, study: str, *, out: Path, kind: str | None, words: str, sort: str, columns: str
) -> None:
    """Write trials: as a table in CSV and Parquet in full, in Markdown and LaTeX rounded; or in JSONL, one a
    line with its whole curve."""
    kind = kind or SUFFIXES.get(out.suffix.lower())
    if kind is None:
        known = ", ".join(SUFFIXES.values())
        raise CommandError(
            ExitCode.USAGE, f"{out} does not say which format", f"add --format, one of {known}"
        )
    if kind == "jsonl":
        _lines(session, study, out, words, sort, columns)
        return
    session.client.download(
        "studies", study, "trials", "export", to=out, format=kind, filter=words, sort=sort, columns=columns
    )
    told = {"file": str(out), "format": kind, "bytes": out.stat().st_size}
    session.show(told, lambda t: f"{t['file']}: {t['bytes']} bytes of {t['format']}")


def _lines(session: Session, study: str, out: Path, words: str, sort: str, columns: str) -> None:  # noqa: PLR0917
    if columns:
        raise CommandError(ExitCode.USAGE, "jsonl has each trial whole", "leave --columns out, or write csv")
    written = jsonl.export(session.client.study(study), out, filter=words, sort=sort)
    told = {"file": str(out), "format": "jsonl", "trials": written}
    session.show(told, lambda t: f"{t['file']}: {text.count(t['trials'], 'trial')}, one a line")


def _told(told: dict[str, Any]) -> str:
    runs = f"{text.count(told['trials'], 'run')} with {text.count(told['points'], 'point')}"
    return f"{runs} in {told['directory']}\nLook at them: tensorboard --logdir {told['directory']}"


def _make_room(event_files: Any, out: Path, *, overwrite: bool) -> None:
    """Raises: CommandError if the directory holds runs, of whatever made them, and may not be used."""
    there, ours = event_files.runs_in(out), event_files.own_runs_in(out)
    others = [file for file in there if file not in ours]
    if others or (ours and not overwrite):
        raise CommandError(
            ExitCode.CONFLICT,
            f"{out} holds {text.count(len(there), 'event file')} already, such as {(others or ours)[0]}",
            "name another directory" + ("" if others else ", or say --overwrite"),
        )
    for file in ours:
        file.unlink()
    out.mkdir(parents=True, exist_ok=True)


def _drawn(event_files: Any, session: Session, at: tuple[str | int, ...]) -> Iterator[Any]:
    """The trial's documents that can be drawn; a person's own file of such a name is left out."""
    for name in session.client.get(*at)["artifacts"]:
        if name not in INSPECTED:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "artifact"
            session.client.download(*at, "artifacts", name, to=file)
            try:
                yield from event_files.drawn(name, _read(file))
            except ValueError:
                session.note(f"Trial #{at[-1]}: {name} is none of ours and is left out.")


def _read(file: Path) -> dict[str, Any]:
    """Raises ValueError on what is too large or no JSON object with a kind."""
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    document = json.loads(file.read_bytes())
    if not isinstance(document, dict) or "kind" not in document:
        raise ValueError("no object with a kind")
    return document
