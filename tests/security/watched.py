"""`python watched.py HITS serve …`: the command `tunesmith`; its process writes down what it must not do.

An audit hook appends to the file HITS, a line each: files opened outside of what the service is made of and
its blobs and database, pickles that name a class, programs started, connections made, and modules that only
an attack would name. A hook cannot be taken out again, by whatever an attack may run.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import Any

EVIL = ("antigravity", "this", "evil_payload")
"""Modules that attacks name; nothing of ours imports them."""

RUNS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn"}
TALKS = {"socket.connect", "urllib.Request", "ftplib.connect", "smtplib.connect"}


def roots(home: str) -> tuple[str, ...]:
    """Real paths, below which files may be opened."""
    code = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *(p for p in sys.path if p)}
    system = (
        "/usr/lib",
        "/usr/share/zoneinfo",
        "/etc/localtime",
        "/etc/mime.types",
        "/dev/null",
        "/dev/urandom",
    )
    ours = [f"{home}/{name}" for name in ("blobs", "cache", "tunesmith.db", "high-water.json")]
    return tuple(os.path.realpath(p) for p in (*code, *system, *ours))


def watch(hits: str, home: str) -> None:
    """From here on, write down what happens in this process."""
    file = os.open(hits, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    allowed = roots(home)

    def is_ours(path: object) -> bool:
        if isinstance(path, int) or path is None:
            return True  # a descriptor that is open already
        real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        return real.startswith(allowed)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        is_hit = (
            (event == "open" and not is_ours(args[0]))
            or event == "pickle.find_class"
            or event in RUNS
            or event in TALKS
            or (event == "import" and str(args[0]).partition(".")[0] in EVIL)
        )
        if is_hit:
            os.write(file, f"{event} {args!r}"[:2000].replace("\n", " ").encode("utf-8", "replace") + b"\n")

    sys.addaudithook(hook)


if __name__ == "__main__":
    _, hits, *arguments = sys.argv
    from tunesmith_service.__main__ import main

    watch(hits, arguments[arguments.index("--home") + 1])
    main(arguments)
