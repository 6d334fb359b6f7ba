import hashlib
import inspect
import math
import tempfile
import textwrap
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from training import CPU, make_work, points, same_bits, saved, tree, wish_at
from tunesmith_workers import loop, rng
from tunesmith_workers.child import spoken
from tunesmith_workers.endings import Ending
from tunesmith_workers.loop import Trial, TrialEnded, train
from tunesmith_workers.messages import decode, encode
from tunesmith_workers.snapshots import SnapshotCorrupt, tensors
from tunesmith_workers.tasks.registry import Registry, TaskError

PARAMS = {"lr": 0.1, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The example of the module's docstring, as a person would paste it into a file."""
    source = inspect.getdoc(loop).split("another trial:\n", 1)[1].split("\nAll generators", 1)[0]
    path = tmp_path_factory.mktemp("own") / "line_tasks.py"
    path.write_text(textwrap.dedent(source))
    registry = Registry()
    registry.add_file(path)
    return registry["line"].task.run


def go(function, work, scratch: Path, *, resume=None, asked=lambda: None, clock=lambda: 0.0):
    """Run a loop as the child does; all that it says, the ending last."""
    said, own = [], Path(tempfile.mkdtemp(dir=scratch))
    trial = Trial(work, device=CPU, scratch=own, say=said.append, asked=asked, resume=resume, clock=clock)
    rng.begin(trial.seed, threads=1)
    with suppress(TrialEnded):
        function(trial)
    return [*said, trial.ending()]


def work(**changes):
    return make_work(task="line", **({"params": PARAMS, "epochs": 6, "keep_snapshot": True} | changes))


def test_the_example_of_the_documentation_trains(line, tmp_path):
    said = go(line, work(epochs=60), tmp_path)
    assert [p.step for p in points(said)] == list(range(1, 61))
    assert points(said)[-1].metrics["val/loss"] < 0.1 * points(said)[0].metrics["val/loss"]
    assert [(s.step, s.final) for s in saved(said)] == [(60, True)]
    assert said[-1] == Ending("complete", "budget")


def test_the_example_goes_on_after_a_hand_back_as_if_never_interrupted(line, tmp_path):
    whole = go(line, work(), tmp_path)
    first = go(line, work(), tmp_path, asked=wish_at(6))
    assert first[-1] == Ending("released")
    assert 0 < saved(first)[-1].step < 6
    second = go(line, work(), tmp_path, resume=saved(first)[-1].file.path)
    assert points(first) + points(second) == points(whole)
    assert same_bits(tree(second)["model"], tree(whole)["model"])


def test_a_branch_of_the_example_trains_its_own_decay_with_the_trunk_s_seed(line, tmp_path):
    trunk = saved(go(line, work(number=1, epochs=3), tmp_path))[-1].file.path
    whole = go(line, work(number=1), tmp_path)
    control = go(line, work(number=2, seed=99), tmp_path, resume=trunk)
    assert points(control) == points(whole)[3:]
    strong = go(line, work(number=3, params=PARAMS | {"weight_decay": 0.5}), tmp_path, resume=trunk)
    assert tree(strong)["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    assert not same_bits(tree(strong)["model"], tree(control)["model"])
    assert tree(control)["seed"] == 7


def test_an_overdue_snapshot_is_wanted_at_the_next_epoch(line, tmp_path):
    clock = iter(range(0, 10**6, 10))
    said = go(line, work(snapshot_every_seconds=5, epochs=3), tmp_path, clock=lambda: next(clock))
    assert [(s.step, s.final) for s in saved(said)] == [(1, False), (2, False), (3, True)]


@train("scheduled")
def scheduled(trial: Trial) -> None:
    """With momentum, a scheduler, a counter of its own, and numbers drawn while it trains."""
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"], momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    start = trial.restore(model=model, optimizer=optimizer, scheduler=scheduler)
    drawn = trial.restored.get("drawn", 0)
    for epoch in range(start, trial.epochs):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        drawn += 8
        metrics = {"val/loss": model.weight.square().sum().item(), "sys/lr": optimizer.param_groups[0]["lr"]}
        scheduler.step()
        trial.report(epoch + 1, metrics, drawn=drawn)
        if trial.snapshot_due():
            trial.snapshot(model=model, optimizer=optimizer, scheduler=scheduler, drawn=drawn)
        if trial.should_stop():
            return


def test_weights_that_were_restored_are_not_held_twice(tmp_path):
    def held(trial: Trial) -> None:
        scheduled(trial)
        assert list(tensors(trial._resume)) == []
        assert trial.restored["drawn"] > 0

    first = go(scheduled, work(), tmp_path, asked=wish_at(6))
    assert go(held, work(), tmp_path, resume=saved(first)[-1].file.path)[-1].state == "complete"


def test_schedulers_values_and_drawn_numbers_go_on(tmp_path):
    whole = go(scheduled, work(), tmp_path)
    first = go(scheduled, work(), tmp_path, asked=wish_at(6))
    second = go(scheduled, work(), tmp_path, resume=saved(first)[-1].file.path)
    assert points(first) + points(second) == points(whole)
    assert points(whole)[-1].metrics["drawn"] == 48
    assert [p.metrics["sys/lr"] for p in points(whole)] == [0.1 * 0.5**t for t in range(6)]


@train("plateau")
def plateau(trial: Trial) -> None:
    """Halves its rate after each epoch, for none is better than the first."""
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"])
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    start = trial.restore(model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in range(start, trial.epochs):
        scheduler.step(1.0)
        trial.report(epoch + 1, {"val/loss": 1.0, "rate": optimizer.param_groups[0]["lr"]})
        if trial.snapshot_due():
            trial.snapshot(model=model, optimizer=optimizer, scheduler=scheduler)
        if trial.should_stop():
            return


def test_a_rate_that_fell_for_a_metric_stays_fallen_but_not_for_a_branch(tmp_path):
    whole = go(plateau, work(), tmp_path)
    assert [p.metrics["rate"] for p in points(whole)] == [0.1 * 0.5**t for t in range(6)]
    first = go(plateau, work(), tmp_path, asked=wish_at(6))
    second = go(plateau, work(), tmp_path, resume=saved(first)[-1].file.path)
    assert points(first) + points(second) == points(whole)
    branch = go(plateau, work(number=9, epochs=7), tmp_path, resume=saved(whole)[-1].file.path)
    assert [p.metrics["rate"] for p in points(branch)] == [0.05]


def test_a_branch_with_another_rate_follows_its_own_schedule(tmp_path):
    trunk = saved(go(scheduled, work(number=1, epochs=3), tmp_path))[-1].file.path
    branch = go(scheduled, work(number=2, params=PARAMS | {"lr": 0.8}), tmp_path, resume=trunk)
    assert [p.metrics["sys/lr"] for p in points(branch)] == [0.1, 0.05, 0.025]


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(tmp_path):
    left = []

    def explodes(trial):
        try:
            trial.report(1, {"val/loss": 1.0, "extra": math.nan})
            trial.report(2, {"val/loss": math.inf})
            left.append("went on")
        finally:
            left.append("cleaned up")

    said = go(explodes, work(), tmp_path)
    assert said[-1] == Ending("pruned", "diverged")
    assert left == ["cleaned up"]


def test_an_abandoned_trial_leaves_its_loop_at_the_next_report(tmp_path):
    def stubborn(trial):
        for epoch in range(100):
            trial.report(epoch + 1, {"val/loss": 1.0})

    said = go(stubborn, work(epochs=100), tmp_path, asked=wish_at(2, "abandon"))
    assert len(points(said)) == 3
    assert said[-1] == Ending("abandoned")


def test_a_trunk_of_one_s_own_is_told_of_its_plateau(tmp_path):
    def flat(trial):
        for epoch in range(trial.epochs):
            trial.report(epoch + 1, {"val/loss": 1.0})
            if trial.should_stop():
                return

    said = go(flat, work(epochs=50, stop_at_plateau=True), tmp_path)
    assert (len(points(said)), said[-1]) == (10, Ending("complete", "plateau"))


def test_an_artifact_is_a_copy_of_the_file_as_it_was(tmp_path):
    def draws(trial):
        (tmp_path / "plot.svg").write_text("<svg/>")
        trial.artifact("plot", tmp_path / "plot.svg")
        (tmp_path / "plot.svg").write_text("drawn over")
        trial.report(1, {"val/loss": 1.0})

    artifact = go(draws, work(), tmp_path)[0]
    assert artifact.name == "plot"
    assert artifact.file.path.read_text() == "<svg/>"
    assert artifact.file.sha256 == hashlib.sha256(b"<svg/>").hexdigest()
    assert artifact.file.size == 6


def test_a_loop_may_stop_by_a_rule_of_its_own(tmp_path):
    said = go(lambda trial: trial.report(1, {"val/loss": 1.0}), work(), tmp_path)
    assert said[-1] == Ending("complete", "early_stopping")


def test_a_loop_that_may_read_the_test_set_reports_what_it_read(tmp_path):
    metrics = {"val/loss": 1.0, "test/loss": 1.1}
    said = go(lambda trial: trial.report(1, metrics), work(read_test=True), tmp_path)
    assert points(said)[0].metrics == metrics


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (lambda t: t.report(0, {"val/loss": 1.0}), r"steps must rise: report\(0\) after step 0"),
        (lambda t: t.report(1), r"report\(1\) has no metric"),
        (
            lambda t: t.report(1, {"val/loss": 1.0, "test/loss": 1.0}),
            "test/loss: the test set is for the final",
        ),
        (lambda t: t.report(1, loss=1.0), "lacks val/loss, the study's objective; it has loss"),
        (lambda t: t.report(1, {"val/loss": "low"}), "val/loss must be one number, got 'low'"),
        (lambda t: t.report(1, {"val/loss": None}), "val/loss must be one number, got None"),
        (lambda t: t.report(1, {"val/loss": torch.ones(2)}), r"val/loss must be one number, got tensor\("),
        (lambda t: t.report(1, {"val/loss": 1.0, 3: 1.0}), "name is a text of 1 to 128 characters, got 3"),
        (lambda t: t.report(1.5, {"val/loss": 1.0}), "a step is a whole number of epochs done, got 1.5"),
        (lambda t: t.report("1", {"val/loss": 1.0}), "a step is a whole number of epochs done, got '1'"),
        (lambda t: t.report(2**31, {"val/loss": 1.0}), "a step is at most 2147483647, got 2147483648"),
        (lambda t: None, "returned without a report"),
    ],
)
def test_a_report_that_cannot_be_right_is_refused(tmp_path, report, message):
    with pytest.raises(ValueError, match=message):
        go(report, work(), tmp_path)


@pytest.mark.parametrize("step", [np.int64(1), torch.tensor(1)], ids=["numpy", "torch"])
def test_steps_and_values_may_be_numbers_of_numpy_and_torch(tmp_path, step):
    said = go(lambda t: t.report(step, {"val/loss": torch.tensor(0.5)}), work(), tmp_path)
    assert decode(encode(spoken(said[0])))["points"] == [{"step": 1, "metrics": {"val/loss": 0.5}}]


def test_a_snapshot_that_lacks_what_a_loop_restores_is_refused(line, tmp_path):
    @train("curious")
    def curious(trial):
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trial.restore(model=model, optimizer=optimizer, scaler=torch.nn.Linear(1, 1))

    snapshot = saved(go(line, work(epochs=2), tmp_path))[-1].file.path
    with pytest.raises(SnapshotCorrupt, match="does not fit this trial: KeyError: 'scaler'"):
        go(curious, work(), tmp_path, resume=snapshot)
    with pytest.raises(SnapshotCorrupt, match=r"weight is torch.float32 \[1, 1\] in it and .*\[1, 3\]"):
        go(scheduled, work(), tmp_path, resume=snapshot)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 100}, "a budget in steps"),
        ({"seconds": 5.0, "validate_every": 7}, "a budget in seconds and validate_every"),
        ({"fold": (0, 5)}, "a fold"),
    ],
)
def test_a_loop_is_not_asked_for_what_it_cannot_see(tmp_path, line, changes, told):
    message = f"trains by its own loop, which knows epochs .* this trial asks for {told}: leave that out"
    with pytest.raises(TaskError, match=message):
        go(line, make_work(params=PARAMS, **changes), tmp_path)
