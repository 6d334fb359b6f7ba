"""`tunesmith audit …`: who did what, and whether the log of it is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any

import click

from tunesmith_service.audit_chain import Entry, Link, first_broken
from tunesmith_service.cli import views
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleGroup, Session

PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOTED = re.compile(r"([0-9]{1,15}):([0-9a-f]{64})")


@click.group(cls=PeopleGroup)
def audit() -> None:
    """Tell who did what and from where, and verify that nobody changed the log of it."""


@audit.command("list")
@click.option("--action", help="Of one kind, such as study.stop, or study for all of studies.")
@click.option("-n", "most", type=click.IntRange(min=1), default=50, show_default=True, help="At most.")
def list_(session: Session, action: str | None, most: int) -> None:
    """List what was done, the newest first. An admin sees the project's, an operator all."""
    found = session.client.pages("audit", action=action, limit=min(most, PAGE))
    session.show(list(islice(found, most)), views.audit_list)


@audit.command()
@click.option("--noted", metavar="N:HASH", help="A head that was noted earlier must still be in the chain.")
def verify(session: Session, noted: str | None) -> None:
    """Follow the chain from entry to entry; exit code 1 and the first broken entry if it is not whole."""
    kept = _read(noted) if noted is not None else None
    ends = session.client.get("audit", "head")
    anchor, head = Link(**ends["anchor"]), Link(**ends["head"])
    entries = takewhile(lambda entry: entry.n <= head.n, _since(session, anchor))
    if broken := first_broken(entries, anchor, head, kept):
        raise CommandError(
            ExitCode.FAILED,
            f"Entry {broken.n} of the audit log {broken.why}.",
            "what is above it in `tunesmith audit list` cannot be relied on; compare it with a backup",
        )
    if kept is not None and kept.n < anchor.n:
        session.note(f"Entry {kept.n} is gone after its time; it tells nothing any more.")
    session.show({"whole": True, **ends}, views.audit_verified)


def _read(noted: str) -> Link:
    found = _NOTED.fullmatch(noted)
    if found is None:
        raise click.UsageError("--noted takes what `tunesmith audit verify` printed, such as 214:5b0c…")
    return Link(int(found[1]), found[2])


def _since(session: Session, anchor: Link) -> Iterator[Entry]:
    return map(_entry, session.client.pages("audit", order="oldest", cursor=anchor.n, limit=PAGE))


def _entry(item: Mapping[str, Any]) -> Entry:
    at_us = (datetime.fromisoformat(item["at"]) - _EPOCH) // timedelta(microseconds=1)
    return Entry(at_us=at_us, **{name: value for name, value in item.items() if name != "at"})
