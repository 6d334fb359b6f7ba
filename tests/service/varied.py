"""A served study that has a trial of each kind, for what is written in other programs' formats."""

from __future__ import annotations

import math
from typing import Any

from click.testing import CliRunner, Result
from tunesmith_service import commands
from tunesmith_service.__main__ import main
from tunesmith_service.client import Client
from ui.conftest import Dashboard
from ui.seeding import ERROR, Seeder, metrics

NAME = "varied <b>'s"
SPACE: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
    "layers": {"type": "int", "low": 2, "high": 8, "step": 2},
    "optimizer": ["momentum", "adam"],
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "momentum"}},
}
ADAM = {"optimizer": "adam", "layers": 4}
MOMENTUM = {"optimizer": "momentum", "layers": 8, "momentum": 0.9}


class Varied(Dashboard):
    """Trials 0 to 8: two complete, diverged, pruned, failed, one that measured, cancelled, running, waiting.

    The study is paused, so that the planner, which serves the others, leaves it as it is.
    """

    plans = True

    def some_studies(self, seeder: Seeder, token: int) -> int:
        study = seeder.create(name=NAME, space=SPACE)
        seeder.register(token)
        settings = [MOMENTUM | {"weight_decay": 0.0}, ADAM, ADAM | {"lr": 1.0}, *[MOMENTUM] * 2]
        for i, params in enumerate(settings):
            seeder.propose(study, "coarse", i, 5, **params)
        work = {"epochs": 1, "seed": 1, "kind": "preflight"}
        seeder.do(commands.Propose(study, "coarse", "check", 5, ADAM, work, None, {}, 0, False))
        for i in range(6, 9):
            seeder.propose(study, "coarse", i, 5, **ADAM)
        for loss in (0.5, 0.4):
            lease = seeder.claim()
            seeder.train(lease, loss, 5)
            seeder.finish(lease)
        lease = seeder.claim()
        seeder.report(lease, [(1, metrics(2.0)), (2, {"val/loss": math.inf, "train/loss": math.nan})])
        seeder.finish(lease, "pruned", "diverged")
        lease = seeder.claim()
        seeder.train(lease, 1.0, 2, total=5)
        seeder.finish(lease, "pruned", "pruned")
        lease = seeder.claim()
        seeder.train(lease, 1.0, 1, total=5)
        seeder.finish(lease, "failed", "error", ERROR)
        lease = seeder.claim()
        seeder.report(lease, [(1, {"check/ok": 1.0})])
        seeder.finish(lease)
        seeder.do(commands.CancelTrial(study, 6, "ann"))
        lease = seeder.claim()
        seeder.train(lease, 0.6, 3, total=5)
        seeder.do(commands.MoveStudy(study, "paused", "ann", "looked at"))
        return study

    def tunesmith(self, *words: str) -> Result:
        """What the command line says."""
        environ = {"TUNESMITH_URL": self.url, "TUNESMITH_TOKEN": self.operator}
        return CliRunner().invoke(main, list(words), env=environ)

    def client(self) -> Client:
        return Client(self.url, self.operator)

    def trials(self, study: str | int, **query: str) -> list[dict[str, Any]]:
        """All of a study, with their curves."""
        found = self.api("GET", f"/studies/{study}/trials", params={"limit": "1000", **query}).json()["items"]
        at = f"/studies/{study}/trials"
        return [t | {"curve": self.api("GET", f"{at}/{t['number']}/curve").json()["points"]} for t in found]
