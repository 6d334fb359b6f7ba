"""Images as bytes: standardised by the training split's mean and deviation a channel; a CNN or MLP."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith_workers.tasks import models
from tunesmith_workers.tasks.registry import Task, TaskError
from tunesmith_workers.tasks.targets import Targets


def task(name: str, images: NDArray[Any], targets: Targets) -> Task:
    """`images`: bytes of shape (n, h, w) or (n, h, w, channels)."""
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise TaskError(
            f"X has shape {list(images.shape)} of {images.dtype}; tables are (n, columns), images are uint8 "
            "of shape (n, height, width) or (n, height, width, channels)"
        )
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.shape[3] > 4:
        raise TaskError(
            f"X has shape {list(images.shape)}, so {images.shape[3]} channels; "
            "channels come last and are 1 to 4"
        )
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(torch.float32).div(255)
    train = x[torch.from_numpy(targets.parts["train"])]
    mean, deviation = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    x = (x - mean) / torch.where(deviation > 0, deviation, 1.0)
    shape = models.Shape(sample=tuple(x.shape[1:]), classes=targets.classes)
    return Task(
        splits=targets.splits(x),
        classes=targets.classes,
        build=lambda params: models.build(name, shape, params, default="cnn"),
    )
