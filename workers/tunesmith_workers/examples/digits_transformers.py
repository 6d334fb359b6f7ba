"""Handwritten digits with Hugging Face's Trainer and a small ViT.

tunesmith up --tasks digits_transformers.py
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from tunesmith_workers.callbacks.transformers import fit
from tunesmith_workers.loop import Trial, train


class Digits(Dataset[dict[str, Any]]):
    def __init__(self, part: slice) -> None:
        x, y = load_digits(return_X_y=True)
        self.x = torch.tensor(x[part] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        self.y = torch.tensor(y[part])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixel_values": self.x[i], "labels": self.y[i]}


@train("digits-transformers")
def digits(trial: Trial) -> None:
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=10,
    )
    arguments = TrainingArguments(
        output_dir=str(trial.scratch),
        num_train_epochs=trial.epochs,
        learning_rate=trial.params["lr"],
        seed=trial.seed,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=128,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=trial.device.type == "cuda",
        disable_tqdm=True,
    )
    trainer = Trainer(
        ViTForImageClassification(config),
        arguments,
        train_dataset=Digits(slice(0, 1400)),
        eval_dataset=Digits(slice(1400, None)),
    )
    fit(trainer, trial)
