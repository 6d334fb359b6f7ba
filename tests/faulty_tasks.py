"""Tasks for the built-in trainer with one fault in each. They are for `faults.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import Tensor, nn
from torch.nn import functional
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.tasks.registry import Task

Params = Mapping[str, Any]


def _split(x: Tensor, y: Tensor, train: int, val: int) -> Splits:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(5))
    x, y = x[order], y[order]
    rest = train + val
    return Splits(Split(x[:train], y[:train]), Split(x[train:rest], y[train:rest]), Split(x[rest:], y[rest:]))


def digits() -> Splits:
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return _split(x, torch.tensor(bunch.target), 1100, 350)


def cancer(*, standardised: bool = True) -> Splits:
    bunch = load_breast_cancer()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    if standardised:
        x = (x - x.mean(0)) / x.std(0)
    return _split(x, torch.tensor(bunch.target), 340, 120)


def wine() -> Splits:
    bunch = load_wine()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    return _split((x - x.mean(0)) / x.std(0), torch.tensor(bunch.target), 110, 34)


def dense(
    inputs: int = 64, outputs: int = 10, hidden: int = 48, *, act: type[nn.Module] = nn.ReLU, deep: int = 1
) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(inputs, hidden), act()]
    for _ in range(deep):
        layers += [nn.Linear(hidden, hidden), act()]
    return [*layers, nn.Linear(hidden, outputs)]


def convolutional(outputs: int = 10) -> list[nn.Module]:
    return [
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 16, outputs),
    ]  # fmt: skip


Layers = Callable[[], list[nn.Module]]


@dataclass(frozen=True)
class Written:
    """A task as people describe it; each field is a piece of it."""

    splits: Callable[[], Splits] = digits
    layers: Layers = dense
    change: Callable[[nn.Sequential], nn.Module] = lambda model: model
    classes: int = 10
    loss: Callable[..., Tensor] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def task(self) -> Task:
        def build(params: Params) -> nn.Module:
            layers = self.layers()
            if params.get("dropout"):
                layers.insert(-1, nn.Dropout(float(params["dropout"])))
            return self.change(nn.Sequential(*layers))

        more = {} if self.loss is None else {"loss": self.loss}
        return Task(self.splits(), self.classes, build, **more)


# --- what is done to data ---------------------------------------------------------------------------------


def of_train(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], splits: Callable[[], Splits] = digits
) -> Callable[[], Splits]:
    def made() -> Splits:
        found = splits()
        return replace(found, train=Split(*change(found.train.x, found.train.y)))

    return made


def of_val(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], splits: Callable[[], Splits] = digits
) -> Callable[[], Splits]:
    def made() -> Splits:
        found = splits()
        return replace(found, val=Split(*change(found.val.x, found.val.y)))

    return made


def of_all(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], splits: Callable[[], Splits] = digits
) -> Callable[[], Splits]:
    def made() -> Splits:
        found = splits()
        assert found.test is not None
        return Splits(*(Split(*change(s.x, s.y)) for s in (found.train, found.val, found.test)))

    return made


def dealt_out(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(2))]


def without(label: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda x, y: (x[y != label], y[y != label])


def with_nan(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone()
    x.flatten(1)[::97, 3] = torch.nan
    return x, y


def with_the_label(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone()
    x[:, 0, 0, 0] = y / 10
    return x, y


def exchanged(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Threes are called fives, and fives threes."""
    return x, torch.where(y == 3, 5, torch.where(y == 5, 3, y))


def leaking(share: float) -> Callable[[], Splits]:
    def made() -> Splits:
        found = digits()
        n = int(share * len(found.val))
        x = torch.cat([found.val.x[n:], found.train.x[:n]])
        return replace(found, val=Split(x, torch.cat([found.val.y[n:], found.train.y[:n]])))

    return made


def val_in_test() -> Splits:
    found = digits()
    return replace(found, test=Split(found.val.x[:100], found.val.y[:100]))


# --- what is done to models and losses --------------------------------------------------------------------


class Then(nn.Module):
    """A model with something after it."""

    def __init__(self, model: nn.Module, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.then = model, then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.model(x))


class Cut(nn.Module):
    """Its body is cut off by a careless `detach`."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.body, self.head = model[:-1], model[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).detach())  # type: ignore[no-any-return]


class Blind(nn.Module):
    """Reads a buffer instead of its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.ones_like(x))  # type: ignore[no-any-return]


class Loose(nn.Module):
    """Keeps its layers in a list that torch does not know."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.layers, self.head = list(model[:-1]), model[-1]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


class AlwaysDropping(nn.Module):
    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.body, self.head = model[:-1], model[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.dropout(self.body(x), 0.4))  # type: ignore[no-any-return]


class NeverEvaluating(nn.Module):
    """Overrides `train`, so that `eval()` does nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> NeverEvaluating:
        return super().train(True)


def frozen(*at: int) -> Callable[[nn.Sequential], nn.Module]:
    def change(model: nn.Sequential) -> nn.Module:
        for i in at:
            model[i].requires_grad_(False)
        return model

    return change


def started(start: Callable[[nn.Module], None]) -> Callable[[nn.Sequential], nn.Module]:
    """With another initialisation of each layer with weights but the last."""

    def change(model: nn.Sequential) -> nn.Module:
        for module in [m for m in model if isinstance(m, nn.Linear | nn.Conv2d)][:-1]:
            start(module)
        return model

    return change


def scaled(times: float, *, last: bool = False) -> Callable[[nn.Sequential], nn.Module]:
    def change(model: nn.Sequential) -> nn.Module:
        layers = [m for m in model if isinstance(m, nn.Linear | nn.Conv2d)]
        with torch.no_grad():
            for module in layers[-1:] if last else layers:
                for p in module.parameters():
                    p.mul_(times)
        return model

    return change


def dead(module: nn.Module) -> None:
    nn.init.constant_(module.bias, -30.0)  # type: ignore[arg-type]


def zero(module: nn.Module) -> None:
    nn.init.zeros_(module.weight)  # type: ignore[arg-type]
    nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def alike(module: nn.Module) -> None:
    nn.init.constant_(module.weight, 0.02)  # type: ignore[arg-type]
    nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def summed(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="sum", label_smoothing=smoothing)


def averaged(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(outputs, targets, label_smoothing=smoothing)


def times_the_batch(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none") * len(targets)


def negative(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return -functional.cross_entropy(outputs, targets, reduction="none")


def of_two(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")


def without_logarithm(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.nll_loss(outputs, targets, reduction="none")


BASE = Written(params={"lr": 0.05})
CNN = Written(layers=convolutional, params={"lr": 0.05})
CANCER = Written(cancer, lambda: dense(30, 2), classes=2, params={"lr": 0.05, "batch_size": 16})
WINE = Written(wine, lambda: dense(13, 3), classes=3, params={"lr": 0.05, "batch_size": 16})

RATE = {"rate", "diverged", "rate_too_high"}
LOW = {"rate", "rate_too_low", "underfit", "still_improving"}


def _cases() -> Iterator[tuple[str, Written, set[str]]]:
    """(fault, task, the findings that would name it)."""

    def of(base: Written, **changes: Any) -> Written:
        return replace(base, **changes)

    def at(base: Written, **params: Any) -> Written:
        return replace(base, params={**base.params, **params})

    yield "softmax before the loss", of(BASE, layers=lambda: [*dense(), nn.Softmax(1)]), {"outputs"}
    yield (
        "softmax over the samples",
        of(BASE, change=lambda m: Then(m, lambda x: x.softmax(0))),
        {"outputs", "modes", "loss"},
    )
    yield "sigmoid before the loss", of(CNN, layers=lambda: [*convolutional(), nn.Sigmoid()]), {"outputs"}
    yield "ReLU after the last layer", of(BASE, layers=lambda: [*dense(), nn.ReLU()]), {"outputs", "units"}
    yield (
        "sigmoid before a loss with a sigmoid",
        of(CANCER, layers=lambda: [*dense(30, 1), nn.Sigmoid()], loss=of_two),
        {"outputs"},
    )
    yield "labels from 1", of(BASE, splits=of_all(lambda x, y: (x, y + 1))), {"labels"}
    yield "rows shifted by one", of(BASE, splits=of_train(lambda x, y: (x, y.roll(1)))), {"generalise"}
    yield (
        "validation numbered from another class",
        of(BASE, splits=of_val(lambda x, y: (x, (y + 1) % 10))),
        {"generalise"},
    )
    yield "labels random", of(CNN, splits=of_train(dealt_out)), {"generalise"}
    yield "labels random, two classes", of(CANCER, splits=of_train(dealt_out, cancer)), {"generalise"}
    yield "a fifth of validation leaked", of(BASE, splits=leaking(0.2)), {"leak"}
    yield "validation in test", of(BASE, splits=val_in_test), {"leak"}
    yield "the label among the inputs", of(BASE, splits=of_all(with_the_label)), {"leak"}
    yield "two classes exchanged in validation", of(BASE, splits=of_val(exchanged)), {"generalise"}
    yield "a class missing in training", of(BASE, splits=of_train(without(4))), {"labels"}
    yield "frozen layer", of(BASE, change=frozen(1)), {"gradients"}
    yield "all frozen", of(BASE, change=frozen(1, 3, 5)), {"gradients"}
    yield "detached body", of(BASE, change=Cut), {"gradients"}
    yield "layers in a list", of(BASE, change=Loose), {"gradients"}
    yield "dead ReLUs", of(BASE, change=started(dead)), {"units", "gradients"}
    yield (
        "dead ReLUs of a CNN",
        of(
            CNN,
            layers=lambda: [m for m in convolutional() if not isinstance(m, nn.BatchNorm2d)],
            change=started(dead),
        ),
        {"units", "gradients"},
    )
    yield "weights of zero", of(BASE, change=started(zero)), {"units", "gradients"}
    yield "weights alike", of(BASE, change=started(alike)), {"units"}
    yield (
        "weights a hundred times too small",
        of(BASE, layers=lambda: dense(deep=4, act=nn.Tanh), change=scaled(0.01)),
        {"gradients", "rate", "units", "overfit"},
    )
    yield "last layer too large", of(BASE, change=scaled(60, last=True)), {"initial_loss"}
    yield (
        "saturated sigmoids",
        of(BASE, layers=lambda: dense(act=nn.Sigmoid), change=scaled(300)),
        {"units", "gradients", "initial_loss"},
    )
    yield "input ignored", of(BASE, change=Blind), {"zeroed"}
    yield "inputs up to 4,000", of(BASE, splits=of_all(lambda x, y: (x * 4000, y))), {"inputs"}
    yield "columns in mixed units", of(CANCER, splits=lambda: cancer(standardised=False)), {"inputs"}
    yield "NaN in the inputs", of(WINE, splits=of_train(with_nan, wine)), {"inputs"}
    yield "validation inverted", of(BASE, splits=of_val(lambda x, y: (1 - x, y))), {"shift"}
    yield "validation of other classes", of(BASE, splits=of_val(lambda x, y: (x[y < 4], y[y < 4]))), {"shift"}
    yield "too few outputs", of(BASE, layers=lambda: dense(outputs=8)), {"labels"}
    yield "too many classes", of(BASE, layers=lambda: dense(outputs=14), classes=14), {"labels"}
    yield "loss summed", of(BASE, loss=summed), {"loss"}
    yield "loss averaged already", of(BASE, loss=averaged), {"loss"}
    yield "loss times the batch", of(WINE, loss=times_the_batch), {"loss"}
    yield "loss upside down", of(BASE, loss=negative), {"loss"}
    yield (
        "no logarithm before nll_loss",
        of(BASE, layers=lambda: [*dense(), nn.Softmax(1)], loss=without_logarithm),
        {"loss", "outputs"},
    )
    yield "dropout in evaluation", of(BASE, change=AlwaysDropping), {"modes"}
    yield "eval() overridden", of(CNN, change=NeverEvaluating), {"modes"}
    yield "rate 100 times too large", at(BASE, lr=30.0), RATE
    yield "rate 100 times too large, momentum", at(CNN, lr=10.0, optimizer="momentum"), RATE
    yield "rate 1,000 times too small", at(BASE, lr=5e-5), LOW
    yield "weight decay of 10", at(BASE, weight_decay=10.0), {"rate", "underfit", "rate_too_high", "diverged"}
    yield (
        "dropout of 0.97",
        at(BASE, dropout=0.97),
        {"underfit", "rate", "noisy", "validation_better", "still_improving"},
    )


FAULTY = list(_cases())
