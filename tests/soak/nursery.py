"""Forks a process for each light worker, so that starting one costs milliseconds: `python -m soak.nursery`.

Reads a line of JSON for each, the arguments of a `SoakWorker`, and answers with a process id. What workers
print, which is why they ended, goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from soak.worker import SoakWorker


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)
            _live(*json.loads(line))
        print(pid, flush=True)


def _live(url: str, token: str, number: int, epoch_seconds: float, journal: str) -> None:
    try:
        asyncio.run(SoakWorker(url, token, number, epoch_seconds, Path(journal)).work())
    except BaseException:
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    main()
