"""A study with some of everything that the dashboard shows, written through the service's own handlers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine
from tunesmith_service import batches, commands, event_log, wire
from tunesmith_service.blobs import BlobStore
from tunesmith_service.clock import SECOND
from tunesmith_service.tokens import hash_secret
from tunesmith_studies.study import StudySpec

SECRET = "ab" * 16

SPEC: dict[str, Any] = {
    "name": "cifar-mini-resnet",
    "task": "images",
    "objective": {"metric": "val/loss", "direction": "minimize"},
    "space": {
        "lr": {"low": 1e-4, "high": 1.0, "log": True},
        "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
        "optimizer": ["momentum", "adam"],
    },
    "fixed": {"batch_size": 64},
    "stages": [
        {
            "kind": "coarse_grid", "name": "coarse", "epochs": 5,
            "axes": {
                "lr": [1e-3, 1e-2, 1e-1, 0.5],
                "weight_decay": [0.0, 1e-4, 1e-3],
                "optimizer": ["momentum", "adam"],
            },
        },
        {"kind": "refine_grid", "name": "refine", "epochs": 20, "top": 2},
    ],
}  # fmt: skip


ERROR = {
    "kind": "RuntimeError",
    "message": "mat1 and mat2 shapes cannot be multiplied (64x512 and 256x10)",
    "traceback": "Traceback (most recent call last):\n"
    '  File "my_tasks.py", line 41, in forward\n'
    "    return self.head(x)\n"
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x512 and 256x10)",
}


def metrics(loss: float) -> dict[str, float]:
    """What an epoch reports; accuracies that go with the loss."""
    return {
        "val/loss": loss,
        "train/loss": loss * 0.85,
        "val/accuracy": 1 / (1 + loss),
        "train/accuracy": 1 / (1 + 0.8 * loss),
    }


@dataclass
class Seeder:
    """One worker with one slot, and a clock that moves when it says so."""

    engine: Engine
    blobs: BlobStore
    now_us: int = 1_795_000_000 * SECOND
    claims: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def do(self, command: Any) -> Any:
        """Apply one command. Raises what it is refused with."""
        (outcome,) = batches.commit(self.engine, [command], self.now_us).outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def do_all(self, commands: Iterable[Any]) -> list[Any]:
        """Apply commands of one kind in one commit. Raises what the first refused one is refused with."""
        outcomes = batches.commit(self.engine, list(commands), self.now_us).outcomes
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    def create(self, **changes: Any) -> int:
        spec = StudySpec.from_json(SPEC | changes).to_json()
        return int(self.do(commands.CreateStudy(1, spec, "operator:first operator")))

    def register(self, token_id: int, name: str = "gpu-a", task: str = "images") -> None:
        self.worker_id, self.slot_id, self.boot_id = (c * 32 for c in "123")
        slot = wire.Slot(slot_id=self.slot_id, devices=["cuda:0"])
        body = wire.Register(
            worker_id=self.worker_id, boot_id=self.boot_id, starts=1, name=name,
            version="0.1.0", tasks={task: "a" * 64}, slots=[slot],
        )  # fmt: skip
        self.do(commands.Register(1, token_id, body))

    def propose(self, study: int, stage: str, ordinal: int, epochs: int, **params: Any) -> int:
        work = {
            "epochs": epochs,
            "seed": 1,
            "data_fraction": 1.0,
            "stop_at_plateau": False,
            "keep_snapshot": False,
        }
        params = {"lr": 0.01, "weight_decay": 1e-4, "optimizer": "momentum", "batch_size": 64} | params
        return int(
            self.do(
                commands.Propose(study, stage, f"cell-{ordinal}", ordinal, params, work, None, {}, 0, False)
            )
        )

    def claim(self) -> commands.Lease:
        self.claims += 1
        claim = commands.Claim(
            1, 1, f"{self.claims:032x}", self.worker_id, self.boot_id, self.slot_id, hash_secret(SECRET)
        )
        granted = self.do(claim)
        assert isinstance(granted, commands.Granted), granted
        return commands.Lease(granted.trial_id, granted.incarnation, granted.attempt, hash_secret(SECRET))

    def train(self, lease: commands.Lease, end: float, epochs: int, *, total: int | None = None) -> None:
        """Report a curve that falls to about `end` over `total` epochs, and stop after `epochs`."""
        total = total or epochs
        points = []
        for step in range(1, epochs + 1):
            loss = end + (2.3 - end) * math.exp(-5 * step / total) + self.random.gauss(0, 0.01)
            points.append((step, metrics(loss)))
        self.report(lease, points)

    def report(self, lease: commands.Lease, points: list[tuple[int, Mapping[str, float]]]) -> None:
        """An attempt's only report."""
        self.now_us += 2 * SECOND * len(points)
        self.do(commands.Report(lease, 1, tuple(points)))

    def log(self, lease: commands.Lease, text: str) -> None:
        body = text.encode()
        self.do(commands.AppendLog(lease, 1, self.blobs.put_bytes(body), len(body)))

    def finish(
        self,
        lease: commands.Lease,
        state: str = "complete",
        stop: str = "budget",
        error: Mapping[str, Any] | None = None,
    ) -> None:
        self.do(commands.Finish(lease, state, stop, error))

    def some_of_everything(self, token_id: int) -> int:
        """A coarse stage that is done, a refined one under way; pruned, diverged, failed and lost trials."""
        study = self.create()
        self.register(token_id)
        ordinal = 0
        for lr in (1e-3, 1e-2, 1e-1, 0.5):
            for decay in (0.0, 1e-4, 1e-3):
                for optimizer in ("momentum", "adam"):
                    self.propose(study, "coarse", ordinal, 5, lr=lr, weight_decay=decay, optimizer=optimizer)
                    self._coarse(ordinal, lr, decay)
                    ordinal += 1
        ranking = [{"trial": n, "value": 0.6} for n in (9, 7)]
        why = (
            "24 cells ran once, 5 epochs each; 6 diverged, all of them at lr 0.5. "
            "Best is trial 9 with lr=0.01, weight_decay=0.0001, optimizer=adam: val/loss 0.6002."
        )
        axes = SPEC["stages"][0]["axes"]
        result = {"ranking": ranking, "chosen": {"axes": axes}, "numbers": {}, "failed": False, "why": why}
        with self.engine.connect() as conn:
            seen = event_log.page(conn, study, 0, 10_000)[-1].n
        self.do(commands.EndStage(study, "coarse", result, seen))
        self._refine(study)
        return study

    def _coarse(self, ordinal: int, lr: float, decay: float) -> None:
        lease = self.claim()
        if lr == 0.5:
            self.report(lease, [(1, metrics(2.6)), (2, metrics(30.0)), (3, metrics(math.inf))])
            self.finish(lease, "pruned", "diverged")
            return
        self.train(lease, 0.6 + 0.1 * abs(math.log10(lr) + 2) + 0.02 * abs(ordinal % 6 - 3), 5)
        self.finish(lease)

    def _refine(self, study: int) -> None:
        for i in range(12):
            self.propose(
                study, "refine", i, 20, lr=0.01 * 2 ** ((i % 3) - 1), weight_decay=1e-4 * 3 ** (i // 3 - 1)
            )
        for i in range(8):
            lease = self.claim()
            self.log(lease, "".join(f"epoch {e}  lr 0.01  val/loss {2.3 / e:.4f}\n" for e in range(1, 21)))
            self.train(lease, 0.353 + 0.03 * ((i * 5) % 8), 20)
            self.finish(lease)
        lease = self.claim()
        self.train(lease, 0.9, 6, total=20)
        self.do(commands.Prune(study, 32, 1, 6))
        lease = self.claim()
        self.train(lease, 0.5, 3, total=20)
        self.finish(lease, "failed", "error", ERROR)
        lease = self.claim()  # lost with its worker, then taken up again
        self.train(lease, 0.4, 4, total=20)
        self.now_us += 120 * SECOND
        self.do(commands.Sweep())
        self.now_us += 5 * SECOND
        lease = self.claim()
        self.train(lease, 0.4, 7, total=20)
