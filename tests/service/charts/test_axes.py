"""An axis' places are those of `space`, worked out for all trials at once."""

from __future__ import annotations

import numpy as np
import pytest
from tunesmith_service.charts.axes import positions
from tunesmith_studies.space import Float, Int

PARAMETERS = [
    Float(low=1e-4, high=1.0, log=True),
    Float(low=1e-6, high=1e-2, log=True, zero=True),
    Float(low=0.0, high=0.5),
    Float(low=-2.0, high=2.0),
    Float(low=3.0, high=3.0),
    Int(low=16, high=256, log=True),
    Int(low=-1, high=7),
    Int(low=5, high=5),
]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: f"{p.type} {p.shown()}")
def test_places_are_those_of_the_space(parameter: Float | Int):
    inside = [parameter.value(p) for p in np.linspace(0, 1, 33)]
    beyond = [v for v in (parameter.low / 2, parameter.high * 3) if v > 0 or not parameter.log]
    values = np.array([*inside, *beyond], np.float64)
    assert positions(parameter, values) == pytest.approx([parameter.position(float(v)) for v in values])


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: f"{p.type} {p.shown()}")
def test_what_has_no_value_has_no_place(parameter: Float | Int):
    nowhere = [np.nan] if not parameter.log else [np.nan, -1.0]
    assert np.isnan(positions(parameter, np.array(nowhere))).all()


def test_zero_has_a_place_beside_a_log_range_only_where_the_space_says_so():
    zero = np.array([0.0])
    assert positions(Float(low=1e-6, high=1.0, log=True, zero=True), zero) == [0.0]
    assert np.isnan(positions(Float(low=1e-6, high=1.0, log=True), zero)).all()
