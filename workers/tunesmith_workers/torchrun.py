"""The launcher of a slot with several devices: torchrun, with one trainer child for each of them.

    python -m tunesmith_workers.torchrun 2 --connect SOCKET --threads 4 …

torchrun would answer a batch system's signals by ending the children; they are the supervisor's to answer, so
it ignores those that it is told to, and its children have that from it. It dies with the supervisor, and they
with it.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise

from torch.distributed import run

from tunesmith_workers.parent import die_with


def main() -> None:
    parent = os.getppid()
    ranks, *arguments = sys.argv[1:]
    die_with(parent)
    for flag, name in pairwise(arguments):
        if flag == "--ignore":
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    # Nothing is left to the environment (PET_NNODES, …): a slot is on one machine, and its supervisor decides
    # what follows from a lost rank.
    run.main([
        "--standalone", "--nnodes", "1", "--nproc-per-node", ranks, "--max-restarts", "0",
        "--local-addr", "127.0.0.1", "--signals-to-handle", "SIGHUP",
        "--module", "tunesmith_workers.child", *arguments,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
