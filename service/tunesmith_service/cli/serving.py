"""What the commands say that run a server, or work on its files, when they cannot: `serve`, `up`, `migrate`,
`backup`, `restore`. An error that is none of those named here is a fault of ours and keeps its traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import click

from tunesmith_service.cli.base import CommandError, ExitCode, end, exit_code
from tunesmith_service.errors import TunesmithError, Unavailable
from tunesmith_service.settings import Settings, SettingsError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explaining(ctx: click.Context, settings: Settings) -> Iterator[None]:
    """Turn what is raised inside into a sentence, a hint and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        ctx.exit(ExitCode.INTERRUPTED)
    except SettingsError as e:
        raise click.UsageError(str(e)) from e
    except Exception as e:
        if (told := _explained(e, settings)) is None:
            raise
        end(ctx, told, as_json=False)


def _explained(error: Exception, settings: Settings) -> CommandError | None:
    if isinstance(error, OSError):
        return _of_a_file(error)
    if isinstance(error, TunesmithError):
        todo = "try again once it answers" if isinstance(error, Unavailable) else ""
        return CommandError(exit_code(error), error.detail, todo)
    # Here, not above: `tunesmith --help` needs none of it.
    from tunesmith_service import backups, db, high_water, stores  # noqa: PLC0415

    refusals = (
        db.AlreadyServed, db.DriverMissing, db.WeakDurability, high_water.OlderDatabaseError,
        stores.StoreError, backups.BackupError,
    )  # fmt: skip
    if isinstance(error, refusals):
        return CommandError(ExitCode.FAILED, str(error))
    if isinstance(error, db.BadAddress):
        return CommandError(ExitCode.USAGE, str(error))
    return _of_a_database(error, settings.url)


def _of_a_database(error: Exception, url: str) -> CommandError | None:
    from tunesmith_service.db_trouble import trouble_of  # noqa: PLC0415

    if (trouble := trouble_of(error, url)) is None:
        return None
    code = ExitCode.UNREACHABLE if trouble.kind == "away" else ExitCode.FAILED
    return CommandError(code, trouble.said, trouble.todo)


def _of_a_file(error: OSError) -> CommandError | None:
    if error.errno in _NO_ROOM:
        at = f"{error.filename}: " if error.filename else ""
        return CommandError(ExitCode.FAILED, f"{at}{error.strerror}", "free some space, or name another disk")
    if error.filename is None:
        return None
    todo = "see that it is there and that this user may write it, or name another"
    return CommandError(ExitCode.USAGE, f"{error.filename}: {error.strerror}", todo)
