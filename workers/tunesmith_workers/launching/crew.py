"""What all engines are asked for: so many workers, and what each needs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8787"
"""Of a service on this machine."""
SET_BY_US = ("--url", "--token", "--token-file", "--name", "--state", "--slots", "--devices", "--cores",
             "--devices-per-slot")  # fmt: skip
"""Options of `tunesmith worker` that follow from a crew and its engine."""


MOST_OF_NAME = 40
"""Characters; what an engine adds to tell its workers apart makes up to 64 of it."""
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_OF_NAME - 1}}}")


def of_this_home() -> tuple[str, Path]:
    """Address of the service that runs from the home of this folder, and the file with its workers' token."""
    home = Path(os.environ.get("TUNESMITH_HOME", ".tunesmith"))
    try:
        return str(json.loads((home / "server.json").read_text())["url"]), home / "worker.token"
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_URL, home / "worker.token"


class LaunchError(Exception):
    """What keeps a crew from being launched, and what to do about it."""


def token_in(file: Path, role: str) -> str:
    """Raises: LaunchError."""
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise LaunchError(f"{file} cannot be read ({why}): name a file that can") from e
    if not text.startswith("tsm_"):
        made = f"`tunesmith token create NAME --role {role} --quiet > {file}`"
        raise LaunchError(f"{file} holds no token; {made} makes one")
    return text


@dataclass(frozen=True, slots=True)
class Crew:
    """Equal workers.

    Attributes:
        url: of the service, as workers reach it.
        token_file: with a token of the role worker, as workers find it.
        count: workers.
        slots: of each worker, so many trials at a time.
        gpus_per_slot: 0 trains on the CPU.
        cpus_per_slot: CPU cores that a slot computes with, loading of data included.
        options: more of `tunesmith worker`, such as `("--data", "spam=/data/spam.csv")`.
        name: for people; each worker's name begins with it.

    Raises: LaunchError for numbers that make no crew, and for options that the crew decides.
    """

    url: str
    token_file: Path
    count: int = 1
    slots: int = 1
    gpus_per_slot: int = 0
    cpus_per_slot: int = 1
    options: tuple[str, ...] = ()
    name: str = "tunesmith"

    def __post_init__(self) -> None:
        for what, least in (("count", 1), ("slots", 1), ("gpus_per_slot", 0), ("cpus_per_slot", 1)):
            if getattr(self, what) < least:
                raise LaunchError(f"{what} is at least {least}, got {getattr(self, what)}")
        if not _NAME.fullmatch(self.name):
            raise LaunchError(
                f"{self.name!r} names no worker, whose state is kept under it: take letters, digits, dots, _ "
                f"and -, at most {MOST_OF_NAME}"
            )
        for option in self.options:
            if (flag := option.partition("=")[0]) in SET_BY_US:
                raise LaunchError(f"{flag} follows from the launch itself; leave it out")

    @property
    def gpus(self) -> int:
        """Of each worker."""
        return self.slots * self.gpus_per_slot

    @property
    def cpus(self) -> int:
        """Of each worker."""
        return self.slots * self.cpus_per_slot

    def token(self) -> str:
        """For engines that carry it to the workers themselves. Raises: LaunchError."""
        return token_in(self.token_file, "worker")

    def arguments(self, token_file: Path | None = None, *, workers: int = 1) -> list[str]:
        """Of `tunesmith worker`, but for its name.

        Args:
            token_file: where the worker finds the token, if not where the crew has it.
            workers: so many as one, with the slots of all.
        """
        where = ["--url", self.url, "--token-file", str(token_file or self.token_file.absolute())]
        return [*where, *self.machine(workers=workers), *self.options]

    def machine(self, *, workers: int = 1) -> list[str]:
        """Options that tell a worker what is its own: which GPUs these are, the scheduler says in its
        environment."""
        found = ["--cores", str(workers * self.cpus)]
        if self.gpus_per_slot:
            return [*found, "--devices-per-slot", str(self.gpus_per_slot)]
        return [*found, "--devices", "cpu", "--slots", str(workers * self.slots)]
