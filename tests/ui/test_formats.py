import doctest

import pytest
from tunesmith_service.ui import formats


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(formats).failed == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.35304, "0.3530"), (9.05e-3, "0.009050"), (9.9996, "10.00"), (99999.6, "100000"),
        (1.5e6, "1.500e6"), (2.12e-4, "2.120e-4"), (-3.0, "-3.000"), (0.0, "0"), (float("inf"), "∞"),
        (float("nan"), "NaN"), (1e-12, "1.000e-12"), (128, "128"), (True, "True"), (None, "–"),
    ],
)  # fmt: skip
def test_numbers_have_four_significant_digits(value, shown):
    assert formats.number(value) == shown


def test_a_number_carries_its_full_value():
    assert (
        formats.exact(0.353041234)
        == '<data class="num" value="0.353041234" title="0.353041234">0.3530</data>'
    )
    assert formats.setting(1e-05) == '<data class="num" value="1e-05" title="1e-05">1e-5</data>'


def test_text_in_a_value_is_escaped():
    assert formats.setting("<b>") == "&lt;b&gt;"
    assert "<script>" not in formats.state("<script>")


def test_a_state_is_an_icon_and_a_word():
    assert "<svg" in formats.state("pruned")
    assert formats.state("pruned").endswith("pruned</span>")


@pytest.mark.parametrize(
    ("us", "shown"),
    [(0, "0.0 s"), (59_600_000, "1 min 00 s"), (3_599_600_000, "1 h 00 min"), (2 * 86400 * 10**6, "2 d 0 h")],
)
def test_durations_round_up_into_the_next_unit(us, shown):
    assert formats.duration(us) == shown
