"""A study's trials and curves as the exports need them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from tunesmith_service.study_handle import Study

Answer = Mapping[str, Any]
Times = Mapping[tuple[int, int], int]

_UNFIT = re.compile(r"[^\w\-. :/]")


class AlreadyThere(ValueError):
    """An earlier export is there and may not be replaced."""


def needed(package: str, extra: str) -> Any:
    """A package that not everybody has. Raises: ValueError that names the extra to install."""
    try:
        return import_module(package)
    except ImportError as e:
        raise ValueError(f"this needs {package} ({e}); install it: pip install 'tunesmith[{extra}]'") from e


def file_of(url: str) -> Path | None:
    """The file that a database's URL names, if it is SQLite's."""
    parsed = make_url(url)
    return Path(parsed.database) if parsed.drivername.startswith("sqlite") and parsed.database else None


def refuse_our_own(url: str) -> None:
    """Other programs make tables of their own, and would put their version over ours.

    Raises: ValueError if a service keeps its studies in the database of this URL; what else is wrong with
    the URL is for others to say.
    """
    try:
        if (file := file_of(url)) is not None and not file.is_file():
            return
        engine = create_engine(url)
        is_ours = inspect(engine).has_table("audit_chain")
        engine.dispose()
    except (SQLAlchemyError, ImportError):
        return
    if is_ours:
        raise ValueError("that is the database of a Tunesmith service; name another, which may be new")


def began(study: Study) -> Iterator[Answer]:
    """Trials that have run, or do, in order of number; those that wait or never ran are no runs."""
    return (trial for trial in study.trials() if trial["started_at"] is not None)


def times(study: Study) -> Times:
    """(trial's number, step) → when its point was reported, in milliseconds since 1970."""
    return {
        (event["trial"], point["step"]): milliseconds(event["at"])
        for event in study.events()
        if event["kind"] == "reported"
        for point in event["data"]["points"]
    }


def milliseconds(iso: str) -> int:
    return round(moment(iso).timestamp() * 1000)


def moment(iso: str) -> datetime:
    return datetime.fromisoformat(iso).astimezone(UTC)


def numbers(metrics: Answer) -> dict[str, float]:
    """NaN and the infinities travel as words.

    >>> numbers({"val/loss": "-Infinity"})
    {'val/loss': -inf}
    """
    return {name: float(value) for name, value in metrics.items()}


def fit(name: str) -> str:
    """A name as MLflow takes one.

    >>> fit("val/top@5")
    'val/top_5'
    """
    return _UNFIT.sub("_", name)[:250]
