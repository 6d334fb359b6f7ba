"""A study's trials as columns, for what looks at all of them: charts, and tables by many filters.

They are brought up to date from the events that came since, and never changed afterwards, so that threads may
share them; `column_cache` keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Connection, Row, String, cast, func, select, type_coerce
from tunesmith_studies.trial import StopReason, TrialState

from tunesmith_service.db import batch, rows
from tunesmith_service.tables import events, stages, studies, trials

Floats: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.int16]

STATES = tuple(str(s) for s in TrialState)
REASONS = ("", *(str(r) for r in StopReason))
MOST_CHANGED = 5_000
"""Of more changed trials all are read again."""
ROWS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Words:
    """A column of texts or of true and false: each trial's place in `labels`, -1 where it has none."""

    codes: NDArray[np.int32]
    labels: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """Trials by number: place i of each array is trial i. Times are microseconds, NaN where there is none.

    Attributes:
        at: the study's event up to which this is true.
        stage: place in `stages`, which are in the study's order.
        state: place in STATES; reason: in REASONS.
        value: the objective, NaN where a trial has none.
        start: number of the trial whose snapshot it goes on from, -1 for none.
        trains: whether it trains, rather than measures.
        numbers: hyperparameters that are numbers, NaN where a trial has none.
        words: those that are texts or true and false.
    """

    at: int
    stages: tuple[str, ...]
    stage: Codes
    state: Codes
    reason: Codes
    value: Floats
    start: NDArray[np.int64]
    trains: NDArray[np.bool_]
    started_us: Floats
    ended_us: Floats
    numbers: Mapping[str, Floats]
    words: Mapping[str, Words]

    def __len__(self) -> int:
        return len(self.value)

    def is_state(self, *wanted: str) -> NDArray[np.bool_]:
        return np.isin(self.state, [STATES.index(s) for s in wanted])

    @property
    def diverged(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.reason == REASONS.index("diverged")
        return found

    @property
    def seconds(self) -> Floats:
        """From first start to end; NaN for what has not ended."""
        return (self.ended_us - self.started_us) / 1e6


def read(conn: Connection, study_id: int, known: Columns | None = None) -> Columns:
    """The columns; of `known` what has not changed since."""
    of_study = conn.execute(select(studies.c.event_n, studies.c.trial_n).where(studies.c.id == study_id))
    at, size = next(((row.event_n, row.trial_n) for row in of_study), (0, 0))
    of_stages = select(stages.c.id, stages.c.name).where(stages.c.study_id == study_id)
    named = conn.execute(of_stages.order_by(stages.c.position)).all()
    places, names = {row.id: i for i, row in enumerate(named)}, tuple(row.name for row in named)
    changed: list[int] | None = None
    if known is not None and known.stages == names:
        changed = _changed(conn, study_id, known.at) if known.at != at else []
        if changed == []:
            return known if known.at == at else replace(known, at=at)
    table = _Table(known if known is not None and changed is not None else _NONE, size)
    for some in _rows(conn, study_id, changed):
        table.put(some, places)
    return table.columns(at, names)


def _changed(conn: Connection, study_id: int, after: int) -> list[int] | None:
    """Numbers of the trials that events after `after` speak of; None if they are many."""
    wanted = (
        select(events.c.trial_number)
        .where(events.c.study_id == study_id, events.c.n > after, events.c.trial_number.is_not(None))
        .distinct()
        .limit(MOST_CHANGED + 1)
    )
    found = list(conn.execute(wanted).scalars())
    return found if len(found) <= MOST_CHANGED else None


def _rows(conn: Connection, study_id: int, numbers: Sequence[int] | None) -> Iterator[Sequence[Row[Any]]]:
    """The trials of these numbers, or all, some at a time: 100,000 rows at once would be 150 MB."""
    t = trials
    params = type_coerce(t.c.params, String) if conn.dialect.name == "sqlite" else cast(t.c.params, String)
    start = func.coalesce(t.c.start["trial"].as_integer(), -1)
    wanted = select(
        t.c.number, t.c.stage_id, t.c.state, t.c.stop_reason, t.c.value, start, t.c.kind, t.c.started_us,
        t.c.ended_us, params,
    ).where(t.c.study_id == study_id)  # fmt: skip
    asked = {}
    if numbers is not None:
        b = batch(conn.dialect.name, number=BigInteger)
        wanted = wanted.where(t.c.number.in_(select(b.c.number)))
        asked = {"batch": rows({"number": n} for n in numbers)}
    wanted = wanted.order_by(t.c.number)  # as they lie in the table: in another order it took twice as long
    yield from conn.execute(wanted, asked, execution_options={"yield_per": ROWS_AT_ONCE}).partitions()


_FILLS: Mapping[str, float] = {
    "stage": -1, "state": 0, "reason": 0, "value": np.nan, "start": -1, "trains": False,
    "started_us": np.nan, "ended_us": np.nan,
}  # fmt: skip
OF_ALL = tuple(_FILLS)
"""Columns that every study has; `_FILLS` is what stands there where there is no trial."""
_STATE_AT = {state: i for i, state in enumerate(STATES)}
_REASON_AT = {reason: i for i, reason in enumerate(REASONS)} | {None: 0}


class _Table:
    """Columns that rows are put into; those it begins with stay as they are.

    A hyperparameter whose values are both numbers and words is a column of words.
    """

    def __init__(self, old: Columns, size: int) -> None:
        self._size = size = max(size, len(old))
        self._of_all = {name: _grown(getattr(old, name), size, fill) for name, fill in _FILLS.items()}
        self._numbers = {name: _grown(column, size, np.nan) for name, column in old.numbers.items()}
        self._words = {
            name: (_grown(w.codes, size, -1), {label: i for i, label in enumerate(w.labels)})
            for name, w in old.words.items()
        }

    def columns(self, at: int, names: tuple[str, ...]) -> Columns:
        words = {name: Words(codes, tuple(place)) for name, (codes, place) in self._words.items()}
        return Columns(at=at, stages=names, numbers=self._numbers, words=words, **self._of_all)

    def put(self, some: Sequence[Row[Any]], places: Mapping[int, int]) -> None:
        some = [row for row in some if row.number < self._size]  # what came since is of a later event
        if not some:
            return
        number, stage_id, state, reason, value, start, kind, started, ended, params = zip(*some, strict=True)
        at = np.array(number, np.int64)
        new: Mapping[str, Sequence[Any]] = {
            "stage": [places[i] for i in stage_id],
            "state": [_STATE_AT[s] for s in state],
            "reason": [_REASON_AT.get(r, 0) for r in reason],
            "value": value,
            "start": start,
            "trains": [k == "train" for k in kind],
            "started_us": started,
            "ended_us": ended,
        }
        for name, column in self._of_all.items():
            column[at] = np.array(new[name], column.dtype)  # None becomes NaN
        self.put_params(at, json.loads(f"[{','.join(params)}]"))

    def put_params(self, at: NDArray[np.int64], points: Sequence[Mapping[str, Any]]) -> None:
        for name in dict.fromkeys((*self._numbers, *self._words, *chain.from_iterable(points))):
            new = [point.get(name) for point in points]
            if name in self._words or not {str, bool}.isdisjoint(map(type, new)):
                self._put_words(name, at, new)
                continue
            column = self._numbers.setdefault(name, np.full(self._size, np.nan))
            column[at] = np.array(new, np.float64)

    def _put_words(self, name: str, at: NDArray[np.int64], new: Sequence[Any]) -> None:
        if name not in self._words:
            self._words[name] = np.full(self._size, -1, np.int32), {}
            if (before := self._numbers.pop(name, None)) is not None:
                had = np.flatnonzero(~np.isnan(before))
                self._put_words(name, had, [int(v) if v.is_integer() else v for v in before[had].tolist()])
        codes, place = self._words[name]
        for label in dict.fromkeys(new):
            if label is not None:
                place.setdefault(label, len(place))
        code = {**place, None: -1}
        codes[at] = [code[v] for v in new]


def _grown(column: NDArray[Any], size: int, fill: float) -> NDArray[Any]:
    out = np.full(size, fill, column.dtype)
    out[: len(column)] = column
    return out


_NONE = Columns(
    at=0, stages=(), stage=np.empty(0, np.int16), state=np.empty(0, np.int16), reason=np.empty(0, np.int16),
    value=np.empty(0), start=np.empty(0, np.int64), trains=np.empty(0, np.bool_), started_us=np.empty(0),
    ended_us=np.empty(0), numbers={}, words={},
)  # fmt: skip
