"""docs/openapi.json is what the application answers by; people read it, so it must hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tunesmith_service.api.openapi import document
from tunesmith_service.app import create_app
from tunesmith_service.settings import Settings

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
