"""Where the service is and which token opens it.

Each is looked for in this order: a flag, the environment (TUNESMITH_URL, TUNESMITH_TOKEN,
TUNESMITH_TOKEN_FILE, TUNESMITH_HOME), the table [client] of ./tunesmith.toml (url, token_file), and
last the home directory of a service on this machine, which holds its address and a token.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_service.errors import Unauthorized, Unavailable
from tunesmith_service.settings import FILE, Settings, SettingsError, load

RETRY_SECONDS = 3.0
"""A person at a terminal learns soon that nobody answers; a script may say more."""


@dataclass(frozen=True, slots=True)
class Where:
    """A service to talk to: a server of it, or several with commas between. `home` is where a service on
    this machine would live."""

    url: str
    home: Path
    token_file: Path
    token_text: str = ""
    retry_for: float = RETRY_SECONDS

    @property
    def urls(self) -> list[str]:
        return [url.strip().rstrip("/") for url in self.url.split(",")]

    def token(self) -> str:
        """Raises: Unauthorized, saying where a token was looked for; Unavailable where nothing ever ran."""
        if self.token_text:
            return self.token_text
        if self.token_file.parent == self.home and not self.home.exists():
            raise Unavailable(f"no service is named, and none has run from {self.home}")
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except OSError as e:
            raise Unauthorized(f"no token: {self.token_file} cannot be read ({e.strerror})") from e


def find(
    url: str | None,
    token_file: Path | None,
    home: Path | None,
    env: Mapping[str, str] = os.environ,
    file: Path = FILE,
) -> Where:
    """What flags (or their environment variables) say, and the rest from the file and the home.

    Raises: SettingsError for a file that cannot be used.
    """
    local = load({"home": home}, env, file)
    written = _client_table(file)
    return Where(
        url=(url or written.get("url") or address(local)).rstrip("/"),
        home=local.home,
        token_file=token_file or Path(written.get("token_file", local.operator_token_file)).expanduser(),
        token_text=env.get("TUNESMITH_TOKEN", "") if token_file is None else "",
    )


def address(local: Settings) -> str:
    """Where the service of this home said it listens, or by its settings would."""
    return said_address(local.home) or local.address


def said_address(home: Path) -> str:
    """Where the service of a home says that it listens; empty if none does."""
    try:
        said: dict[str, Any] = json.loads((home / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(said.get("url", ""))


def _client_table(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("client", {})
    for key, value in table.items():
        if key not in ("url", "token_file"):
            raise SettingsError(f"{file} has client.{key}, which is no setting; it has url and token_file")
        if not isinstance(value, str):
            raise SettingsError(f'{file}: client.{key} is a text, such as {key} = "…"; several with commas')
    return table


__all__ = ["SettingsError", "Where", "address", "find", "said_address"]
