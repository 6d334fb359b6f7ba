"""The command `tunesmith`: up, serve, migrate; what people type against a running service; and what other
packages bring by the entry-point group `tunesmith.commands`, such as `worker`."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from tunesmith_service.cli import add_commands
from tunesmith_service.cli.serving import explaining
from tunesmith_service.settings import Settings, SettingsError, load, unit_of

GROUP = "tunesmith.commands"
ABROAD = ("tls_cert", "tls_key", "behind_proxy", "public_url", "allowed_hosts")
"""What listening beyond this machine needs."""
BUCKET = ("blob_store", "s3_endpoint", "s3_region")
Function = Callable[..., Any]


class Tunesmith(click.Group):
    """Commands of other packages are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(e.name for e in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (ours := super().get_command(ctx, cmd_name)) is not None:
            return ours
        for entry in entry_points(group=GROUP, name=cmd_name):
            try:
                command = entry.load()
            except ImportError as e:
                return _missing(cmd_name, e)
            assert isinstance(command, click.Command)
            return command
        return None


def _missing(name: str, error: ImportError) -> click.Command:
    """A command whose package is not whole says so when it is called, not when help is shown."""

    def complain(**_: Any) -> None:
        raise click.ClickException(f"{error}; install it with: pip install 'tunesmith[{name}]'")

    return click.Command(name, callback=complain, help=f"Needs pip install 'tunesmith[{name}]'.")


def settings_options(*names: str) -> Callable[[Function], Function]:
    """Flags for settings, by name; all of them if none is named. The function gets `settings`, and what it
    cannot do is explained."""

    def decorate(function: Function) -> Function:
        def with_settings(**values: Any) -> Any:
            chosen = names or tuple(Settings.model_fields)
            flags = {name: values.pop(name) for name in chosen}
            try:
                settings = load(flags, os.environ)
            except SettingsError as e:
                raise click.UsageError(str(e)) from e
            with explaining(click.get_current_context(), settings):
                return function(settings=settings, **values)

        with_settings.__name__, with_settings.__doc__ = function.__name__, function.__doc__
        with_settings.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        decorated: Function = with_settings
        for name in reversed(names or tuple(Settings.model_fields)):
            decorated = _option(name)(decorated)
        return decorated

    return decorate


def _option(name: str) -> Callable[[Function], Function]:
    field = Settings.model_fields[name]
    flag = "--" + name.replace("_", "-")
    default = "" if field.default in (None, "", ()) else f" Default {_shown(field.default)}."
    help_line = f"{field.description} [{unit_of(name)}]{default}"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{name.replace('_', '-')}", default=None, help=help_line)
    return click.option(flag, name, metavar="VALUE", help=help_line)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


@click.group(cls=Tunesmith, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tunesmith")
def main() -> None:
    """Tune neural networks: staged hyperparameter searches, over REST."""


@main.command()
@settings_options()
def serve(settings: Settings) -> None:
    """Run the service in this process: REST API, planner and dashboard.

    Flags win over TUNESMITH_… variables, those over ./tunesmith.toml.
    """
    _serve(settings)


@main.command()
@click.option(
    "--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Worker processes to start."
)
@click.option("--slots", type=click.IntRange(1, 256), help="Trials at a time in each worker, without a GPU.")
@click.option(
    "--tasks", multiple=True, type=click.Path(path_type=Path), help="A Python file with tasks; repeat."
)
@click.option("--data", multiple=True, metavar="NAME=FILE", help="A data file as the task NAME; repeat.")
@click.option(
    "--weights", multiple=True, metavar="NAME=FILE", help="What init_from NAME starts from; repeat."
)
@settings_options("home", "host", "port", "ttl_seconds", "log_format", "accept_restore", *ABROAD)
def up(
    settings: Settings, *, workers: int, slots: int | None, tasks: tuple[Path, ...],
    data: tuple[str, ...], weights: tuple[str, ...],
) -> None:  # fmt: skip
    """Run a service and workers on this machine; Ctrl-C ends both and loses nothing."""
    from tunesmith_service.up import LocalWorkers  # noqa: PLC0415  (help must come at once)

    options = [] if slots is None else ["--slots", str(slots)]
    for flag, values in (("--tasks", tasks), ("--data", data), ("--weights", weights)):
        options += [str(part) for value in values for part in (flag, value)]
    local = LocalWorkers(settings, workers, options)
    _serve(settings, local.start, local.stop)
    if local.gave_up:
        raise click.ClickException(local.gave_up)


@main.command("migrate")
@settings_options("home", "database_url")
def migrate_command(settings: Settings) -> None:
    """Bring the database to this version's tables; `serve` and `up` do so by themselves."""
    from tunesmith_service import db, migrate  # noqa: PLC0415

    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = db.open_engine(settings.url)
    path = db.sqlite_path(engine)
    try:
        if path is None:
            migrate.upgrade(engine)
        else:
            with db.hold(path):
                migrate.upgrade(engine)
    finally:
        engine.dispose()
    click.echo(f"The database at {engine.url.render_as_string(hide_password=True)} is up to date.")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@settings_options("home", "database_url", *BUCKET)
def backup(settings: Settings, directory: Path) -> None:
    """Copy database and blobs into the new DIRECTORY, while the service goes on.

    Blobs in a bucket stay there; that it has them all is checked.
    """
    from tunesmith_service import backups, db, stores  # noqa: PLC0415

    engine = db.open_engine(settings.url)
    try:
        made = backups.back_up(engine, stores.store_of(settings), directory)
    finally:
        engine.dispose()
    blobs = f"{made.blobs} blobs ({made.bytes} bytes)"
    if made.store:
        click.echo(f"{directory} holds the database; its {blobs} are in {made.store}, all there.")
    else:
        click.echo(f"{directory} holds the database and {blobs}, all checked.")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@settings_options("home", "database_url", *BUCKET)
def restore(settings: Settings, directory: Path) -> None:
    """Make a new home of the backup in DIRECTORY. Leases of before end; what ran is handed back."""
    from tunesmith_service import backups, stores  # noqa: PLC0415

    bytes_in = stores.store_of(settings) if settings.blob_store else None
    made = backups.restore(directory, settings.home, settings.database_url, bytes_in)
    click.echo(f"{settings.home} is restored, as incarnation {made.incarnation}; start it with `serve`.")


@main.command(hidden=True)
def openapi() -> None:
    """Print the OpenAPI document that docs/openapi.json holds."""
    from tunesmith_service.api.openapi import document  # noqa: PLC0415
    from tunesmith_service.app import create_app  # noqa: PLC0415

    click.echo(json.dumps(document(create_app(Settings())), indent=1, sort_keys=True, ensure_ascii=False))


def _serve(settings: Settings, *hooks: Any) -> None:
    gc.disable()  # all that is loaded now stays: looking through it was a seventh of the start; see `run`
    from tunesmith_service.serve import run  # noqa: PLC0415

    run(settings, *hooks)


add_commands(main)

if __name__ == "__main__":
    main()
