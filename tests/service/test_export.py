"""What `tunesmith export tensorboard` writes, read back with TensorBoard's own readers."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.util import tensor_util
from tunesmith_service import commands
from tunesmith_service.__main__ import main
from tunesmith_service.cli import event_files
from tunesmith_service.cli.base import ExitCode
from tunesmith_service.commands import Lease
from ui.conftest import Dashboard
from ui.seeding import ERROR, Seeder

PIXEL = base64.b64encode(event_files._png(2, 1, [b"\0\0\0\xff\xff\xff"])).decode()
SAMPLES = [
    {"index": 17, "input": {"png": PIXEL, "width": 2, "height": 1}, "prediction": "3", "truth": "5|6",
     "probability": 0.91, "truth_probability": 0.02, "loss": 3.9},
    {"index": 4, "input": {"values": [0.1], "shape": [1]}, "prediction": "1", "truth": "7",
     "probability": 0.5, "truth_probability": 0.2, "loss": 1.6},
]  # fmt: skip
CONFUSION = {
    "kind": "confusion", "split": "val", "samples": 5, "classes": ["a", "b"], "counts": [[3, 0], [1, 1]],
}  # fmt: skip
ARTIFACTS: dict[str, Any] = {
    "confusion.json": CONFUSION,
    "mistakes.json": {"kind": "mistakes", "split": "val", "samples": SAMPLES},
    "predictions.json": ["somebody's own"],
    "notes.txt": "not drawn",
}


class Exported(Dashboard):
    """One complete trial with artifacts, one that diverged, one that failed, one that waits."""

    def some_studies(self, seeder: Seeder, token: int) -> int:
        study = seeder.create(name="../exported")
        seeder.register(token)
        for i in range(3):
            seeder.propose(study, "coarse", i, 5, lr=0.01 * (i + 1), optimizer="adam")
        lease = seeder.claim()
        seeder.train(lease, 0.5, 5)
        for name, document in ARTIFACTS.items():
            body = json.dumps(document).encode()
            seeder.do(commands.CommitArtifact(lease, name, seeder.blobs.put_bytes(body), len(body)))
        seeder.finish(lease)
        lease = seeder.claim()
        seeder.report(lease, [(1, {"val/loss": 2.0}), (2, {"val/loss": math.inf, "train/loss": math.nan})])
        seeder.finish(lease, "pruned", "diverged")
        lease: Lease = seeder.claim()
        seeder.finish(lease, "failed", "error", ERROR)
        seeder.propose(study, "coarse", 3, 5)
        return study


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    served = Exported(tmp_path_factory.mktemp("exported"))
    yield served
    served.process.kill()


def export(served: Exported, *words: str) -> Result:
    environ = {"TUNESMITH_URL": served.url, "TUNESMITH_TOKEN": served.operator}
    return CliRunner().invoke(main, ["export", "tensorboard", str(served.study), *words], env=environ)


@pytest.fixture(scope="module")
def runs(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "out"
    done = export(exported, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "3 runs with 7 points" in done.output
    assert "Trial #0: predictions.json is none of ours and is left out." in done.output
    return out


def read(directory: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_there_is_a_run_a_trial_that_was_begun_and_nothing_outside_of_the_directory(runs: Path):
    assert sorted(p.name for p in runs.iterdir() if p.is_dir()) == [
        "trial-00000",
        "trial-00001",
        "trial-00002",
    ]
    assert [p.name for p in runs.parent.iterdir()] == ["out"]


def test_every_point_of_a_curve_is_read_back(exported: Exported, runs: Path):
    points = exported.api("GET", f"/studies/{exported.study}/trials/0/curve").json()["points"]
    run = read(runs / "trial-00000")
    for name in ("val/loss", "train/loss", "val/accuracy", "train/accuracy"):
        events = run.Scalars(name)
        assert [e.step for e in events] == [p["step"] for p in points]
        assert [e.value for e in events] == pytest.approx([p["metrics"][name] for p in points], rel=1e-7)
    best = exported.api("GET", f"/studies/{exported.study}/best").json()["items"][0]["value"]
    assert [(e.step, e.value) for e in run.Scalars("objective")] == [(5, pytest.approx(best, rel=1e-7))]


def test_what_is_not_finite_is_read_back_as_such(runs: Path):
    run = read(runs / "trial-00001")
    assert [e.value for e in run.Scalars("val/loss")] == [2.0, math.inf]
    assert [math.isnan(e.value) for e in run.Scalars("train/loss")] == [True]
    assert "objective" not in run.Tags()["scalars"]


def hparams_of(directory: Path) -> dict[str, plugin_data_pb2.HParamsPluginData]:
    found = read(directory).PluginTagToContent(hparams.PLUGIN_NAME)
    return {tag: plugin_data_pb2.HParamsPluginData.FromString(content) for tag, content in found.items()}


def test_the_hparams_plugin_reads_names_values_and_endings(runs: Path):
    told = hparams_of(runs)[hparams.EXPERIMENT_TAG].experiment
    assert [h.name for h in told.hparam_infos] == ["lr", "weight_decay", "optimizer", "batch_size", "stage"]
    assert [m.name.tag for m in told.metric_infos] == ["objective"]
    first = hparams_of(runs / "trial-00000")
    start = first[hparams.SESSION_START_INFO_TAG].session_start_info
    assert (start.group_name, start.hparams["lr"].number_value) == ("trial 0", 0.01)
    assert (start.hparams["optimizer"].string_value, start.hparams["stage"].string_value) == (
        "adam",
        "coarse",
    )
    endings = [
        hparams_of(runs / f"trial-{n:05}")[hparams.SESSION_END_INFO_TAG].session_end_info.status
        for n in range(3)
    ]
    assert endings == [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]


def test_the_hparams_page_lists_a_session_a_trial_with_its_objective(runs: Path):
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(runs))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(runs))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    )
    listed = list_session_groups.Handler(RequestContext(), backend, "", asked).run().session_groups
    shown = {g.name: {m.name.tag: m.value for m in g.metric_values} for g in listed}
    objective = read(runs / "trial-00000").Scalars("objective")[0].value
    assert shown == {"trial 0": {"objective": objective}, "trial 1": {}, "trial 2": {}}


def strings(run: EventAccumulator, tag: str) -> list[bytes]:
    (event,) = run.Tensors(tag)
    return list(tensor_util.make_ndarray(event.tensor_proto))


def test_images_and_the_confusion_matrix_are_read_back(runs: Path):
    run = read(runs / "trial-00000")
    assert set(run.PluginTagToContent("images")) == {"confusion", "mistakes"}
    width, height, png = strings(run, "mistakes")
    assert (width, height, png) == (b"2", b"1", base64.b64decode(PIXEL))
    width, height, picture = strings(run, "confusion")
    assert (width, height) == (b"256", b"256")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    (table,) = strings(run, "confusion/table")
    assert table.decode().splitlines() == [
        "|true \\ predicted|a|b|", "|-|-|-|", "|a|3|0|", "|b|1|1|",
    ]  # fmt: skip
    (table,) = strings(run, "mistakes/table")
    assert table.decode().splitlines()[2] == "|17|5\\|6|3|0.91|3.9|"


def test_the_picture_of_a_confusion_matrix_shows_each_row_by_its_own_sum(tmp_path: Path):
    pillow = pytest.importorskip("PIL.Image")
    width, height, (png,) = event_files._heat([[3, 0], [1, 1]])
    file = tmp_path / "heat.png"
    file.write_bytes(png)
    with pillow.open(file) as picture:
        cells = [picture.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]
    dark, half = (13, 59, 102), (134, 157, 178)
    assert cells == [dark, (255, 255, 255), half, half]


def test_a_directory_with_runs_is_left_alone_unless_told_otherwise(exported: Exported, tmp_path: Path):
    out = tmp_path / "out"
    assert export(exported, "--out", str(out)).exit_code == 0
    before = event_files.runs_in(out)
    again = export(exported, "--out", str(out))
    assert again.exit_code == ExitCode.CONFLICT
    assert "holds 4 event files already" in again.output
    assert "say --overwrite" in again.output
    assert event_files.runs_in(out) == before
    assert export(exported, "--out", str(out), "--overwrite").exit_code == 0
    assert len(event_files.runs_in(out)) == len(before)


def test_what_another_program_wrote_beside_them_is_never_taken_for_ours(exported: Exported, tmp_path: Path):
    out = tmp_path / "out"
    assert export(exported, "--out", str(out)).exit_code == 0
    for theirs in (out / "events.out.tfevents.1", out / "trial-00001" / "events.out.tfevents.1"):
        theirs.write_bytes(b"a training's")
        refused = export(exported, "--out", str(out), "--overwrite")
        assert (refused.exit_code, "such as" in refused.output) == (ExitCode.CONFLICT, True)
        assert "say --overwrite" not in refused.output
        assert theirs.read_bytes() == b"a training's"
        theirs.unlink()


def test_runs_of_others_are_never_overwritten(exported: Exported, tmp_path: Path):
    other = tmp_path / "their run" / "events.out.tfevents.1"
    other.parent.mkdir()
    other.write_bytes(b"theirs")
    refused = export(exported, "--out", str(tmp_path), "--overwrite")
    assert refused.exit_code == ExitCode.CONFLICT
    assert "say --overwrite" not in refused.output
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [other]


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "confusion"},
        {"kind": "confusion", "classes": ["a"], "counts": [["x"]], "split": "val"},
        {"kind": "predictions", "samples": [{"input": None}]},
        {"kind": "predictions", "samples": [{"input": {"png": "!", "width": 1, "height": 1}}]},
        {"kind": ["predictions"]},
    ],
)
def test_somebody_s_own_document_is_told_from_ours(document: dict[str, Any]):
    with pytest.raises(ValueError, match="none of ours"):
        event_files.drawn("predictions.json", document)


def test_a_table_of_trials_is_read_back_as_csv(exported: Exported, tmp_path: Path):
    environ = {"TUNESMITH_URL": exported.url, "TUNESMITH_TOKEN": exported.operator}
    words = [
        "export",
        "trials",
        str(exported.study),
        "--filter",
        "state:complete,failed",
        "--sort",
        "-number",
    ]
    out = tmp_path / "some.csv"
    done = CliRunner().invoke(main, [*words, "--columns", "number,lr,value", "-o", str(out)], env=environ)
    assert done.exit_code == 0, done.output
    head, *rows = csv.reader(out.read_text().splitlines())
    assert (head, [r[0] for r in rows]) == (["number", "lr", "val/loss"], ["2", "0"])
    assert float(rows[1][2]) == exported.api("GET", f"/studies/{exported.study}/trials/0").json()["value"]
    unnamed = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "some")], env=environ)
    assert (unnamed.exit_code, list(tmp_path.iterdir())) == (ExitCode.USAGE, [out])
    assert "add --format, one of csv, parquet, jsonl, markdown, latex" in unnamed.output
