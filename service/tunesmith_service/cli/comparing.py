"""`tunesmith compare …`"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from tunesmith_service.cli import text
from tunesmith_service.cli.base import PeopleCommand, Session
from tunesmith_service.sheets import write_names

Answer = dict[str, Any]


@click.command(cls=PeopleCommand)
@click.argument("names", nargs=-1, required=True)
@click.option("--all", "every", is_flag=True, help="Settings that are alike, too.")
def compare(session: Session, names: tuple[str, ...], every: bool) -> None:
    """Compare trials by study id and number (`tunesmith compare 1:55 1:48`), stages (`1:coarse 1:refine`), or
    studies by name or id (`digits spam`).
    """
    kind = kind_of(names)
    if kind == "studies":
        names = tuple(n if n.isdecimal() else str(session.client.get("studies", n)["id"]) for n in names)
    answer = session.client.get("compare", **{kind: write_names(names)})
    session.show(answer, lambda a: side_by_side(a, every=every) if kind == "trials" else groups(a, kind))


def kind_of(names: Sequence[str]) -> str:
    """
    >>> kind_of(["1:55", "2:12"]), kind_of(["1:coarse", "1:refine"]), kind_of(["digits", "2"])
    ('trials', 'stages', 'studies')
    """
    if all(re.fullmatch(r"\d+:\d+", name) for name in names):
        return "trials"
    return "stages" if all(":" in name for name in names) else "studies"


def side_by_side(answer: Answer, *, every: bool) -> str:
    """A column a trial; what differs from the first stands behind each figure."""
    names = [t["name"] for t in answer["trials"]]
    head = ("", *names)
    given = [(s["name"], *s["values"]) for s in answer["settings"] if every or s["differs"]]
    states = ("state", *(t["state"] for t in answer["trials"]))
    parts = [text.table(head, [states, *given, *_results(answer)], right=names)]
    if answer["repeats"]:
        parts.append("Over seeds:\n" + "\n".join(map(_repeat, answer["repeats"])))
    return "\n\n".join([*parts, *_panels(answer, "trials")])


def groups(answer: Answer, kind: str) -> str:
    """A column a study or stage: what came of it, then where it looked, against the first."""
    found = answer[kind]
    labels = [g["study"] if g["stage"] is None else f"{g['study']} {g['stage']}" for g in found]
    bests = ("best trial", *(None if g["best"] is None else f"#{g['best']}" for g in found))
    parts = [text.table(("", *labels), [bests, *_results(answer)], right=labels)]
    if answer["space"]:
        looked = [(row["name"], *map(_tried, row["tried"])) for row in answer["space"]]
        parts.append(text.table(("looked at", *labels), looked, right=labels))
    return "\n\n".join([*parts, *_panels(answer, kind)])


def _results(answer: Answer) -> list[tuple[str, ...]]:
    return [
        (r["name"], *(_with_delta(v, d) for v, d in zip(r["values"], r["deltas"], strict=True)))
        for r in answer["results"]
    ]


def _with_delta(value: Any, delta: Any) -> str:
    """
    >>> _with_delta(0.401, 0.048), _with_delta(0.353, None)
    ('0.401 (+0.048)', '0.353')
    """
    return f"{text.value(value)} ({_signed(delta)})" if isinstance(delta, int | float) else text.value(value)


def _signed(delta: float) -> str:
    return f"{'+' if delta > 0 else ''}{text.value(delta)}"


def _tried(cell: Answer | None) -> str | None:
    if cell is None:
        return None
    return cell["text"] if cell["share"] is None else f"{cell['text']} ({text.value(cell['share'])} %)"


def _repeat(each: Answer) -> str:
    low, high = each["interval"]
    mean = f"{each['metric']} {text.value(each['mean'])} ± {text.value(each['sd'])} ({each['n']} seeds)"
    within = f"its mean within {text.value(low)} to {text.value(high)} with 95 %"
    told = f"  {', '.join(each['trials'])}: {mean}, {within}"
    if paired := each["to_first"]:
        word = "within their noise" if paired["tie"] else "told apart"
        told += f"; {_signed(paired['difference'])} to the first over {paired['n']} seeds of both: {word}"
    return told


def _panels(answer: Answer, kind: str) -> list[str]:
    if len(answer["panels"]) < 2:
        return []
    told = "; ".join(f"{p['metric']} of {', '.join(p[kind])}" for p in answer["panels"])
    return [f"Their objectives have no scale in common: {told}."]
