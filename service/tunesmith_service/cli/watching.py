"""Following a study until it ends: live on a terminal, a line a change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunesmith_service.cli import text, views
from tunesmith_service.cli.base import CommandError, ExitCode, Session

POLL_SECONDS = 1.0
ENDED = ("complete", "stopped")

Answer = dict[str, Any]


def until_ended(
    session: Session,
    study: str,
    *,
    timeout: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Answer]:
    """The study as it is now, again each second, last as it ended or as a check keeps it from going on.

    Raises: CommandError with TIMEOUT when `timeout` seconds have passed.
    """
    started = clock()
    while True:
        answer = session.client.get("studies", study)
        yield answer
        if answer["state"] in ENDED or answer["blocked_by"]:
            return
        if timeout is not None and clock() - started + POLL_SECONDS > timeout:
            raise CommandError(
                ExitCode.TIMEOUT,
                f"after {timeout:g} s study {answer['name']} is still {answer['state']}: "
                f"{views.progress_line(answer)}",
            )
        sleep(POLL_SECONDS)


def follow(session: Session, answers: Iterator[Answer]) -> Answer:
    """Show each answer as it comes; return the last one."""
    console = session.console
    if session.as_json or not console.is_terminal:
        return _as_lines(session, answers)
    last: Answer = {}
    with Live(console=console, refresh_per_second=4) as live:
        for last in answers:
            live.update(picture(last))
    return last


def _as_lines(session: Session, answers: Iterator[Answer]) -> Answer:
    last: Answer = {}
    said = ""
    for last in answers:
        line = views.progress_line(last)
        if line != said:
            session.note(line)
            said = line
    return last


def picture(study: Answer) -> Group:
    """A study's stages as bars, and the best so far."""
    bars = Table.grid(padding=(0, 2))
    for stage in study["stages"]:
        done, planned = views.done_of(stage)
        bars.add_row(
            stage["name"],
            Text(stage["state"], style=views.STYLES.get(stage["state"], "")),
            ProgressBar(total=max(planned, 1), completed=done, width=30),
            f"{done}/{planned}",
            text.value(views.best_of_stage(stage)),
        )
    title = Text(f"{study['name']}: {study['state']}", style="bold")
    waits = [Text(f"Waits: {study['waiting_for']}", style="yellow")] if study["waiting_for"] else []
    return Group(title, bars, *waits, Text(views.best_line(study)))


def judge(study: Answer) -> None:
    """Raise CommandError with ENDED_BADLY if an awaited study did not end well."""
    if study["blocked_by"]:
        raise CommandError(
            ExitCode.ENDED_BADLY,
            f"study {study['name']} is {study['state']}: {study['reason']}",
            " ".join(views.how_to_go_on(study).split()),
        )
    failed = [s["name"] for s in study["stages"] if s["state"] == "failed" and not s["override"]]
    if study["state"] == "stopped" or failed:
        reason = study.get("reason") or ", ".join(f"stage {name} failed" for name in failed)
        raise CommandError(
            ExitCode.ENDED_BADLY,
            f"study {study['name']} ended {study['state']}: {reason}",
            f"`tunesmith study show {study['name']}` has the stages, "
            f"`tunesmith trial list {study['name']} --state failed` the trials",
        )
