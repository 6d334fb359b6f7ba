"""What strangers write is shown on terminals and in names, not obeyed."""

from __future__ import annotations

import errno
import io
import logging

import pytest
import structlog
from pydantic import TypeAdapter, ValidationError
from tunesmith_service import logs, wire
from tunesmith_service.api import models
from tunesmith_service.cli.base import as_shown
from tunesmith_service.printable import printable
from tunesmith_studies import space
from tunesmith_studies.study import StudySpec

OBEYED = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]52;c;b3du\x07",
    "\x9b31m",
    "\x08\x08",
    "\x7f",
    "\u202egnp",
    "\u2066x",
    "\u2028",
)


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_would_obey_is_written_out(text: str):
    shown = printable(f"a{text}b\n\tc")
    assert shown.startswith("a\\")
    assert shown.endswith("b\n\tc")
    assert not any(c in shown for c in "\x1b\x07\x08\x7f\x9b\u202e\u2066\u2028")


def test_colours_and_progress_bars_of_a_training_stay_on_a_terminal_and_a_file_gets_all():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    log = "\x1b[1;32mepoch 3\x1b[0m 40 %\r50 %\n\x1b]0;owned\x07"
    assert as_shown(log, Terminal()) == "\x1b[1;32mepoch 3\x1b[0m 40 %\r50 %\n\\x1b]0;owned\\x07"
    assert as_shown(log, io.StringIO()) == log


def test_a_path_in_the_service_s_log_moves_no_cursor(capsys: pytest.CaptureFixture[str]):
    before = structlog.get_config()
    try:
        logs.configure("text")
        structlog.get_logger("stranger").warning("request", path="/\x1b[2J\x1b]0;owned\x07\u202egnp")
        written = capsys.readouterr().err
    finally:
        structlog.configure(**before)
    assert "/\\x1b[2J\\x1b]0;owned\\x07\\u202egnp" in written.replace("\\\\", "\\")
    assert "\x1b" not in written


def test_a_line_that_cannot_be_written_is_lost_and_harms_nobody(monkeypatch: pytest.MonkeyPatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    before = structlog.get_config()
    try:
        monkeypatch.setattr("sys.stderr", Full())
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        logs.configure("text")
        structlog.get_logger("full").warning("nobody reads this")
    finally:
        structlog.configure(**before)


@pytest.mark.parametrize("text", OBEYED)
def test_names_hold_none_of_it(text: str):
    assert wire.PRINTED == space.PRINTED
    good = {
        "name": "n", "task": "t", "space": {"lr": [0.1, 0.2]}, "fixed": {"depth": 2},
        "objective": {"metric": "val/loss", "direction": "minimize"},
        "stages": [{"kind": "random", "name": "s", "epochs": 1, "trials": 2}],
    }  # fmt: skip
    assert StudySpec.from_json(good).name == "n"
    stage = {"kind": "random", "name": f"s{text}", "epochs": 1, "trials": 2}
    for wrong in (
        {"name": f"n{text}"}, {"task": f"t{text}"}, {"space": {f"lr{text}": [0.1, 0.2]}},
        {"fixed": {f"d{text}": 2}},
        {"objective": {"metric": f"val/{text}", "direction": "minimize"}},
        {"stages": [stage]},
    ):  # fmt: skip
        with pytest.raises((ValidationError, ValueError)):
            StudySpec.from_json(good | wrong)
    for kind in (wire.Name, models.Tag):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(f"w{text}d")


def test_names_of_all_languages_are_names():
    for name in ("größe", "学習率", "שיעור", "معدل", "val/loss 🙂", "<img src=x onerror=alert(1)>", "x"):
        for kind in (wire.Name, models.Tag):
            assert TypeAdapter(kind).validate_python(name) == name


def test_a_tag_has_no_blanks_at_its_ends():
    for tag in (" x", "x ", " ", ""):
        with pytest.raises(ValidationError):
            TypeAdapter(models.Tag).validate_python(tag)
