"""What a finish brings along: the last report, which it follows, and the slot's next claim, which follows it.

In a batch each is a command like any other, so one transaction has all three of a trial's end, and what
many workers bring costs the statements of one. A report that is refused takes its finish with it, unless the
lease is over: then the finish may be a repeated one, which its own handler knows. The claim of a refused
finish is not looked at, and a claim's own refusal is told to whoever sends it by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunesmith_service.commands import Claim, Command, Ended, Finish, Granted, Nothing, Report
from tunesmith_service.errors import AlreadyFinal, LeaseLost, Refused


class Brought:
    """A batch's commands with what they bring.

    Attributes:
        commands: those of the batch, then what they brought.
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands: list[Command] = list(commands)
        self._count = len(commands)
        self._finish_of: dict[int, int] = {}  # place of what was brought → place of its finish
        for place, command in enumerate(commands):
            if isinstance(command, Finish):
                for part in (command.report, command.claim):
                    if part is not None:
                        self._finish_of[len(self.commands)] = place
                        self.commands.append(part)

    def settle(self, kind: type[Any], outcomes: list[Any]) -> None:
        """After the handler of a kind: give outcomes to those whose turn must not come any more."""
        if kind is Report:
            for place, finish in self._of(Report):
                if isinstance(outcomes[place], Refused) and not _is_over(outcomes[place]):
                    outcomes[finish] = outcomes[place]
        elif kind is Finish:
            for place, finish in self._of(Claim):
                if not isinstance(outcomes[finish], Ended):
                    outcomes[place] = Nothing()

    def answers(self, outcomes: Sequence[Any]) -> list[Any]:
        """Outcomes of the batch's own commands, each with what became of its claim."""
        own = list(outcomes[: self._count])
        for place, finish in self._of(Claim):
            if isinstance(own[finish], Ended) and isinstance(outcomes[place], Granted | Nothing):
                own[finish] = replace(own[finish], claim=outcomes[place])
        return own

    def _of(self, kind: type[Any]) -> list[tuple[int, int]]:
        return [(p, finish) for p, finish in self._finish_of.items() if type(self.commands[p]) is kind]


def _is_over(refused: Refused) -> bool:
    return isinstance(refused, LeaseLost | AlreadyFinal)
