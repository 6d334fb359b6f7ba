"""What charts ask of a study again and again: its columns, and which of its trials a filter picks.

A cache over the database, which may be dropped at any moment.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from tunesmith_service import store, trial_filter
from tunesmith_service.column_files import ColumnFiles
from tunesmith_service.columns import Columns, read
from tunesmith_service.tables import studies

MOST_STUDIES = 8
MOST_FILTERS = 32
FILTER_SECONDS = 5.0
"""The charts of a page ask within moments of each other. Longer would hide tags and workers' names, which
change without an event."""

Picked = NDArray[np.bool_]


class ColumnCache:
    """Columns of the studies, and answers to the filters, that were looked at last."""

    def __init__(self, files: ColumnFiles) -> None:
        self._files = files
        self._kept: OrderedDict[int, Columns] = OrderedDict()
        self._picked: OrderedDict[tuple[int, int, str], tuple[float, Picked]] = OrderedDict()
        self._lock, self._picking = threading.Lock(), threading.Lock()

    def get(self, conn: Connection, study_id: int) -> Columns:
        """All of a study's trials as they are in this transaction."""
        with self._lock:  # one reads; the others then find it read
            known = self._kept.pop(study_id, None)
            if known is None:
                known = self._files.load(study_id, _created_us(conn, study_id))
            found = read(conn, study_id, known)
            if self._files.lacks_much_of(study_id, found):
                self._files.keep(study_id, _created_us(conn, study_id), found)
            self._kept[study_id] = found
            while len(self._kept) > MOST_STUDIES:
                self._kept.popitem(last=False)
            return found

    def picked(self, conn: Connection, study: store.Study, columns: Columns, text: str) -> Picked:
        """Of each trial of these columns, whether a filter picks it. Raises Misread, a 422."""
        if not text:
            return np.ones(len(columns), np.bool_)
        key = (study.id, columns.at, text)
        with self._picking:  # one asks the database; the others then find it answered
            found = self._picked.pop(key, None)
            if found is None or time.monotonic() - found[0] > FILTER_SECONDS:
                found = time.monotonic(), _picked(conn, study, columns, text)
            self._picked[key] = found
            while len(self._picked) > MOST_FILTERS:
                self._picked.popitem(last=False)
            return found[1]

    def forget(self, study_id: int) -> None:
        """A study that was deleted: SQLite may give its id to another."""
        with self._lock:
            self._kept.pop(study_id, None)
            self._files.forget(study_id)
        with self._picking:
            self._picked.clear()


def _created_us(conn: Connection, study_id: int) -> int:
    return conn.execute(select(studies.c.created_us).where(studies.c.id == study_id)).scalar() or 0


def _picked(conn: Connection, study: store.Study, columns: Columns, text: str) -> Picked:
    numbers = np.array(trial_filter.matching(conn, study, text), np.int64)
    keep = np.zeros(len(columns), np.bool_)
    keep[numbers[numbers < len(columns)]] = True
    return keep
