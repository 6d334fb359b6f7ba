"""Trials side by side: what differs, against the first, in panels that have an axis in common."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
import pytest
from tunesmith_service.cli import comparing, text
from tunesmith_service.comparison import lines, named
from tunesmith_service.errors import Unprocessable
from ui.conftest import Dashboard


def test_differences_are_to_the_first_that_has_a_value_and_know_which_way_is_better() -> None:
    line = lines.against_first("val/loss", [None, 0.5, 0.4, 0.5, None], "minimize")
    assert [(c.value, c.delta, c.better) for c in line.cells] == [
        (None, None, None),
        (0.5, None, None),
        (0.4, pytest.approx(-0.1), True),
        (0.5, 0.0, None),
        (None, None, None),
    ]
    up = lines.against_first("val/accuracy", [0.5, 0.4], "maximize")
    assert up.cells[1].better is False


@pytest.mark.parametrize(
    ("text", "said"),
    [("55", "'55' names no trial; write study and number"), ("1:x", "'1:x' names no trial"),
     (",".join(f"1:{n}" for n in range(21)), "at most 20 trials are compared at once, got 21")],
)  # fmt: skip
def test_what_names_no_trials_is_told(text: str, said: str) -> None:
    with pytest.raises(Unprocessable, match=re.escape(said)):
        named.trials(cast(Any, None), None, text)


def test_only_what_differs_is_shown_unless_everything_is_asked_for(
    dashboard: Dashboard, person: httpx.Client
) -> None:
    named = f"{dashboard.study}:24,{dashboard.study}:29"
    differ = person.get(f"/ui/compare?trials={named}").text
    assert re.findall(r'<th scope="row">(\w+)</th>', differ)[:2] == ["lr", "weight_decay"]
    every = person.get(f"/ui/compare?trials={named}&every=1").text
    assert {"optimizer", "batch_size", "seed"} <= set(re.findall(r'<th scope="row">(\w+)</th>', every))


def test_a_trial_that_there_is_not_is_told_beside_the_form_and_what_was_typed_stays(
    dashboard: Dashboard, person: httpx.Client
) -> None:
    answer = person.get(f"/ui/compare?trials={dashboard.study}:24,{dashboard.study}:9999")
    assert answer.status_code == 200
    assert "study cifar-mini-resnet has no trial #9999" in answer.text
    assert f'value="{dashboard.study}:24,{dashboard.study}:9999"' in answer.text
    assert "there is no study 4242" in person.get("/ui/compare?trials=4242:1").text


def test_the_api_and_the_command_line_say_what_the_page_says(dashboard: Dashboard) -> None:
    named = f"{dashboard.study}:24,{dashboard.study}:29"
    answer = dashboard.api("GET", f"/compare?trials={named}").json()
    assert [t["name"] for t in answer["trials"]] == named.split(",")
    differ = {line["name"]: line["values"] for line in answer["settings"] if line["differs"]}
    assert differ == {"lr": [0.005, 0.02], "weight_decay": [pytest.approx(1e-4 / 3), 1e-4]}
    loss = next(line for line in answer["results"] if line["name"] == "val/loss")
    assert loss["deltas"] == [None, pytest.approx(loss["values"][1] - loss["values"][0])]
    gap = next(line for line in answer["results"] if line["name"] == "gap, val/loss less training's")
    assert gap["values"][0] == pytest.approx(0.15 * loss["values"][0])
    told = comparing.side_by_side(answer, every=False)
    assert [row.split()[0] for row in told.splitlines()[1:4]] == ["state", "lr", "weight_decay"]
    assert f"(+{text.value(loss['deltas'][1])})" in told
    assert "optimizer" in comparing.side_by_side(answer, every=True)
