"""Colours as the style sheet has them, by WCAG 2's arithmetic: no browser needed."""

from __future__ import annotations

import re

import pytest
from tunesmith_service.ui.assets import STATIC

MARKS = [*(f"kind-{i}" for i in range(8)), "accent", "good", "warn", "bad", "soft"]
TEXTS = [("text", "card"), ("text", "page"), ("text", "sunk"), ("soft", "card"), ("soft", "page")]
TEXTS += [("accent", "card"), ("good", "card"), ("warn", "card"), ("bad", "card"), ("on-accent", "accent")]
VIRIDIS_ENDS = ("#440154", "#fde725")
THEMES = ("light", "dark")


def colours() -> dict[str, tuple[str, str]]:
    """Name: its colour in the light theme and in the dark one."""
    css = (STATIC / "app.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", css)
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of #rrggbb, 0 to 1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """1 to 21.

    >>> contrast("#000000", "#ffffff")
    21.0
    """
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", MARKS)
def test_marks_stand_out_from_their_card(name: str, theme: str):
    at = THEMES.index(theme)
    found = contrast(colours()[name][at], colours()["card"][at])
    assert found >= 3, f"--{name} on --card, {theme}: {found:.2f}:1"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("name", "ground"), TEXTS)
def test_words_can_be_read(name: str, ground: str, theme: str):
    at = THEMES.index(theme)
    found = contrast(colours()[name][at], colours()[ground][at])
    assert found >= 4.5, f"--{name} on --{ground}, {theme}: {found:.2f}:1"


@pytest.mark.parametrize("theme", THEMES)
def test_one_end_of_viridis_stands_out_and_the_outline_of_a_cell_does_where_it_does_not(theme: str):
    at = THEMES.index(theme)
    card = colours()["card"][at]
    assert max(contrast(end, card) for end in VIRIDIS_ENDS) >= 3
    assert contrast(colours()["soft"][at], card) >= 3
