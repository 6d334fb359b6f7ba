"""`tunesmith demo`: a real service, real workers and a real study on this machine, from start to end.

All that it shows comes from the service's API, as anybody could ask for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tunesmith_service.cli import study_file, text, views, watching
from tunesmith_service.cli.base import CommandError, ExitCode, Session, reporting
from tunesmith_service.cli.config import Where, said_address

START_SECONDS = 300.0  # on a machine with much else to do; one that fails is told at once
STOP_SECONDS = 40.0  # workers hand their trials back within 28 s
LOG_LINES = 15
MARK = "made-by-demo"
"""A file that says so: whatever else lies in such a folder may be removed."""


@click.command()
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), default=Path(".demo"), show_default=True,
    help="Where its service lives; what an earlier demo left there is removed.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="Worker processes.")
@click.option(
    "-f", "--file", "source", default="digits-demo", show_default=True, metavar="FILE",
    help="A study file, or the name of a shipped example.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the finished study as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def demo(ctx: click.Context, *, home: Path, workers: int, source: str, as_json: bool, debug: bool) -> None:
    """Watch a study find good hyperparameters here: a service, two workers, four stages."""
    with reporting(ctx, as_json=as_json, debug=debug):
        spec = study_file.read(source)
        _clear(home)
        with _service(home, workers) as url:
            where = Where(url=url, home=home, token_file=home / "operator.token")
            with Session(where, as_json=as_json, debug=debug) as session:
                session.note(f"A service at {url} on SQLite in {home}, with {workers} workers.")
                study = _run(session, spec)
                _report(session, study, home)
        watching.judge(study)


def _run(session: Session, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Create the study and follow it to its end."""
    created = session.client.post("studies", json=spec)
    session.note(views.begun(created).splitlines()[0])
    return watching.follow(session, watching.until_ended(session, created["name"]))


def _report(session: Session, study: dict[str, Any], home: Path) -> None:
    best = session.client.get("studies", study["name"], "best", top=10)["items"]
    table = views.best(best, study)
    session.show(study, lambda answer: "\n\n".join(_chapters(answer, table, session.where.url, home)))


def _chapters(study: Mapping[str, Any], leaders: str, url: str, home: Path) -> Iterator[str]:
    yield f"{text.bold('Leaderboard')}\n{leaders}"
    rows = [
        (
            s["name"],
            s["kind"],
            s["state"],
            sum(s["counts"].values()),
            views.epochs_of(s),
            views.best_of_stage(s),
        )
        for s in study["stages"]
    ]
    header = ("stage", "kind", "state", "trials", "epochs", study["metric"])
    trials = sum(sum(s["counts"].values()) for s in study["stages"])
    epochs = sum(views.epochs_of(s) or 0 for s in study["stages"])
    rows.append(("all", "", study["state"], trials, epochs, study["best"] and study["best"]["value"]))
    yield f"{text.bold('What each stage spent')}\n{text.table(header, rows, right=header[3:])}"
    for stage in study["stages"]:
        if stage["result"]:
            yield f"{text.bold(stage['name'])}: {stage['result']['why']}"
    yield from map(
        savings, (s for s in study["stages"] if s["kind"] == "weight_decay_restarts" and s["result"])
    )
    yield (
        f"{text.bold('Dashboard')}: {url}/ui/ (the demo's service stops now)\n"
        f"  open it again with: {how_to_call()} up --home {home}\n"
        f"  and, while that runs, for a login link: {how_to_call()} login --home {home}"
    )


def how_to_call() -> str:
    """How this command is typed here: `make demo` runs where no virtual environment is active."""
    ours = Path(sys.executable).with_name("tunesmith")
    found = shutil.which("tunesmith")
    if not ours.exists() or (found is not None and Path(found).samefile(ours)):
        return "tunesmith"
    return str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours)


def savings(stage: Mapping[str, Any]) -> str:
    """What restarts cost against training every value in full."""
    numbers = stage["result"]["numbers"]
    grid, before, spent = (
        numbers.get(k) for k in ("epochs_full_grid", "epochs_before_confirmation", "epochs")
    )
    if not grid or before is None:
        return f"{text.bold('Restarts')}: ended before a value was picked."
    saved = f"{1 - before / grid:.0%} and {1 - spent / grid:.0%} fewer"
    return (
        f"{text.bold('What the restarts saved')}: {before} epochs before confirmation and {spent} with it, "
        f"where a full grid takes {grid}: {saved}."
    )


# --- processes ------------------------------------------------------------------------------------


def _clear(home: Path) -> None:
    """Remove what an earlier demo left. Raises CommandError where that is not what lies there."""
    if home.is_dir() and any(home.iterdir()):
        if not (home / MARK).exists():
            detail = f"{home} holds something that is not a demo's; nothing was removed"
            raise CommandError(ExitCode.USAGE, detail, "give another folder with --home, or remove it")
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARK).touch()


@contextmanager
def _service(home: Path, workers: int) -> Iterator[str]:
    """`tunesmith up` as a process of its own; gives its address, and ends it in order."""
    from tunesmith_service.up import die_with_parent  # noqa: PLC0415  (brings the whole service)

    command = [sys.executable, "-m", "tunesmith_service", "up", "--home", str(home), "--port", "0"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")}
    log = home / "service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603  (our own command)
            [*command, "--workers", str(workers)],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=clean,
            start_new_session=True,  # Ctrl-C is ours to pass on
            preexec_fn=die_with_parent,  # noqa: PLW1509  (no thread of ours runs yet)
        )  # fmt: skip
    try:
        yield _await_address(process, home, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_address(process: subprocess.Popen[bytes], home: Path, log: Path) -> str:
    """Raises CommandError with the end of the service's log if it does not start."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if url := said_address(home):
            return url
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    raise CommandError(ExitCode.FAILED, f"the service did not start; {log} ends with:\n{tail}")
