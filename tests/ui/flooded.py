"""A server on which every field that people and workers fill holds the strings of `security.scripts`, each
field those with a mark of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from security.scripts import MANY, strings
from tunesmith_service import commands, event_log, wire
from tunesmith_service.clock import SECOND
from tunesmith_service.tokens import hash_secret
from tunesmith_service.wishes import ImportTrials, TagTrials, WriteNote
from tunesmith_studies.study import StudySpec
from ui.conftest import Dashboard
from ui.seeding import SECRET, Seeder
from ui.tried import documents

FIELDS = (
    "study", "person", "task", "objective", "parameter", "choice", "fixed", "value", "stage", "skipped",
    "reason", "override", "tag", "notes", "note", "token", "worker", "version", "device", "served task",
    "error", "message", "traceback", "log", "metric", "artifact", "class", "sentence", "recipe",
)  # fmt: skip
"""All there are, but the name of who looks at them."""
LONGEST = {"tag": 64, "class": 64, "person": 90}
TEXTS = {field: strings(10 + i, LONGEST.get(field, 128)) for i, field in enumerate(FIELDS)}

BEST, FAILED = 9, 33
"""Trials that have left everything; see `every_page.TRIALS`."""
SEARCHED, COMPLETE = 24, 33
"""Trials before these numbers completed in the first stage, and in the last; MANY from there on failed."""
FIRST, LAST = TEXTS["stage"][:2]
METRIC, RATE, KIND = TEXTS["metric"][0], *TEXTS["parameter"][:2]
FIXED = dict(zip(TEXTS["fixed"], TEXTS["value"], strict=True))
WORK = {"epochs": 3, "seed": 1, "data_fraction": 1.0, "stop_at_plateau": False, "keep_snapshot": False}
BOOT = "b" * 32


def portions(texts: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(texts[at : at + size]) for at in range(0, len(texts), size)]


class Flooded(Dashboard):
    """Study 1 has trials of all kinds; the others carry names that a study has one of."""

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(
            f"--{who}-{what}=1000000" for who in ("person", "slot") for what in ("rate", "burst")
        )  # a browser that asks for all of it without a pause

    def some_studies(self, seeder: Seeder, token: int) -> int:
        self._register(seeder, token)
        study = self._searched(seeder)
        self._skipped(seeder)
        self._overridden(seeder)
        seeder.do_all(map(_small, range(MANY)))
        seeder.do_all(
            commands.CreateToken(1, name, "viewer", f"{i:016x}", b"1" * 32, None, TEXTS["person"][i])
            for i, name in enumerate(TEXTS["token"])
        )
        self._imported(seeder)
        return study

    # --- workers --------------------------------------------------------------------------------------

    def _register(self, seeder: Seeder, token: int) -> None:
        """The first has a slot for each trial that runs, the others one."""
        bodies = [self._machine(i) for i in range(MANY)]
        seeder.do_all(commands.Register(1, token, body) for body in bodies)

    @staticmethod
    def _machine(i: int) -> wire.Register:
        devices = [[text] for text in TEXTS["device"]] if i == 0 else [[TEXTS["device"][i]]]
        slots = [wire.Slot(slot_id=f"{i:016x}{n:016x}", devices=d) for n, d in enumerate(devices)]
        name, version, task = (TEXTS[field][i] for field in ("worker", "version", "served task"))
        tasks = {task: "a" * 64} | ({TEXTS["task"][0]: "a" * 64} if i == 0 else {})
        return wire.Register(
            worker_id=f"{i:032x}",
            boot_id=BOOT,
            starts=1,
            name=name,
            version=version,
            tasks=tasks,
            slots=slots,
        )

    # --- a study that was searched ------------------------------------------------------------------------

    def _searched(self, seeder: Seeder) -> int:
        pruner = {"kind": "median", "n_startup_trials": 5, "n_warmup_steps": 1}
        stages = [
            {"kind": "random", "name": n, "epochs": 3, "trials": 60, "pruner": pruner} for n in (FIRST, LAST)
        ]
        spec = {
            "name": "<b>searched</b>", "task": TEXTS["task"][0], "stages": stages, "fixed": FIXED,
            "objective": {"metric": METRIC, "direction": "minimize"}, "notes": "\n".join(TEXTS["notes"]),
            "space": {RATE: {"low": 1e-4, "high": 1.0, "log": True}, KIND: TEXTS["choice"]},
        }  # fmt: skip
        study = seeder.create(**spec)
        self._train(seeder, study, FIRST, range(SEARCHED))
        result = {"ranking": [{"trial": BEST, "value": 0.3}], "chosen": {}, "numbers": {}, "failed": False,
                  "why": " ".join(TEXTS["sentence"])}  # fmt: skip
        with seeder.engine.connect() as conn:
            seen = event_log.page(conn, study, 0, 10_000)[-1].n
        seeder.do(commands.EndStage(study, FIRST, result, seen))
        self._train(seeder, study, LAST, range(SEARCHED, COMPLETE))
        self._train(seeder, study, LAST, range(COMPLETE, COMPLETE + MANY))
        tags = enumerate(portions(TEXTS["tag"], 20))
        seeder.do_all(TagTrials(study, (BEST + i,), tags, ()) for i, tags in tags)
        seeder.do(WriteNote(study, "\n".join(TEXTS["note"]), 0, "operator:a"))
        seeder.do_all(
            commands.MoveStudy(study, ("paused", "active")[i % 2], f"operator:{TEXTS['person'][i]}", reason)
            for i, reason in enumerate(TEXTS["reason"])
        )
        return study

    def _train(self, seeder: Seeder, study: int, stage: str, numbers: Sequence[int]) -> None:
        seeder.now_us += 60 * SECOND
        seeder.do_all(
            commands.Propose(study, stage, f"cell-{n}", n, _params(n), WORK, None, {}, 0, False)
            for n in numbers
        )
        claims = [
            commands.Claim(1, 1, f"{n:032x}", f"{0:032x}", BOOT, f"{0:016x}{i:016x}", hash_secret(SECRET))
            for i, n in enumerate(numbers)
        ]
        leases = {
            g.work["number"]: commands.Lease(g.trial_id, g.incarnation, g.attempt, hash_secret(SECRET))
            for g in seeder.do_all(claims)
        }
        seeder.now_us += 30 * SECOND
        seeder.do_all(commands.Report(lease, 1, _points(n)) for n, lease in leases.items())
        for n in {BEST, FAILED} & leases.keys():
            seeder.log(leases[n], "\n".join(TEXTS["log"]))
            seeder.do_all(_artifacts(seeder, leases[n]))
        seeder.do_all(_finish(n, lease) for n, lease in leases.items())

    # --- studies for the rest -----------------------------------------------------------------------------

    @staticmethod
    def _skipped(seeder: Seeder) -> None:
        names, reasons = TEXTS["stage"], TEXTS["skipped"]
        study = seeder.create(name="skipped", stages=[_random(name) for name in names])
        seeder.do_all(
            commands.SkipStage(study, name, "operator:a", reason)
            for name, reason in zip(names, reasons, strict=True)
        )

    @staticmethod
    def _overridden(seeder: Seeder) -> None:
        reasons = ["\n".join(some) for some in portions(TEXTS["override"], 40)]
        stages = [_random(f"check-{i}") for i in range(len(reasons) + 1)]
        recipe = {"name": "quick", "notes": TEXTS["recipe"]}
        study = seeder.create(name="overridden", stages=stages, recipe=recipe)
        wrong = {"ranking": [], "chosen": {}, "numbers": {}, "failed": True, "blocks": True, "why": "No."}
        for i, reason in enumerate(reasons):
            assert seeder.do(commands.EndStage(study, f"check-{i}", wrong, 10_000))
            seeder.do(commands.OverrideStage(study, f"check-{i}", "operator:a", reason))

    @staticmethod
    def _imported(seeder: Seeder) -> None:
        """The last study; its only trial failed where it was run."""
        origin, name = TEXTS["sentence"][0], TEXTS["stage"][0]
        stage = {"kind": "imported", "name": name, "epochs": 1, "trials": 1, "origin": origin}
        study = seeder.create(name="imported", stages=[stage])
        trial = {
            "number": 0, "state": "failed", "stop_reason": "error", "value": None, "points": [],
            "params": dict.fromkeys(TEXTS["parameter"], TEXTS["choice"][0]),
            "error": "\n".join(TEXTS["message"]), "attributes": dict.fromkeys(TEXTS["note"], "a"),
            "started_us": None, "ended_us": None,
        }  # fmt: skip
        seeder.do(ImportTrials(study, name, (trial,), "operator:a"))


def _random(name: str) -> dict[str, Any]:
    return {"kind": "random", "name": name, "epochs": 3, "trials": 4}


def _small(i: int) -> commands.CreateStudy:
    """One that nobody has trained yet."""
    spec = {
        "name": TEXTS["study"][i], "task": TEXTS["task"][i], "stages": [_random(TEXTS["stage"][i])],
        "objective": {"metric": TEXTS["objective"][i], "direction": "minimize"},
        "space": {TEXTS["parameter"][i]: {"low": 1e-4, "high": 1.0, "log": True}},
        "fixed": {TEXTS["fixed"][i]: TEXTS["value"][i]}, "notes": TEXTS["notes"][i],
    }  # fmt: skip
    checked = StudySpec.from_json(spec).to_json()
    return commands.CreateStudy(1, checked, f"operator:{TEXTS['person'][i]}")


def _params(n: int) -> dict[str, Any]:
    return {RATE: 1e-4 * 1.03**n, KIND: TEXTS["choice"][n % MANY]} | FIXED


def _points(n: int) -> tuple[tuple[int, dict[str, float]], ...]:
    """A curve; of those that left everything, one a metric."""
    names = TEXTS["metric"] if n in (BEST, FAILED) else [METRIC]
    end = 0.3 + 0.01 * abs(n - BEST)
    return tuple((epoch, dict.fromkeys(names, end + math.exp(-epoch))) for epoch in (1, 2, 3))


def _finish(n: int, lease: commands.Lease) -> commands.Finish:
    if n < COMPLETE:
        return commands.Finish(lease, "complete", "budget", None)
    message, trace = TEXTS["message"][n - COMPLETE], TEXTS["traceback"][n - COMPLETE]
    if n == FAILED:
        message, trace = "\n".join(TEXTS["message"]), "\n".join(TEXTS["traceback"])
    error = {"kind": TEXTS["error"][n - COMPLETE], "message": message, "traceback": trace}
    return commands.Finish(lease, "failed", "error", error)


def _artifacts(seeder: Seeder, lease: commands.Lease) -> Iterable[commands.CommitArtifact]:
    """Programs by hostile names, and what a page shows: MANY classes, samples that were taken for others."""
    bodies = {name: f"<script>alert(1)</script>{name}".encode() for name in TEXTS["artifact"]}
    for name, document in documents(MANY, 0.7).items():
        text = json.dumps(document)
        for i, word in enumerate(TEXTS["class"]):
            text = text.replace(f'"{i}"', json.dumps(word))
        bodies[name] = text.encode()
    for name, body in bodies.items():
        yield commands.CommitArtifact(lease, name, seeder.blobs.put_bytes(body), len(body))
