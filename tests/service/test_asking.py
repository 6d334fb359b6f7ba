"""Ask and tell, as docs/ask-tell.md says it: in Python, with curl, in JavaScript, against a real service."""

from __future__ import annotations

import gc
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from processes import Server, until
from tunesmith_service.client import AskedTrial, Client, Forbidden, NotFound, Study

PAGE = (Path(__file__).parents[2] / "docs" / "ask-tell.md").read_text()
RUNS = {
    "python": [sys.executable, "-"],
    "curl": ["bash", "-euo", "pipefail", "-s"],
    "javascript": ["node", "--input-type=module", "-"],
}
NEEDS = {"python": [], "curl": ["bash", "curl", "jq", "openssl"], "javascript": ["node"]}
TTL_SECONDS = 5.0
TRIALS, EPOCHS = 4, 4  # of the examples: fewer than in the page, for each request of curl is a process
NAMES = (f"asked-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("folder") / ".tunesmith", ttl_seconds=TTL_SECONDS) as made:
        yield made


@pytest.fixture(scope="module")
def people(server: Server) -> Iterator[Client]:
    with server.client() as made:
        yield made


@pytest.fixture
def worker(server: Server) -> Iterator[Client]:
    with Client(server.url, server.worker_token) as made:
        yield made


def make(people: Client, *, epochs: int = 3, trials: int = 2, **stage: Any) -> Study:
    random = {"kind": "random", "epochs": epochs, "trials": trials} | stage
    space = {"x": {"low": -1.0, "high": 1.0}}
    name = next(NAMES)
    return people.create({"name": name, "task": name, "space": space, "stages": [random]})


def asked(worker: Client, study: Study) -> AskedTrial:
    trial = worker.ask(str(study.name), timeout=300)
    assert trial is not None
    return trial


def stood(study: Study, number: int) -> tuple[str, str | None]:
    found = next(t for t in study.trials() if t["number"] == number)
    return found["state"], found["stop_reason"]


def block(name: str) -> str:
    """The code under `<!-- ask-tell: name -->`."""
    found = re.search(rf"<!-- ask-tell: {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


@pytest.mark.parametrize("language", RUNS)
def test_the_examples_run_a_study_to_its_end(server: Server, people: Client, language: str):
    if missing := [program for program in NEEDS[language] if shutil.which(program) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    name = f"mine-{language}"
    spec = yaml.safe_load(block("study")) | {"name": name}
    spec["stages"][0] |= {"trials": TRIALS, "epochs": EPOCHS}
    study = people.create(spec)
    code = block(language).replace('"mine"', f'"{name}"').replace("http://127.0.0.1:8787", server.url)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")}
    ran = subprocess.run(
        RUNS[language], input=code, cwd=server.home.parent, env=clean, text=True, capture_output=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert study.wait(0) == "complete"
    trials = list(study.trials())
    assert len(trials) == TRIALS
    assert {t["state"] for t in trials} <= {"complete", "pruned"}
    assert {t["attempt"] for t in trials} == {1}
    assert study.best is not None
    assert [p["step"] for p in study.curve(study.best["number"])] == list(range(1, EPOCHS + 1))
    x, width = study.best["params"]["x"], study.best["params"]["width"]
    assert study.best["value"] == pytest.approx((x - 0.7) ** 2 + width / 100 + 1 / EPOCHS)


def test_a_trial_that_its_pruner_gives_up_stops_at_a_report(people: Client, worker: Client):
    study = make(people, epochs=10**6, trials=1, pruner={"kind": "threshold", "upper": 1.0})
    with asked(worker, study) as trial:
        steps = itertools.count(1)
        until(lambda: trial.report(next(steps), {"val/loss": 2.0}))
        assert trial.state == "pruned"
    assert stood(study, 0) == ("pruned", "pruned")
    assert worker.ask(str(study.name)) is None


def test_tell_is_report_and_end_in_one(people: Client, worker: Client):
    study = make(people, epochs=5)
    with asked(worker, study) as trial:
        trial.tell(0.25)
    asked(worker, study).tell({"val/loss": 0.5, "val/accuracy": 0.9})
    assert [(t["state"], t["value"], t["step"]) for t in study.trials()] == [
        ("complete", 0.25, 5),
        ("complete", 0.5, 5),
    ]


def test_two_trials_at_a_time_are_two_slots_of_one_worker(people: Client, worker: Client):
    study = make(people)
    first, second = asked(worker, study), asked(worker, study)
    assert {first.number, second.number} == {0, 1}
    first.tell(1.0)
    second.tell(2.0)
    third = make(people)
    asked(worker, third).tell(3.0)
    rows = [w for w in people.get("workers")["items"] if w["name"].endswith(f":{os.getpid()}")]
    assert sorted(len(w["slots"]) for w in rows)[-1] == 2


def test_a_trial_that_is_held_keeps_its_lease_and_one_that_is_dropped_loses_it(
    people: Client, worker: Client
):
    study = make(people)
    held = asked(worker, study)
    until(lambda: len(list(study.trials())) == 2)
    since = time.monotonic()
    dropped = asked(worker, study)
    number = dropped.number
    del dropped
    gc.collect()
    until(lambda: stood(study, number)[0] == "waiting")
    assert time.monotonic() - since >= TTL_SECONDS  # by its lease alone; the other's would have ended too
    held.tell(1.0)
    assert stood(study, held.number) == ("complete", "budget")
    again = asked(worker, study)
    assert again.number == number
    again.tell(1.0)


def test_a_beat_that_is_not_answered_is_tried_anew_and_not_waited_for(people: Client, server: Server):
    """What the client is patient for would take longer than a lease lasts."""
    study = make(people)
    beats, slept = threading.Semaphore(0), []

    def unheard(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/heartbeat"):
            beats.release()
            raise httpx.ConnectError("the network is away", request=request)
        return line.handle_request(request)

    with (
        httpx.HTTPTransport() as line,
        Client(
            server.url, server.worker_token, retry_for=600, transport=httpx.MockTransport(unheard),
            sleep=slept.append,
        ) as worker,
    ):  # fmt: skip
        trial = asked(worker, study)
        assert all(beats.acquire(timeout=TTL_SECONDS) for _ in range(3))
        assert slept == []
        trial.release()


def test_a_trial_that_is_dropped_gives_its_slot_back_once_its_lease_is_over(people: Client, worker: Client):
    study = make(people, trials=1)
    asker = worker._asker
    trial = asked(worker, study)
    assert asker._free == []
    del trial
    gc.collect()
    until(lambda: asker._free)
    again = asked(worker, study)
    assert len(asker._slots) == 1
    again.tell(1.0)


def test_how_a_loop_is_left_is_how_its_trial_ends(people: Client, worker: Client):
    study = make(people, trials=5)

    with asked(worker, study) as short:
        short.report(1, {"val/loss": 1.0})
    assert stood(study, short.number) == ("complete", "early_stopping")

    with asked(worker, study) as diverged:
        assert diverged.report(1, {"val/loss": math.inf})
    assert stood(study, diverged.number) == ("pruned", "diverged")

    with pytest.raises(RuntimeError), asked(worker, study) as broken:
        raise RuntimeError("a bug\0")
    assert stood(study, broken.number) == ("failed", "error")
    error = people.get("studies", study.name, "trials", broken.number)["error"]
    assert (error["kind"], error["message"]) == ("RuntimeError", "a bug\\x00")
    assert "a bug" in error["traceback"]

    with pytest.raises(ValueError, match="without a report"), asked(worker, study) as silent:
        pass
    assert stood(study, silent.number) == ("failed", "error")

    with pytest.raises(KeyboardInterrupt), asked(worker, study) as interrupted:
        raise KeyboardInterrupt
    assert stood(study, interrupted.number)[0] == "waiting"
    assert asked(worker, study).number == interrupted.number


def test_a_trial_that_somebody_cancels_is_over_at_its_next_report(people: Client, worker: Client):
    study = make(people)
    trial = asked(worker, study)
    study.stop()
    assert trial.report(1, {"val/loss": 1.0})
    assert trial.state == "cancelled"
    trial.finish()  # says nothing more
    assert worker.ask(str(study.name)) is None


def test_what_cannot_be_asked_is_refused_with_what_to_do(people: Client, worker: Client):
    study = make(people, trials=1)
    name = str(study.name)
    with pytest.raises(Forbidden, match="role worker"):
        people.ask(name)
    with pytest.raises(NotFound, match="There is no study nowhere here"):
        worker.ask("nowhere")
    trial = asked(worker, study)
    with pytest.raises(ValueError, match="lacks val/loss, the objective"):
        trial.report(1, {"val/accuracy": 1.0})
    with pytest.raises(TimeoutError, match=f"study {name} had no trial to give within 0.01 s"):
        worker.ask(name, timeout=0.01)
    trial.tell(1.0)


def test_a_trial_that_measures_is_not_for_loops(people: Client, worker: Client):
    name = next(NAMES)
    space = {"lr": {"low": 1e-3, "high": 1.0, "log": True}}
    people.create({"name": name, "task": name, "space": space, "stages": [{"kind": "lr_range_test"}]})
    with pytest.raises(ValueError, match="trial 0 is a range_test, which a loop of one's own cannot run"):
        worker.ask(name, timeout=60)
    assert stood(people.study(name), 0) == ("failed", "error")
