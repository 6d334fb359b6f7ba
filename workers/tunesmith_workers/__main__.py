"""The command `tunesmith worker`, also `python -m tunesmith_workers`. No torch here."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path

import click
import httpcore
import structlog
from click.core import ParameterSource
from tunesmith_service.client import Forbidden, Unauthorized

from tunesmith_workers import devices as machine
from tunesmith_workers import signals
from tunesmith_workers.child_process import ChildStartError
from tunesmith_workers.errands import Patience
from tunesmith_workers.launching.crew import DEFAULT_URL
from tunesmith_workers.state import StateInUseError, open_state
from tunesmith_workers.supervisor import NotTakenError, Options, Supervisor

REFUSED_EXIT_CODE = 4
READ_BYTES = 256 * 1024
"""Of a download at once: as many as asyncio reads. httpcore asks for a quarter of it, and each piece costs as
much as a large one."""


@click.command()
@click.option(
    "--url", envvar="TUNESMITH_URL", default=DEFAULT_URL, show_default=True,
    help="Of the service; of several servers of it with commas between.",
)  # fmt: skip
@click.option(
    "--token", envvar="TUNESMITH_TOKEN", help="Of the role worker. Better --token-file: others see arguments."
)
@click.option(
    "--token-file",
    envvar="TUNESMITH_TOKEN_FILE",
    type=click.Path(path_type=Path),
    help="A file that holds the token.",
)
@click.option(
    "--tasks", multiple=True, type=click.Path(path_type=Path), help="A Python file with tasks; repeatable."
)
@click.option("--data", multiple=True, metavar="NAME=FILE", help="A data file as the task NAME; repeatable.")
@click.option(
    "--weights", multiple=True, metavar="NAME=FILE",
    help="A snapshot or safetensors file that trials with init_from NAME start from; repeatable.",
)  # fmt: skip
@click.option(
    "--slots", type=click.IntRange(1, 256), help="Trials at a time where there is no GPU.  [default: 1]"
)
@click.option("--devices", help="Use these alone, such as cuda:0,cuda:1 or cpu.  [default: every GPU]")
@click.option(
    "--slots-per-device",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Trials that share a GPU.",
)
@click.option(
    "--devices-per-slot",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="GPUs of one slot, for studies whose trials ask for several.",
)
@click.option(
    "--cores", type=click.IntRange(1), help="CPU cores that its slots share.  [default: all of the machine]"
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for identity, spool and scratch space.  [default: a free one in ~/.local/state]",
)
@click.option("--name", help="For people; also names the default state directory.  [default: the host's]")
@click.option("--once", is_flag=True, help="Take one trial a slot, then leave.")
@click.option(
    "--exit-when-idle",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Leave after so long without any trial.",
)
@click.option(
    "--max-offline",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Train on for so long while the service does not answer.",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Kill a trainer that says nothing for so long.  [default: never]",
)
@click.option(
    "--hand-back-on",
    default=signals.USUAL,
    show_default=True,
    metavar="SIGNALS",
    help="Signals that hand the trials back, such as the one that a batch system warns with.",
)
@click.option(
    "--stopped-exit-code",
    type=click.IntRange(0, 255),
    default=0,
    show_default=True,
    help="Exit code after such a signal; a Job of Kubernetes takes 0 for done, and begins no other.",
)
def worker(
    *, url: str, token: str | None, token_file: Path | None, tasks: tuple[Path, ...], data: tuple[str, ...],
    weights: tuple[str, ...], slots: int | None, devices: str | None, slots_per_device: int,
    devices_per_slot: int, cores: int | None, state: Path | None, name: str | None, once: bool,
    exit_when_idle: float | None, max_offline: float, stall_timeout: float | None, hand_back_on: str,
    stopped_exit_code: int,
) -> None:  # fmt: skip
    """Train trials of a Tunesmith service on this machine, one at a time on each slot.

    SIGTERM, SIGINT and SIGUSR1 (see --hand-back-on) hand the trials back with a snapshot within 25
    seconds; a second one hands them back at once. Exit codes: 1 a task or data file cannot be used,
    4 the service refuses the token.
    """
    configure_logs()
    _search_sniffio_once()
    httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = READ_BYTES
    with ExitStack() as held:
        try:
            found = machine.named(devices) if devices else machine.discover(os.environ)
            dealt = machine.deal(
                found, slots=slots, slots_per_device=slots_per_device, devices_per_slot=devices_per_slot,
                cores=cores,
            )  # fmt: skip
            home = held.enter_context(closing(open_state(state, name, os.environ)))
            options = Options(
                url=url, token=_token(token, token_file),
                name=name or f"{socket.gethostname()}:{home.directory.name}",
                tasks=tuple(file.resolve() for file in tasks), data=_named_files("--data", data, "spam.npz"),
                weights=_named_files("--weights", weights, "spam.safetensors"),
                once=once, exit_when_idle=exit_when_idle, signals=signals.named(hand_back_on),
                patience=Patience(max_offline=max_offline, stall=stall_timeout),
            )  # fmt: skip
            supervisor = Supervisor(options, home, dealt)
        except (ValueError, OSError) as e:
            raise click.UsageError(str(e)) from e
        except StateInUseError as e:
            raise click.ClickException(str(e)) from e
        _run(supervisor)
        if supervisor.was_stopped:
            sys.exit(stopped_exit_code)


def _search_sniffio_once() -> None:
    """httpcore imports it four times a request; where it is missing, each time searches all of sys.path."""
    if find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]


def _run(supervisor: Supervisor) -> None:
    try:
        asyncio.run(supervisor.run())
    except (ChildStartError, NotTakenError) as e:
        raise click.ClickException(str(e)) from e
    except (Unauthorized, Forbidden) as e:
        click.echo(f"Error: the service refuses this worker's token: {e.detail}", err=True)
        sys.exit(REFUSED_EXIT_CODE)


def _token(token: str | None, file: Path | None) -> str:
    """What is said in the command goes before what the environment says. Raises: ValueError, OSError."""
    said = click.get_current_context().get_parameter_source
    file_is_said = (said("token_file"), said("token")) == (
        ParameterSource.COMMANDLINE,
        ParameterSource.ENVIRONMENT,
    )
    if file is not None and (token is None or file_is_said):
        token = file.read_text().strip()
    if not token:
        raise ValueError(
            "a worker needs a token of the role worker (tunesmith token create --role worker): "
            "give it with --token-file, --token or TUNESMITH_TOKEN"
        )
    return token


def _named_files(flag: str, texts: tuple[str, ...], example: str) -> dict[str, Path]:
    """Raises: ValueError."""
    found = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ValueError(f"{flag} takes NAME=FILE, such as spam={example}, got {text!r}")
        found[name] = Path(path).resolve()
    return found


def configure_logs() -> None:
    """One line a change of state on stderr: for eyes on a terminal, key=value elsewhere."""
    renderer = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    worker()
