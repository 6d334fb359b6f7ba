"""A study's trials as TensorBoard event files, written with tensorboard's own writer and messages.

One run a trial, `trial-00012`: its curves as scalars by step, its hyperparameters and objective for the
hparams plugin, and what the artifacts of `tunesmith_workers.inspection` show: the confusion matrix as an
image and a table, predictions and worst mistakes as images with a caption. TensorBoard keeps scalars in
single precision; the API has them whole. A point's wall time is when its trial started, for the service
keeps no time of a single point: read these charts by step.

No torch here, and tensorboard is imported only when somebody exports: `pip install 'tunesmith[export]'`.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_plugin
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.image import metadata as image
from tensorboard.plugins.text import metadata as text
from tensorboard.summary.writer.event_file_writer import EventFileWriter

Answer = Mapping[str, Any]

OBJECTIVE = "objective"
FILES = "events.out.tfevents.*"
OURS = ".tunesmith"
"""Ends the name of each file that is written here, so that no other is ever taken for one."""
MOST_CELLS_WRITTEN = 32
"""A confusion matrix of at most this many classes is written out as a table, too."""
PICTURE_PIXELS = 256

_STATUS = {
    "complete": api_pb2.STATUS_SUCCESS,
    "pruned": api_pb2.STATUS_SUCCESS,  # a result: the trial ended as it should
    "failed": api_pb2.STATUS_FAILURE,
    "running": api_pb2.STATUS_RUNNING,
}


def runs_in(directory: Path) -> list[Path]:
    """Event files in a directory, of whatever made them."""
    return sorted(directory.rglob(FILES)) if directory.is_dir() else []


def own_runs_in(directory: Path) -> list[Path]:
    """Those that an export has written."""
    return [file for file in runs_in(directory) if file.name.endswith(OURS)]


def write_study(directory: Path, study: Answer) -> None:
    """What the hparams plugin must know of the whole study: its hyperparameters and objective."""
    spec = study["spec"]
    names = [*spec["space"], *(n for n in spec["fixed"] if n not in spec["space"]), "stage"]
    metric = hparams.Metric(OBJECTIVE, display_name=f"{study['metric']} ({study['direction']})")
    with _writing(directory) as write:
        created = _seconds(study["created_at"])
        config = hparams.hparams_config_pb([hparams.HParam(n) for n in names], [metric], created)
        write(config, 0, created)


def write_trial(
    directory: Path, trial: Answer, points: Sequence[Answer], pictures: Sequence[Summary]
) -> None:
    """One run.

    Args:
        trial: as the API shows it.
        points: of its curve.
        pictures: of its artifacts, as `drawn` gives them.
    """
    at = _seconds(trial["started_at"] or trial["created_at"])
    last = points[-1]["step"] if points else trial["step"]
    with _writing(directory / f"trial-{trial['number']:05}") as write:
        given = trial["params"] | {"stage": trial["stage"]}
        write(hparams.hparams_pb(given, trial_id=f"trial {trial['number']}", start_time_secs=at), 0, at)
        for point in points:
            write(_scalars(point["metrics"]), point["step"], at)
        if trial["value"] is not None:
            write(_scalars({OBJECTIVE: trial["value"]}), last, at)
        for summary in pictures:
            write(summary, last, at)
        if trial["state"] in _STATUS and trial["ended_at"]:
            ended = _seconds(trial["ended_at"])
            write(_session_end(_STATUS[trial["state"]], ended), last, ended)


@contextmanager
def _writing(directory: Path) -> Iterator[Any]:
    """Gives `write(summary, step, wall_time)`."""
    writer = EventFileWriter(str(directory), filename_suffix=OURS)
    try:
        yield lambda summary, step, at: writer.add_event(Event(summary=summary, step=step, wall_time=at))
    finally:
        writer.close()


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _session_end(status: Any, ended: float) -> Summary:
    """As `hparams.summary.session_end_pb` writes it, which needs TensorFlow."""
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    told = hparams_plugin.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=info))
    tag = hparams_plugin.SESSION_END_INFO_TAG
    return Summary(value=[Summary.Value(tag=tag, metadata=told, tensor=hparams_plugin.NULL_TENSOR)])


def _scalars(metrics: Mapping[str, Any]) -> Summary:
    """Numbers that are not finite come as texts; TensorBoard draws them as marks."""
    values = {name: float(value) for name, value in metrics.items()}
    return Summary(value=[Summary.Value(tag=name, simple_value=v) for name, v in values.items()])


# --- what people look at --------------------------------------------------------------------------


def drawn(name: str, document: Answer) -> list[Summary]:
    """An artifact as `tunesmith_workers.inspection` describes it. Raises ValueError on what is none."""
    tag = name.removesuffix(".json")
    try:
        if document["kind"] == "confusion":
            return list(_confusion(tag, document))
        if document["kind"] in ("predictions", "mistakes"):
            return list(_samples(tag, document["samples"]))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ValueError(f"{name} is none of ours: {type(e).__name__}: {e}") from e
    raise ValueError(f"{name} is none of ours: its kind is {document['kind']!r}")


def _confusion(tag: str, document: Answer) -> Iterator[Summary]:
    classes, counts = document["classes"], document["counts"]
    about = f"{document['split']}: a row a true class, a column a predicted one, each row by its own sum"
    yield _images(tag, *_heat(counts), about)
    if len(classes) <= MOST_CELLS_WRITTEN:
        rows = [["true \\ predicted", *classes], *([c, *row] for c, row in zip(classes, counts, strict=True))]
        yield _text(tag, _table(rows))


def _samples(tag: str, samples: Sequence[Answer]) -> Iterator[Summary]:
    drawn = [s["input"] for s in samples if "png" in s["input"]]
    if drawn:
        width, height = max(i["width"] for i in drawn), max(i["height"] for i in drawn)
        pngs = [base64.b64decode(i["png"], validate=True) for i in drawn]
        yield _images(tag, width, height, pngs, "in the order of the table under Text")
    named = ("index", "truth", "prediction", "probability", "loss")
    if samples:
        yield _text(tag, _table([named, *([s.get(n, "") for n in named] for s in samples)]))


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Markdown; the first row is the heading."""
    lines = ["|".join(_cell(c) for c in row) for row in rows]
    return "\n".join(f"|{line}|" for line in [lines[0], "|".join("-" * len(rows[0])), *lines[1:]])


def _cell(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(shown.replace("|", "\\|").split())


def _heat(counts: Sequence[Sequence[int]]) -> tuple[int, int, list[bytes]]:
    """(width, height, [PNG]) of a matrix, each row by its own sum: white for none, dark blue for all."""
    size = max(1, PICTURE_PIXELS // max(len(counts), 1))
    lines = []
    for row in counts:
        share = [n / (sum(row) or 1) for n in row]
        pixels = b"".join(bytes(round(255 + s * (c - 255)) for c in (13, 59, 102)) * size for s in share)
        lines += [pixels] * size
    width = height = len(counts) * size
    return width, height, [_png(width, height, lines)]


def _png(width: int, height: int, lines: Sequence[bytes]) -> bytes:
    """Rows of RGB bytes as PNG. Source: the PNG specification, third edition, §5 and §11."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", binascii.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _images(tag: str, width: int, height: int, pngs: Sequence[bytes], about: str) -> Summary:
    metadata = image.create_summary_metadata(display_name=tag, description=about)
    return _tensor(tag, metadata, [str(width).encode(), str(height).encode(), *pngs])


def _text(tag: str, markdown: str) -> Summary:
    metadata = text.create_summary_metadata(display_name=tag, description="")
    return _tensor(f"{tag}/table", metadata, [markdown.encode()])


def _tensor(tag: str, metadata: SummaryMetadata, strings: Sequence[bytes]) -> Summary:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(strings))])
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=strings)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
