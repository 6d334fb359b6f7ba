"""Preflight on real tasks: what the probes measure, judged by the checks as the stage judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.local import LocalStudy
from torch import Tensor, nn
from torch.nn import functional
from training import CPU, blobs, make_work, wish_at
from tunesmith_studies.findings import Finding
from tunesmith_studies.planning import StageResult
from tunesmith_workers import kinds
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.endings import ABANDONED, BUDGET, RELEASED, EpochResult
from tunesmith_workers.probes import costs, data, learning
from tunesmith_workers.probes.bench import Bench
from tunesmith_workers.tasks import digits
from tunesmith_workers.tasks.registry import Entry, Task

SPACE = {
    "lr": {"low": 1e-3, "high": 0.3, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 64, "log": True},
}
DIGITS = digits.task()
TRAIN, VAL = DIGITS.splits.train, DIGITS.splits.val


def preflight(
    task: Task, scratch: Path, *, space: dict[str, Any] | None = None, seed: int = 0, **fixed: Any
) -> StageResult:
    """A study's preflight, planned and judged by its stage, measured by the worker."""
    fixed = {"optimizer": "momentum", **fixed}
    spec = {"name": "s", "task": "digits", "space": space or SPACE, "fixed": fixed, "seed": seed}
    study = LocalStudy(spec | {"stages": [{"kind": "preflight"}]}, Entry("digits", task, "0" * 64), scratch)
    study.run()
    return study.results["preflight"]


def without(what: str, result: StageResult) -> list[Finding]:
    """Findings that say something, without those of one kind."""
    return [f for f in result.findings if f.level != "pass" and f.kind != what]


def of(what: str, result: StageResult) -> Finding:
    (finding,) = [f for f in result.findings if f.kind == what]
    return finding


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_digits_are_sound_at_a_cost_of_few_epochs(tmp_path: Path, model: str) -> None:
    result = preflight(DIGITS, tmp_path, model=model)
    assert without("", result) == []
    assert {f.kind for f in result.findings} == {
        "labels", "inputs", "leak", "shift", "order", "balance", "loss", "initial_loss", "outputs",
        "gradients", "units", "modes", "determinism", "overfit", "zeroed", "generalise", "rate", "depth",
        "time", "memory",
    }  # fmt: skip
    assert result.numbers["epochs"] <= 5
    samples = sum(probe["samples"] for probe in result.numbers["cost"].values())
    assert samples / len(TRAIN) == pytest.approx(result.numbers["epochs"])
    assert result.chosen["timing"]["train_samples"] == len(TRAIN)


def test_rates_are_warned_of_at_most_where_they_are_fixed_and_slow(tmp_path: Path) -> None:
    space = {"weight_decay": [0.0, 1e-4]}
    sound = preflight(DIGITS, tmp_path, space=space, lr=0.05, batch_size=32)
    assert without("", sound) == []
    high = preflight(DIGITS, tmp_path / "high", space=space, lr=10.0, batch_size=32)
    assert (of("rate", high).level, without("rate", high)) == ("fail", [])


def built(change: Callable[[nn.Module], nn.Module]) -> Task:
    return replace(DIGITS, build=lambda params: change(DIGITS.build(params)))


class Detached(nn.Module):
    """Its first layers get no gradient."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.first, self.rest = whole[:3], whole[3:]  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.rest(self.first(x).detach())
        return found


class Dropping(nn.Module):
    """Its dropout does not know of eval()."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole, self.head = whole, nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(functional.dropout(self.whole(x), 0.3))
        return found


class Listed(nn.Module):
    """Its first layer stands in a list, so it is no part of the model."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.first, self.rest = [nn.Linear(64, 64)], nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.rest(self.first[0](x.flatten(1)).relu())
        return found


class Centred(nn.Module):
    """It looks at the other samples of its batch."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.whole(x)
        return outputs - outputs.mean(0, keepdim=True)


def dead(model: nn.Module) -> nn.Module:
    nn.init.constant_(model[1].bias, -10)  # type: ignore[index]
    return model


def alike(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.05)
    return model


def frozen(model: nn.Module) -> nn.Module:
    model[1].requires_grad_(False)  # type: ignore[index]
    return model


def shuffled(y: Tensor) -> Tensor:
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(3))]


def with_splits(train: Split = TRAIN, val: Split = VAL) -> Task:
    return replace(DIGITS, splits=Splits(train, val, DIGITS.splits.test))


def summed(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none") * len(targets)


def one_number(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(outputs, targets)


def holed(split: Split) -> Split:
    x = split.x.clone()
    x[3, 0, 2, 2] = float("nan")
    return Split(x, split.y)


def leaked() -> Split:
    return Split(torch.cat([TRAIN.x, VAL.x[:40]]), torch.cat([TRAIN.y, VAL.y[:40]]))


FAULTS: dict[str, tuple[Task, str, str]] = {
    "softmax": (built(lambda m: nn.Sequential(m, nn.Softmax(1))), "outputs", "probabilities already"),
    "tanh": (built(lambda m: nn.Sequential(m, nn.Tanh())), "outputs", "within ±1"),
    "detached": (built(Detached), "gradients", "No gradient reaches 2 of 6"),
    "listed": (built(Listed), "gradients", "4160 trainable numbers"),
    "frozen": (built(frozen), "gradients", "2 of 6 parameters are frozen (4160 numbers): 1.weight, 1.bias"),
    "dead": (built(dead), "units", "100 % of the units of relu after 1"),
    "alike": (built(alike), "units", "same weights"),
    "dropping": (built(Dropping), "modes", "Two evaluations"),
    "centred": (built(Centred), "modes", "neighbours in the batch"),
    "random labels": (with_splits(Split(TRAIN.x, shuffled(TRAIN.y))), "generalise", "says nothing"),
    "moved labels": (with_splits(Split(TRAIN.x, (TRAIN.y + 1) % 10)), "generalise", "training's minus 1"),
    "labels from 1": (with_splits(Split(TRAIN.x, TRAIN.y + 1)), "labels", "outside 0 … 9"),
    "ninth class": (replace(DIGITS, classes=9), "labels", "outside 0 … 8"),
    "holes": (with_splits(holed(TRAIN)), "inputs", "1 input number NaN"),
    "bytes": (with_splits(*(Split(s.x * 255, s.y) for s in (TRAIN, VAL))), "inputs", "not normalised"),
    "leak": (with_splits(leaked()), "leak", "11 % of the validation rows"),
    "darker": (with_splits(val=Split(VAL.x * 0.6, VAL.y)), "shift", "a column differs"),
    "fewer": (with_splits(val=Split(VAL.x[VAL.y < 6], VAL.y[VAL.y < 6])), "shift", "class shares differ"),
    "summed": (replace(DIGITS, loss=summed), "loss", "summed, not averaged"),
    "one number": (replace(DIGITS, loss=one_number), "loss", "1 number for 32 samples: it is averaged"),
    "deep": (built(lambda m: nn.Sequential(m, *(nn.Linear(10, 10) for _ in range(12)))), "depth", "linear"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(tmp_path: Path, name: str) -> None:
    task, kind, says = FAULTS[name]
    finding = of(kind, preflight(task, tmp_path))
    assert finding.level in ("fail", "warn"), finding.sentence
    assert says in finding.sentence


def test_sound_things_that_look_odd_are_no_faults(tmp_path: Path) -> None:
    """A head that begins at zero; outputs that are log-probabilities; probabilities where they are wanted."""

    def zero_head(model: nn.Module) -> nn.Module:
        nn.init.zeros_(model[-1].weight)  # type: ignore[index]
        return model

    def of_probabilities(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return functional.nll_loss(outputs.clamp_min(1e-9).log(), targets, reduction="none")

    softmax = built(lambda m: nn.Sequential(m, nn.Softmax(1)))
    tasks = [built(zero_head), built(lambda m: nn.Sequential(m, nn.LogSoftmax(1)))]
    for i, task in enumerate([*tasks, replace(softmax, loss=of_probabilities)]):
        assert without("", preflight(task, tmp_path / str(i))) == []


def test_a_task_without_classes_is_looked_at_as_far_as_it_can_be(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    y = x[:, :1] - x[:, 1:2] + 0.1 * torch.randn(400, 1, generator=generator)
    task = Task(
        Splits(Split(x[:300], y[:300]), Split(x[300:], y[300:])), None,
        build=lambda params: nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 1)),
        loss=lambda outputs, targets: ((outputs - targets) ** 2).squeeze(1), metrics={},
    )  # fmt: skip
    result = preflight(task, tmp_path)
    assert without("", result) == []
    assert {"overfit", "generalise", "gradients", "leak", "shift"} <= {f.kind for f in result.findings}


def run(asked: Callable[[], Any], scratch: Path) -> list[Any]:
    work = make_work(kind="preflight", params={"lr": 0.1})
    return list(kinds.run(blobs(), work, kinds.Place(CPU, scratch, asked=asked)))


def test_labels_of_a_byte_are_labels(tmp_path: Path) -> None:
    def bytes_of(split: Split) -> Split:
        return Split(split.x, split.y.to(torch.uint8))

    splits = Splits(bytes_of(TRAIN), bytes_of(VAL))
    assert without("", preflight(replace(DIGITS, splits=splits), tmp_path)) == []


def test_a_linear_model_of_very_many_samples_is_fitted_to_some_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (50_000,), generator=generator, dtype=torch.uint8)
    split = Split(torch.randn(50_000, 2, generator=generator), y)
    task = Task(Splits(split, split), 2, lambda params: nn.Linear(2, 2))
    bench = Bench(task, {}, split, split, CPU, seed=0)
    everything = torch.arange(50_000)  # whose kernel would have 20 GB
    found = learning._linear(bench, everything, torch.zeros(50_000, 2), split)
    assert found["check/depth/linear"] == pytest.approx(0.5, abs=0.05)


def test_points_count_probes_and_each_says_what_was_trained_so_far(tmp_path: Path) -> None:
    said = run(lambda: None, tmp_path)
    points = [s for s in said if isinstance(s, EpochResult)]
    assert said[-1] == BUDGET
    assert [p.step for p in points] == list(range(1, len(points) + 1))
    epochs = [p.metrics["sys/epoch"] for p in points]
    assert epochs == sorted(epochs)
    assert epochs[0] == 0.0
    assert all(len(p.metrics) <= 256 and all(len(n) <= 128 for n in p.metrics) for p in points)


def test_it_can_be_handed_back_or_abandoned_between_two_probes(tmp_path: Path) -> None:
    assert run(wish_at(0), tmp_path)[-1] == RELEASED
    said = run(wish_at(1, "abandon"), tmp_path)
    assert (len(said), said[-1]) == (3, ABANDONED)


def bench(**params: Any) -> Bench:
    return Bench(DIGITS, params, TRAIN, VAL, CPU, seed=1)


def test_a_bare_model_has_no_dropout_and_a_trials_own_has() -> None:
    both = bench(dropout=0.5, lr=0.1)
    drops = [
        [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
        for model in (both.bare(), both.learner().model)
    ]
    assert drops == [[0.0, 0.0], [0.5, 0.5]]


def test_samples_of_a_batch_differ_and_come_from_all_classes_in_turn() -> None:
    doubled = Split(TRAIN.x.repeat(2, 1, 1, 1), TRAIN.y.repeat(2))
    chosen = Bench(DIGITS, {}, doubled, VAL, CPU, seed=1).mixed(30)
    assert sorted(doubled.y[chosen[:10]].tolist()) == list(range(10))
    assert torch.unique(doubled.x[chosen], dim=0).shape[0] == 30


def test_a_sample_needs_the_memory_of_what_backward_keeps_of_it() -> None:
    """An MLP 64-64-64-10 keeps, of each sample, what each layer reads and what a ReLU and the loss gave."""
    found = costs.memory(bench(lr=0.1), costs.Training(bench(lr=0.1), 0.1))
    read = 64 + 64 + 64
    assert 2 * 4 * read <= found["memory/sample"] <= 2 * 4 * (read + 64 + 64 + 4 * 10)
    assert found["memory/fixed"] == 4 * 4 * (64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10)


def test_numbers_about_data_are_those_of_small_tables() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0], [0.0, 7.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert data.explained(x, y) == pytest.approx(4 / 5)  # of the second column: 4 between classes, 5 in all
    found = data.leak({"train": x, "val": torch.tensor([[0.0, 3.0], [9.0, 9.0]])}, y)
    assert (found["check/leak/val_in_train"], found["check/leak/train_twins"]) == (0.5, 0.0)
    assert data.leak({"train": torch.cat([x, x[:1]])})["check/leak/train_twins"] == pytest.approx(2 / 5)
    assert data.order(y)["check/order/same"] == pytest.approx(2 / 3)
    assert data.order(y)["check/order/chance"] == pytest.approx(1 / 2)
    assert data.label_shift(y.repeat(10), (1 - y).repeat(10))["check/shift/chi2"] == 0
    drift = data.shift(torch.zeros(30, 1), torch.cat([torch.zeros(15, 1), torch.ones(15, 1)]))
    assert drift["check/shift/distance"] == pytest.approx(0.5)
