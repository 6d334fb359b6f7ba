import re
import sys

import pytest
from tunesmith_workers.chatter import Chatter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_printed_is_sent_and_both_streams_come_back_after():
    sent, before = [], (sys.stdout, sys.stderr)
    with Chatter(sent.append, Clock()):
        print("to out")
        print("to err", file=sys.stderr)
    assert "".join(sent) == "to out\nto err\n"
    assert (sys.stdout, sys.stderr) == before


def test_lines_that_follow_quickly_travel_together():
    sent, clock = [], Clock()
    with Chatter(sent.append, clock):
        for line in range(5):
            print(line)
        clock.now = 2.0
        print("late")
    assert sent == ["0\n", "1\n2\n3\n4\nlate\n"]


def test_a_flood_is_cut_and_counted():
    sent, clock = [], Clock()
    chatter = Chatter(sent.append, clock)
    with chatter:
        for _ in range(1000):
            print("x" * 999)
        flooded = sum(map(len, sent))
        clock.now = 10.0
        print("still here")
    assert flooded <= 262_144
    text = "".join(sent)
    assert "characters dropped: a trial may print 16,384 a second" in text
    assert text.endswith("still here\n")
    counts = re.findall(r"\[([\d,]+) characters dropped", text)
    dropped = sum(int(count.replace(",", "")) for count in counts)
    assert text.count("x" * 999) * 999 + dropped == pytest.approx(1_000_000, abs=1000)


def test_no_message_is_longer_than_a_log_line_may_be():
    sent = []
    with Chatter(sent.append, Clock()):
        print("y" * 200_000, end="")
    assert max(map(len, sent)) <= 16_384
    assert "".join(sent) == "y" * 200_000


def test_text_that_has_no_utf8_is_escaped():
    sent = []
    with Chatter(sent.append, Clock()):
        print("\udcff")
    assert "".join(sent) == "\\udcff\n"
