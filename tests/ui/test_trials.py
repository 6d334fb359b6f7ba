"""A trial's page and the study's pages about trials, over HTTP from a real server."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tunesmith_service.charts import inspected
from tunesmith_service.charts.failures import reason
from tunesmith_service.charts.peers import Curve, Peers
from tunesmith_service.cli.trials import parse
from tunesmith_service.event_log import Event
from tunesmith_service.ui import reproducing, sentences
from tunesmith_studies.pruners import MedianPruner, SuccessiveHalvingPruner
from ui.tried import FAILED, HOSTILE, PRUNED, TRUNK, WHOLE, Tried, documents


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    served = Tried(tmp_path_factory.mktemp("tried"))
    yield served
    served.process.kill()


@pytest.fixture(scope="module")
def reader(tried: Tried) -> Iterator[httpx.Client]:
    with tried.login() as client:
        yield client


def view(reader: httpx.Client, tried: Tried, number: int, name: str, **query: Any) -> dict[str, Any]:
    answer = reader.get(f"/ui/studies/{tried.study}/trials/{number}/views/{name}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_trials_losses_stand_beside_its_stages_median_and_what_the_pruner_asked(
    tried: Tried, reader: httpx.Client
) -> None:
    pruned = view(reader, tried, WHOLE, "losses")
    assert [line["name"] for line in pruned["lines"]] == ["val/loss", "train/loss"]
    assert pruned["end"] == {"at": 4, "word": "pruned"}
    (threshold,) = pruned["thresholds"]
    assert threshold["at"][0] == 2  # no trial is stopped before n_warmup_steps
    at = dict(zip(threshold["at"], threshold["value"], strict=True))
    mine = dict(zip(pruned["lines"][0]["at"], pruned["lines"][0]["value"], strict=True))
    assert mine[4] > at[4]
    whole = sorted(view(reader, tried, n, "losses")["lines"][0]["value"][3] for n in range(WHOLE))
    assert at[4] == pytest.approx((whole[5] + whole[6]) / 2, rel=1e-4)
    assert "median of 12 complete trials" in pruned["said"]


def test_before_the_pruner_begins_there_is_no_threshold_and_it_says_why() -> None:

    few = [Curve(n, True, {1: 1.0 + n, 2: 0.5 + n, 4: 0.1 * n}) for n in range(4)]
    lines, said = Peers(few, {}, MedianPruner(), True, True).thresholds()
    assert (lines, "begins after 5 complete trials, and there were 4" in said) == ([], True)
    halving = SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    (line,), _ = Peers(few, {}, halving, True, True).thresholds()
    assert (line["at"], line["value"]) == ([1, 2, 4], [2.0, 1.5, 0.1])
    (upside_down,), _ = Peers(few, {}, halving, False, True).thresholds()
    assert upside_down["value"] == [3.0, 2.5, 0.2]


def test_gap_schedule_and_machine_are_what_was_reported(tried: Tried, reader: httpx.Client) -> None:
    losses, gap = view(reader, tried, 0, "losses"), view(reader, tried, 0, "gap")
    val, train = (line["value"] for line in losses["lines"])
    assert gap["lines"][0]["value"] == pytest.approx(
        [v - t for v, t in zip(val, train, strict=True)], rel=1e-4, abs=1e-6
    )
    rate, decay = view(reader, tried, 0, "schedule")["lines"]
    assert (rate["name"], len(rate["at"]), decay["value"]) == ("learning rate", 10, [2e-4, 2e-4])
    assert [line["name"] for line in view(reader, tried, 0, "machine")["lines"]] == [
        "samples_per_second",
        "train_seconds",
    ]


def test_rest_gives_the_same_views_of_a_trial(tried: Tried, reader: httpx.Client) -> None:
    for name in ("losses", "gap", "lineage", "confusion", "mistakes"):
        asked = tried.api("GET", f"/studies/tried/trials/0/views/{name}").json()
        assert asked == view(reader, tried, 0, name)


def test_a_failed_trial_says_why_first_and_how_many_failed_alike(tried: Tried, reader: httpx.Client) -> None:
    html = reader.get(f"/ui/studies/{tried.study}/trials/{WHOLE + PRUNED}").text
    first = html.index("shapes cannot be multiplied")
    assert first < html.index("Last lines of its log") < html.index("Its last figures") < html.index("Curves")
    assert "1 other failed like this" in html
    assert "step 60: the head does not fit" in html[: html.index("Its last figures")]
    assert "step 30: fine" not in html[: html.index("Its last figures")]


def test_failures_are_grouped_by_class_and_message_whatever_numbers_stand_in_it(
    tried: Tried, reader: httpx.Client
) -> None:
    groups = tried.api("GET", "/studies/tried/views/failures").json()["groups"]
    assert [(g["kind"], g["title"], g["count"]) for g in groups] == [
        ("failed", "RuntimeError", 2),
        ("failed", "OutOfMemoryError", 1),
    ]
    assert groups[0]["trials"] == [WHOLE + PRUNED + 1, WHOLE + PRUNED]
    told = {p["name"]: p for p in groups[0]["parameters"]}
    assert told["optimizer"]["said"] == "momentum 2 of 3"
    assert told["weight_decay"]["said"].startswith("0.001; all trials 2e-4 to")
    assert sum(told["weight_decay"]["mine"]) == 2
    html = reader.get(f"/ui/studies/{tried.study}/failures").text
    assert "mat1 and mat2 shapes cannot be multiplied (#x# and #x#)" in html


def test_lost_and_diverged_trials_have_groups_of_their_own(dashboard, person: httpx.Client) -> None:
    groups = dashboard.api("GET", f"/studies/{dashboard.study}/views/failures").json()["groups"]
    assert [(g["kind"], g["count"]) for g in groups] == [("failed", 1), ("diverged", 6), ("lost", 1)]
    lr = next(p for p in groups[1]["parameters"] if p["name"] == "lr")
    assert lr["said"].startswith("0.5; all trials 0.001 to 0.5")
    assert groups[1]["parameters"][0]["name"] == "lr"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Tried to allocate 20.00 MiB (GPU 0)", "Tried to allocate # MiB (GPU #)"),
        ("shapes (64x512 and 256x10)", "shapes (#x# and #x#)"),
        ("conv2d got 0x7ffe12 at 1e-05", "conv2d got # at #"),
        ("first\nsecond 2", "first"),
    ],
)
def test_a_message_without_its_numbers_stands_for_all_that_are_alike(message: str, said: str) -> None:
    assert reason({"kind": "E", "message": message}) == ("E", said)


def test_a_branch_names_its_trunk_the_snapshot_and_what_it_changed(
    tried: Tried, reader: httpx.Client
) -> None:
    html = reader.get(f"/ui/studies/{tried.study}/trials/{TRUNK + 1}").text
    assert "at epoch 15 (<b>weight_decay 2e-4 → 2.1e-4</b>)" in html
    tree = tried.api("GET", "/studies/tried/views/lineage").json()
    assert (tree["number"][:2], tree["parent"][:2], tree["depth"][:2]) == (
        [TRUNK, TRUNK + 1],
        [-1, 0],
        [0, 1],
    )
    assert (tree["step"][1], tree["changed"][1]) == (15, "weight_decay 2e-4 → 2.1e-4")
    assert (tree["shown"], tree["total"]) == (13, 13)
    near = view(reader, tried, TRUNK + 3, "lineage")
    assert (near["here"], near["number"][0]) == (TRUNK + 3, TRUNK)


def test_the_weights_that_a_trial_left_come_as_a_file(tried: Tried, reader: httpx.Client) -> None:
    here = f"/ui/studies/{tried.study}/trials/{TRUNK}"
    assert f'href="{here}/snapshots/15" download>weights at epoch 15</a>' in reader.get(here).text
    got = reader.get(f"{here}/snapshots/15")
    assert (got.content, got.headers["content-type"]) == (b"weights", "application/octet-stream")
    name = f'attachment; filename="trial-{TRUNK}-step-15.safetensors"'
    assert got.headers["content-disposition"] == name
    assert reader.get(f"{here}/snapshots/14").status_code == 404
    assert "weights at" not in reader.get(f"/ui/studies/{tried.study}/trials/0").text


def test_the_pruning_view_counts_what_was_saved_and_judges_by_ranks(tried: Tried) -> None:
    seen = tried.api("GET", "/studies/tried/views/pruning").json()
    assert (seen["stage"], seen["pruner"], seen["pruned"], seen["complete"]) == ("search", "median", 4, 12)
    assert (seen["saved"], seen["planned"]) == (4 * 6, 16 * 10)
    assert seen["judged_at"] == 4
    assert seen["finding"]["level"] == "pass"
    assert "over 12 trials that ran through" in seen["finding"]["sentence"]


def test_early_ranks_are_judged_where_nothing_is_pruned_too(tried: Tried) -> None:
    """It tells whether a pruner would be safe there."""
    stages = tried.api("GET", "/studies/tried/views/pruning").json()["stages"]
    assert stages == ["search", "branches"]
    seen = tried.api("GET", "/studies/tried/views/pruning?stage=branches").json()
    assert (seen["stage"], seen["pruner"], seen["pruned"]) == ("branches", "", 0)
    assert seen["judged_at"] == seen["rank"]["at"][0]
    assert "trials that ran through" in seen["finding"]["sentence"]


def test_events_are_sentences_that_page_and_filter(tried: Tried, reader: httpx.Client) -> None:
    newest = reader.get(f"/ui/studies/{tried.study}/events").text
    assert "was taken by worker gpu-a as attempt 1, from 15 on" in newest
    assert "completed at the end of its budget with" in newest
    older = newest.rpartition("before=")[2].partition('"')[0]
    assert int(older) > 1
    page = reader.get(f"/ui/studies/{tried.study}/events?before=4").text
    assert "The study was created by" in page
    assert "before=" not in page
    stages = reader.get(f"/ui/studies/{tried.study}/events?kind=stage").text
    assert "Stage search is done" in stages
    assert "was taken by" not in stages


def test_a_lost_worker_is_said_so_and_not_as_a_failure() -> None:
    data = {"from": "running", "to": "waiting", "attempt": 1, "cause": "expired"}
    event = Event(5, "moved", 3, "grid", 0, "sweeper", "expired", data)
    said = sentences.said(event, {})
    assert said.sentence == "was lost: its worker stopped answering; it waits for another attempt"


def test_the_whole_log_comes_as_a_file_that_no_browser_runs(tried: Tried, reader: httpx.Client) -> None:
    answer = reader.get(f"/ui/studies/{tried.study}/trials/0/log")
    assert answer.text.splitlines()[0] == "epoch 1  lr 0.01"
    assert len(answer.text.splitlines()) == 100
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_command_gives_back_every_setting_through_a_shell() -> None:

    params = {"lr": 1e-05, "width": 64, "ratio": 2.0, "nesterov": True, "optimizer": "a b'c$(x)"}
    words = shlex.split(reproducing.command("it's", "grid", params, 5))
    assert words[:4] == ["tunesmith", "trial", "enqueue", "it's"]
    settings = [word for before, word in itertools.pairwise(words) if before == "-p"]
    found = parse(settings)
    assert found == params
    assert {n: type(v) for n, v in found.items()} == {n: type(v) for n, v in params.items()}


def test_a_matrix_may_be_taken_from_another_of_the_same_classes_alone(
    tried: Tried, reader: httpx.Client
) -> None:
    less = view(reader, tried, 1, "confusion", against=0)
    assert (less["against"], less["less"][0][0], less["counts"][0][0]) == (0, 32, 25)
    for number, against, told in (
        (2, 0, "other classes"),
        (1, 5, "left no confusion.json"),
        (1, 999, "no trial"),
    ):
        there = f"/studies/{tried.study}/trials/{number}/views/confusion?against={against}"
        refused = reader.get(f"/ui{there}")
        assert (refused.status_code, told in refused.json()["wrong"]) == (200, True)
        with pytest.raises(AssertionError, match=told):
            tried.api("GET", there)
    assert reader.get(f"/ui/studies/{tried.study}/trials/5/views/confusion").status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [[1, 2]]},
        {"counts": [["1", 2], [3, 4]], "classes": ["a", "b"]},
        {"counts": [[1, -2], [3, 4]], "classes": ["a", "b"]},
        {"classes": []},
        {"classes": ["x"] * 257},
    ],
)
def test_a_document_that_is_not_what_it_says_is_refused(change: dict[str, Any]) -> None:
    written = documents(2, 0.5)["confusion.json"]
    assert inspected.confusion(written)["counts"] == [[18, 18], [18, 18]]
    with pytest.raises(ValueError, match=r"count|classes"):
        inspected.confusion(written | change)


@pytest.mark.parametrize("picture", ["not base64!", "PHN2Zy8+", "A" * 100_000])
def test_a_picture_that_is_no_png_is_refused(picture: str) -> None:
    written = json.loads(json.dumps(documents(2, 0.5)["mistakes.json"]))
    written["samples"][0]["input"]["png"] = picture
    with pytest.raises(ValueError, match="picture"):
        inspected.samples(written)


def test_texts_of_a_document_are_cut_and_stay_text() -> None:
    written = documents(2, 0.5)["confusion.json"] | {"classes": [HOSTILE, "b" * 500]}
    assert inspected.confusion(written)["classes"] == [HOSTILE, "b" * 64]


def test_counts_of_failed_trials_are_those_of_the_seed(tried: Tried) -> None:
    listed = tried.api("GET", "/studies/tried/trials?state=failed").json()["items"]
    assert len(listed) == FAILED
