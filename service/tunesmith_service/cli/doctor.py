"""`tunesmith doctor`: what keeps studies from running here, with a line that repairs it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

import click
import httpx
from sqlalchemy.exc import DBAPIError

from tunesmith_service import db, integrity
from tunesmith_service.cli import text
from tunesmith_service.cli.base import CommandError, ExitCode, PeopleCommand, Session
from tunesmith_service.db_trouble import trouble_of
from tunesmith_service.disk import Disk
from tunesmith_service.errors import TunesmithError, Unavailable
from tunesmith_service.exchange import failure
from tunesmith_service.servers import base, way_to
from tunesmith_service.settings import Settings, load
from tunesmith_service.stores import StoreError, store_of
from tunesmith_service.ui import formats

LOW_DISK_SHARE = 0.1
"""With less of the disk free than this, it is time to look, long before a service refuses anything."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` says what to do where it is not ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


@click.command(cls=PeopleCommand)
@click.option(
    "--database/--no-database", default=None,
    help="Look through the database and its bytes as well.  [default: if they are on this machine]",
)  # fmt: skip
def doctor(session: Session, database: bool | None) -> None:
    """Look for what keeps studies from running, and say how to repair it; exit code 1 on a failure."""
    findings = [*examine(session), *_integrity(session, asked=database)]
    session.show([asdict(f) for f in findings], lambda _: "\n".join(map(_line, findings)))
    failed = [f.name for f in findings if f.state == "fail"]
    if failed:
        raise CommandError(
            ExitCode.FAILED, f"not in order: {', '.join(failed)}", "the lines above say what to do"
        )


def _line(finding: Finding) -> str:
    fix = f"\n      → {finding.fix}" if finding.fix else ""
    return f"{text.bold(finding.state.rjust(4))}  {finding.name}: {finding.detail}{fix}"


def examine(session: Session) -> Iterator[Finding]:
    """All findings, from the nearest to the farthest."""
    yield _disk(session)
    yield _torch()
    found = [f for url in session.where.urls for f in _at(url)]
    yield from found
    named = {f.name for f in found}
    if "database" not in named or "address" in named:
        return  # nobody to ask, or no client to ask with
    try:
        yield from _workers(session)
    except (TunesmithError, CommandError) as e:
        fix = "name a good one with --token-file FILE; an admin makes one with `tunesmith token create`"
        yield Finding("token", "fail", e.detail, fix)


def _at(url: str) -> Iterator[Finding]:
    """Of one server."""
    try:
        root = base(url).removesuffix("api/v1/")
    except ValueError as e:
        yield Finding("address", "fail", str(e), "name it with --url URL, or in tunesmith.toml")
        return
    try:
        with httpx.Client(base_url=root, timeout=5, **way_to(root)) as client:
            yield _server(url, client)
            yield _database(client)
    except Unavailable as e:
        yield Finding("server", "fail", str(e), "start one with `tunesmith up`, or name it with --url URL")


def _disk(session: Session) -> Finding:
    home = session.where.home
    place = next(p for p in (home, *home.parents) if p.exists())
    total, _, free = shutil.disk_usage(place)
    fix = "free some space, or give another --home"
    said = f"{formats.size(free)} of {formats.size(total)} free at {place}"
    usual = Settings()
    kept = Disk(place, reserve_bytes=usual.reserve_bytes, reserve_percent=usual.reserve_percent)
    reserve = kept.reserve()
    if free < reserve:
        return Finding("disk", "fail", f"{said}: a service keeps {formats.size(reserve)} in reserve", fix)
    if free < total * LOW_DISK_SHARE:
        return Finding("disk", "warn", said, fix)
    return Finding("disk", "ok", said)


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        fix = "for a worker on this machine: pip install 'tunesmith[worker]'"
        return Finding("torch", "warn", "not installed: this machine can serve, not train", fix)
    import torch  # noqa: PLC0415  (seconds, and only a worker's machine has it)

    count = torch.cuda.device_count()
    names = sorted({torch.cuda.get_device_name(i) for i in range(count)})
    devices = f"{count} GPU: {', '.join(names)}" if count else "no GPU, trains on the CPU"
    return Finding("torch", "ok", f"{torch.__version__}, {devices}")


def _server(url: str, client: httpx.Client) -> Finding:
    ours = version("tunesmith")
    theirs = _told(client, "healthz", "version")["version"]
    at = f"answers at {url}"
    if theirs != ours:
        fix = "install the same version on both sides"
        return Finding("server", "warn", f"{at} with version {theirs}, this is {ours}", fix)
    return Finding("server", "ok", f"{at}, version {theirs}")


def _database(client: httpx.Client) -> Finding:
    ready = _told(client, "readyz", "ready")
    said = ", ".join(f"{part} {state}" for part, state in ready.items() if part != "ready")
    if ready["ready"]:
        return Finding("database", "ok", said)
    return Finding("database", "fail", said, "look at the service's log; it recovers by itself")


def _integrity(session: Session, *, asked: bool | None) -> Iterator[Finding]:
    """Whether the database is what the service promises; read beside a service that runs."""
    settings = load({"home": session.where.home}, os.environ)
    try:
        engine = db.open_engine(settings.url)
    except (db.BadAddress, db.DriverMissing) as e:
        if asked is not False:
            yield Finding(
                "integrity", "fail", str(e), "name it with TUNESMITH_DATABASE_URL as `serve` has it"
            )
        return
    path = db.sqlite_path(engine)
    try:
        if asked is False or (asked is None and (path is None or not path.exists())):
            return
        if path is not None and not path.exists():
            fix = "name its home with --home, or PostgreSQL with TUNESMITH_DATABASE_URL"
            yield Finding("integrity", "fail", f"there is no database at {path}", fix)
            return
        broken = integrity.examine(engine, store_of(settings))
    except (StoreError, Unavailable) as e:
        yield Finding("integrity", "fail", str(e), "name the bucket and its credentials as `serve` has them")
        return
    except (DBAPIError, sqlite3.Error) as e:
        if (trouble := trouble_of(e, settings.url)) is None:
            raise
        yield Finding("integrity", "fail", trouble.said, trouble.todo)
        return
    finally:
        engine.dispose()
    fix = "keep a copy of the home; the newest good backup can be restored beside it (docs/operating.md)"
    yield from (Finding(f"integrity {b.invariant}", "fail", b.said, fix) for b in broken)
    if not broken:
        yield Finding("integrity", "ok", f"I1, I3, I4, I7, I9 and I11 hold; {_looked_at(settings)}")


def _looked_at(settings: Settings) -> str:
    if settings.blob_store:
        return f"{settings.blob_store} lists every blob, of its size"
    return "every byte hashes to its name"


def _told(client: httpx.Client, path: str, wanted: str) -> dict[str, Any]:
    """What a page outside the API says, which needs no token; what is wanted is in it.

    Raises: Unavailable, also for what is not Tunesmith.
    """
    try:
        reply = client.get(path)
    except httpx.RequestError as e:
        raise Unavailable(f"no answer from {client.base_url}: {str(e) or type(e).__name__}") from e
    with contextlib.suppress(ValueError):
        said = reply.json()
        if isinstance(said, dict) and wanted in said:
            return said
    if (refused := failure(reply)) is not None:
        raise Unavailable(refused.detail)
    raise Unavailable(f"{reply.url} answered something else than Tunesmith does; is its whole address given?")


def _workers(session: Session) -> Iterator[Finding]:
    workers = list(session.client.pages("workers"))
    online = [w for w in workers if w["online"]]
    slots = sum(len(w["slots"]) for w in online)
    if online:
        yield Finding("workers", "ok", f"{len(online)} online with {slots} slots")
    else:
        fix = "start one with `tunesmith worker`, here or on a machine with a GPU"
        yield Finding("workers", "warn", f"none online ({len(workers)} known)", fix)
    yield from map(_set_aside, (w for w in online if w["aside_until"]))
    for study in session.client.pages("studies", state="active"):
        yield serves(study, online)
    for study in session.client.pages("studies", state="paused"):
        if stage := study["blocked_by"]:
            fix = f"`tunesmith findings {study['name']} --stage {stage}` says what is wrong; go on all the "
            fix += f"same with `tunesmith stage override {study['name']} {stage} --reason …`"
            yield Finding(f"study {study['name']}", "warn", study["reason"], fix)


def _set_aside(worker: dict[str, Any]) -> Finding:
    until = text.moment(worker["aside_until"])
    detail = f"gets no trial until {until}: it broke three within a minute of their claims"
    fix = f"look at its log and its GPU; once repaired: `tunesmith fleet undrain {worker['id']}`"
    return Finding(f"worker {worker['name']}", "warn", detail, fix)


def serves(study: dict[str, Any], online: list[dict[str, Any]]) -> Finding:
    """Whether some worker can run an active study's trials, and if not, why."""
    name, task, pinned = f"study {study['name']}", study["task"], study["task_digest"]
    offers = [w for w in online if task in w["tasks"]]
    if not offers:
        known = sorted({t for w in online for t in w["tasks"]})
        detail = f"waits: no worker online serves task {task!r}; they serve {', '.join(known) or 'nothing'}"
        return Finding(name, "fail", detail, f"start a worker that has it: {_start(task)}")
    fitting = [w for w in offers if pinned in (None, w["tasks"][task])]
    if not fitting:
        has = f"{offers[0]['name']} has {task}@{offers[0]['tasks'][task][:12]}"
        detail = f"waits: began with {task}@{pinned[:12]}, {has}: its code, data or versions changed"
        fix = "start a worker with what the study began with, or begin a new study"
        return Finding(name, "fail", detail, fix)
    gpus = study["gpus"]
    if not (large := [w for w in fitting if any(len(s["devices"]) >= gpus for s in w["slots"])]):
        most = max(len(s["devices"]) for w in fitting for s in w["slots"])
        detail = f"waits: each trial asks for {gpus} GPUs, the largest slot online that serves it has {most}"
        return Finding(name, "fail", detail, f"start a worker with --devices-per-slot {gpus}")
    fitting = large
    if all(w["draining"] or w["aside_until"] for w in fitting):
        return Finding(name, "warn", "its workers take no new trial", "undrain one, or start another")
    return Finding(name, "ok", f"{len(fitting)} worker(s) serve {task}")


def _start(task: str) -> str:
    return f"`tunesmith worker --tasks FILE.py` for your own code, `--data {task}=FILE` for a data file"
