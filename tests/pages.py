"""What a page of the docs shows, run as a person would who follows it word by word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def block(page: str, name: str) -> str:
    """The code under `<!-- NAME -->` of a page, whose path is given from the root."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found, f"{page} has no block {name}"
    return found[1]


def shell(script: str, folder: Path) -> str:
    """Run commands as somebody would whose virtual environment is active; what they printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment(), text=True,
        capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    """As after `source .venv/bin/activate`: the folder of this interpreter comes first."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")}
    return clean | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
