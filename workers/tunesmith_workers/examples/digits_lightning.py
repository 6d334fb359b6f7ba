"""Handwritten digits with Lightning.

tunesmith up --tasks digits_lightning.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tunesmith_workers.callbacks.lightning import TunesmithCallback
from tunesmith_workers.loop import Trial, train


class Net(LightningModule):
    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
        self.params = params

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        loss = cross_entropy(self.layers(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        outputs = self.layers(x)
        self.log("val_loss", cross_entropy(outputs, y))
        self.log("val_accuracy", (outputs.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.params["lr"])
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


@train("digits-lightning")
def digits(trial: Trial) -> None:
    bunch = load_digits()
    data = TensorDataset(torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target))
    kept, held = torch.utils.data.random_split(data, [1400, 397], torch.Generator().manual_seed(0))
    trainer = Trainer(
        max_epochs=trial.epochs,
        callbacks=[TunesmithCallback(trial)],
        accelerator="auto",
        devices=1,
        default_root_dir=trial.scratch,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(trial.params), DataLoader(kept, 64, shuffle=True), DataLoader(held, 397))
