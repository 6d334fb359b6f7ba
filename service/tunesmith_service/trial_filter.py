"""Filters and orders of trials as SQL: bound values, on SQLite and PostgreSQL alike.

What a name means depends on the study: its hyperparameters, the metrics that its trials report, and the
fields that every trial has. Two names that mean the same (`val/loss`, `val_loss`) are one.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Connection,
    Float,
    String,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    true,
)
from sqlalchemy.sql.elements import ColumnElement

from tunesmith_service import store
from tunesmith_service.errors import Unprocessable
from tunesmith_service.filters import All, AnyOf, Filter, Misread, Not, Term, parse
from tunesmith_service.patterns import Pattern, PatternError
from tunesmith_service.tables import stages, trials, workers

Clause = ColumnElement[bool]

SEEN = 30
"""Trials, of those that ended last, whose metrics' names are known to a filter."""
MOST_RANKED = 500
"""Different texts of a field that trials can be sorted by."""
MOST_WORDS = 10_000
MOST_TAGS = 1000
"""Of a study, that are listed."""
"""Different texts of a field that a regular expression is asked about."""


@dataclass(frozen=True, slots=True)
class Field:
    """What a name stands for: a number or a text of a trial's row; NULL where a trial has none."""

    name: str
    column: ColumnElement[Any]
    is_number: bool
    unit: str = ""  # "s": a duration, which may be written 90s, 5min or 2h
    home: Literal["trial", "params", "metrics"] = "trial"  # where a trial keeps it


class Fields:
    """The names that filters and orders of one study may use."""

    def __init__(self, conn: Connection, study: store.Study) -> None:
        self.conn, self.study = conn, study
        self.known: dict[str, Field] = {f.name: f for f in _of_every_trial(conn)}
        objective = str(study.spec["objective"]["metric"])
        for name in dict.fromkeys([objective, *_metrics(conn, study.id)]):
            number = _number(conn, trials.c.last_metrics, name)
            self.known.setdefault(name, Field(name, number, is_number=True, home="metrics"))
        for name, column in _hyperparameters(conn, study):
            self.known.setdefault(name, column)
        self.known[objective] = self.known["value"]

    def find(self, name: str) -> Field | None:
        if name in self.known:
            return self.known[name]
        return next((f for n, f in self.known.items() if n.replace("/", "_") == name), None)

    def named(self, name: str, text: str, at: int) -> Field:
        """Raises Misread with the closest name there is."""
        found = self.find(name)
        if found is None:
            near = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5)
            listed = ", ".join(sorted(self.known)[:40])
            hint = f"did you mean {near[0]}?" if near else f"there are {listed}"
            raise Misread(text, at, f"this study has nothing named {name!r}; {hint}")
        return found


def clause(conn: Connection, study: store.Study, text: str) -> Clause:
    """The condition on a row of `trials` that a filter means. Raises Misread, a 422."""
    found = parse(text)
    if found == All(()):
        return true()
    return _Compiler(Fields(conn, study), text).clause(found)


def matching(conn: Connection, study: store.Study, text: str) -> list[int]:
    """Numbers of the trials that a filter picks."""
    wanted = select(trials.c.number).where(trials.c.study_id == study.id, clause(conn, study, text))
    return list(conn.execute(wanted).scalars())


def order(conn: Connection, study: store.Study, name: str) -> ColumnElement[Any]:
    """What trials are put in order by: a number; NULL for those that have none. Texts are ranked as people
    order them: stages as they come in the study, "8" before "16". Raises Unprocessable."""
    if name == "number":
        return trials.c.number
    field = Fields(conn, study).named(name, name, 0)
    if field.name == "stage":
        g = stages.alias()
        return select(g.c.position).where(g.c.id == trials.c.stage_id).scalar_subquery()
    if field.is_number:
        return field.column
    words = _words(conn, study.id, field.column, MOST_RANKED + 1)
    if len(words) > MOST_RANKED:
        raise Unprocessable(f"{name} has more than {MOST_RANKED} different texts and cannot be sorted by")
    ranks = {word: rank for rank, word in enumerate(sorted(words, key=natural))}
    return case(ranks, value=field.column) if ranks else cast(null(), BigInteger)


def natural(word: str) -> tuple[float, list[tuple[int, int, str]]]:
    """What to sort texts by: numbers by size and first, and img8 before img10.

    >>> sorted(["img10", "128", "img8", "16", "1e-3"], key=natural)
    ['1e-3', '16', '128', 'img8', 'img10']
    """
    size = read_number(word)
    if size is not None:
        return size, []
    parts = re.split(r"([0-9]{1,15})", word)
    return math.inf, [(0, int(p), "") if i % 2 else (1, 0, p.casefold()) for i, p in enumerate(parts)]


def _words(conn: Connection, study_id: int, column: ColumnElement[Any], limit: int) -> list[str]:
    """The different texts of a study's trials, at most so many."""
    each = select(column).where(trials.c.study_id == study_id, column.is_not(None)).distinct()
    return list(conn.execute(each.limit(limit)).scalars())


def count(conn: Connection, study: store.Study, text: str) -> int:
    """How many trials a filter picks."""
    if parse(text) == All(()):
        return study.trial_n
    picked = select(func.count()).where(trials.c.study_id == study.id, clause(conn, study, text))
    return conn.scalar(picked) or 0


# --- names ----------------------------------------------------------------------------------------


def _of_every_trial(conn: Connection) -> Iterable[Field]:
    t = trials.c
    g, w = stages.alias(), workers.alias()  # of their own: what is filtered may join these tables as well
    stage = select(g.c.name).where(g.c.id == t.stage_id).scalar_subquery()
    worker = select(w.c.name).where(w.c.id == t.worker_id).scalar_subquery()
    yield from (
        Field("state", t.state, is_number=False),
        Field("stage", stage, is_number=False),
        Field("reason", t.stop_reason, is_number=False),
        Field("kind", t.kind, is_number=False),
        Field("worker", worker, is_number=False),
        Field("tag", cast(t.tags, String), is_number=False),
        Field("hand", case((t.hand, "true"), else_="false"), is_number=False),
        Field("number", t.number, is_number=True),
        Field("value", t.value, is_number=True),
        Field("step", t.step, is_number=True),
        Field("attempt", t.attempt, is_number=True),
        Field("duration", (t.ended_us - t.started_us) / 1e6, is_number=True, unit="s"),
    )


def _metrics(conn: Connection, study_id: int) -> list[str]:
    """Names of metrics that the trials which came last have reported."""
    seen = (
        select(trials.c.last_metrics)
        .where(trials.c.study_id == study_id, trials.c.last_metrics.is_not(None))
        .order_by(trials.c.number.desc())
        .limit(SEEN)
    )
    return list(dict.fromkeys(name for row in conn.execute(seen).scalars() for name in row or ()))


def _hyperparameters(conn: Connection, study: store.Study) -> Iterable[tuple[str, Field]]:
    """Those of the space, and what the study or a stage holds fixed."""
    space: Mapping[str, Any] = study.spec.get("space", {})
    held = dict(study.spec.get("fixed", {}))
    for stage in study.spec.get("stages", ()):
        held |= stage.get("fixed") or {}
    for name, parameter in space.items():
        values = parameter.get("values") or ()
        words = parameter["type"] == "choice" and any(isinstance(v, str | bool) for v in values)
        yield name, _parameter(conn, name, is_number=not words)
    for name, value in held.items():
        if name not in space:
            yield name, _parameter(conn, name, is_number=not isinstance(value, str | bool))


def _parameter(conn: Connection, name: str, *, is_number: bool) -> Field:
    read = _number if is_number else _text
    return Field(name, read(conn, trials.c.params, name), is_number, home="params")


def _number(conn: Connection, column: Any, name: str) -> ColumnElement[Any]:
    """A number in a JSON column; NULL for what is none, such as a stored "NaN"."""
    if conn.dialect.name == "sqlite":
        path = literal(_path(name), String)
        is_number = func.json_type(column, path).in_(("real", "integer"))
        return case((is_number, func.json_extract(column, path)), else_=None)
    value = column.op("->")(name)
    return case((func.json_typeof(value) == "number", cast(column.op("->>")(name), Float)), else_=None)


def _text(conn: Connection, column: Any, name: str) -> ColumnElement[Any]:
    """A text in a JSON column, true and false as such words, a number as JSON writes it."""
    if conn.dialect.name == "sqlite":
        path = literal(_path(name), String)
        kind = func.json_type(column, path)
        shown = cast(func.json_extract(column, path), String)
        return case((kind == "true", "true"), (kind == "false", "false"), else_=shown)
    return cast(column.op("->>")(name), String)


def _tags(conn: Connection) -> Any:
    """A trial's tags as rows: its column `value`."""
    if conn.dialect.name == "sqlite":
        return func.json_each(trials.c.tags).table_valued("value", name="each_tag")
    listed = case((func.json_typeof(trials.c.tags) == "array", trials.c.tags), else_=None)
    return func.json_array_elements_text(listed).table_valued("value", name="each_tag")


def tags(conn: Connection, study_id: int) -> list[tuple[str, int]]:
    """The words that trials of a study are tagged with, and how many trials have each, most first."""
    each = _tags(conn)
    n = func.count().label("n")
    used = select(each.c.value, n).select_from(trials).join(each, true()).group_by(each.c.value)
    used = used.where(trials.c.study_id == study_id, trials.c.tags.is_not(None))
    found = conn.execute(used.order_by(n.desc(), each.c.value).limit(MOST_TAGS))
    return [(str(word), count) for word, count in found]


def _path(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'$."{escaped}"'


# --- terms ----------------------------------------------------------------------------------------


class _Compiler:
    def __init__(self, fields: Fields, text: str) -> None:
        self.fields, self.text = fields, text

    def clause(self, found: Filter) -> Clause:
        match found:
            case Term():
                return self._term(found)
            case Not():
                return not_(func.coalesce(self.clause(found.what), false()))
            case All():
                return and_(true(), *map(self.clause, found.parts))
            case AnyOf():
                return or_(false(), *map(self.clause, found.parts))

    def _term(self, term: Term) -> Clause:
        field = self.fields.named(term.name, self.text, term.at)
        if (field.home, field.name) == ("trial", "tag"):
            return self._tagged(term)
        if term.sign == "~":
            return self._like(field, term)
        if term.is_range:
            return self._range(field, term)
        if term.sign in ("<", "<=", ">", ">="):
            if not field.is_number:
                raise Misread(self.text, term.at, f"{term.name} is a text; {term.sign} compares numbers")
            value = self._number(field, term, term.values[0])
            return _ORDER[term.sign](field.column, value)
        equal = or_(*(self._equal(field, term, v) for v in term.values))
        return equal if term.sign == ":" else not_(func.coalesce(equal, false()))

    def _tagged(self, term: Term) -> Clause:
        """Whether one of a trial's tags is one of the words, or like the pattern."""
        conn, words = self.fields.conn, list(term.values)
        each = _tags(conn)
        if term.sign == "~":
            pattern = self._pattern(term)
            used = select(each.c.value).select_from(trials).join(each, true())
            used = used.where(trials.c.study_id == self.fields.study.id).distinct().limit(MOST_WORDS)
            words = [w for w in conn.execute(used).scalars() if pattern.found_in(w[:512])]
        elif term.sign not in (":", "!=") or term.is_range:
            raise Misread(self.text, term.at, "tag is a text; it goes with : != and ~")
        has = select(literal(1)).select_from(each).where(each.c.value.in_(words)).correlate(trials).exists()
        return not_(has) if term.sign == "!=" else has

    def _equal(self, field: Field, term: Term, value: str) -> Clause:
        if not field.is_number:
            return field.column == value
        number = self._number(field, term, value)
        slack = abs(number) * 1e-9  # 0.1 was stored as it was computed, and is typed as it is shown
        return field.column.between(number - slack, number + slack)

    def _range(self, field: Field, term: Term) -> Clause:
        if not field.is_number:
            raise Misread(
                self.text, term.at, f"{term.name} is a text and has no ranges; list its values: a,b"
            )
        low, high = term.values
        if not (low or high):
            return field.column.is_not(None)
        parts = [field.column >= self._number(field, term, low)] if low else []
        parts += [field.column <= self._number(field, term, high)] if high else []
        return and_(*parts)

    def _number(self, field: Field, term: Term, text: str) -> float:
        number = read_number(text, field.unit)
        if number is None:
            unit = ", with s, min or h behind it" if field.unit else ""
            raise Misread(self.text, term.at, f"{term.name} is compared with a number{unit}, got {text!r}")
        return number

    def _pattern(self, term: Term) -> Pattern:
        try:
            return Pattern(term.values[0])
        except PatternError as e:
            raise Misread(self.text, term.at, f"{term.values[0]!r} is no pattern to match: {e}") from e

    def _like(self, field: Field, term: Term) -> Clause:
        """A regular expression, asked of the field's different texts, so that it means the same on both
        databases."""
        pattern = self._pattern(term)
        column = cast(field.column, String)
        words = _words(self.fields.conn, self.fields.study.id, column, MOST_WORDS)
        return column.in_([w for w in words if pattern.found_in(w[:512])])


_ORDER: Mapping[str, Callable[[Any, float], Clause]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_UNITS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


def read_number(text: str, unit: str = "") -> float | None:
    """
    >>> read_number("1e-3"), read_number("5min", "s"), read_number("a"), read_number("nan")
    (0.001, 300.0, None, None)
    """
    found = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(s|min|h)?", text)
    if found is None or (found[2] and not unit):
        return None
    number = float(found[1]) * _UNITS[found[2] or ""]
    return number if math.isfinite(number) else None
