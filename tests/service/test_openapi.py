"""docs/openapi.json is what the application answers by; people read it, so it must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from tunesmith_service.api.openapi import document
from tunesmith_service.app import create_app
from tunesmith_service.settings import Settings
from tunesmith_studies.study import StudySpec

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def described():
    return document(create_app(Settings()))


def operations(described):
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_file_is_current(described):
    assert json.loads(FILE.read_text()) == described, (
        "the API has changed; run: python -m tunesmith_service openapi > docs/openapi.json"
    )


def test_every_operation_says_what_it_does_and_who_may(described):
    for name, operation in operations(described):
        assert operation.get("description"), name
        assert "x-tunesmith-role" in operation or name in ("GET /healthz", "GET /readyz")


def test_every_body_has_an_example_that_its_schema_accepts(described):
    checked = 0
    for name, operation in operations(described):
        bodies = [(operation["requestBody"], "examples")] if "requestBody" in operation else []
        bodies += [(r, "example") for s, r in operation["responses"].items() if int(s) < 300]
        for body, kind in bodies:
            media = body.get("content", {}).get("application/json")
            if media is None or "x-tunesmith-role" not in operation:
                continue
            values = (
                [media["example"]]
                if kind == "example"
                else [e["value"] for e in media.get("examples", {}).values()]
            )
            schema = {"components": described["components"], **media["schema"]}
            for value in values:
                problems = [e.message for e in Draft202012Validator(schema).iter_errors(value)]
                assert not problems, (name, kind, problems)
                checked += 1
    assert checked > 40


def test_requests_have_examples_where_they_have_a_body(described):
    optional = {"Heartbeat", "Why"}
    for name, operation in operations(described):
        media = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if media and not any(part in json.dumps(media["schema"]) for part in optional):
            assert media.get("examples"), name


def test_problems_are_documented_as_problem_json(described):
    for name, operation in operations(described):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and "x-tunesmith-role" in operation:
                assert list(response["content"]) == ["application/problem+json"], (name, status)


def test_every_operation_says_how_it_may_be_refused(described):
    for name, operation in operations(described):
        may = {"400", "403"}
        if "x-tunesmith-role" in operation:
            may |= {"401", "429", "503"} | (set() if name.startswith("GET") else {"507"})
        if "requestBody" in operation:
            may |= {"408", "413", "422"}
        assert may <= set(operation["responses"]), name


def test_every_number_in_an_address_has_bounds(described):
    """Longer ones than a column holds are refused before the database is asked."""
    for name, operation in operations(described):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            for one in schema.get("anyOf", [schema]):
                if one.get("type") == "integer":
                    assert "minimum" in one, (name, parameter["name"])
                    assert {"maximum", "exclusiveMaximum"} & set(one), (name, parameter["name"])


def test_bounds_are_told_in_words_of_json_schema():
    assert not {'"ge":', '"gt":', '"le":', '"lt":'} & set(FILE.read_text().split())


def test_headers_without_which_nothing_goes_are_required(described):
    needed = {
        (name, p["name"])
        for name, operation in operations(described)
        for p in operation.get("parameters", ())
        if p["in"] == "header" and p["required"]
    }
    leases = {name for name, _ in operations(described) if "/leases/" in name}
    note = "PUT /api/v1/studies/{study}/note"
    assert needed == {(name, "Tunesmith-Lease") for name in leases} | {(note, "If-Match")}


GRID = {"kind": "coarse_grid", "epochs": 2}
LR = {"low": 0.001, "high": 0.1, "log": True}
ASKED = {"kind": "sampler", "epochs": 1, "trials": 5}
WRITTEN: list[tuple[dict[str, Any], bool]] = [
    ({"space": {"optimizer": ["sgd", "adam"], "lr": LR}}, True),
    ({"space": {"lr": LR | {"when": {"optimizer": "sgd"}}, "optimizer": ["sgd", "adam"]}}, True),
    ({"space": {"lr": LR, "width": {"type": "int", "low": 1, "high": 4, "step": 1}}}, True),
    ({"space": {"lr": LR, "width": {"low": 1, "high": 4, "step": 1}}}, False),
    ({"space": {"lr": LR, "width": {"values": [1, 2]}}}, True),
    ({"space": {"weight_decay": {"preset": "deep", "high": 0.01}}}, True),
    ({"space": {"weight_decay": {"preset": "wide"}}}, False),
    ({"space": {"l\tr": LR}}, False),
    ({"space": {"lr": 0.1}}, False),
    ({"recipe": "quick", "stages": []}, True),
    ({"recipe": {"name": "quick", "epochs": 9}, "stages": []}, True),
    ({"recipe": "slow", "stages": []}, False),
    ({"stages": [{"kind": "coarse_grid", "budget": {"epochs": 2}}]}, True),
    ({"stages": [{"kind": "coarse_grid"}]}, False),
    ({"stages": [{"epochs": 2, "axes": {"lr": 3}}]}, False),
    ({"stages": [ASKED | {"sampler": {"kind": "tpe", "n_ei_candidates": 8}}]}, True),
    ({"stages": [ASKED | {"sampler": {"n_ei_candidates": 8}}]}, False),
    ({"stages": [{"kind": "halving", "epochs": 9, "sampler": {"n_ei_candidates": 8}}]}, True),
]


@pytest.mark.parametrize(("changes", "is_taken"), WRITTEN, ids=lambda c: json.dumps(c)[:80])
def test_what_may_be_written_short_is_described_so(described, changes: dict[str, Any], is_taken: bool):
    written = {"name": "s", "task": "t", "space": {"lr": LR}, "stages": [GRID]} | changes
    schema = {"components": described["components"], "$ref": "#/components/schemas/StudySpec"}
    assert Draft202012Validator(schema).is_valid(written) is is_taken
    try:
        StudySpec.model_validate(written)
    except ValidationError:
        assert not is_taken
    else:
        assert is_taken
