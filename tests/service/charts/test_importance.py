"""Importance as charts ask for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_charts_of_a_page_may_ask_at_once_the_first_time() -> None:
    """Optuna is loaded then, and half loaded it is no good to another thread."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool; "
        "from hand_made import asked, columns; from tunesmith_service.charts import importance; "
        "lr = [i / 9 for i in range(10)]; space = {'lr': {'type': 'float', 'low': 0.0, 'high': 1.0}}; "
        "found = columns(lr, numbers={'lr': lr}); "
        "ask = lambda _: importance.view(asked(found, space=space))['shares']; "
        "print(list(Pool(4).map(ask, range(4))))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.stdout == f"{[[1.0]] * 4}\n", done.stderr
