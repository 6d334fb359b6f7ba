"""The built-in task `digits`: scikit-learn's 1,797 handwritten digits of 8×8 pixels.

`model` is mlp (default) or cnn. Split 60/20/20, stratified; pixels scaled from 0…16 to [0, 1].
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from tunesmith_workers.data import Split, Splits, stratified
from tunesmith_workers.tasks import models
from tunesmith_workers.tasks.registry import Task

SPLIT_SEED = 0


def task() -> Task:
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).to(torch.float32).div(16).unsqueeze(1)
    y = torch.from_numpy(bunch.target).to(torch.int64)
    parts = stratified(bunch.target, {"val": 0.2, "test": 0.2}, SPLIT_SEED)
    split = {name: Split(x[indices], y[indices]) for name, indices in parts.items()}
    shape = models.Shape(sample=(1, 8, 8), classes=10)
    return Task(
        splits=Splits(split["train"], split["val"], split["test"], seed=SPLIT_SEED),
        classes=10,
        build=lambda params: models.build("digits", shape, params),
    )
