"""What people look at: confusion, predictions and mistakes, small enough to draw."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from training import blobs, make_work, points, run
from tunesmith_workers import inspection
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.endings import Artifact
from tunesmith_workers.tasks.registry import Task


def documents(task: Task, said: torch.Tensor, split: Split, scratch: Path) -> dict[str, Any]:
    found = list(inspection.artifacts(task, said, split, scratch))
    assert all(a.file.path.stat().st_size == a.file.size for a in found)
    return {a.name: json.loads(a.file.path.read_text()) for a in found}


def classifier(x: torch.Tensor, y: torch.Tensor, classes: int) -> tuple[Task, Split]:
    split = Split(x, y)
    return Task(Splits(split, split), classes=classes, build=lambda params: torch.nn.Identity()), split


def read_png(data: bytes) -> tuple[int, int, int, list[bytes]]:
    """Width, height, colour type and rows of an unfiltered PNG, its checksums verified."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(name + body)
        chunks[name] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = 1 + width * (3 if kind == 2 else 1)
    rows = [raw[i : i + stride] for i in range(0, len(raw), stride)]
    assert len(rows) == height
    assert all(row[0] == 0 for row in rows)
    return width, height, kind, [row[1:] for row in rows]


def test_a_confusion_matrix_has_true_classes_in_rows() -> None:
    found = inspection.confusion(torch.tensor([0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 2]), 3)
    assert found["counts"] == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found["classes"] == ["0", "1", "2"]
    assert found["samples"] == 5


def test_mistakes_are_the_wrong_ones_with_the_highest_loss_first(tmp_path: Path) -> None:
    said = torch.tensor([[5.0, 0.0], [0.0, 1.0], [0.0, 4.0], [0.1, 0.0]])
    task, split = classifier(torch.arange(8.0).reshape(4, 2), torch.tensor([0, 0, 0, 0]), 2)
    found = documents(task, said, split, tmp_path)
    mistakes = found["mistakes.json"]["samples"]
    assert [s["index"] for s in mistakes] == [2, 1]
    worst = mistakes[0]
    assert (worst["prediction"], worst["truth"]) == ("1", "0")
    probability = torch.tensor([0.0, 4.0]).softmax(0)
    assert worst["probability"] == pytest.approx(float(probability[1]))
    assert worst["truth_probability"] == pytest.approx(float(probability[0]))
    assert worst["loss"] == pytest.approx(-float(probability[0].log()))
    assert worst["input"] == {"values": [4.0, 5.0], "shape": [2]}
    assert [s["index"] for s in found["predictions.json"]["samples"]] == [0, 1, 2, 3]
    assert found["confusion.json"]["counts"] == [[2, 2], [0, 0]]


def test_outputs_that_are_probabilities_are_shown_as_they_are(tmp_path: Path) -> None:
    said = torch.tensor([[0.9, 0.1], [0.25, 0.75]])
    task, split = classifier(torch.zeros(2, 3), torch.tensor([0, 0]), 2)
    shown = documents(task, said, split, tmp_path)["predictions.json"]["samples"]
    assert [s["probability"] for s in shown] == pytest.approx([0.9, 0.75])
    assert [s["truth_probability"] for s in shown] == pytest.approx([0.9, 0.25])


def test_classes_are_counted_right_in_labels_of_a_byte() -> None:
    labels = torch.tensor([19, 3], dtype=torch.uint8)
    found = inspection.confusion(torch.tensor([19, 4]), labels, 20)
    assert (found["counts"][19][19], found["counts"][3][4]) == (1, 1)
    assert sum(map(sum, found["counts"])) == 2


def test_labels_that_a_loss_leaves_out_cost_no_finished_training(tmp_path: Path) -> None:
    task, split = classifier(torch.zeros(3, 2), torch.tensor([0, -100, 1]), 2)
    found = documents(task, torch.randn(3, 2), split, tmp_path)
    assert found.keys() == {"predictions.json", "mistakes.json"}
    assert found["predictions.json"]["samples"][1]["truth"] == [-100.0]


def test_documents_are_bounded_whatever_the_split(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 300, generator=generator)
    said = torch.randn(500, 1000, generator=generator)
    task, split = classifier(x, torch.randint(1000, (500,), generator=generator), 1000)
    found = documents(task, said, split, tmp_path)
    assert found.keys() == {"predictions.json", "mistakes.json"}, "a matrix of 1000² is nothing to look at"
    for document in found.values():
        assert len(document["samples"]) == inspection.MOST_SAMPLES
        assert all(len(s["input"]["values"]) == inspection.MOST_VALUES for s in document["samples"])
    indices = [s["index"] for s in found["predictions.json"]["samples"]]
    assert indices == sorted(set(indices))
    assert indices[-1] > 480, "samples are spread over the whole split"


@pytest.mark.parametrize(("shape", "kind", "size"), [((1, 3, 4), 0, (4, 3)), ((3, 200, 100), 2, (32, 64))])
def test_images_are_small_pictures(shape: tuple[int, ...], kind: int, size: tuple[int, int]) -> None:
    x = torch.linspace(-2, 2, shape[0] * shape[1] * shape[2]).reshape(shape)
    found = inspection.shown(x)
    width, height, colour, rows = read_png(base64.b64decode(found["png"]))
    assert (width, height) == size == (found["width"], found["height"])
    assert colour == kind
    assert (rows[0][0], rows[-1][-1]) == (0, 255), "stretched from the darkest to the brightest value"


def test_pixels_of_a_picture_are_those_of_the_image() -> None:
    image = torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3).permute(2, 0, 1)
    *_, rows = read_png(inspection.png(image))
    assert b"".join(rows) == bytes(range(24))


@pytest.mark.parametrize("x", [torch.zeros(1, 5, 5), torch.full((3, 2, 2), torch.nan)])
def test_an_image_without_contrast_or_without_numbers_is_still_drawn(x: torch.Tensor) -> None:
    *_, rows = read_png(base64.b64decode(inspection.shown(x)["png"]))
    assert set(b"".join(rows)) == {0}


def test_targets_that_are_no_classes_are_shown_as_numbers_with_the_worst_first(tmp_path: Path) -> None:
    x, y = torch.randn(5, 2), torch.tensor([[0.0], [1.0], [2.0], [torch.inf], [4.0]])
    split = Split(x, y)
    task = Task(
        Splits(split, split), classes=None, build=lambda params: torch.nn.Identity(), metrics={},
        loss=lambda outputs, targets: (outputs - targets).square().sum(1),
    )  # fmt: skip
    said = torch.tensor([[0.0], [3.0], [2.5], [0.0], [torch.nan]])
    found = documents(task, said, split, tmp_path)
    assert found.keys() == {"predictions.json", "mistakes.json"}
    mistakes = found["mistakes.json"]["samples"]
    assert [s["index"] for s in mistakes] == [3, 4, 1, 2, 0]
    assert mistakes[0]["truth"] == ["Infinity"]
    assert mistakes[1]["prediction"] == ["NaN"]
    assert mistakes[2] == {
        "index": 1, "input": mistakes[2]["input"], "prediction": [3.0], "truth": [1.0], "loss": 4.0,
    }  # fmt: skip


def test_a_training_that_completes_leaves_them_when_it_is_asked_to(tmp_path: Path) -> None:
    said = run(blobs(), make_work(params={"lr": 0.1}, inspect=True), tmp_path)
    found = {s.name: json.loads(s.file.path.read_text()) for s in said if isinstance(s, Artifact)}
    assert found.keys() == {"confusion.json", "predictions.json", "mistakes.json"}
    counts = found["confusion.json"]["counts"]
    right = sum(row[i] for i, row in enumerate(counts))
    assert right / found["confusion.json"]["samples"] == pytest.approx(
        points(said)[-1].metrics["val/accuracy"]
    )
    assert len(found["mistakes.json"]["samples"]) == found["confusion.json"]["samples"] - right
    for params in ({"lr": 0.1}, {"lr": 1e9}):
        quiet = run(blobs(), make_work(params=params, inspect=params["lr"] > 1), tmp_path)
        assert not any(isinstance(s, Artifact) for s in quiet), "not asked to, or diverged"
