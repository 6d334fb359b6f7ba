"""How many trials a second go through claim, one report and finish, beside what others do.

    python tests/benchmarks/cycles.py [--rounds 5] [--seconds 8] [--only NAME …] [--json FILE]
        [--peer ray=PYTHON] [--peer syne=PYTHON]

64 light workers, a slot and a connection each, ask a `tunesmith serve` with tokens, event log and planner,
on SQLite and on PostgreSQL; the same requests go to three empty FastAPI routes on one server process
(`empty_routes.py`). Optuna's storages are driven by eight processes of its own (`optuna_cycles.py`): ask,
suggest, report, tell. All lie on the disk of --home, and every commit waits for it. Exit code 1 if a goal is
missed.

With --peer, Ray Tune or Syne Tune take turns too (`other_tuners.py`), each under the Python of a virtual
environment that has it: `pip install "ray[tune]"`, `pip install syne-tune`. They run eight trials at once and
wait for no disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from databases import Postgres  # noqa: E402
from interleaved import Goal, Measure, add_options, report, take_turns  # noqa: E402
from processes import Process, free_port, until  # noqa: E402
from served import HERE, EmptyRoutes, Serve, listens, place  # noqa: E402

PROCESSES = 8
MOST_A_SECOND = 3000
"""Trials that stand ready for each second; none may be missing."""

GOALS = (
    Goal("Tunesmith, PostgreSQL, one request", "Optuna RDB, PostgreSQL", 30.0),
    Goal("Tunesmith, PostgreSQL, one request", "Optuna journal", 6.0),
    Goal("Tunesmith, SQLite", "empty routes", 0.60),
    Goal("Tunesmith, PostgreSQL", "empty routes", 0.45),
)
PEERS = {"ray": "Ray Tune", "syne": "Syne Tune"}
PROXY = """
import sys
from optuna.storages import RDBStorage, run_grpc_proxy_server
run_grpc_proxy_server(RDBStorage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@dataclass
class Optuna:
    kind: str
    address: str
    _numbers: Iterator[int] = field(default_factory=count)

    def cycles_per_second(self, seconds: float) -> float:
        """Of a study of its own."""
        name = f"cycles-{next(self._numbers)}"
        command = [sys.executable, str(HERE / "optuna_cycles.py"), self.kind, self.address, name]
        with ExitStack() as stack:
            started: list[subprocess.Popen[str]] = []
            for _ in range(PROCESSES):
                one = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                started.append(stack.enter_context(one))
                assert _said(one) == "ready"  # one after the other: two that make a study at once collide
            for process in started:
                assert process.stdin is not None
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
            return sum(int(_said(process)) for process in started) / seconds


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def grpc_proxy(url: str) -> Iterator[Optuna]:
    port = free_port()
    with Process([sys.executable, "-c", PROXY, url, str(port)]) as process:
        until(lambda: listens(port), 60, saw=lambda: process.said)
        yield Optuna("grpc", str(port))


def peer(text: str) -> tuple[str, str]:
    """NAME=PYTHON as a pair."""
    name, _, python = text.partition("=")
    if name not in PEERS or not python:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PYTHON with NAME of {', '.join(PEERS)}")
    return name, python


def trials_per_second(name: str, python: str, home: Path, seconds: float) -> float:
    """Of another tuner."""
    command = [python, str(HERE / "other_tuners.py"), name, str(seconds), "--home", str(home)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def contestants(
    home: Path, postgres: Postgres, seconds: float, stack: ExitStack
) -> dict[str, Callable[[], Measure]]:
    """Each is started when it is called, and ended with the stack."""

    def ours(name: str, url: str, *, joined: bool = False) -> Measure:
        serve = stack.enter_context(Serve(home / name, url))
        return lambda: serve.work(int(MOST_A_SECOND * seconds), seconds, joined=joined).cycles_per_second

    def empty() -> Measure:
        routes = stack.enter_context(EmptyRoutes())
        return lambda: routes.work(seconds).cycles_per_second

    def theirs(kind: str, address: str) -> Measure:
        optuna = Optuna(kind, address)
        return lambda: optuna.cycles_per_second(seconds)

    def proxied() -> Measure:
        optuna = stack.enter_context(grpc_proxy(postgres.database("proxied")))
        return lambda: optuna.cycles_per_second(seconds)

    return {
        "empty routes": empty,
        "Tunesmith, SQLite": lambda: ours("sqlite", ""),
        "Tunesmith, PostgreSQL": lambda: ours("postgresql", postgres.database("tunesmith")),
        "Tunesmith, SQLite, one request": lambda: ours("sqlite-1", "", joined=True),
        "Tunesmith, PostgreSQL, one request": lambda: ours(
            "postgresql-1", postgres.database("tunesmith_1"), joined=True
        ),
        "Optuna RDB, SQLite": lambda: theirs("rdb", f"sqlite:///{home / 'optuna.db'}"),
        "Optuna RDB, PostgreSQL": lambda: theirs("rdb", postgres.database("optuna")),
        "Optuna journal": lambda: theirs("journal", str(home / "optuna.journal")),
        "Optuna gRPC proxy, PostgreSQL": proxied,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser, seconds=8.0)
    parser.add_argument("--peer", action="append", default=[], type=peer, metavar="NAME=PYTHON")
    options = parser.parse_args()
    with place(options.home) as (home, postgres), ExitStack() as stack:
        assert postgres is not None
        made = contestants(home, postgres, options.seconds, stack)
        for name, python in options.peer:
            measure = partial(trials_per_second, name, python, home, options.seconds)
            made[PEERS[name]] = lambda measure=measure: measure
        chosen = {name: make() for name, make in made.items() if not options.only or name in options.only}
        found = take_turns(chosen, options.rounds)
    missed = report(found, "cycles/s", GOALS, options.json)
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
