"""Lightning, Keras and Hugging Face's Trainer: the examples, as workers run them and by themselves.

What a training is interrupted by, and what it equals then, is asked of the examples in this process; that
pruning and a kill come to the right end with a service and a worker is asked of each once.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tunesmith_workers.examples
from processes import Server, Worker
from training import CPU, make_work, points, same_bits, saved, tree, wish_at
from tunesmith_service.client import Client
from tunesmith_workers import rng
from tunesmith_workers.endings import Ending, Said, Wish
from tunesmith_workers.loop import Trial, TrialEnded
from tunesmith_workers.tasks.registry import Registry

EXAMPLES = Path(tunesmith_workers.examples.__file__).parent
FRAMEWORKS = ("lightning", "keras", "transformers")
GOOD, HOPELESS = 0.01, 1e-9
SECONDS = 600  # a trainer imports its framework first, and once more after the kill
EPOCHS = 40  # so many that a verdict comes in time
# What other people's libraries warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass
class Example:
    """One framework's task, run as the trainer child does."""

    function: Callable[[Trial], object]

    def run(
        self,
        *,
        resume: Path | None = None,
        asked: Callable[[], Wish | None] = lambda: None,
        **changes: Any,
    ) -> list[Said]:
        work = make_work(
            **{"params": {"lr": GOOD}, "epochs": 4, "keep_snapshot": True, "snapshot_every_seconds": 1e-9}
            | changes
        )
        said: list[Said] = []
        scratch = Path(tempfile.mkdtemp())
        trial = Trial(work, device=CPU, scratch=scratch, say=said.append, asked=asked, resume=resume)
        rng.begin(trial.seed, threads=1)
        with suppress(TrialEnded):
            self.function(trial)
        return [*said, trial.ending()]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def example(request: pytest.FixtureRequest) -> Example:
    registry = Registry()
    registry.add_file(EXAMPLES / f"digits_{request.param}.py")
    task: Any = registry[f"digits-{request.param}"].task
    return Example(task.run)


def test_a_training_that_is_handed_back_goes_on_as_if_never_interrupted(example: Example):
    whole = example.run()
    assert whole[-1] == Ending("complete", "budget")
    assert [p.step for p in points(whole)] == [1, 2, 3, 4]
    assert points(whole)[-1].metrics["val/loss"] < points(whole)[0].metrics["val/loss"]
    assert "train/loss" in points(whole)[-1].metrics
    first = example.run(asked=wish_at(6), snapshot_every_seconds=600)
    assert first[-1] == Ending("released")
    (kept,) = saved(first)
    assert 0 < kept.step == points(first)[-1].step < 4
    second = example.run(resume=kept.file.path)
    assert points(first) + points(second) == points(whole)
    assert all(same_bits(tree(second)[part], tree(whole)[part]) for part in ("model", "optimizer", "rng"))


def test_a_branch_trains_at_a_rate_of_its_own(example: Example):
    trunk = saved(example.run(epochs=2))[-1].file.path
    same = example.run(number=1, resume=trunk, epochs=3)
    other = example.run(number=2, resume=trunk, epochs=3, params={"lr": GOOD / 100})
    assert [p.step for p in points(same)] == [p.step for p in points(other)] == [3]
    assert points(same)[0].metrics["val/loss"] < points(other)[0].metrics["val/loss"]
    assert not same_bits(tree(same)["model"], tree(other)["model"])


@pytest.mark.parametrize("example", ["transformers"], indirect=True)
def test_each_of_several_evaluation_sets_is_reported(example: Example, monkeypatch: pytest.MonkeyPatch):
    its = example.function.__globals__
    real = its["Trainer"]
    both = lambda *a, eval_dataset, **more: real(  # noqa: E731
        *a, eval_dataset={"easy": eval_dataset, "hard": eval_dataset}, **more
    )
    monkeypatch.setitem(its, "Trainer", both)
    said = example.run(epochs=2, metric="val/hard_loss")
    assert said[-1] == Ending("complete", "budget")
    for point in points(said):
        assert {"val/easy_loss", "val/hard_loss", "train/loss"} <= point.metrics.keys()


def test_a_trial_that_is_given_up_stops_at_the_epoch_and_keeps_no_snapshot(example: Example):
    said = example.run(asked=wish_at(6, "abandon"), snapshot_every_seconds=600)
    assert said[-1] == Ending("abandoned")
    assert 0 < len(points(said)) < 4
    assert saved(said) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture(scope="module")
def people(server: Server) -> Iterator[Client]:
    with server.client() as made:
        yield made


@pytest.mark.long
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_example_is_pruned_and_goes_on_after_a_kill(
    framework: str, server: Server, people: Client, tmp_path: Path
):
    """Two equal trials by hand, which come first, the first of them killed; one that learns nothing."""
    study = people.create(study_of(framework))
    killed, twin = study.enqueue([{"lr": GOOD}, {"lr": GOOD}])
    file = EXAMPLES / f"digits_{framework}.py"
    with Worker(server.url, server.worker_token, tmp_path / "state", "--tasks", str(file)) as worker:
        worker.says("event=snapshot_committed", f"trial={killed}", seconds=SECONDS)
        os.kill(worker.child_pid(), signal.SIGKILL)
        assert study.wait(SECONDS) == "complete"
    found = {t["number"]: t for t in study.trials()}
    assert (found[killed]["state"], found[killed]["attempt"]) == ("complete", 2)
    assert people.get("studies", study.name, "trials", killed)["attempts"][1]["resume_step"] > 0
    assert (found[twin]["state"], found[twin]["attempt"]) == ("complete", 1)
    assert [p["step"] for p in study.curve(killed)] == list(range(1, EPOCHS + 1))
    assert learnt(study.curve(killed)) == learnt(study.curve(twin))
    (hopeless,) = (t for n, t in found.items() if n not in (killed, twin))
    assert (hopeless["state"], hopeless["stop_reason"]) == ("pruned", "pruned")
    assert hopeless["step"] < EPOCHS


def study_of(framework: str) -> dict[str, Any]:
    lr = {"low": HOPELESS, "high": 1.0, "log": True}
    stage = {"kind": "coarse_grid", "epochs": EPOCHS, "axes": {"lr": [HOPELESS]},
             "pruner": {"kind": "threshold", "upper": 2.2, "n_warmup_steps": 5}}  # fmt: skip
    return {
        "name": framework, "task": f"digits-{framework}", "space": {"lr": lr}, "stages": [stage],
        "snapshot_every_seconds": 1e-9,
    }  # fmt: skip


def learnt(curve: list[dict[str, Any]]) -> list[Any]:
    return [(p["step"], p["metrics"]["train/loss"], p["metrics"]["val/loss"]) for p in curve]
