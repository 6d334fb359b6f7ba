"""What people look at after a training or an evaluation: artifacts of the validation split, as JSON.

`confusion.json`, of class targets, for at most `MOST_CLASSES` classes:

    {"kind": "confusion", "split": "val", "samples": 360, "classes": ["0", "1", …],
     "counts": [[35, 0, …], …]}          a row a true class, a column a predicted one

`predictions.json`, samples spread evenly over the split, and `mistakes.json`, those that are wrong with
the highest loss first (of other targets than classes: those with the highest loss):

    {"kind": "predictions" or "mistakes", "split": "val", "samples": [
      {"index": 17, "input": {…}, "prediction": "3", "truth": "5", "probability": 0.91,
       "truth_probability": 0.02, "loss": 3.9}, …]}

`index` counts the split's samples from 0. Of targets that are no classes, prediction and truth are lists
of at most `MOST_VALUES` numbers, and the probabilities are left out. `input` is

    {"png": "<base64>", "width": 28, "height": 28}      of an image, shape (1 | 3, h, w), at most
                                                        `MOST_PIXELS` a side, stretched from its darkest
                                                        to its brightest value
    {"values": [0.1, …], "shape": [57]}                 of anything else: its first `MOST_VALUES` numbers

Numbers that are not finite are written as "NaN", "Infinity", "-Infinity". Each document holds at most
`MOST_SAMPLES` samples.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tunesmith_service.wire import show_number

from tunesmith_workers.data import Split
from tunesmith_workers.endings import Artifact
from tunesmith_workers.evaluation import probabilities
from tunesmith_workers.snapshots import flushed
from tunesmith_workers.tasks.registry import Task

MOST_SAMPLES = 64
MOST_CLASSES = 256
MOST_PIXELS = 64
MOST_VALUES = 64


@torch.no_grad()
def artifacts(task: Task, said: Tensor, split: Split, scratch: Path) -> Iterator[Artifact]:
    """Write the documents into `scratch` and yield them.

    Args:
        said: the model's outputs for the validation split, shape (n, …), as the task's loss takes them.
        split: the same samples in the same order, as the task gives them, to be shown.
    """
    said, targets = said.detach().cpu(), split.y.cpu()
    losses = task.loss(said, targets).reshape(len(targets), -1).mean(1)
    seen = _Seen(said, targets, losses, split.x.cpu(), _are_classes(task, said, targets))
    documents = {"predictions": seen.document("predictions", seen.spread())}
    documents["mistakes"] = seen.document("mistakes", seen.worst())
    if seen.classes and said.shape[1] <= MOST_CLASSES:
        documents["confusion"] = confusion(said.argmax(1), targets, said.shape[1])
    for name, document in documents.items():
        path = scratch / f"{name}.json"
        path.write_text(json.dumps(document, allow_nan=False))
        yield Artifact(path.name, flushed(path))


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> dict[str, Any]:
    """How often each class, a row, was taken for each, a column; class numbers of shape (n,)."""
    cells = targets.long() * classes + predicted
    counts = torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
    return {
        "kind": "confusion",
        "split": "val",
        "samples": len(targets),
        "classes": [str(c) for c in range(classes)],
        "counts": counts.tolist(),
    }


def _are_classes(task: Task, said: Tensor, targets: Tensor) -> bool:
    return (
        task.classes is not None
        and said.shape == (len(targets), task.classes)
        and targets.dim() == 1
        and not targets.is_floating_point()
        and bool(((targets >= 0) & (targets < task.classes)).all())  # a loss may take -100 for "left out"
    )


class _Seen:
    """Samples beside what a model said of them. `losses` has shape (n,); `classes`: targets are such."""

    def __init__(self, said: Tensor, targets: Tensor, losses: Tensor, x: Tensor, classes: bool) -> None:
        self.said, self.targets, self.losses, self.x, self.classes = said, targets, losses, x, classes
        self._probabilities = probabilities(said.to(torch.float64)) if classes else said

    def spread(self) -> list[int]:
        n = len(self.targets)
        count = min(n, MOST_SAMPLES)
        return [i * n // count for i in range(count)]

    def worst(self) -> list[int]:
        """Highest loss first, NaN before all; of classes only what was taken for another."""
        order = self.losses.nan_to_num(nan=torch.inf, posinf=torch.inf).argsort(descending=True, stable=True)
        if self.classes:
            wrong = self.said.argmax(1) != self.targets
            order = order[wrong[order]]
        return [int(i) for i in order[:MOST_SAMPLES]]

    def document(self, kind: str, indices: list[int]) -> dict[str, Any]:
        return {"kind": kind, "split": "val", "samples": [self._sample(i) for i in indices]}

    def _sample(self, i: int) -> dict[str, Any]:
        found: dict[str, Any] = {"index": i, "input": shown(self.x[i])}
        if self.classes:
            said = self._probabilities[i]
            predicted, truth = int(self.said[i].argmax()), int(self.targets[i])
            found |= {
                "prediction": str(predicted),
                "truth": str(truth),
                "probability": show_number(float(said[predicted])),
                "truth_probability": show_number(float(said[truth])),
            }
        else:
            found |= {"prediction": _values(self.said[i]), "truth": _values(self.targets[i])}
        return found | {"loss": show_number(float(self.losses[i]))}


def shown(x: Tensor) -> dict[str, Any]:
    """One input, shape (…): a picture where it is one, else its first numbers."""
    if x.dim() == 3 and x.shape[0] in (1, 3) and min(x.shape[1:]) > 1:
        small = _at_most(x.to(torch.float32), MOST_PIXELS)
        picture = base64.b64encode(png(_as_bytes(small))).decode()
        return {"png": picture, "width": small.shape[2], "height": small.shape[1]}
    return {"values": _values(x), "shape": list(x.shape)}


def _values(x: Tensor) -> list[float | str]:
    return [show_number(float(v)) for v in x.flatten()[:MOST_VALUES]]


def _at_most(image: Tensor, side: int) -> Tensor:
    """The image, shape (c, h, w), with its longer side shrunk to `side` by averaging, its shape kept."""
    height, width = image.shape[1:]
    longer = max(height, width)
    if longer <= side:
        return image
    size = (max(1, height * side // longer), max(1, width * side // longer))
    return functional.adaptive_avg_pool2d(image, size)


def _as_bytes(image: Tensor) -> Tensor:
    """From its darkest value, 0, to its brightest, 255: inputs are standardised in ways unknown here."""
    image = image.nan_to_num(0.0, 0.0, 0.0)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low if high > low else 1.0) * 255).round().to(torch.uint8)


def png(image: Tensor) -> bytes:
    """A PNG of bytes, shape (1 | 3, h, w): grey or colour. Source: the PNG specification, RFC 2083."""
    channels, height, width = image.shape
    kind = {1: 0, 3: 2}[channels]
    rows = image.permute(1, 2, 0).reshape(height, width * channels)
    filtered = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), rows], dim=1)  # each row unfiltered
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = zlib.compress(filtered.contiguous().numpy().tobytes())
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", body), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
