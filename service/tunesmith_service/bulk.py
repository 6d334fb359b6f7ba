"""Many rows written by one statement, whatever their number.

The rows travel as one JSON parameter (`db.batch`), so a statement is built once for each set of columns, and
the database goes through the rows by itself, while other threads of ours have the interpreter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import JSON, ColumnElement, Connection, Executable, Float, Table, bindparam, select

from tunesmith_service.db import batch, dumps, rows


class Change(NamedTuple):
    """A row as it must be now, by columns that find just that one, and what it becomes."""

    was: Mapping[str, Any]
    becomes: Mapping[str, Any]


def insert(conn: Connection, table: Table, new: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all name the same columns."""
    if new:
        statement = _insertion(conn.dialect.name, table, tuple(new[0]))
        conn.execute(statement, {"batch": rows(_told(table, row) for row in new)})


def update(conn: Connection, table: Table, changes: Sequence[Change]) -> int:
    """Change rows, each its own way; all name the same columns. Returns how many were as they had to be."""
    if not changes:
        return 0
    which, to = tuple(changes[0].was), tuple(changes[0].becomes)
    dialect = conn.dialect.name
    if dialect == "sqlite" and any(isinstance(table.c[name].type, Float) for name in to):
        each = [_named("if", c.was) | _named("to", c.becomes) for c in changes]
        return conn.execute(_update_of_each(table, which, to), each).rowcount
    told = [_named("if", _told(table, c.was)) | _named("to", _told(table, c.becomes)) for c in changes]
    return conn.execute(_update_of_all(dialect, table, which, to), {"batch": rows(told)}).rowcount


def _told(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a batch: JSON as the text that is stored."""
    told = dict(row)
    for name in _json_columns(table):
        if told.get(name) is not None:
            told[name] = dumps(told[name])
    return told


@functools.cache
def _json_columns(table: Table) -> Sequence[str]:
    return [column.name for column in table.c if isinstance(column.type, JSON)]


def _named(prefix: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in row.items()}


@functools.cache
def _insertion(dialect: str, table: Table, names: tuple[str, ...]) -> Executable:
    b = batch(dialect, **{name: table.c[name].type for name in names})
    return sa.insert(table).from_select(names, select(*b.c))


@functools.cache
def _update_of_all(dialect: str, table: Table, which: tuple[str, ...], to: tuple[str, ...]) -> Executable:
    kinds = {name: table.c[name].type for name in {*which, *to}}
    b = batch(
        dialect, **_named("if", {n: kinds[n] for n in which}), **_named("to", {n: kinds[n] for n in to})
    )
    return _update(table, which, to, lambda name, _: b.c[name])


@functools.cache
def _update_of_each(table: Table, which: tuple[str, ...], to: tuple[str, ...]) -> Executable:
    return _update(table, which, to, lambda name, column: bindparam(name, type_=column.type))


def _update(
    table: Table,
    which: Sequence[str],
    to: Sequence[str],
    given: Callable[[str, ColumnElement[Any]], ColumnElement[Any]],
) -> Executable:
    as_it_was = [_is(table.c[name], given(f"if_{name}", table.c[name])) for name in which]
    return (
        sa.update(table).where(*as_it_was).values({name: given(f"to_{name}", table.c[name]) for name in to})
    )


def _is(column: sa.Column[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
    """Equal; both may be null where the column can be."""
    return column.is_not_distinct_from(value) if column.nullable else column == value
