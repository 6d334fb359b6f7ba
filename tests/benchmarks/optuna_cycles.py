"""One process of Optuna's that asks for trials, reports once and tells, until its time is up.

    python optuna_cycles.py KIND ADDRESS STUDY

KIND is rdb (ADDRESS a database's), journal (a file) or grpc (a port). Says `ready`, then waits for a line
with seconds on standard input, and answers with how many trials it did. `cycles.py` starts eight of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

STORAGES: dict[str, Callable[[str], BaseStorage]] = {
    "rdb": RDBStorage,
    "journal": lambda path: JournalStorage(JournalFileBackend(path)),
    "grpc": lambda port: GrpcStorageProxy(host="127.0.0.1", port=int(port)),
}


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kind, address, name = sys.argv[1:4]
    study = optuna.create_study(
        storage=STORAGES[kind](address), study_name=name, load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),
    )  # fmt: skip
    print("ready", flush=True)
    until = time.perf_counter() + float(sys.stdin.readline())
    done = 0
    while time.perf_counter() < until:
        trial = study.ask()
        trial.suggest_float("lr", 1e-4, 1.0, log=True)
        trial.report(0.5, step=1)
        study.tell(trial, 0.5)
        done += 1
    print(done, flush=True)


if __name__ == "__main__":
    main()
