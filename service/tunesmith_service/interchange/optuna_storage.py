"""Where Optuna keeps studies: a database by its URL, or a file, SQLite's or a journal."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from tunesmith_service.interchange.points import file_of, refuse_our_own

_SQLITE = (".db", ".sqlite", ".sqlite3")
_HEADER = b"SQLite format 3\x00"
OPTUNAS = {"studies", "trials", "version_info"}
LINE_BYTES = 1_000_000


@contextmanager
def opened(where: str | BaseStorage, *, new: bool) -> Iterator[BaseStorage]:
    """The storage at a URL such as `sqlite:///trials.db` or `postgresql://…`, or in a file.

    A file that is there is what it holds; a new one is SQLite's if its name ends like one, else a journal.

    Args:
        new: it may be made.
    Raises: ValueError for what cannot be opened, or is not there and may not be made.
    """
    if isinstance(where, BaseStorage):
        yield where
        return
    was, storage = optuna.logging.get_verbosity(), None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for each study is for those who run one
    try:
        storage = _open(where, new=new)
        yield storage
    except (SQLAlchemyError, ImportError, OSError, RuntimeError) as e:
        raise ValueError(f"the Optuna storage {_shown(where)} does not work: {e}") from e
    finally:
        optuna.logging.set_verbosity(was)
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _open(where: str, *, new: bool) -> BaseStorage:
    file = file_of(where) if "://" in where else Path(where)
    if file is not None and not new and not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if "://" not in where and file is not None and not _is_sqlite(file):
        _check_journal(file)
        return JournalStorage(JournalFileBackend(where))
    url = where if "://" in where else f"sqlite:///{where}"
    refuse_our_own(url)
    if file is not None:
        _check_database(file)
    return RDBStorage(url)


def _check_journal(file: Path) -> None:
    """Optuna would write behind whatever stands there. Raises: ValueError."""
    if _is_new(file):
        return
    with file.open("rb") as lines:
        first = lines.readline(LINE_BYTES)
    try:
        is_one = "op_code" in json.loads(first)
    except (ValueError, TypeError):
        is_one = False
    if not is_one:
        raise ValueError(f"{file} is no journal of Optuna's; nothing in it was touched, name another file")


def _check_database(file: Path) -> None:
    """Optuna would make its tables among whatever stands there. Raises: ValueError."""
    if _is_new(file):
        return
    if not _is_sqlite(file):
        raise ValueError(f"{file} is no SQLite database; nothing in it was touched, name another file")
    with closing(sqlite3.connect(file.absolute().as_uri() + "?mode=ro", uri=True)) as there:
        tables = {name for (name,) in there.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not tables >= OPTUNAS:
        raise ValueError(
            f"{file} is a database of another program's; nothing in it was touched, name another"
        )


def _is_new(file: Path) -> bool:
    return not file.is_file() or not file.stat().st_size


def _is_sqlite(file: Path) -> bool:
    if _is_new(file):
        return file.suffix.lower() in _SQLITE
    with file.open("rb") as opened_:
        return opened_.read(len(_HEADER)) == _HEADER


def _shown(where: str) -> str:
    return make_url(where).render_as_string() if "://" in where else where
