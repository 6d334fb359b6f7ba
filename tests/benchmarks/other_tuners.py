"""How many trials a second another tuner ends: one float by random search, one report, the end.

    python other_tuners.py ray|syne SECONDS [--home DIRECTORY]

Runs under a Python that has `ray[tune]` or `syne-tune`, and needs nothing of Tunesmith; eight trials run at
once. Each is set up for speed: Ray Tune's trials are functions in actors that are reused, it buffers results
and writes its state alone, every ten seconds, no files of a trial. Syne Tune's LocalBackend starts a process
for each trial; its loop sleeps 10 ms, not 5 s. Neither waits for the disk at a report. The first ten seconds
after the first trial has ended do not count. Prints the trials a second.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AT_ONCE = 8
WARM_UP_SECONDS = 10.0
SLEEP_SECONDS = 0.01
RAY_ENVIRON = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "100",
}
SYNE_TRIAL = """
from argparse import ArgumentParser
from syne_tune import Reporter
parser = ArgumentParser()
parser.add_argument("--lr", type=float)
parser.parse_known_args()
Reporter()(loss=0.5)
"""


class Clock:
    """Counts the trials that end within `seconds`, once the tuner is warm."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._begins, self._counted = seconds, math.inf, 0

    def trial_ended(self) -> None:
        now = time.perf_counter()
        if self._begins == math.inf:
            self._begins = now + WARM_UP_SECONDS
        self._counted += self._begins <= now < self._begins + self._seconds

    def is_over(self) -> bool:
        return time.perf_counter() >= self._begins + self._seconds

    @property
    def per_second(self) -> float:
        assert self.is_over(), f"stopped early, after {self._counted} trials that count"
        return self._counted / self._seconds


def ray(home: Path, clock: Clock) -> None:
    os.environ.update(RAY_ENVIRON)
    import ray
    from ray import tune

    class Ended(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            clock.trial_ended()

    class TimeIsOver(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return clock.is_over()

    def train(config: dict[str, float]) -> None:
        tune.report({"loss": 0.5})

    cores = os.cpu_count() or 1
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
    tune.Tuner(
        tune.with_resources(train, {"cpu": min(1.0, cores / AT_ONCE)}),
        param_space={"lr": tune.loguniform(1e-4, 1.0)},
        tune_config=tune.TuneConfig(num_samples=-1, max_concurrent_trials=AT_ONCE, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(home), stop=TimeIsOver(), callbacks=[Ended()], verbose=0
        ),
    ).fit()  # fmt: skip


def syne(home: Path, clock: Clock) -> None:
    os.environ["SYNETUNE_FOLDER"] = str(home)
    from syne_tune import Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import loguniform
    from syne_tune.optimizer.baselines import RandomSearch
    from syne_tune.results_callback import StoreResultsCallback
    from syne_tune.tuner_callback import TunerCallback

    class Ended(TunerCallback):
        def on_trial_complete(self, trial: Any, result: dict[str, Any]) -> None:
            clock.trial_ended()

    entry = home / "trial.py"
    entry.write_text(SYNE_TRIAL)
    Tuner(
        trial_backend=LocalBackend(str(entry), rotate_gpus=False),
        scheduler=RandomSearch({"lr": loguniform(1e-4, 1.0)}, metrics=["loss"]),
        stop_criterion=lambda status: clock.is_over(),
        n_workers=AT_ONCE,
        sleep_time=SLEEP_SECONDS,
        callbacks=[StoreResultsCallback(), Ended()],
    ).run()


TUNERS: dict[str, Callable[[Path, Clock], None]] = {"ray": ray, "syne": syne}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tuner", choices=TUNERS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--home", type=Path, help="where its files lie; default: a temporary directory")
    options = parser.parse_args()
    clock = Clock(options.seconds)
    with tempfile.TemporaryDirectory(dir=options.home) as home, contextlib.redirect_stdout(io.StringIO()):
        TUNERS[options.tuner](Path(home), clock)
    print(clock.per_second)


if __name__ == "__main__":
    main()
