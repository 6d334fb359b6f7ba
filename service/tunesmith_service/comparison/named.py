"""How what is compared is named: `1:55` is a trial by its study and number, `1` a study, `1:coarse` a stage.

Names have commas between them, and quotes around one that holds a comma. What does not exist, or is another
project's, is NotFound; what is no name is Unprocessable.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, select

from tunesmith_service import overviews, store, trial_store
from tunesmith_service.errors import NotFound, Unprocessable
from tunesmith_service.parsing import whole_number
from tunesmith_service.tables import stages
from tunesmith_service.trial_store import Trial

MOST = 20
"""Trials, studies or stages that are compared at once."""
KINDS = 8
"""Colours of lines; after these they come again, dashed."""
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _OfStudy:
    """Attributes: `place` among what is compared, from 0."""

    study: store.Study
    place: int

    @property
    def kind(self) -> int:
        """Number of its colour, the same in every chart and list."""
        return self.place % KINDS

    @property
    def dashed(self) -> bool:
        """Whether its lines are."""
        return self.place >= KINDS

    @property
    def metric(self) -> str:
        return str(self.study.spec["objective"]["metric"])

    @property
    def direction(self) -> str:
        return self.study.direction


@dataclass(frozen=True, slots=True)
class OfTrial(_OfStudy):
    """One trial."""

    trial: Trial

    @property
    def name(self) -> str:
        return f"{self.study.id}:{self.trial.number}"


@dataclass(frozen=True, slots=True)
class Group(_OfStudy):
    """All trials of a study, or of one of its stages."""

    stage: str | None

    @property
    def name(self) -> str:
        return str(self.study.id) if self.stage is None else f"{self.study.id}:{self.stage}"

    @property
    def label(self) -> str:
        return self.study.name if self.stage is None else f"{self.study.name} {self.stage}"


Compared = TypeVar("Compared", OfTrial, Group)


def trials(conn: Connection, project_id: int | None, text: str) -> list[OfTrial]:
    known = _Studies(conn, project_id)
    found = []
    for i, (study_id, number) in enumerate(_names(text, _trial, "trials")):
        study = known.find(study_id)
        trial = trial_store.find_trial(conn, study_id, number)
        if trial is None:
            raise NotFound(f"study {study.name} has no trial #{number}")
        found.append(OfTrial(study, i, trial))
    return found


def studies(conn: Connection, project_id: int | None, text: str) -> list[Group]:
    known = _Studies(conn, project_id)
    return [
        Group(known.find(study_id), i, None)
        for i, study_id in enumerate(_names(text, whole_number, "studies"))
    ]


def stages_of(conn: Connection, project_id: int | None, text: str) -> list[Group]:
    known = _Studies(conn, project_id)
    found = []
    for i, (study_id, stage) in enumerate(_names(text, _stage, "stages")):
        study = known.find(study_id)
        wanted = select(stages.c.id).where(stages.c.study_id == study_id, stages.c.name == stage)
        if conn.scalar(wanted) is None:
            raise NotFound(f"study {study.name} has no stage {stage!r}")
        found.append(Group(study, i, stage))
    return found


class _Studies:
    """Each is read once."""

    def __init__(self, conn: Connection, project_id: int | None) -> None:
        self.conn, self.project_id = conn, project_id
        self.known: dict[int, store.Study] = {}

    def find(self, study_id: int) -> store.Study:
        if study_id not in self.known:
            self.known[study_id] = overviews.visible_study(self.conn, self.project_id, study_id)
        return self.known[study_id]


def _names(text: str, read: Callable[[str], Name | None], what: str) -> Iterable[Name]:
    """Each name once, in order."""
    found: dict[Name, None] = {}
    for word in split(text):
        name = read(word)
        if name is None:
            raise Unprocessable(f"{word[:40]!r} {_WRONG[what]}")
        found[name] = None
    if len(found) > MOST:
        raise Unprocessable(f"at most {MOST} {what} are compared at once, got {len(found)}")
    return found


_WRONG = {
    "trials": "names no trial; write study and number, such as trials=1:55,1:48",
    "studies": "names no study; write its id, such as studies=1,2",
    "stages": "names no stage; write study and stage, such as stages=1:coarse,1:refine",
}


def split(text: str) -> list[str]:
    """
    >>> split('1:coarse, "1:a, b",'), split("")
    (['1:coarse', '1:a, b'], [])
    """
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as e:
        raise Unprocessable(f"names have commas between them, and quotes are closed: {e}") from e
    return [word.strip() for row in rows for word in row if word.strip()]


def _trial(word: str) -> tuple[int, int] | None:
    study, _, number = word.partition(":")
    ids = whole_number(study), whole_number(number)
    return None if ids[0] is None or ids[1] is None else (ids[0], ids[1])


def _stage(word: str) -> tuple[int, str] | None:
    study, _, stage = word.partition(":")
    study_id = whole_number(study)
    return None if study_id is None or not stage else (study_id, stage)
