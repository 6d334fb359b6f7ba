"""Texts of strangers on a terminal: what would move its cursor, change its title, write to the clipboard or
turn the reading direction is shown as an escape instead of being obeyed."""

from __future__ import annotations

import re

_OBEYED = re.compile("(\x1b\\[[0-9;]*m)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str, *, coloured: bool = False) -> str:
    r"""
    Args:
        coloured: leave colours (SGR) as they are, and the carriage returns of progress bars.

    >>> printable("\x1b[31mred\x1b[0m\x07"), printable("a\nb\u202ec")
    ('\\x1b[31mred\\x1b[0m\\x07', 'a\nb\\u202ec')
    """

    def shown(found: re.Match[str]) -> str:
        if coloured and (found[1] or found[0] == "\r"):
            return found[0]
        return found[0].encode("unicode_escape").decode("ascii")

    return _OBEYED.sub(shown, text)
