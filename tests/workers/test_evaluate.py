"""Models from several snapshots, alone and averaged, on validation and, where allowed, test split."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from training import CPU, blobs, ending, make_work, points, run, saved
from tunesmith_workers import evaluate, kinds
from tunesmith_workers.data import Split, Splits, folded
from tunesmith_workers.endings import BUDGET, RELEASED, Artifact, Said
from tunesmith_workers.evaluate import Average
from tunesmith_workers.snapshots import SnapshotCorrupt
from tunesmith_workers.tasks.registry import Entry, Loop, Task, TaskError


def trained(
    entry: Entry, scratch: Path, params: dict[str, Any], seed: int
) -> tuple[Path, Mapping[str, float]]:
    """A trial's snapshot at its end, and the last point that it logged."""
    said = run(entry, make_work(params=params, seed=seed, keep_snapshot=True), scratch)
    return saved(said)[-1].file.path, points(said)[-1].metrics


def evaluated(entry: Entry, members: list[Path], scratch: Path, **changes: Any) -> list[Said]:
    work = make_work(kind="evaluate", epochs=1, **changes)
    return list(kinds.run(entry, work, kinds.Place(CPU, scratch, members=members)))


def metrics(said: list[Said]) -> Mapping[str, float]:
    (point,) = points(said)
    return point.metrics


def with_test() -> Entry:
    generator = torch.Generator().manual_seed(2)
    return blobs(test=Split(torch.randn(30, 4, generator=generator), torch.arange(30) % 3))


MEMBERS = [({"lr": 0.1}, 1), ({"lr": 0.1, "hidden": 8, "depth": 1}, 2), ({"lr": 0.3}, 3)]


def test_members_of_different_shapes_say_again_what_they_logged(tmp_path: Path) -> None:
    entry = blobs()
    each = [trained(entry, tmp_path, params, seed) for params, seed in MEMBERS]
    found = metrics(evaluated(entry, [path for path, _ in each], tmp_path))
    for i, (_, logged) in enumerate(each):
        for name in ("val/loss", "val/accuracy"):
            assert found[f"member/{i}/{name}"] == pytest.approx(logged[name], rel=1e-6)
    assert found["sys/epoch"] == 0
    assert not any(name.startswith("test/") for name in found)


def test_an_ensemble_is_the_mean_of_the_members_probabilities(tmp_path: Path) -> None:
    entry = blobs()
    assert isinstance(entry.task, Task)
    paths = [trained(entry, tmp_path, params, seed)[0] for params, seed in MEMBERS]
    found = metrics(evaluated(entry, paths, tmp_path))
    val, work = entry.task.splits.val, make_work(kind="evaluate")
    outputs = [evaluate._outputs(entry.task, work, path, CPU)["val"][0] for path in paths]
    mean = torch.stack([o.softmax(1) for o in outputs]).mean(0)
    losses = -mean[torch.arange(len(val)), val.y].log()
    assert found["ensemble/val/loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert found["ensemble/val/accuracy"] == pytest.approx(float((mean.argmax(1) == val.y).float().mean()))
    error = float(losses.std()) / math.sqrt(len(val))
    assert found["ensemble/val/loss_error"] == pytest.approx(error, rel=1e-4)
    worst = max(found[f"member/{i}/val/loss"] for i in range(3))
    assert found["ensemble/val/loss"] < worst


def test_the_ensemble_of_one_is_that_one(tmp_path: Path) -> None:
    entry = blobs()
    path, logged = trained(entry, tmp_path, {"lr": 0.1}, 1)
    found = metrics(evaluated(entry, [path], tmp_path))
    assert found["ensemble/val/loss"] == pytest.approx(logged["val/loss"], rel=1e-5)


def test_the_test_split_is_read_only_when_the_order_says_so_and_stands_under_test(tmp_path: Path) -> None:
    entry = with_test()
    paths = [trained(entry, tmp_path, params, seed)[0] for params, seed in MEMBERS[:2]]
    assert not any("test" in name for name in metrics(evaluated(entry, paths, tmp_path)))
    found = metrics(evaluated(entry, paths, tmp_path, read_test=True))
    assert {name for name in found if "test" in name} == {
        f"test/{whose}/{name}"
        for whose in ("ensemble", "member/0", "member/1")
        for name in ("loss", "accuracy")
    } | {"test/ensemble/loss_error"}


def test_a_task_without_a_test_split_is_evaluated_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = blobs()
    path, _ = trained(entry, tmp_path, {"lr": 0.1}, 1)
    said = evaluated(entry, [path], tmp_path, read_test=True)
    assert "ensemble/val/loss" in metrics(said)
    assert ending(said) == BUDGET
    assert "the task has no test split" in capsys.readouterr().out


def test_each_member_sees_inputs_as_it_was_trained_on_them(tmp_path: Path) -> None:
    entry = blobs()
    each = [trained(entry, tmp_path, {"lr": 0.1, "preprocessing": how}, 1) for how in ("as_given", "whiten")]
    found = metrics(evaluated(entry, [path for path, _ in each], tmp_path))
    for i, (_, logged) in enumerate(each):
        assert found[f"member/{i}/val/loss"] == pytest.approx(logged["val/loss"], rel=1e-5)


def test_outputs_that_are_no_classes_are_averaged_themselves(tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 40).unsqueeze(1)
    split = Split(x, 2 * x)
    task = Task(
        Splits(split, split), classes=None, build=lambda params: nn.Linear(1, 1), metrics={},
        loss=lambda outputs, targets: functional.mse_loss(outputs, targets, reduction="none").sum(1),
    )  # fmt: skip
    entry = Entry("line", task, "0" * 64)
    paths = [trained(entry, tmp_path, {"lr": 0.1}, seed)[0] for seed in (1, 2)]
    found = metrics(evaluated(entry, paths, tmp_path))
    outputs = [evaluate._outputs(task, make_work(), path, CPU)["val"][0] for path in paths]
    expected = functional.mse_loss(torch.stack(outputs).mean(0), split.y)
    assert found["ensemble/val/loss"] == pytest.approx(float(expected), rel=1e-6)


def test_probabilities_are_averaged_as_they_are() -> None:
    one, other = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.1, 0.9], [0.0, 1.0]])
    average = Average(2, torch.tensor([0, 1]))
    average.add(one)
    average.add(other)
    assert torch.allclose(average.mean(), torch.tensor([[0.3, 0.7], [0.5, 0.5]]))


def test_of_several_labels_a_sample_the_outputs_are_averaged() -> None:
    outputs = torch.tensor([[4.0, 4.0, -4.0], [-4.0, -4.0, -4.0]])
    average = Average(3, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    average.add(outputs)
    average.add(outputs)
    assert torch.equal(average.mean(), outputs), "as the loss of such targets takes them: no softmax"


def test_targets_that_are_probabilities_of_the_classes_are_classes() -> None:
    outputs = torch.tensor([[1.0, 3.0], [0.0, -2.0]])
    average = Average(2, torch.tensor([[0.25, 0.75], [0.9, 0.1]]))
    average.add(outputs)
    average.add(-outputs)
    expected = (outputs.softmax(1) + (-outputs).softmax(1)) / 2
    assert torch.allclose(average.mean().softmax(1), expected)


def test_a_class_that_no_member_believes_in_costs_a_finite_loss() -> None:
    average = Average(2, torch.tensor([1]))
    average.add(torch.tensor([[1000.0, -1000.0]]))
    assert torch.isfinite(functional.cross_entropy(average.mean(), torch.tensor([1])))


def test_inspection_leaves_the_ensembles_documents(tmp_path: Path) -> None:
    entry = blobs()
    paths = [trained(entry, tmp_path, params, seed)[0] for params, seed in MEMBERS[:2]]
    said = evaluated(entry, paths, tmp_path, inspect=True)
    found = {s.name: json.loads(s.file.path.read_text()) for s in said if isinstance(s, Artifact)}
    assert found.keys() == {"confusion.json", "predictions.json", "mistakes.json"}
    assert isinstance(entry.task, Task)
    right = sum(row[i] for i, row in enumerate(found["confusion.json"]["counts"]))
    accuracy = metrics(said)["ensemble/val/accuracy"]
    assert right / len(entry.task.splits.val) == pytest.approx(accuracy)


def test_what_is_shown_of_a_fold_is_the_fold(tmp_path: Path) -> None:
    entry = blobs()
    said = run(entry, make_work(params={"lr": 0.1}, keep_snapshot=True, fold=(1, 3)), tmp_path)
    found = evaluated(entry, [saved(said)[-1].file.path], tmp_path, inspect=True, fold=(1, 3))
    assert metrics(found)["member/0/val/loss"] == pytest.approx(points(said)[-1].metrics["val/loss"])
    shown = {s.name: json.loads(s.file.path.read_text()) for s in found if isinstance(s, Artifact)}
    assert isinstance(entry.task, Task)
    val = folded(entry.task.splits, 1, 3).val
    each = shown["predictions.json"]["samples"]
    assert [int(s["truth"]) for s in each] == val.y.tolist()
    assert [s["input"]["values"] for s in each] == val.x.tolist()


def test_more_numbers_than_a_point_holds_leave_out_single_members(tmp_path: Path) -> None:
    more = {f"m{i}": lambda outputs, targets: outputs[:, 0] for i in range(100)}
    entry = blobs(metrics=more)
    path, _ = trained(entry, tmp_path, {"lr": 0.1}, 1)
    found = metrics(evaluated(entry, [path, path, path], tmp_path))
    assert len(found) == evaluate.MOST_METRICS
    assert all(f"ensemble/val/m{i}" in found for i in range(100))


def test_a_snapshot_that_is_not_of_this_task_is_named(tmp_path: Path) -> None:
    other = blobs(classes=5)
    path, _ = trained(other, tmp_path, {"lr": 0.1}, 1)
    with pytest.raises(SnapshotCorrupt, match="does not fit the model"):
        evaluated(blobs(), [path], tmp_path)


def test_what_cannot_be_evaluated_is_refused_with_the_reason(tmp_path: Path) -> None:
    loop = Entry("own", Loop(lambda trial: None), "0" * 64)
    with pytest.raises(TaskError, match="own trains by its own loop"):
        evaluated(loop, [tmp_path], tmp_path)
    with pytest.raises(TaskError, match="at least one member"):
        evaluated(blobs(), [], tmp_path)


def test_an_evaluation_that_is_wanted_back_is_handed_back_between_members(tmp_path: Path) -> None:
    entry = blobs()
    path, _ = trained(entry, tmp_path, {"lr": 0.1}, 1)
    place = kinds.Place(CPU, tmp_path, members=[path], asked=lambda: "hand_back")
    assert list(kinds.run(entry, make_work(kind="evaluate"), place)) == [RELEASED]
