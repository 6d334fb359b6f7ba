"""Put on a service's PYTHONPATH by a test: every suggestion computes in pure Python for as many
seconds as TUNESMITH_TEST_SUGGESTION_SECONDS says. Only the planner process suggests."""

import os
import time

if seconds := float(os.environ.get("TUNESMITH_TEST_SUGGESTION_SECONDS", "0")):
    import optuna

    sample = optuna.samplers.TPESampler.sample_relative

    def slowly(self, study, trial, search_space):  # type: ignore[no-untyped-def]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sum(i * i for i in range(1000))
        return sample(self, study, trial, search_space)

    optuna.samplers.TPESampler.sample_relative = slowly
