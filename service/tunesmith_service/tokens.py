"""Secrets that people and workers carry: how they are made, read and kept.

A token is `tsm_<key id>_<secret>`. The key id finds the row; of the secret, 256 random bits, only the
SHA-256 is stored: there is nothing to guess, so nothing slow is needed. The prefix lets scanners find
tokens that leaked into a repository.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

PREFIX = "tsm"
_TOKEN = re.compile(r"tsm_([0-9a-f]{16})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its holder knows it. `str` of it is hidden, so that it cannot slip into a log."""

    key_id: str
    secret: str

    @classmethod
    def mint(cls) -> Token:
        return cls(key_id=secrets.token_hex(8), secret=secrets.token_hex(32))

    @classmethod
    def read(cls, text: str) -> Token | None:
        """The token that a text is, or None."""
        found = _TOKEN.fullmatch(text)
        return cls(found[1], found[2]) if found else None

    @classmethod
    def in_file(cls, path: Path) -> Token | None:
        """The same of what `write_private` wrote; None also where there is no such file."""
        try:
            return cls.read(path.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            return None

    def reveal(self) -> str:
        return f"{PREFIX}_{self.key_id}_{self.secret}"

    @property
    def secret_hash(self) -> bytes:
        return hash_secret(self.secret)

    def __repr__(self) -> str:
        return f"Token({self.key_id})"


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret; 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, from its first byte on; in one step."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)
    os.replace(part, path)
