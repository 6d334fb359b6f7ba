"""A study in which everything that people and workers may name or say is an attack."""

from __future__ import annotations

import json
import math
from typing import Any

from tunesmith_service import commands, event_log
from tunesmith_service.wishes import TagTrials, WriteNote
from ui.conftest import Dashboard
from ui.seeding import Seeder
from ui.tried import documents

STUDY = "<img src=x onerror=alert('study')>"
TASK = "<script>alert('task')</script>"
METRIC = "val/<svg onload=alert('metric')>"
RATE = "\"><svg onload=alert('rate')>"
KIND = "</script><script>alert('kind')</script>"
CHOICES = ("javascript:alert('choice')", "{{7*7}}${7*7}#{7*7}", "{a|rich} =1+1")
FIXED = ("'onmouseover='alert(5)", "</textarea><script>alert('fixed')</script>")
FIRST = "a'\"><script>alert('stage')</script>"
LAST = "../..//x?y#z&<i onclick=alert('last')>"
WORKER = "<iframe src=javascript:alert('worker')>"
TAGS = ("<b>tag</b>", "javascript:alert('tag')")
WHY = "Done. <a href=javascript:alert('why')>click</a> </td></table><script>alert('why')</script>"
REASON = "--><script>alert('reason')</script>"
NOTE = "\n".join((
    "<script>alert('note')</script>", "javascript:alert('note')", "https://a.example/\"onmouseover=\"alert(1)",
    "https://a.example/'onmouseover='alert(2)", "https://a.example/<script>alert(3)</script>",
    "[click](javascript:alert(4))", "</textarea><img src=x onerror=alert(5)>", "\u202egnp.exe\u202c",
))  # fmt: skip
KIND_OF_ERROR = "<style>*{display:none}</style>"
TURNED = "\x1b[31mred\x1b[0m \u202egnp.exe\u202c"
MESSAGE = f"<img src=x onerror=alert('error')> {TURNED} </pre><script>alert(1)</script>"
TRACE = 'Traceback (most recent call last):\n  File "<img src=x onerror=alert(2)>", line 1\n\x1b]0;title\x07'
LINE = f"<img src=x onerror=alert('log')> </pre><script>alert('log')</script> {TURNED} \x1b]52;c;b3duZWQ=\x07"
ARTIFACTS = (
    "<img src=x onerror=alert('artifact')>.png", "plot.svg", "page.html", "../../etc/passwd",
    "javascript:alert('artifact')", "a'\"b.txt", "x?y=z#w&v",
)  # fmt: skip
TOKEN = "<img src=x onerror=alert('token')>"
CLASSES = (
    "<img src=x onerror=alert('class')>",
    "</td><script>alert(1)</script>",
    "{a|b}",
    "javascript:alert(1)",
)

SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(2)</script></svg>"
HTML = b"<!doctype html><title>x</title><script>alert(1)</script><img src=x onerror=alert(2)>"


class Hostile(Dashboard):
    """Trial 9 is complete and has left everything, 33 failed; 34 was pruned, 35 runs, 36 waits."""

    def some_studies(self, seeder: Seeder, token: int) -> int:
        seeder.register(token, WORKER, TASK)
        study = seeder.create(
            name=STUDY, task=TASK, objective={"metric": METRIC, "direction": "minimize"},
            space={RATE: {"low": 1e-4, "high": 1.0, "log": True}, KIND: list(CHOICES)},
            fixed=dict([FIXED]),
            stages=[
                {"kind": "random", "name": FIRST, "epochs": 3, "trials": 60,
                 "pruner": {"kind": "median", "n_startup_trials": 5, "n_warmup_steps": 1}},
                {"kind": "random", "name": LAST, "epochs": 3, "trials": 60},
            ],
        )  # fmt: skip
        for i in range(24):
            self._propose(seeder, study, FIRST, i)
            self._complete(seeder, i)
        result = {
            "ranking": [{"trial": 9, "value": 0.3}],
            "chosen": {},
            "numbers": {},
            "failed": False,
            "why": WHY,
        }
        with seeder.engine.connect() as conn:
            seen = event_log.page(conn, study, 0, 10_000)[-1].n
        seeder.do(commands.EndStage(study, FIRST, result, seen))
        for i in range(24, 33):
            self._propose(seeder, study, LAST, i)
            self._complete(seeder, i)
        self._endings(seeder, study)
        seeder.do(WriteNote(study, NOTE, 0, f"operator:{TOKEN}"))
        seeder.do(TagTrials(study, (9, 33), TAGS, ()))
        seeder.do(commands.MoveStudy(study, "paused", f"operator:{TOKEN}", REASON))
        seeder.do(commands.CreateToken(1, TOKEN, "viewer", "4057" * 4, b"1" * 32, None, TOKEN))
        return study

    @staticmethod
    def _propose(seeder: Seeder, study: int, stage: str, i: int) -> None:
        params: dict[str, Any] = {RATE: 1e-4 * 1.3**i, KIND: CHOICES[i % 3], **dict([FIXED])}
        work = {
            "epochs": 3,
            "seed": 1,
            "data_fraction": 1.0,
            "stop_at_plateau": False,
            "keep_snapshot": False,
        }
        seeder.do(commands.Propose(study, stage, f"{KIND}-{i}", i, params, work, None, {}, 0, False))

    def _complete(self, seeder: Seeder, i: int) -> None:
        lease = seeder.claim()
        self._train(seeder, lease, 3, 0.3 + 0.01 * abs(i - 9))
        if i == 9:
            seeder.log(lease, f"{LINE}\n" * 30)
            self._leave(seeder, lease)
        seeder.finish(lease)

    @staticmethod
    def _train(seeder: Seeder, lease: commands.Lease, epochs: int, end: float) -> None:
        losses = [(e, end + math.exp(-e)) for e in range(1, epochs + 1)]
        points = [
            (e, {METRIC: x, METRIC.replace("val/", "train/"): x * 0.9, "sys/lr": 0.1}) for e, x in losses
        ]
        seeder.report(lease, points)

    @staticmethod
    def _leave(seeder: Seeder, lease: commands.Lease) -> None:
        bodies = {name: SVG if name.endswith("svg") else HTML for name in ARTIFACTS}
        for name, document in documents(len(CLASSES), 0.7).items():
            text = json.dumps(document)
            for i, word in enumerate(CLASSES):
                text = text.replace(f'"{i}"', json.dumps(word))
            bodies[name] = text.encode()
        for name, body in bodies.items():
            seeder.do(commands.CommitArtifact(lease, name, seeder.blobs.put_bytes(body), len(body)))

    def _endings(self, seeder: Seeder, study: int) -> None:
        for i in range(33, 37):
            self._propose(seeder, study, LAST, i)
        lease = seeder.claim()
        seeder.log(lease, f"{LINE}\n" * 10)
        self._train(seeder, lease, 1, 0.5)
        seeder.finish(
            lease, "failed", "error", {"kind": KIND_OF_ERROR, "message": MESSAGE, "traceback": TRACE}
        )
        lease = seeder.claim()
        self._train(seeder, lease, 2, 0.9)
        seeder.do(commands.Prune(study, 34, 1, 2))
        lease = seeder.claim()
        self._train(seeder, lease, 1, 0.4)
