"""Whether TLS can be spoken with the files that the settings name: said before anything is opened, and of
which file, which neither uvicorn nor OpenSSL says."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

from tunesmith_service.settings import Settings, SettingsError


def check(settings: Settings) -> None:
    """Raises: SettingsError."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        return
    for flag, file in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            file.open("rb").close()
        except OSError as e:
            raise SettingsError(f"{flag} names {file}, which cannot be read: {e.strerror}") from e
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cert)
    except ssl.SSLError as e:
        raise SettingsError(f"--tls-cert names {cert}, which holds no certificate in PEM format") from e
    _check_key(context, cert, key)


def _check_key(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    asked: list[Path] = []

    def password() -> str:
        asked.append(key)
        return ""

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as e:
        if not asked:
            why = f": {e.reason}" if e.reason else ""
            said = f"which is no private key in PEM format that goes with {cert}{why}"
            raise SettingsError(f"--tls-key names {key}, {said}") from e
        if not sys.stdin.isatty():  # else uvicorn asks
            said = "which asks for a pass phrase, and nobody is here to give it"
            raise SettingsError(
                f"--tls-key names {key}, {said}; write one that asks for none with openssl pkey"
            ) from e
