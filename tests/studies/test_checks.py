# ruff: noqa: E501 - a table of cases, one a line
"""Each check's judgement, with numbers on both sides of each threshold."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from tunesmith_studies import checks
from tunesmith_studies.checks import Known, judge, splits
from tunesmith_studies.findings import Finding

LOG10 = math.log(10)
DIGITS = {  # what a sound task of ten classes gives
    "check/labels/classes": 10.0, "check/labels/lowest": 0.0, "check/labels/highest": 9.0,
    "check/labels/outside": 0.0, "check/labels/present": 10.0, "check/labels/val_only": 0.0,
    "check/labels/width": 10.0, "check/balance/entropy": LOG10, "check/balance/largest": 0.1,
    "check/balance/smallest": 0.1, "check/loss/batch": 32.0, "check/loss/values": 32.0,
    "check/loss/alone": 2.3, "check/loss/together": 2.3, "check/loss/shifted": 0.0,
    "check/generalise/neighbours": 40.0,
}  # fmt: skip


def found(kind: str, known: Known, **measured: float) -> Finding:
    """What the check of that kind says of a sound task with these numbers of its own."""
    own = {f"check/{name.replace('__', '/')}": value for name, value in measured.items()}
    (finding,) = [f for f in judge(DIGITS | own, known) if f.kind == kind]
    return finding


FREE = Known()
OPEN_RATE = Known(rate_is_fixed=False)
CASES: list[tuple[str, str, str, dict[str, float]]] = [
    ("labels", "pass", "as 10 classes should", {}),
    ("labels", "fail", "count from 1", {"labels__lowest": 1, "labels__highest": 10, "labels__outside": 7}),
    ("labels", "fail", "3 labels outside 0 … 9", {"labels__highest": 12, "labels__outside": 3}),
    ("labels", "fail", "gives 9 outputs for 10 classes", {"labels__width": 9}),
    ("labels", "fail", "gives 11 outputs for 10 classes", {"labels__width": 11}),
    ("labels", "fail", "2 classes that training has no sample of", {"labels__val_only": 2, "labels__present": 8}),
    ("labels", "warn", "2 of 10 classes have no training sample", {"labels__present": 8}),
    ("balance", "pass", "H(p) = 2.303", {}),
    ("balance", "pass", "75 %", {"balance__largest": 0.75}),
    ("balance", "warn", "76 %", {"balance__largest": 0.76}),
    ("balance", "warn", "0.9 %", {"balance__smallest": 0.009}),
    ("order", "pass", "shuffles", {"order__shuffled": 1, "order__same": 0.12, "order__chance": 0.1}),
    ("order", "pass", "shuffles", {"order__shuffled": 1, "order__same": 0.36, "order__chance": 0.1}),
    ("order", "fail", "sorted by label", {"order__shuffled": 1, "order__same": 0.38, "order__chance": 0.1}),
    ("order", "warn", "same order every epoch", {"order__shuffled": 0, "order__same": 0.1, "order__chance": 0.1}),
    ("inputs", "pass", "finite", {"inputs__mean": 2.9, "inputs__deviation": 4.9}),
    ("inputs", "fail", "1 input number NaN", {"inputs__not_finite": 1}),
    ("inputs", "fail", "All input numbers are 3", {"inputs__mean": 3, "inputs__deviation": 0}),
    ("inputs", "warn", "not normalised", {"inputs__mean": 3.1, "inputs__deviation": 1}),
    ("inputs", "warn", "not normalised", {"inputs__mean": 0, "inputs__deviation": 5.1}),
    ("inputs", "warn", "not normalised", {"inputs__mean": 0, "inputs__deviation": 0.04}),
    ("inputs", "pass", "normalises its inputs", {"inputs__mean": 90, "inputs__deviation": 50, "inputs__normalised": 1}),
    ("inputs", "pass", "finite", {"inputs__mean": 0, "inputs__deviation": 1, "inputs__columns": 57, "inputs__uneven": 29}),
    ("inputs", "warn", "31 times", {"inputs__mean": 0, "inputs__deviation": 1, "inputs__columns": 57, "inputs__uneven": 31}),
    ("inputs", "pass", "finite", {"inputs__mean": 0, "inputs__deviation": 1, "inputs__columns": 7, "inputs__uneven": 31}),
    ("leak", "pass", "No row stands", {"leak__val_in_train": 0, "leak__train_rows": 1000, "leak__val_rows": 300}),
    ("leak", "pass", "1.3 %", {"leak__val_in_train": 0.013, "leak__train_rows": 1000, "leak__val_rows": 300}),
    ("leak", "fail", "stand in training", {"leak__val_in_train": 0.02, "leak__train_rows": 1000, "leak__val_rows": 300}),
    ("leak", "pass", "12 %", {"leak__val_in_train": 0.12, "leak__train_twins": 0.09, "leak__val_rows": 900}),
    ("leak", "fail", "20 %", {"leak__val_in_train": 0.2, "leak__train_twins": 0.09, "leak__val_rows": 900}),
    ("leak", "warn", "40 %", {"leak__val_in_train": 0.4, "leak__train_twins": 0.4, "leak__val_rows": 900}),
    ("leak", "fail", "test rows", {"leak__test_in_val": 0.1, "leak__train_rows": 1000, "leak__test_rows": 300}),
    ("leak", "pass", "No row", {"leak__val_in_train": 0, "leak__near": 0.16, "leak__near_twins": 0.15, "leak__val_rows": 900}),
    ("leak", "fail", "all but equal", {"leak__near": 0.1, "leak__near_twins": 0.0, "leak__train_rows": 900, "leak__val_rows": 900}),
    ("leak", "pass", "No row", {"leak__val_in_train": 0, "leak__column": 0.97}),
    ("leak", "warn", "98.5 %", {"leak__column": 0.985}),
    ("leak", "fail", "100.0 %", {"leak__column": 1.0}),
    ("loss", "pass", "mean loss", {"loss__together": 2.4}),
    ("loss", "fail", "summed, not averaged", {"loss__together": 2.3 * 32}),
    ("loss", "fail", "0.5 times", {"loss__together": 1.15}),
    ("loss", "fail", "1 number for 32 samples: it is summed", {"loss__values": 1}),
    ("loss", "fail", "1 number for 32 samples: it is averaged", {"loss__values": 1, "loss__together": 2.3 / 32}),
    ("loss", "fail", "below zero", {"loss__lowest": -0.01}),
    ("initial_loss", "pass", "log C = 2.303", {"initial__loss": 1.19 * LOG10}),
    ("initial_loss", "warn", "outputs are too large", {"initial__loss": 1.21 * LOG10, "initial__prior_loss": LOG10}),
    ("initial_loss", "warn", "prefers some classes", {"initial__loss": 2 * LOG10, "initial__prior_loss": 1.6 * LOG10}),
    ("initial_loss", "fail", "above a guess", {"initial__loss": 3.1 * LOG10}),
    ("initial_loss", "warn", "knows something already", {"initial__loss": 0.79 * LOG10}),
    ("initial_loss", "pass", "H(p) = 0.666", {"initial__loss": 0.6, "balance__entropy": 0.666}),
    ("initial_loss", "fail", "summed", {"initial__loss": 32 * LOG10}),
    ("initial_loss", "fail", "divided twice", {"initial__loss": LOG10 / 32}),
    ("initial_loss", "fail", "nan", {"initial__loss": math.nan}),
    ("initial_loss", "pass", "which costs 0.09", {"initial__loss": 0.17, "initial__guess": 0.09}),
    ("initial_loss", "warn", "above a guess", {"initial__loss": 0.19, "initial__guess": 0.09}),
    ("outputs", "pass", "free", {"outputs__sum_error": 3, "outputs__lowest": -5, "outputs__highest": 8}),
    ("outputs", "fail", "probabilities already", {"outputs__sum_error": 1e-6, "outputs__lowest": 0, "outputs__highest": 1}),
    ("outputs", "pass", "as they are", {"loss__shifted": 1, "outputs__sum_error": 1e-6, "outputs__lowest": 0, "outputs__highest": 1}),
    ("outputs", "pass", "log-probabilities", {"outputs__sum_error": 9, "outputs__log_sum": 1e-6, "outputs__lowest": -9, "outputs__highest": 0}),
    ("outputs", "fail", "[0, 1]", {"outputs__sum_error": 3, "outputs__lowest": 0.01, "outputs__highest": 0.99}),
    ("outputs", "warn", "one sign", {"outputs__sum_error": 3, "outputs__lowest": 0.3, "outputs__highest": 0.45}),
    ("outputs", "fail", "within ±1", {"outputs__sum_error": 3, "outputs__lowest": -0.99, "outputs__highest": 0.98}),
    ("outputs", "pass", "free", {"outputs__sum_error": 3, "outputs__lowest": -0.1, "outputs__highest": 0.2}),
    ("outputs", "warn", "one sign", {"outputs__sum_error": 3, "outputs__lowest": 0, "outputs__highest": 12}),
    ("gradients", "pass", "All 6", {"gradients__parameters": 6}),
    ("gradients", "fail", "No gradient reaches 1 of 6", {"gradients__parameters": 6, "gradients__missing__a.weight": 1}),
    ("gradients", "fail", "zero throughout: a.weight", {"gradients__parameters": 6, "gradients__zero__a.weight": 1}),
    ("gradients", "fail", "infinite gradients: a", {"gradients__parameters": 6, "gradients__not_finite__a": 1}),
    ("gradients", "warn", "1 of 6 parameters are frozen (64 numbers)", {"gradients__parameters": 5, "gradients__frozen__a": 64}),
    ("gradients", "fail", "frozen", {"gradients__parameters": 0, "gradients__frozen__a": 64}),
    ("gradients", "fail", "no parameters of the model", {"gradients__parameters": 6, "gradients__unregistered": 9}),
    ("gradients", "pass", "All 6", {"gradients__parameters": 6, "gradients__weakest": 1e-6}),
    ("gradients", "warn", "fade", {"gradients__parameters": 6, "gradients__weakest": 1e-8}),
    ("units", "pass", "75 %", {"units__constant__relu after 1": 0.75}),
    ("units", "warn", "80 %", {"units__constant__relu after 1": 0.8}),
    ("units", "fail", "95 %", {"units__constant__relu after 1": 0.95}),
    ("units", "pass", "react", {"units__twins__1": 0.5}),
    ("units", "fail", "same weights", {"units__twins__1": 0.51}),
    ("modes", "pass", "Evaluation repeats", {"modes__repeat": 9e-4, "modes__batch": 9e-4}),
    ("modes", "fail", "Two evaluations", {"modes__repeat": 2e-3}),
    ("modes", "fail", "neighbours in the batch", {"modes__batch": 2e-3}),
    ("modes", "fail", "changes 3 buffers", {"modes__buffers": 3}),
    ("modes", "fail", "2 modules in training mode after model.eval()", {"modes__stuck": 2}),
    ("modes", "warn", "1 dropout or normalisation layer", {"modes__asleep": 1}),
    ("modes", "fail", "50 % of the evaluations ran in training mode", {"modes__evaluating_in_training": 0.5}),
    ("zero_grad", "pass", "zero", {"zero_grad__kept": 0}),
    ("zero_grad", "fail", "90 %", {"zero_grad__kept": 0.9}),
    ("determinism", "pass", "Two runs", {"determinism__difference": 1e-6}),
    ("determinism", "warn", "not repeatable", {"determinism__difference": 2e-6}),
    ("determinism", "warn", "not repeatable", {"determinism__difference": math.nan}),
    ("overfit", "pass", "4 in 20 steps", {"overfit__4__loss": 0.049, "overfit__4__accuracy": 1, "overfit__4__steps": 20}),
    ("overfit", "fail", "cannot learn 4 samples", {"overfit__4__loss": 0.051, "overfit__4__accuracy": 1, "overfit__4__steps": 20}),
    ("overfit", "fail", "accuracy 75 %", {"overfit__4__loss": 0.01, "overfit__4__accuracy": 0.75, "overfit__4__steps": 20}),
    ("overfit", "fail", "1 sample", {"overfit__1__loss": math.nan, "overfit__1__steps": 3}),
    ("zeroed", "pass", "matter", {"zeroed__real_loss": 0.04, "zeroed__loss": 2.3, "zeroed__change": 0.5}),
    ("zeroed", "fail", "do not depend", {"zeroed__real_loss": 2.3, "zeroed__loss": 2.3, "zeroed__change": 0}),
    ("zeroed", "fail", "as well as real", {"zeroed__real_loss": 0.04, "zeroed__loss": 0.03, "zeroed__change": 0.1}),
    ("generalise", "pass", "10 training samples", {"generalise__10__loss": 9, "generalise__10__z": 5.1}),
    ("generalise", "warn", "nearest neighbours", {"generalise__10__loss": 9, "generalise__10__z": 4.9}),
    ("generalise", "pass", "1000 training samples", {"generalise__1000__loss": LOG10 - 0.06, "generalise__1000__z": 0}),
    ("generalise", "fail", "says nothing", {"generalise__1000__loss": LOG10 - 0.04, "generalise__1000__z": 0, "generalise__neighbours": 1}),
    ("generalise", "fail", "contradict", {"generalise__1000__loss": 9, "generalise__1000__z": -5.1}),
    ("generalise", "fail", "training's minus 1", {"generalise__1000__loss": 4.5, "generalise__1000__z": -1.6, "generalise__1000__accuracy": 0.03, "generalise__relabelled": 0.8, "generalise__offset": 9}),
    ("depth", "pass", "3 layers", {"depth__layers": 3}),
    ("depth", "pass", "pays", {"depth__layers": 9, "depth__accuracy": 0.9, "depth__linear": 0.8, "depth__rows": 400}),
    ("depth", "warn", "Deeper", {"depth__layers": 20, "depth__accuracy": 0.8, "depth__linear": 0.8, "depth__rows": 400}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "level", "says", "measured"), CASES)
def test_a_check_judges_by_its_numbers_alone(
    kind: str, level: str, says: str, measured: dict[str, float]
) -> None:
    finding = found(kind, FREE, **measured)
    said = f"{finding.sentence} {finding.next_step}".lower()
    assert (finding.level, says.lower() in said) == (level, True), finding.sentence
    assert finding.rule
    assert bool(finding.next_step) == (level in ("warn", "fail"))
    assert finding.sentence[0].isupper() or finding.sentence[0].isdigit()
    assert finding.sentence.endswith(".")
    json.dumps(finding.to_json(), allow_nan=False)


def rates(first: float, last: float, **more: float) -> dict[str, float]:
    return {"rate__lr": 0.1, "rate__steps": 100, "rate__first": first, "rate__last": last} | {
        f"rate__{name}": value for name, value in more.items()
    }


LOW = {"low_lr": 0.003, "low_first": 2.3}


@pytest.mark.parametrize(
    ("known", "level", "says", "measured"),
    [
        (FREE, "pass", "from 2.300 to 2.060", rates(2.3, 2.06)),
        (FREE, "pass", "from 2.300 to 2.200", rates(2.3, 2.2, begin=2.29, noise=0.02)),
        (FREE, "warn", "does not fall", rates(2.3, 2.22, begin=2.29, noise=0.02)),
        (FREE, "warn", "weights hardly move", rates(2.3, 2.3, update=1e-7)),
        (FREE, "warn", "at lr 3 it goes", rates(2.3, 2.3, high_lr=3, high_first=2.3, high_last=1)),
        (FREE, "pass", "too short to tell", rates(2.3, 2.3) | {"rate__steps": 49}),
        (FREE, "fail", "too high", rates(2.3, 3.5) | {"rate__steps": 49}),
        (FREE, "fail", "too high", rates(2.3, 3.5)),
        (FREE, "fail", "too high", rates(2.3, math.nan)),
        (FREE, "fail", "at lr 0.003 it goes", rates(2.3, 2.4, low_last=1.0, **LOW)),
        (FREE, "warn", "does not fall", rates(2.3, 2.4, low_last=2.3, **LOW)),
        (OPEN_RATE, "pass", "from 2.300 to 2.300", rates(2.3, 2.3)),
        (OPEN_RATE, "pass", "middle of the rates", rates(2.3, 9.0, low_last=2.0, **LOW)),
        (OPEN_RATE, "fail", "lowest rate of the space too", rates(2.3, 9.0, low_last=4.0, **LOW)),
    ],
)
def test_a_rate_is_judged_by_where_the_loss_goes(
    known: Known, level: str, says: str, measured: dict[str, float]
) -> None:
    finding = found("rate", known, **measured)
    assert (finding.level, says in finding.sentence) == (level, True), finding.sentence


def drift(distance: float, rows: float, own: float = 0.5, chi2: float = 0.0) -> Any:
    return found(
        "shift", FREE, shift__distance=distance, shift__columns=60, shift__rows_train=rows,
        shift__rows_val=rows, shift__neighbours=own, shift__pooled=1000, shift__chi2=chi2, shift__classes=10,
    )  # fmt: skip


def test_drift_needs_both_size_and_significance() -> None:
    assert drift(0.09, 1e6).level == "pass"  # significant, and too small to matter
    assert drift(0.30, 50).level == "pass"  # large, and by chance
    assert drift(0.11, 5000).level == "fail"


def test_drift_shows_in_neighbours_and_in_class_shares() -> None:
    assert drift(0, 2000, own=0.60).level == "pass"
    assert "nearest rows" in drift(0, 2000, own=0.62).sentence
    assert drift(0, 2000, chi2=30).level == "pass"
    assert "class shares differ" in drift(0, 2000, chi2=70).sentence


def test_tails_agree_with_tables() -> None:
    assert splits.normal_errors(1e-6) == pytest.approx(4.7534, abs=0.003)
    assert splits.normal_errors(0.025) == pytest.approx(1.96, abs=0.003)
    assert splits.chi_errors(16.919, 9) == pytest.approx(1.645, abs=0.01)  # the 95th percentile


def test_time_names_the_bottleneck_and_warns_of_slow_steps() -> None:
    parts = {"time/loading": 0.4, "time/forward": 0.05, "time/backward": 0.05, "time/step": 0.01}
    (slow,) = judge(parts | {"time/median": 0.51, "time/batch": 32}, FREE)
    assert (slow.kind, slow.level) == ("time", "warn")
    assert "A step of 32 samples takes 510 ms" in slow.sentence
    assert "78 % of it loading and augmenting samples" in slow.sentence
    (quick,) = judge(parts | {"time/median": 0.49}, FREE)
    assert quick.level == "pass"


def test_memory_warns_of_a_batch_that_does_not_fit() -> None:
    measured = {"memory/largest": 512.0, "memory/tried": 1.0}
    assert [f.level for f in judge(measured, Known(largest_batch=512))] == ["pass"]
    (finding,) = judge(measured, Known(largest_batch=513))
    assert (finding.level, finding.sentence) == ("warn", "Batches of 513 do not fit: 512 samples do (tried).")
    (roomy,) = judge(measured | {"time/train_samples": 100.0}, Known())
    assert roomy.sentence == "All 100 training samples would fit into one batch (tried)."


def test_what_is_frozen_on_purpose_is_no_fault() -> None:
    measured = {"gradients__parameters": 5.0, "gradients__frozen__a": 64.0, "modes__asleep": 2.0}
    assert {found(k, Known(freezes=True), **measured).level for k in ("gradients", "modes")} == {"pass"}


def test_what_was_not_measured_is_not_judged() -> None:
    assert judge({}, FREE) == ()
    assert [f.kind for f in judge({"check/zero_grad/kept": 0.0}, FREE)] == ["zero_grad"]


def test_what_to_do_is_a_sentence() -> None:
    steps = [f.next_step for f in judge(DIGITS | {"check/labels/width": 9.0}, FREE) if f.next_step]
    assert steps
    assert all(step[0].isupper() and step.endswith(".") for step in steps)


def test_the_gravest_comes_first() -> None:
    levels = [
        f.level
        for f in judge(DIGITS | {"check/labels/width": 9.0, "check/determinism/difference": 1.0}, FREE)
    ]
    assert levels == sorted(levels, key=["fail", "warn", "pass"].index)
    assert levels[:2] == ["fail", "warn"]


def test_the_table_of_names_has_every_number_that_a_check_reads() -> None:
    table = checks.__doc__ or ""
    home = Path(checks.__file__).parent
    for file in ("data", "splits", "model", "losses", "learning", "own_rate"):
        text = (home / f"{file}.py").read_text()
        for name in set(re.findall(r'found(?:\.get\(|\[)"([a-z_0-9]+)"', text)):
            plain = re.sub(r"^(low|high)_(?!est)(lr|first|last)$", r"\1_", name)
            assert f"{plain}" in table, f"{name}, which {file}.py reads, stands nowhere in the table"
