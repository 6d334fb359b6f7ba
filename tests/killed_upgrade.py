"""Upgrades databases, each killed with SIGKILL before its n-th statement: `python killed_upgrade.py n URL …`.

Prints for each how its process ended: minus the signal, or 0 and how many statements there were.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count

from sqlalchemy import event
from tunesmith_service import db, migrate


def upgrade(url: str, killed_at: int) -> int:
    """Upgrade in this process, which dies before statement `killed_at`. Returns how many there were."""
    engine = db.open_engine(url)
    numbers = count(1)
    last = 0

    def counted(*_: object) -> None:
        nonlocal last
        last = next(numbers)
        if last == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "before_cursor_execute", counted)
    event.listen(engine, "commit", counted)
    migrate.upgrade(engine)
    return last


def main() -> None:
    for killed_at, url in zip(map(int, sys.argv[1::2]), sys.argv[2::2], strict=True):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write, str(upgrade(url, killed_at)).encode())
            os._exit(0)
        os.close(write)
        _, status = os.waitpid(child, 0)
        said = os.read(read, 32).decode() or "0"
        os.close(read)
        print(os.waitstatus_to_exitcode(status), said, flush=True)


if __name__ == "__main__":
    main()
