"""The words by which people pick trials: one grammar for pages, REST, the command line and Python.

    state:complete stage:refine lr>=1e-3 val_loss<0.42 (optimizer:adamw OR optimizer:lion) -reason:diverged

Terms beside each other must all hold; OR, parentheses and NOT (or `-`) combine them. A term is a name, a sign
and a value: `:` or `=` is equal to it, one of a list (`state:failed,pruned`) or within a range, both ends
included (`number:10..40`, `lr:..0.1`); `!=`, `<`, `<=`, `>`, `>=` compare; `~` is a regular expression that
matches anywhere (`stage~"^re"`). A value with blanks stands in double quotes. A metric's `/` may be
written `_`.

This module reads and shows the words; `trial_filter` turns them into SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from tunesmith_service.errors import Unprocessable

MOST_CHARACTERS = 2000
MOST_DEPTH = 20
SIGNS = ("!=", "<=", ">=", ":", "=", "<", ">", "~")


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison.

    Attributes:
        sign: one of SIGNS, never `=`, which is `:`.
        values: of `:` the list; of all others one. Of a range (`is_range`) its two ends, "" where it is open.
        at: where it stands in the text, for messages.
    """

    name: str
    sign: str
    values: tuple[str, ...]
    is_range: bool = False
    at: int = 0


@dataclass(frozen=True, slots=True)
class Not:
    what: Filter


@dataclass(frozen=True, slots=True)
class All:
    """Everything in it holds; an empty one always does."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Filter, ...]


Filter: TypeAlias = "Term | Not | All | AnyOf"

EVERYTHING = All(())


class Misread(Unprocessable):
    """A filter that cannot be read, with the place."""

    def __init__(self, text: str, at: int, why: str) -> None:
        pointer = {"pointer": "query:filter", "message": why, "position": str(at)}
        super().__init__(f"filter, at character {at + 1}: {why}", errors=[pointer])
        self.text, self.at, self.why = text, at, why


# --- reading --------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:(?P<open>\()|(?P<close>\))|(?P<not>-(?=[\w("])|NOT\b)|(?P<or>OR\b|\|)|(?P<and>AND\b|&)
    |(?P<name>"(?:[^"\\]|\\.)*"|[^\s()"!<>=:~]+)(?P<sign>!=|<=|>=|[:=<>~])?)""",
    re.VERBOSE,
)
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s(),"]+')


def parse(text: str) -> Filter:
    """The filter that a text means; nothing but blanks means every trial. Raises Misread, a 422."""
    if len(text) > MOST_CHARACTERS:
        raise Misread(text, MOST_CHARACTERS, f"it is longer than {MOST_CHARACTERS} characters")
    reader = _Reader(text)
    found = reader.any_of(0)
    if reader.rest():
        raise Misread(text, reader.at, "a closing parenthesis that nothing opened")
    return found


class _Reader:
    """Goes through the text once, from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def rest(self) -> str:
        return self.text[self.at :].strip()

    def any_of(self, depth: int) -> Filter:
        parts = [self.all_of(depth)]
        while self._take("or"):
            parts.append(self.all_of(depth))
        if len(parts) > 1 and EVERYTHING in parts:
            raise Misread(self.text, self.at, "OR needs a term on either side")
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def all_of(self, depth: int) -> Filter:
        parts: list[Filter] = []
        while self.rest() and not self._is("or") and not self._is("close"):
            if not self._take("and"):
                parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def one(self, depth: int) -> Filter:
        if depth > MOST_DEPTH:
            raise Misread(self.text, self.at, f"it is nested deeper than {MOST_DEPTH} times")
        if self._take("not"):
            return Not(self.one(depth + 1))
        if self._take("open"):
            inner = self.any_of(depth + 1)
            if not self._take("close"):
                raise Misread(self.text, self.at, "a parenthesis is not closed")
            return inner
        return self.term()

    def term(self) -> Term:
        found = self._next()
        if found is None or found["name"] is None:
            raise Misread(
                self.text, self.at, f"a term such as lr>=1e-3 is missing before {self.rest()[:1]!r}"
            )
        at, name = found.start("name"), _bare(found["name"])
        if found["sign"] is None:
            raise Misread(self.text, at, f"{name!r} is no term; write a name, a sign and a value: lr>=1e-3")
        self.at = found.end()
        sign = ":" if found["sign"] == "=" else found["sign"]
        return self._valued(name, sign, at)

    def _valued(self, name: str, sign: str, at: int) -> Term:
        values, quoted = [self._value(name, sign)], self.text[self.at - 1] == '"'
        while sign == ":" and self.text[self.at : self.at + 1] == ",":
            self.at += 1
            values.append(self._value(name, sign))
        if sign == ":" and len(values) == 1 and not quoted and ".." in values[0]:
            low, _, high = values[0].partition("..")
            return Term(name, sign, (low, high), is_range=True, at=at)
        return Term(name, sign, tuple(values), at=at)

    def _value(self, name: str, sign: str) -> str:
        found = _VALUE.match(self.text, self.at)
        if found is None:
            raise Misread(self.text, self.at, f"{name}{sign} needs a value")
        self.at = found.end()
        return _bare(found[0])

    def _next(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.at)

    def _is(self, kind: str) -> bool:
        found = self._next()
        return found is not None and found[kind] is not None

    def _take(self, kind: str) -> bool:
        found = self._next()
        if found is None or found[kind] is None:
            return False
        self.at = found.end()
        return True


def _bare(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') and len(word) > 1 else word


# --- showing --------------------------------------------------------------------------------------


def show(found: Filter) -> str:
    """A text that means this filter; `parse` reads it back."""
    return _shown(found, is_inner=False)


def _shown(found: Filter, *, is_inner: bool) -> str:
    match found:
        case Term():
            values = (
                "..".join(found.values)
                if found.is_range
                else ",".join(_word(v) or '""' for v in found.values)
            )
            return f"{_word(found.name)}{found.sign}{values}"
        case Not():
            return f"NOT {_shown(found.what, is_inner=True)}"
        case All():
            text = " ".join(_shown(p, is_inner=True) for p in found.parts)
        case AnyOf():
            text = " OR ".join(_shown(p, is_inner=True) for p in found.parts)
    return f"({text})" if is_inner else text


_PLAIN = re.compile(r"[\w./+#%*-]*\Z")


def _word(text: str) -> str:
    plain = _PLAIN.match(text) and text not in ("OR", "AND", "NOT") and not text.startswith("-")
    if (plain or _is_number(text)) and ".." not in text:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) is not None


def terms(found: Filter) -> Iterator[Term]:
    """All comparisons in it."""
    match found:
        case Term():
            yield found
        case Not():
            yield from terms(found.what)
        case All() | AnyOf():
            for part in found.parts:
                yield from terms(part)
