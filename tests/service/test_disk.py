"""A disk that fills up: what grows is refused in time, and what runs goes on to its end."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import until
from sqlalchemy import select
from tunesmith_service import commands as c
from tunesmith_service import tables
from tunesmith_service.disk import Disk
from tunesmith_service.errors import NoSpace

from .conftest import Api, running, study

MIB = 2**20
BALLAST = 8 * MIB
RESERVE = 4 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield at
    subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(disk: Path, *, leave: int = 0) -> Path:
    """A file that takes what is free."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as file:
        while (left := Disk(disk).free() - leave) > 0:
            try:
                file.write(b"x" * min(left, MIB))
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                break
    return path


def test_what_grows_is_refused_below_the_reserve_and_the_numbers_are_said(small_disk: Path) -> None:
    disk = Disk(small_disk, reserve_bytes=RESERVE)
    fill(small_disk, leave=RESERVE)
    disk.check()
    with pytest.raises(NoSpace, match="has 4 MiB free and keeps 4 MiB in reserve; make room"):
        disk.check(1)
    disk.admit(c.Renew(c.Lease(1, 1, 1, b"")))
    fill(small_disk, leave=RESERVE - MIB)
    with pytest.raises(NoSpace, match="has 3 MiB free"):
        disk.admit(c.Enqueue(1, "s", (), {}, "x"))


def test_the_reserve_is_the_larger_of_bytes_and_share(small_disk: Path) -> None:
    assert Disk(small_disk, reserve_bytes=RESERVE, reserve_percent=25).reserve() == 16 * MIB
    assert Disk(small_disk, reserve_bytes=32 * MIB, reserve_percent=25).reserve() == 32 * MIB
    assert Disk(small_disk).reserve() == 0


def test_the_ballast_takes_its_room_is_given_up_once_and_comes_back(small_disk: Path) -> None:
    disk = Disk(small_disk, reserve_bytes=RESERVE, ballast_bytes=BALLAST)
    disk.tend()
    assert os.stat(small_disk / "ballast").st_blocks * 512 == BALLAST
    filler = fill(small_disk)
    assert (disk.give_up_ballast(), disk.is_full, disk.free() >= BALLAST) == (True, True, True)
    assert disk.give_up_ballast() is False
    for waits in (c.AppendLog(c.Lease(1, 1, 1, b""), 1, "", 1), c.Redraw(1, 1, {}, {}, 1)):
        with pytest.raises(NoSpace):
            disk.admit(waits)
    disk.tend()
    assert disk.is_full  # there is room for the ballast, but not beyond the reserve
    filler.unlink()
    disk.tend()
    assert not disk.is_full
    assert (small_disk / "ballast").stat().st_size == BALLAST


def test_without_a_ballast_there_is_nothing_to_give_up(small_disk: Path) -> None:
    disk = Disk(small_disk)
    disk.tend()
    assert (disk.give_up_ballast(), disk.is_full, list(small_disk.iterdir())) == (False, False, [])


def test_a_full_disk_costs_no_lease_and_no_acknowledged_report_and_leaves_by_itself(small_disk: Path) -> None:
    body = b"weights" * 1000
    sha256 = hashlib.sha256(body).hexdigest()

    async def scene() -> None:
        limits = {"reserve_bytes": RESERVE, "ballast_bytes": BALLAST, "sweep_seconds": 0.05}
        async with running(small_disk / "home", **limits) as api:
            first, second = await api.lease(), await api.lease()
            filler = fill(small_disk, leave=RESERVE - MIB)
            await below_the_reserve(api)
            fill(small_disk)
            acknowledged = await report_until_full(api, first)
            assert api.service.disk.is_full
            assert (await api.say(second, "heartbeat", {})).status_code == 200
            assert (await api.claim()).status_code == 507
            log = await api.say(second, "logs", {"seq": 1, "text": "epoch 1"})
            assert log.status_code == 507
            done = await api.say(first, "finish", {"state": "complete", "stop_reason": "budget"})
            assert (done.status_code, done.json()["state"]) == (200, "complete")
            released = await api.say(second, "release", {"cause": "preempted"})
            assert released.status_code == 200
            r = tables.reports
            with api.service.engine.connect() as conn:
                stored = conn.execute(select(r.c.seq).where(r.c.trial_id == first.trial_id).order_by(r.c.seq))
                assert list(stored.scalars()) == list(range(1, acknowledged + 1))
            filler.unlink()
            await asyncio.to_thread(until, lambda: not api.service.disk.is_full)
            assert (await api.claim()).json()["grant"]["trial_id"] == second.trial_id

    async def below_the_reserve(api: Api) -> None:
        assert (await api.post("/studies", json=study("more"))).status_code == 507
        name = (await api.get("/studies")).json()["items"][0]["name"]
        assert (await api.post(f"/studies/{name}/trials", json={"params": [{"lr": 0.01}]})).status_code == 507
        lease = await api.get("/studies")
        assert lease.status_code == 200

    async def report_until_full(api: Api, lease: object) -> int:
        """Reports, each acknowledged, until the database finds no room and the ballast is given up."""
        path = f"/leases/{lease.trial_id}/blobs/{sha256}"  # type: ignore[attr-defined]
        put = await api.call("PUT", path, role="worker", headers=lease.headers, content=body)  # type: ignore[attr-defined]
        assert put.status_code == 507
        for seq in range(1, 2000):
            points = [{"step": 500 * seq + i, "metrics": {"val/loss": 0.5 + i}} for i in range(400)]
            told = await api.say(lease, "reports", {"seq": seq, "points": points})  # type: ignore[arg-type]
            assert told.status_code == 200, told.text
            if api.service.disk.is_full:
                return seq
        raise AssertionError("the disk never filled up")

    asyncio.run(asyncio.wait_for(scene(), 120))
