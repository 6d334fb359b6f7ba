"""Which signals hand trials back is a person's choice."""

from __future__ import annotations

import signal

import pytest
from tunesmith_workers import signals


def test_the_usual_ones_tell_a_shutdown_from_a_preemption():
    assert signals.named(signals.USUAL) == {
        signal.SIGTERM: "shutdown", signal.SIGINT: "shutdown", signal.SIGUSR1: "preempted",
    }  # fmt: skip


def test_names_may_leave_out_what_all_begin_with():
    assert signals.named("term, usr2") == {signal.SIGTERM: "shutdown", signal.SIGUSR2: "preempted"}


@pytest.mark.parametrize(
    ("text", "why"), [("SIGHAND", "is no signal"), ("", "is no signal"), ("KILL", "cannot hand a trial back")]
)
def test_what_cannot_be_answered_is_refused_with_an_example(text: str, why: str):
    with pytest.raises(ValueError, match=f"{why}.*such as SIGTERM,SIGINT,SIGUSR1"):
        signals.named(text)
