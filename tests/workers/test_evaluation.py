"""Evaluating a model on a split, against torch beside it."""

import pytest
import torch
from torch import nn
from training import blobs
from tunesmith_workers import evaluation


class Small(nn.Module):
    """Runs out of memory above `most` samples at once."""

    def __init__(self, most, error):
        super().__init__()
        self.linear, self.most, self.error, self.sizes = nn.Linear(4, 3), most, error, []

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        self.sizes.append(len(x))
        return self.linear(x)


def test_losses_and_metrics_are_means_and_equal_the_scores_of_the_outputs():
    task = blobs(samples=90).task
    model, split = task.build({}), task.splits.val
    found = evaluation.evaluate(task, model, split)
    with torch.no_grad():
        said = model(split.x)
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(said, split.y).item(), rel=1e-6)
    assert found["accuracy"] == pytest.approx((said.argmax(1) == split.y).float().mean().item())
    assert list(found) == ["loss", "accuracy"]
    assert evaluation.scores(task, evaluation.outputs(model, split), split.y) == found


def test_the_mode_that_a_model_was_in_is_put_back_and_no_gradient_is_kept():
    task = blobs().task
    model = task.build({"dropout": 0.5})
    modes = []
    model.register_forward_pre_hook(lambda m, x: modes.append(m.training))
    for training in (True, False):
        model.train(training)
        assert not evaluation.outputs(model, task.splits.val).requires_grad
        assert model.training is training
    assert modes == [False, False]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out"), RuntimeError("can't allocate memory")])
def test_an_evaluation_that_runs_out_of_memory_goes_on_in_halves(error, capsys):
    task = blobs(samples=90).task
    model, split = Small(10, error), task.splits.val
    found = evaluation.evaluate(task, model, split)
    assert model.sizes == [7, 7, 7, 7, 2]
    model.most = 90
    assert found == pytest.approx(evaluation.evaluate(task, model, split))
    assert capsys.readouterr().out.splitlines() == [
        "out of memory in an evaluation, which begins again with 15 samples at once",
        "out of memory in an evaluation, which begins again with 7 samples at once",
    ]


def test_a_device_without_memory_for_one_sample_is_an_error_and_so_is_any_other():
    task = blobs().task
    with pytest.raises(torch.OutOfMemoryError, match="out"):
        evaluation.evaluate(task, Small(0, torch.OutOfMemoryError("out")), task.splits.val)
    model = Small(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        evaluation.evaluate(task, model, task.splits.val)
    assert model.training
