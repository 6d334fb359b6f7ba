"""What every command for people shares: its options, its session with a service, its exit codes.

A command's function gets a `Session` first, then its own parameters. It ends with exit code 0 by
returning, and with another by raising `CommandError` or any error of `errors`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self, TextIO

import click
from rich.console import Console

from tunesmith_service import errors
from tunesmith_service.cli.config import Where, find
from tunesmith_service.client import Client
from tunesmith_service.printable import printable


class ExitCode(IntEnum):
    """What a script can tell from a command's end."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    AUTH = 4
    NOT_FOUND = 5
    CONFLICT = 6
    ENDED_BADLY = 7
    TIMEOUT = 8
    INTERRUPTED = 130


_HINTS = {
    ExitCode.UNREACHABLE: "start one with `tunesmith up`, or name one with --url; ask `tunesmith doctor`",
    ExitCode.AUTH: "name a token with --token-file or TUNESMITH_TOKEN; `tunesmith token create` makes one",
    ExitCode.NOT_FOUND: "`tunesmith study list` has the studies, `tunesmith trial list STUDY` its trials",
}
_LISTED_APART = ("fleet", "token", "session", "notify")
"""Groups whose things belong to no study."""


class CommandError(Exception):
    """A command ends here, with this exit code, a sentence for a person and what to do about it."""

    def __init__(self, code: ExitCode, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint = code, detail, hint


class Session:
    """One command's run: where the service is, and how this person wants to read the answers."""

    def __init__(self, where: Where, *, as_json: bool, debug: bool) -> None:
        self.where, self.as_json, self.debug = where, as_json, debug

    @cached_property
    def client(self) -> Client:
        try:
            return Client(self.where.url, self.where.token(), retry_for=self.where.retry_for)
        except (ValueError, OSError) as e:
            raise CommandError(ExitCode.USAGE, str(e)) from e

    @cached_property
    def console(self) -> Console:
        """Standard output; without ANSI where it is no terminal or NO_COLOR is set."""
        return Console(highlight=False, soft_wrap=True)

    def show(self, answer: Any, text: Callable[[Any], str]) -> None:
        """Print an answer of the API: as it is with --json, else as `text` writes it for people."""
        said = json.dumps(answer, indent=2, ensure_ascii=False) if self.as_json else text(answer)
        click.echo(as_shown(said, sys.stdout))

    def note(self, line: str) -> None:
        """Say something to a person that is no part of the answer."""
        if not self.as_json:
            click.echo(line)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask on a terminal; elsewhere --yes is needed."""
        if yes:
            return
        if not (sys.stdin.isatty() and sys.stdout.isatty()) or self.as_json:
            raise CommandError(ExitCode.USAGE, f"{question} Nobody is here to ask.", "say it with --yes")
        if not click.confirm(question):
            raise CommandError(ExitCode.FAILED, "Nothing was done.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "client" in self.__dict__:
            self.client.close()


INTERNAL_ERROR = 500


def exit_code(error: errors.TunesmithError) -> ExitCode:
    """Which exit code a refusal of the service stands for."""
    match error:
        case errors.Unauthorized() | errors.Forbidden():
            return ExitCode.AUTH
        case errors.NotFound():
            return ExitCode.NOT_FOUND
        case errors.Conflict():
            return ExitCode.CONFLICT
        case errors.Unavailable():
            fault = getattr(error, "answered", 0) == INTERNAL_ERROR  # it is there, and broken
            return ExitCode.FAILED if fault else ExitCode.UNREACHABLE
        case errors.Unprocessable():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def as_shown(text: str, stream: TextIO) -> str:
    """A text as it goes to a stream: on a terminal nothing that names, errors or logs hold is obeyed; a file
    gets it as it is."""
    return printable(text, coloured=True) if stream.isatty() else text


class PeopleCommand(click.Command):
    """A command with the options that all share. Its function gets a Session as first argument."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *_common_options()]

    def invoke(self, ctx: click.Context) -> Any:
        url, token_file, home, as_json, debug = (ctx.params.pop(name) for name in _COMMON)
        with reporting(ctx, as_json=as_json, debug=debug):
            session = Session(find(url, token_file, home), as_json=as_json, debug=debug)
            with session:
                assert self.callback is not None
                return ctx.invoke(self.callback, session, **ctx.params)


@contextmanager
def reporting(ctx: click.Context, *, as_json: bool, debug: bool) -> Iterator[None]:
    """Turn what is raised inside into a line for people, or a document, and an exit code."""
    try:
        yield
    except (KeyboardInterrupt, click.Abort):  # click's own, where a question is asked
        ctx.exit(ExitCode.INTERRUPTED)
    except (CommandError, errors.TunesmithError, ValueError) as e:
        if debug:
            traceback.print_exc()
        end(ctx, e, as_json=as_json)
    except OSError as e:
        if debug or e.filename is None:
            raise
        end(ctx, CommandError(ExitCode.USAGE, f"{e.filename}: {e.strerror}"), as_json=as_json)


class PeopleGroup(click.Group):
    """A group whose commands are for people."""

    command_class = PeopleCommand


def end(ctx: click.Context, error: Exception, *, as_json: bool) -> NoReturn:
    """Say an error, and what to do about it; then end with its exit code."""
    document, code, hint = _explain(error)
    if code is ExitCode.NOT_FOUND and (group := ctx.parent) and group.info_name in _LISTED_APART:
        hint = f"`tunesmith {group.info_name} list` has those that there are"
    if as_json:
        click.echo(as_shown(json.dumps(document, indent=2, ensure_ascii=False), sys.stderr), err=True)
    else:
        click.echo(as_shown(f"Error: {_said(document)}", sys.stderr), err=True)
        if hint:
            click.echo(f"Hint: {hint}", err=True)
    ctx.exit(code)


def _said(document: dict[str, Any]) -> str:
    """The detail; where several things are wrong, which it runs together, a line for each."""
    problems = document.get("errors", [])
    if len(problems) < 2:
        return str(document["detail"])
    lines = [f"  {p.get('pointer') or '/'}: {p['message']}" for p in problems]
    return "\n".join([f"{len(problems)} things are wrong:", *lines])


def _explain(error: Exception) -> tuple[dict[str, Any], ExitCode, str]:
    """An error as a problem document, its exit code, and what to do about it."""
    if isinstance(error, errors.TunesmithError):
        code = exit_code(error)
        document = {
            "type": f"urn:tunesmith:{error.type}",
            "title": error.type.replace("_", " "),
            "status": error.status,
            "detail": error.detail,
            "errors": error.errors,
            "outcome": error.outcome,
            "exit_code": int(code),
        }
        return document, code, _HINTS.get(code, "")
    code = error.code if isinstance(error, CommandError) else ExitCode.USAGE
    document = {
        "type": f"urn:tunesmith:cli:{code.name.lower()}",
        "title": code.name.lower().replace("_", " "),
        "detail": str(error),
        "exit_code": int(code),
    }
    return document, code, getattr(error, "hint", "") or _HINTS.get(code, "")


_COMMON = ("url", "token_file", "home", "as_json", "debug")


def _common_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--url"], envvar="TUNESMITH_URL", show_envvar=True, metavar="URL",
            help="The service; several servers of it with commas between. Else tunesmith.toml, else what "
            "`tunesmith up` runs from the home.",
        ),
        click.Option(
            ["--token-file"], envvar="TUNESMITH_TOKEN_FILE", show_envvar=True, metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Holds the token. TUNESMITH_TOKEN may hold it too; else the home's own token.",
        ),
        click.Option(
            ["--home"], envvar="TUNESMITH_HOME", show_envvar=True, metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False),
            help="Home directory of a service on this machine.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the API's answer as JSON."),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]  # fmt: skip
