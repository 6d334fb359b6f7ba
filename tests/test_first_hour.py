"""Whoever follows docs/first-hour.md word by word: own script, four workers, the best again, MLflow."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pages
import pytest
from pages import environment, shell
from processes import Process, until
from tunesmith_service.cli.config import said_address


def block(name: str) -> str:
    return pages.block("docs/first-hour.md", f"hour: {name}")


def error(said: str) -> float:
    """On the validation set, as the script prints it last."""
    return float(said.rpartition("'val/error':")[2].rstrip("} \n"))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # in MLflow's own store
def test_from_ones_own_script_to_a_study_on_four_workers_to_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for name in ("train.py", "tune.py", "hour.yaml"):
        (tmp_path / name).write_text(block(name))
    before = error(shell(block("before"), tmp_path))

    executable = shutil.which("tunesmith", path=environment()["PATH"])
    assert executable is not None
    _, *serve = block("serve").split()
    with Process([executable, *serve, "--port", "0"], directory=tmp_path) as process:
        until(lambda: said_address(tmp_path / ".tunesmith"), saw=lambda: process.said)
        said = shell(block("tune"), tmp_path)
        assert re.search(r"^study +hour \(complete\)$", said, re.MULTILINE), said
        after = error(shell(block("again"), tmp_path))
        shell(block("mlflow"), tmp_path)
        process.signal(2)
        assert process.ends() == 0, process.said

    assert after < before / 2
    (best,) = json.loads((tmp_path / "best.json").read_text())
    runs = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = (e for e in runs.search_experiments() if e.name != "Default")
    found = runs.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = (run for run in found if "mlflow.parentRunId" not in run.data.tags)
    children = {run.data.tags["tunesmith.number"]: run for run in found if run is not parent}
    assert len(children) > 20
    mine = children[str(best["number"])]
    assert float(mine.data.params["lr"]) == best["params"]["lr"]
    curve = [point.value for point in runs.get_metric_history(mine.info.run_id, "val/loss")]
    assert min(curve) <= best["value"] <= max(curve)
