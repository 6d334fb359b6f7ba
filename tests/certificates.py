"""Certificates for tests of TLS, which their own key has signed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate(directory: Path) -> tuple[Path, Path]:
    """One for this machine, and its key. Whoever is told SSL_CERT_FILE trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    cert, key = directory / "cert.pem", directory / "key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
         "-days", "30", "-subj", "/CN=localhost", "-addext", names],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
