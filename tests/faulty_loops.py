"""Training loops as people write them: sound ones, and the same with one fault in each.

They are for `faults.py`, which says what must be found in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from tunesmith_workers.loop import Trial

Data = tuple[Tensor, Tensor, Tensor, Tensor]  # training inputs and labels, validation inputs and labels


def digits() -> Data:
    """In an order of its own: 1,300 for training, the rest for validation."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(3))
    x = torch.tensor(bunch.data, dtype=torch.float32)[order] / 16
    y = torch.tensor(bunch.target)[order]
    return x[:1300], y[:1300], x[1300:], y[1300:]


def cancer() -> Data:
    bunch = load_breast_cancer()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(3))
    x = torch.tensor(bunch.data, dtype=torch.float32)[order]
    x = (x - x[:400].mean(0)) / x[:400].std(0)
    y = torch.tensor(bunch.target)[order]
    return x[:400], y[:400], x[400:], y[400:]


def mlp(outputs: int = 10, inputs: int = 64, dropout: float = 0.1) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 48), nn.ReLU(), nn.Dropout(dropout), nn.Linear(48, 48), nn.ReLU(),
        nn.Linear(48, outputs),
    )  # fmt: skip


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


def sgd(model: nn.Module, trial: Trial) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=float(trial.params.get("lr", 0.05)), momentum=0.9)


def adam(model: nn.Module, trial: Trial) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=float(trial.params.get("lr", 1e-3)))


def clear(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()


def to_train(model: nn.Module) -> None:
    model.train()


def to_evaluate(model: nn.Module) -> None:
    model.eval()


def leave(anything: Any) -> None:
    """What a forgotten call does."""


@dataclass(frozen=True)
class Written:
    """The loop that most people write; each field is a line of it."""

    data: Callable[[], Data] = digits
    model: Callable[[], nn.Module] = mlp
    optimizer: Callable[[nn.Module, Trial], torch.optim.Optimizer] = sgd
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    batch: int = 32
    shuffle: bool = True
    clear: Callable[[torch.optim.Optimizer], None] = clear
    clear_late: bool = False
    to_train: Callable[[nn.Module], None] = to_train
    to_train_once: bool = False
    to_evaluate: Callable[[nn.Module], None] = to_evaluate
    augment: Callable[[Tensor], Tensor] = lambda x: x

    def __call__(self, trial: Trial) -> None:
        x, y, val_x, val_y = self.data()
        model = self.model()
        optimizer = self.optimizer(model, trial)
        loader = DataLoader(TensorDataset(x, y), batch_size=self.batch, shuffle=self.shuffle)
        val_loader = DataLoader(TensorDataset(val_x, val_y), batch_size=256)
        for epoch in range(trial.restore(model=model, optimizer=optimizer), trial.epochs):
            if epoch == 0 or not self.to_train_once:
                self.to_train(model)
            total = 0.0
            for inputs, targets in loader:
                self.clear(optimizer)
                loss = self.loss(model(self.augment(inputs)), targets)
                loss.backward()
                if self.clear_late:
                    optimizer.zero_grad()
                optimizer.step()
                total += loss.item() * len(inputs)
            self.to_evaluate(model)
            trial.report(epoch + 1, {"train/loss": total / len(x), **evaluate(model, self.loss, val_loader)})
            if trial.snapshot_due():
                trial.snapshot(model=model, optimizer=optimizer)
            if trial.should_stop():
                return


def evaluate(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], loader: DataLoader[Any]
) -> dict[str, float]:
    total = right = count = 0.0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            total += loss(outputs, targets).item() * len(inputs)
            right += (outputs.argmax(1) == targets).sum().item()
            count += len(inputs)
    return {"val/loss": total / count, "val/accuracy": right / count}


# --- sound loops of other shapes --------------------------------------------------------------------------


def accumulating(trial: Trial) -> None:
    """Four backward passes a step, with clipping and a schedule; evaluates on training as well."""
    x, y, val_x, val_y = digits()
    model = cnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(trial.params.get("lr", 2e-3)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(trial.epochs, 10))
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, drop_last=True)
    for epoch in range(trial.epochs):
        model.train()
        optimizer.zero_grad()
        for i, (inputs, targets) in enumerate(loader):
            (functional.cross_entropy(model(inputs), targets, label_smoothing=0.05) / 4).backward()
            if i % 4 == 3:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()
        model.eval()
        with torch.inference_mode():
            train_loss = functional.cross_entropy(model(x), y).item()
            val_loss = functional.cross_entropy(model(val_x), val_y).item()
        trial.report(epoch + 1, {"train/loss": train_loss, "val/loss": val_loss})


class Module(nn.Module):
    """As a Lightning module is built: it knows its steps and its optimizer."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Dropout(0.2))
        self.head = nn.Linear(64, 10)
        self.criterion = nn.CrossEntropyLoss()
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.criterion(self(batch[0]), batch[1])  # type: ignore[no-any-return]

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> float:
        return float(self.criterion(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def structured(trial: Trial) -> None:
    """A trainer around a module, which gives the optimizer a closure, and checks validation first."""
    x, y, val_x, val_y = digits()
    module = Module(float(trial.params.get("lr", 1e-3)))
    optimizer = module.configure_optimizers()
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def validate() -> float:
        module.eval()
        with torch.no_grad():
            found = module.validation_step((val_x, val_y))
        module.train()
        return found

    validate()
    for epoch in range(trial.epochs):
        for batch in loader:

            def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
                loss = module.training_step(batch)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]
        trial.report(epoch + 1, {"val/loss": validate()})


def adversarial(trial: Trial) -> None:
    """Two networks with two optimizers against each other; samples are drawn at each report."""
    x, _, val_x, _ = digits()
    critic = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Linear(64, 1))
    maker = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
    of_critic = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    of_maker = torch.optim.Adam(maker.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loss = nn.BCEWithLogitsLoss()
    for epoch in range(trial.epochs):
        critic.train(), maker.train()
        for (real,) in DataLoader(TensorDataset(x), batch_size=64, shuffle=True):
            ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            fake = maker(torch.randn(len(real), 16))
            of_critic.zero_grad()
            loss(critic(real), ones).backward()
            loss(critic(fake.detach()), zeros).backward()
            of_critic.step()
            of_maker.zero_grad()
            loss(critic(fake), ones).backward()
            of_maker.step()
        critic.eval(), maker.eval()
        with torch.no_grad():
            told = critic(val_x).mean() - critic(maker(torch.randn(64, 16))).mean()
        trial.report(epoch + 1, {"val/loss": float(told)})


def regression(trial: Trial) -> None:
    """Whole batches, and a target that is no class."""
    bunch = load_diabetes()
    x = torch.tensor(bunch.data, dtype=torch.float32) * 20
    y = torch.tensor(bunch.target, dtype=torch.float32).unsqueeze(1)
    y = (y - y[:350].mean()) / y[:350].std()
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=float(trial.params.get("lr", 1e-2)))
    for epoch in range(trial.epochs):
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x[:350]), y[:350])
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            val = functional.mse_loss(model(x[350:]), y[350:])
        trial.report(epoch + 1, {"train/loss": loss.item(), "val/loss": val.item()})


class Recurrent(nn.Module):
    """Reads a digit row by row, with dropout between its two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, 32, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.reshape(-1, 8, 8))[0][:, -1])  # type: ignore[no-any-return]


def noisy(x: Tensor) -> Tensor:
    return x + 0.05 * torch.randn_like(x)


def binary_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs.squeeze(1), targets.float())


def accuracy_only(trial: Trial) -> None:
    """Evaluates without a loss, in the graph, and counts its steps itself."""
    x, y, val_x, val_y = digits()
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(trial.epochs):
        model.train()
        for chosen in torch.randperm(len(x)).split(50):
            loss = -functional.log_softmax(model(x[chosen]), 1)[torch.arange(len(chosen)), y[chosen]].mean()
            model.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        error = (model(val_x).argmax(1) != val_y).float().mean()
        trial.report(epoch + 1, {"val/loss": error.item()})


HEALTHY: dict[str, Callable[[Trial], None]] = {
    "a loop": Written(),
    "a loop with batch norm and Adam": Written(model=cnn, optimizer=adam),
    "a loop that adds noise": Written(augment=noisy),
    "a recurrent loop": Written(
        model=Recurrent, optimizer=lambda m, t: torch.optim.Adam(m.parameters(), 3e-3)
    ),
    "a loop with two classes": Written(data=cancer, model=lambda: mlp(2, 30), batch=16),
    "an accumulating loop": accumulating,
    "a module and a trainer": structured,
    "an adversarial pair": adversarial,
    "a regression": regression,
    "a loss of one's own": accuracy_only,
}


# --- one fault each ---------------------------------------------------------------------------------------


def changed(change: Callable[[Tensor, Tensor, Tensor, Tensor], Data]) -> Callable[[], Data]:
    return lambda: change(*digits())


def _sorted(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor) -> Data:
    order = y.argsort(stable=True)
    return x[order], y[order], val_x, val_y


def _leaking(share: float) -> Callable[[], Data]:
    def leak(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor) -> Data:
        n = int(share * len(val_x))
        return x, y, torch.cat([val_x[n:], x[:n]]), torch.cat([val_y[n:], y[:n]])

    return changed(leak)


def _with_nan(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor) -> Data:
    x = x.clone()
    x[7, 20] = torch.nan
    return x, y, val_x, val_y


def _random(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor) -> Data:
    return x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))], val_x, val_y


def frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


def dead() -> nn.Module:
    model = mlp()
    nn.init.constant_(model[0].bias, -20.0)
    return model


class Detached(nn.Module):
    """Its first layer is cut off by a careless `detach`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu().detach())  # type: ignore[no-any-return]


class AlwaysDropping(nn.Module):
    """`functional.dropout` does not know whether the model trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.dropout(self.first(x).relu(), 0.3))  # type: ignore[no-any-return]


def of_another_model(model: nn.Module, trial: Trial) -> torch.optim.Optimizer:
    return torch.optim.SGD(mlp().parameters(), lr=0.05)


def of_all_but_the_head(model: nn.Module, trial: Trial) -> torch.optim.Optimizer:
    assert isinstance(model, nn.Sequential)
    return torch.optim.SGD(model[:-1].parameters(), lr=0.05)


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="sum")


def softmax_first(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.softmax(1), targets)


def softmax_over_the_batch(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.softmax(0), targets)


def no_logarithm(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.nll_loss(outputs.softmax(1), targets)


def unseeded(x: Tensor) -> Tensor:
    return x + 0.1 * torch.from_numpy(np.random.default_rng().normal(size=x.shape)).float()


def divided_twice(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets) / len(targets)


def training_on_validation(trial: Trial) -> None:
    x, y, val_x, val_y = digits()
    model = mlp()
    optimizer = sgd(model, trial)
    for epoch in range(trial.epochs):
        model.train()
        for inputs, targets in ((x, y), (val_x, val_y)):
            for chosen in torch.randperm(len(inputs)).split(32):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            trial.report(epoch + 1, {"val/loss": functional.cross_entropy(model(val_x), val_y).item()})


def step_first(trial: Trial) -> None:
    x, y, val_x, val_y = digits()
    model = mlp()
    optimizer = sgd(model, trial)
    for epoch in range(trial.epochs):
        model.train()
        for chosen in torch.randperm(len(x)).split(32):
            loss = functional.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            optimizer.step()
            loss.backward()
        model.eval()
        with torch.no_grad():
            trial.report(epoch + 1, {"val/loss": functional.cross_entropy(model(val_x), val_y).item()})


BASE = Written()


def _cases() -> Iterator[tuple[str, Callable[[Trial], None], set[str]]]:
    """(fault, loop, the findings that would name it)."""
    yield "softmax before the loss", replace(BASE, loss=softmax_first), {"outputs"}
    yield "softmax over the batch", replace(BASE, loss=softmax_over_the_batch), {"outputs"}
    yield "probabilities into nll_loss", replace(BASE, loss=no_logarithm), {"loss"}
    yield "sorted, not shuffled", replace(BASE, data=changed(_sorted), shuffle=False), {"order"}
    yield "not shuffled", replace(BASE, shuffle=False), {"order"}
    yield "labels from 1", replace(BASE, data=changed(lambda x, y, v, w: (x, y + 1, v, w + 1))), {"labels"}
    yield "labels random", replace(BASE, data=changed(_random)), {"generalise"}
    yield "rows shifted", replace(BASE, data=changed(lambda x, y, v, w: (x, y.roll(1), v, w))), {"generalise"}
    yield "forgotten zero_grad", replace(BASE, clear=leave), {"zero_grad"}
    yield "zero_grad before the step", replace(BASE, clear_late=True), {"gradients"}
    yield "forgotten eval()", replace(BASE, to_evaluate=leave), {"modes"}
    yield "forgotten eval() with batch norm", replace(BASE, model=cnn, to_evaluate=leave), {"modes"}
    yield "train() never again", replace(BASE, to_train_once=True), {"modes"}
    yield "dropout in evaluation", replace(BASE, model=AlwaysDropping), {"modes"}
    yield "frozen layer", replace(BASE, model=frozen), {"gradients"}
    yield "dead ReLUs", replace(BASE, model=dead), {"units", "gradients"}
    yield "detached layer", replace(BASE, model=Detached), {"gradients"}
    yield "optimizer of another model", replace(BASE, optimizer=of_another_model), {"gradients"}
    yield "head in no optimizer", replace(BASE, optimizer=of_all_but_the_head), {"gradients"}
    yield "loss summed", replace(BASE, loss=summed), {"loss"}
    yield "loss divided twice", replace(BASE, loss=divided_twice), {"loss"}
    yield "a step before its backward", step_first, {"gradients"}
    yield "training on validation", training_on_validation, {"leak"}
    yield (
        "sigmoid before a loss with a sigmoid",
        replace(BASE, data=cancer, model=lambda: nn.Sequential(mlp(1, 30), nn.Sigmoid()), loss=binary_loss),
        {"outputs"},
    )
    yield "a tenth of validation leaked", replace(BASE, data=_leaking(0.1)), {"leak"}
    yield "validation is training", replace(BASE, data=changed(lambda x, y, v, w: (x, y, x, y))), {"leak"}
    yield "NaN in the inputs", replace(BASE, data=changed(_with_nan)), {"inputs"}
    yield (
        "NaN in validation alone",
        replace(BASE, data=changed(lambda x, y, v, w: (x, y, _with_nan(v, w, v, w)[0], w))),
        {"inputs"},
    )
    yield (
        "inputs up to 4,000",
        replace(BASE, data=changed(lambda x, y, v, w: (x * 4000, y, v * 4000, w))),
        {"inputs"},
    )
    yield "validation inverted", replace(BASE, data=changed(lambda x, y, v, w: (x, y, 1 - v, w))), {"shift"}
    yield "noise of no seed", replace(BASE, augment=unseeded), {"determinism"}


FAULTY = list(_cases())
