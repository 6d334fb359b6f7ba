"""What people type against a running service: `add_commands(group)` puts it all on `tunesmith`."""

from __future__ import annotations

import click

from tunesmith_service.cli import (
    access,
    auditing,
    browsers,
    comparing,
    demo,
    doctor,
    export,
    fleet,
    importing,
    notify,
    plotting,
    reports,
    stages,
    studies,
    trackers,
    trials,
)


def add_commands(group: click.Group) -> None:
    """Join the commands for people to the group of `tunesmith_service.__main__`."""
    for tracker in trackers.COMMANDS:
        export.export.add_command(tracker)
    for command in (
        studies.study, stages.stage, trials.trial, studies.best, studies.findings, access.token, access.login,
        browsers.browsers, auditing.audit, fleet.fleet, doctor.doctor, export.export, importing.import_,
        reports.report, plotting.plot, comparing.compare, access.version, demo.demo, notify.notify,
    ):  # fmt: skip
        group.add_command(command)
