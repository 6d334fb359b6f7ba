"""Regular expressions that cost a time in proportion to the text, whatever they are.

Python's own go back and forth and can be written so that they take for ever; PostgreSQL and SQLite know
different ones. These are what people use of them: letters, `.`, `[a-z]`, `[^a-z]`, `\\d \\w \\s` and their
capitals, `^ $`, `( | )`, `* + ?`, and `\\` before anything else that shall stand for itself. They match
anywhere in a text, as `re.search` does, which is what they are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

MOST_CHARACTERS = 200
MOST_STATES = 2000

Test: TypeAlias = Callable[[str], bool]

_CLASSES: dict[str, Test] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
    "D": lambda c: not c.isdecimal(),
    "W": lambda c: not (c.isalnum() or c == "_"),
    "S": lambda c: not c.isspace(),
}


class PatternError(ValueError):
    """`at` is the character of the pattern at which it is wrong, from 0."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


@dataclass(slots=True)
class _State:
    """Either a character's test and one state behind it, or a place from which several go on without one."""

    test: Test | None = None
    after: tuple[int, ...] = ()
    only: str = ""  # "^": passed at the text's beginning alone, "$": at its end


class Pattern:
    """A compiled pattern. Raises: PatternError."""

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise PatternError(f"a pattern has at most {MOST_CHARACTERS} characters", MOST_CHARACTERS)
        self._text, self._at, self._depth = text, 0, 0
        self._states: list[_State] = [_State()]  # 0 is the end: found
        self._first = self._either(0)
        if self._at < len(text):
            raise PatternError("this ) closes no (", self._at)

    def found_in(self, text: str) -> bool:
        """Whether it matches anywhere in `text`: each character is looked at once, for each state."""
        now: set[int] = set()
        for at in range(len(text) + 1):
            now.add(self._first)
            is_last = at == len(text)
            now = self._reached(now, at == 0, is_last)
            if 0 in now:
                return True
            if not is_last:
                character = text[at]
                moved = [s for i in now if (s := self._states[i]).test is not None]
                now = {s.after[0] for s in moved if s.test is not None and s.test(character)}
        return False

    def _reached(self, begun: set[int], is_first: bool, is_last: bool) -> set[int]:
        found, todo = set(begun), list(begun)
        while todo:
            state = self._states[todo.pop()]
            if (
                state.test is not None
                or (state.only == "^" and not is_first)
                or (state.only == "$" and not is_last)
            ):
                continue
            for i in state.after:
                if i not in found:
                    found.add(i)
                    todo.append(i)
        return found

    # --- compiling: each of these gives the state to begin at so as to reach `then` ---

    def _new(self, state: _State) -> int:
        if len(self._states) >= MOST_STATES:
            raise PatternError("the pattern is too long", self._at)
        self._states.append(state)
        return len(self._states) - 1

    def _either(self, then: int) -> int:
        begun = [self._sequence(then)]
        while self._text[self._at : self._at + 1] == "|":
            self._at += 1
            begun.append(self._sequence(then))
        return begun[0] if len(begun) == 1 else self._new(_State(after=tuple(begun)))

    def _sequence(self, then: int) -> int:
        # What comes first must know what comes behind it: joints are states that are filled in later.
        first = joint = self._new(_State())
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            behind = self._new(_State())
            self._states[joint].after = (self._repeated(behind),)
            joint = behind
        self._states[joint].after = (then,)
        return first

    def _repeated(self, then: int) -> int:
        loop, at = self._new(_State()), self._at
        begun = self._one(loop)
        times = self._text[self._at : self._at + 1]
        if times == "" or times not in "*+?":
            self._states[loop].after = (then,)
            return begun
        if self._text[at] in "^$":
            raise PatternError("a place cannot be repeated", self._at)
        self._at += 1
        behind = self._text[self._at : self._at + 1]
        if behind and behind in "*+?":
            raise PatternError("nothing can be repeated here", self._at)
        self._states[loop].after = (then,) if times == "?" else (begun, then)
        return begun if times == "+" else self._new(_State(after=(begun, then)))

    def _one(self, then: int) -> int:
        at, character = self._at, self._text[self._at]
        self._at += 1
        if character == "(":
            return self._group(at, then)
        if character == "{":
            raise PatternError("repeating with {…} is not known here; \\{ is the character itself", at)
        if character in "*+?":
            raise PatternError("nothing stands before it that could be repeated", at)
        if character in "^$":
            return self._new(_State(after=(then,), only=character))
        return self._new(_State(test=self._test(character, at), after=(then,)))

    def _group(self, at: int, then: int) -> int:
        if self._text[self._at : self._at + 1] == "?":
            raise PatternError("groups that begin with (? are not known here", at)
        self._depth += 1
        if self._depth > 20:
            raise PatternError("more than 20 groups within each other", at)
        begun = self._either(then)
        self._depth -= 1
        if self._text[self._at : self._at + 1] != ")":
            raise PatternError("this ( is not closed", at)
        self._at += 1
        return begun

    def _test(self, character: str, at: int) -> Test:
        if character == ".":
            return lambda c: c != "\n"
        if character == "[":
            return self._set(at)
        if character == "\\":
            return self._escaped(at)
        return character.__eq__

    def _escaped(self, at: int) -> Test:
        character = self._text[self._at : self._at + 1]
        if not character:
            raise PatternError("a \\ at the end stands for nothing", at)
        self._at += 1
        if character in _CLASSES:
            return _CLASSES[character]
        if character.isalnum():
            raise PatternError(f"\\{character} is not known here", at)
        return character.__eq__

    def _set(self, at: int) -> Test:
        is_not = self._text[self._at : self._at + 1] == "^"
        self._at += is_not
        tests: list[Test] = []
        while not tests or self._text[self._at : self._at + 1] != "]":
            low = self._text[self._at : self._at + 1]
            if not low:
                raise PatternError("this [ is not closed", at)
            self._at += 1
            if low == "\\":
                tests.append(self._escaped(self._at - 1))
                continue
            high = self._text[self._at + 1 : self._at + 2]
            if self._text[self._at : self._at + 1] != "-" or high in ("]", ""):
                tests.append(low.__eq__)
                continue
            if high == "\\" or high < low:
                raise PatternError(f"[{low}-{high}] goes backwards", at)
            self._at += 2
            tests.append(lambda c, low=low, high=high: low <= c <= high)  # type: ignore[misc]
        self._at += 1
        return (lambda c: not any(t(c) for t in tests)) if is_not else (lambda c: any(t(c) for t in tests))
