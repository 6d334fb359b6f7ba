"""What is written for MLflow and W&B, and as JSONL, read back with their own readers."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas
import psutil
import pytest
from mlflow.entities import Run
from tunesmith_service.cli.base import ExitCode
from wandb.proto import wandb_internal_pb2

from .varied import NAME, Varied

BEGUN = [0, 1, 2, 3, 4, 5, 7]


def seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


# --- MLflow ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store in files: making MLflow's tables takes half a minute on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield (tmp_path_factory.mktemp("mlflow") / "runs").as_uri()


@pytest.fixture(scope="module")
def runs(varied: Varied, uri: str) -> dict[str, Run]:
    """Those of the exported study, by name."""
    done = varied.tunesmith("export", "mlflow", NAME, "--tracking-uri", uri, "--experiment", "some")
    assert done.exit_code == 0, done.output
    assert "of experiment some, 7 trials with 19 points" in done.output
    return {run.info.run_name: run for run in found(uri)}


def found(uri: str) -> list[Run]:
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("some")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_mlflow_shows_a_run_for_the_study_and_a_child_for_each_trial(runs: dict[str, Run]) -> None:
    assert set(runs) == {NAME, *(f"trial {n}" for n in BEGUN)}
    parent = runs[NAME]
    assert parent.data.params == {"batch_size": "64"}
    children = [run for name, run in runs.items() if name != NAME]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    states = {run.data.tags["tunesmith.number"]: run.info.status for run in children}
    assert states == {
        "0": "FINISHED", "1": "FINISHED", "2": "FINISHED", "3": "FINISHED", "4": "FAILED", "5": "FINISHED",
        "7": "RUNNING",
    }  # fmt: skip
    assert parent.info.status == "RUNNING"


def test_mlflow_has_every_point_with_its_step_and_time(
    varied: Varied, uri: str, runs: dict[str, Run]
) -> None:
    trials = {t["number"]: t for t in varied.trials(varied.study)}
    client = mlflow.MlflowClient(tracking_uri=uri)
    for number in BEGUN:
        trial, run = trials[number], runs[f"trial {number}"]
        for name in {n for p in trial["curve"] for n in p["metrics"]}:
            history = client.get_metric_history(run.info.run_id, name)
            wanted = [(p["step"], float(p["metrics"][name])) for p in trial["curve"] if name in p["metrics"]]
            assert repr([(m.step, m.value) for m in history]) == repr(wanted)
            assert all(run.info.start_time < m.timestamp for m in history)
        assert run.data.params == {n: str(v) for n, v in trial["params"].items()}
        assert run.info.start_time == round(seconds(trial["started_at"]) * 1000)
    assert runs["trial 1"].data.metrics["objective"] == trials[1]["value"]
    assert runs[NAME].data.metrics["objective"] == trials[1]["value"]
    assert "objective" not in runs["trial 3"].data.metrics


def test_mlflow_runs_are_replaced_only_when_asked(varied: Varied, uri: str, runs: dict[str, Run]) -> None:
    words = ["export", "mlflow", NAME, "--tracking-uri", uri, "--experiment", "some"]
    refused = varied.tunesmith(*words)
    assert (refused.exit_code, "replace them with --overwrite" in refused.output) == (
        ExitCode.CONFLICT,
        True,
    )
    before = {run.info.run_id for run in found(uri)}
    assert varied.tunesmith(*words, "--overwrite").exit_code == 0
    after = {run.info.run_id for run in found(uri)}
    assert len(after) == len(before)
    assert not after & before


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("nosuch://x", "MLflow at nosuch://x refuses"),
        ("mysql://u@127.0.0.1/x", "MLflow does not reach the database of its runs: No module named"),
    ],
)
def test_what_mlflow_refuses_is_told(varied: Varied, uri: str, says: str) -> None:
    refused = varied.tunesmith("export", "mlflow", NAME, "--tracking-uri", uri)
    assert (refused.exit_code, says in refused.output) == (ExitCode.USAGE, True), refused


# --- W&B ------------------------------------------------------------------------------------------

HEADER, BLOCK = 7, 32_768


def records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Of a transaction log, whose format is LevelDB's: chunks of a block, a record in one or several.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md; W&B's own header is 7 bytes.
    """
    data, at, record = file.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last of several
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


PAGE = Path(__file__).parents[2] / "docs" / "exchange.md"


def examples(kind: str) -> list[str]:
    """Of the page about exchange, about the study of these tests."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [
        re.sub(r" digits(?= -)", f" {shlex.quote(NAME)}", code).replace('"digits"', repr(NAME))
        for code in found
    ]


@pytest.fixture(scope="module")
def offline(varied: Varied, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's example writes, by a process of its own: wandb's must end with it."""
    out = tmp_path_factory.mktemp("wandb")
    (example,) = [code for code in examples("sh") if "export wandb" in code]
    own = {"WANDB_CONFIG_DIR": str(out / "config"), "WANDB_CACHE_DIR": str(out / "cache")}
    own |= {"TUNESMITH_URL": varied.url, "TUNESMITH_TOKEN": varied.operator}
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith_service", *shlex.split(example)[1:]],
        cwd=out, env=os.environ | own, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "7 trials with 19 points in runs" in done.stdout
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(out) in str(p.info["cmdline"])]
    return out / "runs"


def logged(offline: Path, number: int) -> list[wandb_internal_pb2.Record]:
    (file,) = offline.glob(f"wandb/offline-run-*/run-*-{number}.wandb")
    return list(records(file))


def values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_a_run_of_wandb_has_settings_group_every_point_and_how_it_ended(
    varied: Varied, offline: Path
) -> None:
    trials = {t["number"]: t for t in varied.trials(varied.study)}
    for number in BEGUN:
        trial, told = trials[number], logged(offline, number)
        (run,) = [r.run for r in told if r.WhichOneof("record_type") == "run"]
        assert (run.project, run.run_group, run.display_name) == ("digits", NAME, f"trial {number}")
        assert list(run.tags) == ["coarse", trial["state"]]
        assert trial["params"].items() <= values(run.config.update).items()
        history = [values(r.history.item) for r in told if r.WhichOneof("record_type") == "history"]
        assert [h["_step"] for h in history] == [p["step"] for p in trial["curve"]]
        for point, one in zip(trial["curve"], history, strict=True):
            named = {n: float(one[n]) for n in point["metrics"]}
            assert repr(named) == repr({n: float(v) for n, v in point["metrics"].items()})
            assert one["_timestamp"] > seconds(trial["started_at"])
        summary: dict[str, Any] = {}
        for record in told:
            if record.WhichOneof("record_type") == "summary":
                summary |= values(record.summary.update)
        assert (summary["state"], summary.get("objective")) == (trial["state"], trial["value"])
        (ended,) = [r.exit.exit_code for r in told if r.WhichOneof("record_type") == "exit"]
        assert ended == (1 if trial["state"] == "failed" else 0)
    assert any(math.isinf(float(p["metrics"]["val/loss"])) for p in trials[2]["curve"])


def test_wandb_runs_are_replaced_only_when_asked(varied: Varied, offline: Path) -> None:
    refused = varied.tunesmith("export", "wandb", NAME, "--dir", str(offline))
    assert refused.exit_code == ExitCode.CONFLICT
    assert f"has 7 runs of study {NAME} already; replace them with --overwrite" in refused.output
    before = sorted(offline.rglob("*.wandb"))
    words = ("--project", "team/x", "--overwrite")
    refused = varied.tunesmith("export", "wandb", NAME, "--dir", str(offline), *words)
    assert (refused.exit_code, "W&B takes no project 'team/x'" in refused.output) == (ExitCode.USAGE, True)
    assert sorted(offline.rglob("*.wandb")) == before


# --- without their packages -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "words"),
    [("mlflow", ["--tracking-uri", "sqlite:///x.db"]), ("wandb", ["--dir", "x"])],
)
def test_a_missing_package_is_named_with_its_extra(
    varied: Varied, monkeypatch: pytest.MonkeyPatch, package: str, words: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    told = varied.tunesmith("export", package, NAME, *words)
    assert told.exit_code == ExitCode.USAGE
    assert f"pip install 'tunesmith[{package}]'" in told.output


# --- lines and tables -----------------------------------------------------------------------------


def test_jsonl_has_each_trial_whole_and_is_read_again(varied: Varied, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    done = varied.tunesmith("export", "trials", NAME, "-o", str(file))
    assert f"{file}: 9 trials, one a line" in done.output
    assert [json.loads(line) for line in file.read_text().splitlines()] == varied.trials(varied.study)
    table = pandas.read_json(file, lines=True)
    assert list(table["state"]) == [t["state"] for t in varied.trials(varied.study)]
    some = varied.tunesmith(
        "export", "trials", NAME, "-o", str(file), "--filter", "state:complete", "--sort", "-number"
    )
    assert some.exit_code == 0
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [5, 1, 0]
    wrong = varied.tunesmith("export", "trials", NAME, "-o", str(file), "--columns", "lr")
    assert (wrong.exit_code, "leave --columns out" in wrong.output) == (ExitCode.USAGE, True)
    assert [p.name for p in tmp_path.iterdir()] == ["trials.jsonl"]


def test_parquet_and_csv_are_read_back_with_pandas_to_the_last_digit(varied: Varied, tmp_path: Path) -> None:
    best = varied.api("GET", f"/studies/{varied.study}/best").json()["items"][0]
    for suffix, read in (("parquet", pandas.read_parquet), ("csv", pandas.read_csv)):
        file = tmp_path / f"trials.{suffix}"
        assert varied.tunesmith("export", "trials", NAME, "-o", str(file)).exit_code == 0
        table = read(file)
        assert len(table) == 9
        assert table["val/loss"].min() == best["value"]
        assert list(table.loc[table["val/loss"].idxmin(), ["number", "lr"]]) == [best["number"], 0.01]


# --- the page about all this ----------------------------------------------------------------------


def test_every_other_example_of_the_page_about_exchange_runs(
    varied: Varied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In their order; the study, the stores, the address and the token are this test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for code in examples("sh"):
        lines = code.replace("sqlite:///mlflow.db", "mlruns").splitlines()
        ours = [line for line in lines if line.startswith("tunesmith ") and " wandb " not in line]
        others = "\n".join(line for line in lines if not line.startswith("tunesmith "))
        subprocess.run(["bash", "-ec", others], check=True)
        for line in ours:
            done = varied.tunesmith(*shlex.split(line)[1:])
            assert done.exit_code == 0, (line, done.output)
    for code in examples("python"):
        here = code.replace("http://127.0.0.1:8787", varied.url).replace(".tunesmith/", f"{varied.home}/")
        exec(compile(here, PAGE.name, "exec"), {})
    assert "have not ended in Optuna and are left out.'] 6 new" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        "trials.db", "trials.log", "stage.yaml", "mlruns", "trials.jsonl", "trials.parquet", "trials.csv",
        "from-python.log",
    }  # fmt: skip
