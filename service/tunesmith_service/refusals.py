"""Who was refused at the door, gathered in memory until the sweeper writes it into the audit log.

A stranger must neither fill the log nor cost a write a request. So nothing is written while answering, and
then at most one entry an hour for each token that there is and one for login codes; what came since is
counted in the next. A token that nobody has made leaves nothing: whoever guesses makes up any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunesmith_service.admission import REFUSED_EVERY_US, NoteRefusal, WhyRefused
from tunesmith_service.origin import Origin, current


@dataclass(slots=True)
class _Tried:
    """Since it was last written down; `why` and `origin` are the first one's."""

    why: WhyRefused
    origin: Origin | None
    tries: int = 0


class Refusals:
    """Args: now_us: the service's clock."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._tried: dict[str, _Tried] = {}
        self._written_us: dict[str, int] = {}

    def tell(self, why: WhyRefused, key_id: str = "") -> None:
        """Take note of the request that is being answered.

        Args:
            key_id: of a token that there is, for the memory that this takes grows with their number; empty
                for a login code.
        """
        self._tried.setdefault(key_id, _Tried(why, current())).tries += 1

    def due(self) -> list[NoteRefusal]:
        """What is to be written down now."""
        now_us = self._now_us()
        ready = [k for k in self._tried if now_us - self._written_us.get(k, 0) >= REFUSED_EVERY_US]
        self._written_us |= dict.fromkeys(ready, now_us)
        found = [(k, self._tried.pop(k)) for k in ready]
        return [NoteRefusal(k, tried.why, tried.tries, origin=tried.origin) for k, tried in found]
