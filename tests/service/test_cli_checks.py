"""Checks on the command line: what they found, a study that one blocks, and what a second look costs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from tunesmith_service.__main__ import main
from tunesmith_service.cli import views
from tunesmith_service.cli.base import ExitCode
from ui.test_checks import Checked

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def tunesmith(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    served = Checked(tmp_path_factory.mktemp("checked"))
    environ = {"TUNESMITH_URL": served.url, "TUNESMITH_TOKEN": served.operator}
    yield lambda *words: CliRunner().invoke(main, [str(w) for w in words], env=environ)
    served.process.kill()


def test_findings_are_told_the_gravest_first_with_what_to_do(tunesmith: Command):
    lines = tunesmith("findings", "checked").output.splitlines()
    assert lines[0] == "fail  range: The loss is <b>32 times</b> log(10): a sum."
    assert lines[1] == "      → Average it over the batch."
    assert lines[2:] == ["1 check passed; --level pass shows it."]
    passed = tunesmith("findings", "checked", "--level", "pass").output
    assert passed == "pass  range: Two seeds suggest the same rate. #0\n"
    shown = tunesmith("findings", "checked", "--level", "fail", "--numbers").output
    assert "rule: within 20 % of log C" in shown
    assert "loss: 73.7" in shown
    assert "Two seeds" not in shown


def test_a_blocked_study_shows_what_failed_and_how_to_go_on(tunesmith: Command):
    shown = tunesmith("study", "show", "checked").output
    assert "range: The first loss is 32 times log(10)." in shown
    assert "tunesmith findings checked --stage range" in shown
    assert "tunesmith stage override checked range --reason" in shown
    assert "takes about" in shown
    assert "2 h 00 min" in shown


def test_waiting_for_a_blocked_study_ends_badly_and_at_once(tunesmith: Command):
    done = tunesmith("study", "wait", "checked", "--timeout", "60")
    assert done.exit_code == ExitCode.ENDED_BADLY
    assert "study checked is paused: Stage range failed: The first loss is 32 times log(10)." in done.output


def test_doctor_says_which_study_is_blocked_and_how_to_go_on(tunesmith: Command):
    shown = tunesmith("doctor").output
    assert "Stage range failed: The first loss is 32 times log(10)." in shown
    assert "tunesmith stage override checked range --reason" in " ".join(shown.split())


def test_a_blocked_study_is_not_resumed(tunesmith: Command):
    done = tunesmith("study", "resume", "checked")
    assert done.exit_code == ExitCode.CONFLICT
    assert "tunesmith stage override checked range --reason" in done.output


def test_a_second_read_of_the_test_set_is_warned_of(tunesmith: Command):
    shown = tunesmith("study", "show", "checked").output
    assert "test set read" in shown
    assert "Warning: Trial #3 (range) was the 2nd of this project to read the test split" in shown
    trial = tunesmith("trial", "show", "checked", 3).output
    assert "read; no. 2 of its project" in trial
    assert re.search(r"^test/accuracy +0\.9$", trial, re.MULTILINE)


def test_the_best_trials_come_with_what_to_know_of_the_test_figures():
    trial = {"number": 4, "stage": "coarse", "value": 0.353, "params": {"lr": 0.02, "batch_size": 64}}
    study = {
        "spec": {"fixed": {"batch_size": 64}}, "stages": [], "warnings": ["Trial #3 was the 2nd to look."],
    }  # fmt: skip
    lines = views.best([trial], study).splitlines()
    assert lines[1:] == ["#4     coarse  0.353  lr=0.02", "Warning: Trial #3 was the 2nd to look."]


def test_beside_the_luckiest_trial_stands_what_the_final_stage_chose(tunesmith: Command):
    chosen = "Chosen by final: lr=0.05, with val/loss 0.215 by the mean of 5 fresh seeds."
    best = tunesmith("best", "concluded").output.splitlines()
    assert best[1:] == ["#0     final  0.1238  lr=0.01 weight_decay=1e-4 optimizer=adam", chosen]
    assert tunesmith("study", "show", "concluded").output.splitlines()[-1] == chosen


def test_without_a_value_a_study_says_so_and_a_check_where_its_findings_are(tunesmith: Command):
    assert "No trial has a value yet." in tunesmith("study", "show", "checked").output
    assert (
        "`tunesmith findings` says what its stage made of it"
        in tunesmith("trial", "show", "checked", 0).output
    )


def test_a_trial_that_measures_counts_steps_and_has_no_value(tunesmith: Command):
    assert "90 steps" in tunesmith("trial", "list", "checked").output
    shown = tunesmith("trial", "show", "checked", 0).output
    assert "none: it measures" in shown
    assert "epochs" not in shown
    assert "step " in shown


def test_an_override_needs_a_reason_and_keeps_it(tunesmith: Command):
    refused = tunesmith("stage", "override", "checked", "range")
    assert refused.exit_code == ExitCode.USAGE
    assert "--reason" in refused.output
    assert tunesmith("stage", "override", "checked", "range", "--reason", "").exit_code == ExitCode.USAGE
    done = tunesmith("stage", "override", "checked", "range", "--reason", "summed on purpose", "--json")
    stages = json.loads(done.stdout)["stages"]
    assert [s["state"] for s in stages] == ["failed", "active"]
    shown = tunesmith("study", "show", "checked").output
    assert "summed on purpose" in shown
    assert "keeps the study from going on" not in shown


def test_a_forecast_says_which_stages_count_steps_and_not_epochs():
    ranged = {"trials": 1, "epochs": 1, "snapshots": 0, "likely_epochs": None, "least_steps": 300}
    plan = {
        "name": "s", "trials": 2, "epochs": 2, "likely_epochs": 2, "snapshots": 0, "snapshot_bytes": None,
        "stages": {"lr_range_test": ranged, "coarse": ranged | {"least_steps": 0}},
        "recipe": None, "notes": [], "warnings": [],
    }  # fmt: skip
    said = views.forecast(plan)
    assert "lr_range_test takes 300 optimizer steps or more" in said
    assert "coarse takes" not in said
