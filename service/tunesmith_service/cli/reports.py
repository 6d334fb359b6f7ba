"""`tunesmith report …`"""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith_service.cli.base import CommandError, ExitCode, PeopleCommand, Session
from tunesmith_service.cli.studies import study_argument


@click.command(cls=PeopleCommand)
@study_argument
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where to; default: STUDY.html, or STUDY.md.",
)  # fmt: skip
@click.option("--md", is_flag=True, help="Markdown, without figures.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if there is one.")
def report(session: Session, study: str, out: Path | None, md: bool, overwrite: bool) -> None:
    """Write a study as one file that needs no network: question, answer, findings, figures, cost."""
    form = "md" if md or (out is not None and out.suffix == ".md") else "html"
    out = out or Path(f"{study.replace('/', '-')}.{form}")
    if out.exists() and not overwrite:
        raise CommandError(ExitCode.CONFLICT, f"{out} exists already", "say --overwrite, or name another")
    session.client.download("studies", study, "report", to=out, format=form)
    told = {"file": str(out), "format": form, "bytes": out.stat().st_size}
    session.show(told, lambda t: f"{t['file']}, {t['bytes'] / 1000:.0f} kB")
