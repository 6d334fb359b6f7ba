"""A handful of planted faults, and what is sound; `benchmarks/planted_faults.py` has all of them."""

from __future__ import annotations

import faulty_loops
import faulty_tasks
import pytest
from faults import FAULTY, HEALTHY_LOOPS, Case, look_for_faults
from tunesmith_workers.tasks import digits

A_FEW = (
    "softmax before the loss",
    "labels from 1",
    "a fifth of validation leaked",
    "layers in a list",
    "rate 100 times too large",
    "loop: forgotten zero_grad",
    "loop: forgotten eval()",
    "loop: labels from 1",
)


@pytest.mark.parametrize("name", A_FEW)
def test_a_planted_fault_is_named(name, tmp_path):
    case = FAULTY[name]
    found = look_for_faults(case, tmp_path, train=False)
    assert found.naming(case), [f.sentence for f in found.preflight]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_sound_task_raises_no_alarm(model, tmp_path):
    params = {"model": model, "optimizer": "momentum", "lr": 0.03}
    found = look_for_faults(Case("digits", digits.task, params), tmp_path, train=False)
    assert [f.sentence for f in found.preflight] == []


def test_a_sound_loop_raises_no_alarm(tmp_path):
    found = look_for_faults(HEALTHY_LOOPS["loop: a loop with two classes"], tmp_path, train=False)
    assert [f.sentence for f in found.preflight] == []


def test_no_two_faults_share_a_name():
    assert len(FAULTY) == len(faulty_tasks.FAULTY) + len(faulty_loops.FAULTY)
