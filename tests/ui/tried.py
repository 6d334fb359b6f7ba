"""A study with what a trial's page and a study's pages about trials show: pruned curves with a threshold,
restarts, failures of two kinds, and documents of images."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from typing import Any

from tunesmith_service import commands, event_log
from tunesmith_service.clock import SECOND
from ui.conftest import Dashboard
from ui.seeding import ERROR, Seeder, metrics

SPACE = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
    "optimizer": ["momentum", "adam"],
}
PRUNER = {"kind": "median", "n_startup_trials": 5, "n_warmup_steps": 2}
STAGES = [
    {"kind": "random", "name": "search", "epochs": 10, "trials": 60, "pruner": PRUNER},
    {"kind": "random", "name": "branches", "epochs": 20, "trials": 30},
]
WHOLE, PRUNED, FAILED = 12, 4, 3
TRUNK = WHOLE + PRUNED + FAILED
LOST_MEMORY = {
    "kind": "OutOfMemoryError",
    "message": "CUDA out of memory. Tried to allocate 512 MiB",
    "traceback": "",
}
HOSTILE = "<img src=x onerror=alert(1)>"


class Tried(Dashboard):
    """Trials 0–11 ran through, 12–15 were pruned, 16–18 failed; 19 is a trunk, 20–31 its branches."""

    def some_studies(self, seeder: Seeder, token: int) -> int:
        seeder.register(token)
        study = seeder.create(name="tried", space=SPACE, stages=STAGES, seed=7)
        self.searched(seeder, study)
        with seeder.engine.connect() as conn:
            seen = event_log.page(conn, study, 0, 10_000)[-1].n
        result = {
            "ranking": [{"trial": 0, "value": 0.4}],
            "chosen": {},
            "numbers": {},
            "failed": False,
            "why": "Done.",
        }
        seeder.do(commands.EndStage(study, "search", result, seen))
        self.branched(seeder, study)
        return study

    def propose(self, seeder: Seeder, study: int, stage: str, key: str, epochs: int, **more: Any) -> int:
        start = more.pop("start", None)
        params = {"lr": 0.01, "weight_decay": 2e-4, "optimizer": "adam", "batch_size": 64} | more
        work = {"epochs": epochs, "seed": 11, "keep_snapshot": key == "trunk"}
        propose = commands.Propose(study, stage, key, 0, params, work, start, {}, 0, False)
        return int(seeder.do(propose))

    def searched(self, seeder: Seeder, study: int) -> None:
        for i in range(WHOLE):
            self.propose(seeder, study, "search", f"whole-{i}", 10, lr=0.001 * 1.5**i)
            lease = seeder.claim()
            seeder.log(lease, "".join(f"epoch {e}  lr 0.01\n" for e in range(1, 101)))
            self.train(seeder, lease, 0.4 + 0.03 * i, 10)
            if i == 0:
                self.inspect(seeder, lease, classes=10, right=0.9)
            if i == 1:
                self.inspect(seeder, lease, classes=10, right=0.7)
            if i == 2:
                self.inspect(seeder, lease, classes=100, right=0.8)
            seeder.finish(lease)
        for i in range(PRUNED):
            number = self.propose(seeder, study, "search", f"pruned-{i}", 10, lr=0.3 + 0.1 * i)
            lease = seeder.claim()
            self.train(seeder, lease, 1.2 + 0.1 * i, 4, total=10)
            assert seeder.do(commands.Prune(study, number, 1, 4))
        for i in range(FAILED):
            self.propose(
                seeder, study, "search", f"failed-{i}", 10, lr=0.01, weight_decay=1e-3, optimizer="momentum"
            )
            lease = seeder.claim()
            seeder.log(
                lease, "".join(f"step {n}: fine\n" for n in range(60)) + "step 60: the head does not fit\n"
            )
            self.train(seeder, lease, 0.6, 3, total=10)
            error = ERROR | {"message": ERROR["message"].replace("64x512", f"{32 * (i + 1)}x512")}
            seeder.finish(lease, "failed", "error", error if i < 2 else LOST_MEMORY)

    def branched(self, seeder: Seeder, study: int) -> None:
        trunk = self.propose(seeder, study, "branches", "trunk", 15)
        assert trunk == TRUNK
        lease = seeder.claim()
        self.train(seeder, lease, 0.38, 15, total=20)
        digest = seeder.blobs.put_bytes(b"weights")
        seeder.do(commands.CommitSnapshot(lease, 15, digest, 7))
        seeder.finish(lease)
        for i in range(12):
            decay = 2.1e-4 * 1.2**i
            self.propose(
                seeder,
                study,
                "branches",
                f"branch-{i}",
                20,
                weight_decay=decay,
                start={"trial": trunk, "step": 15},
            )
            lease = seeder.claim()
            points = [(e, metrics(0.353 + 0.002 * i + 0.001 * (20 - e))) for e in range(16, 21)]
            seeder.report(lease, points)
            seeder.finish(lease)

    @staticmethod
    def train(seeder: Seeder, lease: commands.Lease, end: float, epochs: int, *, total: int = 10) -> None:
        points = []
        for e in range(1, epochs + 1):
            loss = end + (2.3 - end) * math.exp(-5 * e / total)
            told = metrics(loss) | {
                "sys/lr": 0.01 * (0.5 + 0.5 * math.cos(math.pi * e / total)),
                "sys/train_seconds": 4.2 + 0.1 * (e % 3),
                "sys/samples_per_second": 11_900.0 + e,
            }
            points.append((e, told))
        seeder.now_us += SECOND
        seeder.report(lease, points)

    @staticmethod
    def inspect(seeder: Seeder, lease: commands.Lease, *, classes: int, right: float) -> None:
        for name, document in documents(classes, right).items():
            body = json.dumps(document).encode()
            seeder.do(commands.CommitArtifact(lease, name, seeder.blobs.put_bytes(body), len(body)))


def documents(classes: int, right: float) -> dict[str, Any]:
    """What an image classifier leaves; each class is taken for the next one where it is wrong."""
    counts = [[0] * classes for _ in range(classes)]
    for c in range(classes):
        counts[c][c] = round(36 * right)
        counts[c][(c + 1) % classes] = 36 - round(36 * right)
    names = [str(c) for c in range(classes)]
    wrong = [sample(i, c=i % classes, said=(i + 1) % classes, loss=4.0 - 0.05 * i) for i in range(24)]
    fine = [sample(100 + i, c=i % classes, said=i % classes, loss=0.01) for i in range(20)]
    return {
        "confusion.json": {
            "kind": "confusion", "split": "val", "samples": 36 * classes, "classes": names, "counts": counts,
        },
        "mistakes.json": {"kind": "mistakes", "split": "val", "samples": wrong},
        "predictions.json": {"kind": "predictions", "split": "val", "samples": fine},
    }  # fmt: skip


def sample(index: int, *, c: int, said: int, loss: float) -> dict[str, Any]:
    picture = base64.b64encode(png(index)).decode()
    return {
        "index": index, "input": {"png": picture, "width": 8, "height": 8}, "prediction": str(said),
        "truth": str(c), "probability": 0.91, "truth_probability": 0.02, "loss": loss,
    }  # fmt: skip


def png(seed: int) -> bytes:
    """A grey picture of 8 by 8, another for each seed."""
    rows = b"".join(bytes([0, *((seed * 37 + x * y * 9) % 256 for x in range(8))]) for y in range(8))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
