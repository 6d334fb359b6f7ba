"""Somebody's own loop, watched: what is seen, what is not, and that nothing of it changes."""

from __future__ import annotations

import inspect
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty_loops
import pytest
import torch
from faulty_loops import Written, digits
from torch import nn
from torch.nn import functional
from torch.nn.modules import module
from torch.optim import optimizer
from training import CPU, ending, make_work, points, wish_at
from tunesmith_studies.checks import Known, judge, merged
from tunesmith_studies.trial import Point
from tunesmith_workers import kinds, observe, rng
from tunesmith_workers import loop as loops
from tunesmith_workers.endings import BUDGET, RELEASED, EpochResult, Said
from tunesmith_workers.loop import Trial, TrialEnded
from tunesmith_workers.losses import look_at
from tunesmith_workers.tasks.registry import Entry, Loop, Registry, TaskError

SMALL = Written(data=lambda: _few(200), batch=20)


def _few(count: int) -> faulty_loops.Data:
    x, y, val_x, val_y = digits()
    return x[:count], y[:count], val_x[:60], val_y[:60]


def watch(loop: Callable[[Trial], object], scratch: Path, **changes: Any) -> list[Said]:
    """All that a preflight of a loop says."""
    work = make_work(**({"kind": "preflight", "epochs": 4} | changes))
    return list(kinds.run(Entry("own", Loop(loop), "0" * 64), work, kinds.Place(CPU, scratch)))


def seen(loop: Callable[[Trial], object], scratch: Path, **changes: Any) -> dict[str, float]:
    return facts(watch(loop, scratch, **changes))


def facts(said: list[Said]) -> dict[str, float]:
    return merged(Point(p.step, p.metrics) for p in points(said))


def curve(loop: Callable[[Trial], object], scratch: Path) -> list[EpochResult]:
    """What a loop reports when nobody watches."""
    said: list[Said] = []
    trial = Trial(make_work(epochs=4), device=CPU, scratch=scratch, say=said.append)
    rng.begin(trial.seed, 1)
    with suppress(TrialEnded):
        loop(trial)
    return points(said)


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What a loop showed that takes a step every four backward passes and evaluates on training as well."""
    return seen(faulty_loops.accumulating, tmp_path_factory.mktemp("accumulated"))


# --- what watching leaves as it was --------------------------------------------------------------------


def test_a_watched_loop_computes_what_it_computes_alone(tmp_path):
    reports: list[tuple[int, float]] = []

    def loop(trial: Trial) -> None:
        def report(step: int, metrics: dict[str, float]) -> None:
            reports.append((step, metrics["val/loss"]))
            told(step, metrics)

        told, trial.report = trial.report, report  # type: ignore[method-assign]
        faulty_loops.Written(model=faulty_loops.Recurrent, data=SMALL.data)(trial)

    alone = curve(loop, tmp_path)
    unwatched, reports[:] = list(reports), []
    watch(loop, tmp_path)
    assert len(alone) == 4
    assert reports[:4] == unwatched


def test_a_watch_leaves_no_hook_behind(tmp_path):
    before = len(curve(SMALL, tmp_path))
    watch(SMALL, tmp_path)
    with pytest.raises(ZeroDivisionError):
        watch(lambda trial: 1 / 0, tmp_path)
    assert not module._global_forward_hooks
    assert not module._global_forward_pre_hooks
    assert not optimizer._global_optimizer_pre_hooks
    assert not optimizer._global_optimizer_post_hooks
    assert not torch.overrides._get_current_function_mode_stack()
    assert len(curve(SMALL, tmp_path)) == before


@pytest.mark.parametrize("name", ["scripted", "sparse", "transformed"])
def test_a_loop_whose_model_we_cannot_train_passes_all_the_same(tmp_path, name, capsys):
    def loop(trial: Trial) -> None:
        x, y = torch.randint(0, 9, (60, 4)), torch.arange(60) % 3
        model: Any = nn.Sequential(
            nn.Embedding(9, 4, sparse=name == "sparse"), nn.Flatten(), nn.Linear(16, 3)
        )
        model = torch.jit.script(model) if name == "scripted" else model
        forward = torch.func.vmap(lambda row: model(row[None])[0]) if name == "transformed" else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(trial.epochs):
            for rows in torch.randperm(60).split(20):
                optimizer.zero_grad()
                functional.cross_entropy(forward(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                trial.report(epoch + 1, {"val/loss": float(functional.cross_entropy(forward(x), y))})

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        said = watch(loop, tmp_path)
    assert ending(said) == BUDGET
    assert facts(said)["check/rate/steps"] > 0
    assert ("cannot be trained on its own" in capsys.readouterr().out) == (name != "transformed")


def test_a_loop_without_an_end_is_left_when_it_has_shown_enough(tmp_path):
    def endless(trial: Trial) -> None:
        model = nn.Linear(3, 2)
        stepper = torch.optim.SGD(model.parameters(), lr=0.1)
        while True:
            with suppress(Exception):
                functional.cross_entropy(model(torch.randn(8, 3)), torch.randint(2, (8,))).backward()
                stepper.step()
                stepper.zero_grad()

    assert seen(endless, tmp_path)["check/rate/steps"] == observe.MOST_STEPS


def test_a_loop_that_is_wanted_back_is_left_and_says_nothing(tmp_path):
    work = make_work(kind="preflight", epochs=4)
    place = kinds.Place(CPU, tmp_path, asked=wish_at(30))
    assert list(kinds.run(Entry("own", Loop(SMALL), "0" * 64), work, place)) == [RELEASED]


def test_time_that_has_run_out_ends_a_loop(tmp_path):
    ticking = itertools.count(step=observe.MOST_SECONDS / 20).__next__
    entry, work = Entry("own", Loop(SMALL), "0" * 64), make_work(kind="preflight", epochs=50)
    said = list(observe.preflight(entry, work, kinds.Place(CPU, tmp_path), clock=ticking))
    assert 10 < facts(said)["check/rate/steps"] < 30
    assert said[-1] == BUDGET


@pytest.mark.parametrize("kind", ["evaluate", "range_test"])
def test_what_a_loop_cannot_show_is_refused_with_what_to_do(tmp_path, kind):
    with pytest.raises(TaskError, match=r"own trains by its own loop.*describe it as a Task"):
        watch(SMALL, tmp_path, kind=kind)


def test_a_trial_that_only_times_takes_a_few_steps_and_says_times_alone(tmp_path):
    found = seen(SMALL, tmp_path, options={"only_times": True, "rate_steps": 8})
    assert found["cost/loop/samples"] == 8 * 20
    assert {name.split("/")[0] for name in found} == {"time", "cost", "sys"}


# --- what is seen --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a module and a trainer", "an adversarial pair", "a regression"],
)
def test_a_sound_loop_fails_no_check(tmp_path, name):
    measured = seen(faulty_loops.HEALTHY[name], tmp_path)
    assert measured["check/zero_grad/kept"] == 0
    assert [f.sentence for f in judge(measured, Known()) if f.level in ("fail", "warn")] == []


def test_a_loop_that_accumulates_fails_no_check(accumulated):
    assert [f.sentence for f in judge(accumulated, Known()) if f.level in ("fail", "warn")] == []


def test_the_example_of_the_documentation_fails_no_check(tmp_path):
    source = inspect.getdoc(loops).split("another trial:\n", 1)[1].split("\nAll generators", 1)[0]
    (tmp_path / "own_line.py").write_text(textwrap.dedent(source))
    registry = Registry()
    registry.add_file(tmp_path / "own_line.py")
    params = {"lr": 0.1, "weight_decay": 0.0}
    work = make_work(kind="preflight", task="line", params=params, epochs=40)
    found = facts(list(kinds.run(registry["line"], work, kinds.Place(CPU, tmp_path))))
    assert found["check/zero_grad/kept"] == 0
    assert [f.sentence for f in judge(found, Known()) if f.level in ("fail", "warn")] == []


def test_a_loop_is_judged_on_most_subjects(tmp_path):
    kinds_seen = {f.kind for f in judge(seen(Written(), tmp_path), Known())}
    assert kinds_seen >= {
        "labels", "balance", "order", "inputs", "leak", "shift", "loss", "initial_loss", "outputs",
        "gradients", "units", "modes", "zero_grad", "determinism", "overfit", "zeroed", "generalise", "rate",
        "time",
    }  # fmt: skip


def test_gradients_that_are_carried_over_are_told_from_accumulation(accumulated, tmp_path):
    assert seen(replace(SMALL, clear=faulty_loops.leave), tmp_path)["check/zero_grad/kept"] == 1
    assert accumulated["check/zero_grad/kept"] == 0


def test_what_the_loop_shows_has_its_numbers(tmp_path):
    found = seen(SMALL, tmp_path)
    assert found["check/labels/classes"] == 10
    assert found["check/leak/train_rows"] == 200
    assert found["check/leak/val_rows"] == 60
    assert found["check/leak/val_in_train"] == 0
    assert found["check/order/shuffled"] == 1
    assert found["check/loss/batch"] == 20
    assert found["check/loss/together"] == pytest.approx(found["check/loss/alone"])
    assert found["check/rate/lr"] == 0.05
    assert found["sys/epoch"] == 4
    assert found["time/median"] >= found["time/forward"] + found["time/backward"] > 0


def test_rows_evaluated_on_are_looked_for_among_those_trained_on(tmp_path):
    def half() -> faulty_loops.Data:
        x, y, val_x, val_y = _few(200)
        return x, y, torch.cat([val_x[:30], x[:30]]), torch.cat([val_y[:30], y[:30]])

    assert seen(replace(SMALL, data=half), tmp_path)["check/leak/val_in_train"] == 0.5


def test_the_same_order_and_sorted_labels_are_seen(tmp_path):
    def ordered() -> faulty_loops.Data:
        x, y, val_x, val_y = _few(200)
        order = y.argsort()
        return x[order], y[order], val_x, val_y

    found = seen(replace(SMALL, data=ordered, shuffle=False), tmp_path)
    assert found["check/order/shuffled"] == 0
    assert found["check/order/same"] > 0.9
    assert found["check/order/chance"] == pytest.approx(0.1, abs=0.02)


def test_an_evaluation_as_in_training_is_seen_and_so_is_training_as_in_an_evaluation(tmp_path):
    found = seen(replace(SMALL, to_evaluate=faulty_loops.leave), tmp_path)
    assert found["check/modes/evaluating_in_training"] == 1
    assert found["check/modes/training_in_evaluation"] == 0
    found = seen(replace(SMALL, to_train_once=True), tmp_path)
    assert found["check/modes/evaluating_in_training"] == 0
    assert found["check/modes/training_in_evaluation"] == 0.75  # 3 of 4 epochs


def test_dropout_inside_an_lstm_is_seen_too(tmp_path):
    recurrent = replace(SMALL, model=faulty_loops.Recurrent, to_evaluate=faulty_loops.leave)
    assert seen(recurrent, tmp_path)["check/modes/evaluating_in_training"] == 1


def test_labels_that_are_no_class_are_told_before_the_loop_s_own_error(tmp_path):
    def from_one() -> faulty_loops.Data:
        x, y, val_x, val_y = _few(200)
        return x, y + 1, val_x, val_y + 1

    said, error = until_it_raises(replace(SMALL, data=from_one), tmp_path)
    assert re.search(r"labels are \d to 10, and outputs of 10 classes take 0 to 9", str(error))
    assert facts(said)["check/labels/highest"] == 10
    assert facts(said)["check/labels/outside"] > 0


def until_it_raises(loop: Callable[[Trial], object], scratch: Path) -> tuple[list[Said], Exception | None]:
    """What a preflight says before it raises what the loop raised."""
    said: list[Said] = []
    work = make_work(kind="preflight")
    try:
        for one in kinds.run(Entry("own", Loop(loop), "0" * 64), work, kinds.Place(CPU, scratch)):
            said.append(one)
    except Exception as error:
        return said, error
    return said, None


def test_a_loop_whose_loss_does_not_fall_is_run_at_the_rates_that_the_order_names(tmp_path):
    options = {"rate_low": 0.05, "rate_high": 500.0, "rate_steps": 30}
    found = seen(SMALL, tmp_path, params={"lr": 20.0}, options=options)
    assert found["check/rate/lr"] == 20
    assert found["check/rate/low_lr"] == 0.05
    assert found["check/rate/low_last"] < found["check/rate/low_first"] < found["check/rate/last"]
    (rate,) = [f for f in judge(found, Known()) if f.kind == "rate"]
    assert rate.level == "fail"
    assert "check/rate/low_lr" not in seen(SMALL, tmp_path, params={"lr": 0.1}, options=options)


# --- what is not seen is not passed --------------------------------------------------------------------


def test_rows_made_anew_each_time_say_nothing_of_order_and_leaks(tmp_path):
    found = seen(replace(SMALL, augment=faulty_loops.noisy), tmp_path)
    assert not [name for name in found if name.startswith(("check/leak/val", "check/shift/"))]
    assert "check/order/shuffled" not in found
    assert found["check/order/same"] < 0.3


def test_whole_batches_have_no_order_and_no_evaluation_no_mode(tmp_path):
    def loop(trial: Trial) -> None:
        x, y, _, _ = _few(100)
        model = nn.Linear(64, 10)
        stepper = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(trial.epochs):
            stepper.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            stepper.step()
            trial.report(epoch + 1, {"val/loss": loss.item()})

    found = seen(loop, tmp_path)
    assert not [name for name in found if name.startswith(("check/order/", "check/leak/val"))]
    assert "check/modes/evaluating_in_training" not in found


def test_a_loop_that_evaluates_on_training_too_is_not_said_to_leak(accumulated):
    found = accumulated
    assert "check/leak/val_in_train" not in found
    (leak,) = [f for f in judge(found, Known()) if f.kind == "leak"]
    assert leak.sentence.endswith("validation's rows were not seen by themselves.")


def test_a_loss_with_other_terms_is_not_said_to_be_summed(tmp_path):
    def penalised(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets) + 0.3 * outputs.square().mean() + 1.5

    assert "check/loss/together" not in seen(replace(SMALL, loss=penalised), tmp_path)


# --- losses --------------------------------------------------------------------------------------------


def test_a_loss_s_mean_is_of_samples_that_count_without_weights_and_smoothing():
    outputs, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -100, 0])
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    call = look_at(functional.cross_entropy, (outputs, labels), {"weight": weight, "label_smoothing": 0.1})
    counted = labels != -100
    assert call.samples == 5
    assert call.mean == pytest.approx(functional.cross_entropy(outputs[counted], labels[counted]).item())
    assert call.averaged == pytest.approx(
        functional.cross_entropy(outputs, labels, weight=weight, label_smoothing=0.1).item()
    )


def test_labels_of_images_and_of_two_classes_are_counted_one_by_one():
    call = look_at(functional.cross_entropy, (torch.randn(2, 5, 3, 3), torch.randint(5, (2, 3, 3))), {})
    assert (call.samples, call.classes) == (18, 5)
    call = look_at(functional.binary_cross_entropy_with_logits, (torch.zeros(7, 1), torch.ones(7, 1)), {})
    assert (call.samples, call.classes, call.mean) == (7, 2, pytest.approx(math.log(2)))
    call = look_at(functional.mse_loss, (torch.zeros(4, 3), torch.full((4, 3), 2.0)), {"reduction": "sum"})
    assert (call.classes, call.labels, call.mean, call.elements) == (None, None, 4.0, 12)


def test_a_point_never_holds_more_than_a_report_may(tmp_path):
    def wide(trial: Trial) -> None:
        model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(150)))
        model.requires_grad_(False)
        model[-1].requires_grad_(True)
        stepper = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(trial.epochs):
            stepper.zero_grad()
            functional.mse_loss(model(torch.ones(2, 3)), torch.zeros(2, 3)).backward()
            stepper.step()
            trial.report(epoch + 1, {"val/loss": 1.0})

    said = watch(wide, tmp_path)
    steps = [p.step for p in points(said)]
    assert len(facts(said)) > 300
    assert steps == list(range(1, len(steps) + 1))
    assert all(len(p.metrics) <= 256 and "sys/epoch" in p.metrics for p in points(said))
    assert ending(said) == BUDGET
