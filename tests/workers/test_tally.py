"""What the steps since the newest point saw, against numpy beside it."""

import numpy as np
import pytest
import torch
from training import CPU, same_bits
from tunesmith_workers.stepping import Seen
from tunesmith_workers.tally import Tally
from tunesmith_workers.tasks.registry import accuracy


def steps(sizes, classes=5, *, mixed=False):
    generator = torch.Generator().manual_seed(2)
    found = []
    for n in sizes:
        losses, outputs = torch.rand(n, generator=generator), torch.randn(n, classes, generator=generator)
        targets = torch.randint(classes, (n,), generator=generator)
        found.append(Seen(losses, losses.sum(), outputs, None if mixed else targets))
    return found


def tallied(seen, measure=accuracy):
    tally = Tally(measure)
    for s in seen:
        tally.add(s)
    return tally


def test_loss_noise_and_accuracy_are_those_of_all_steps_with_a_short_one_at_its_weight():
    seen = steps([8, 8, 8, 3])
    found = tallied(seen).metrics()
    losses = [s.losses.double().numpy() for s in seen]
    right = [(s.outputs.argmax(1) == s.targets).numpy() for s in seen]
    assert found == pytest.approx(
        {
            "train/loss": np.concatenate(losses).mean(),
            "train/noise": np.std([part.mean() for part in losses], ddof=1),
            "train/accuracy": np.concatenate(right).mean(),
        },
        rel=1e-6,
    )
    assert tallied(seen).samples == 27


def test_one_step_has_no_noise_and_none_has_nothing():
    assert tallied(steps([8])).metrics().keys() == {"train/loss", "train/accuracy"}
    assert tallied([]).metrics() == {}


def test_accuracy_is_left_out_where_there_is_none_or_samples_were_mixed():
    assert tallied(steps([8, 8]), None).metrics().keys() == {"train/loss", "train/noise"}
    assert tallied(steps([8, 8], mixed=True)).metrics().keys() == {"train/loss", "train/noise"}


def test_outputs_are_counted_before_they_fill_the_memory():
    wide = steps([300] * 8, classes=1000)  # 2.4 million numbers
    tally = tallied(wide)
    assert sum(s.outputs.numel() for s in tally._pending) < 2**20
    assert tally.metrics()["train/accuracy"] == pytest.approx(
        np.mean([accuracy(s.outputs, s.targets).mean().item() for s in wide])
    )


@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_a_tally_saved_at_any_step_goes_on_to_the_same_bits(at):
    seen = steps([8, 8, 8, 3])
    again = Tally(accuracy)
    again.restore(tallied(seen[:at]).save(), CPU)
    for s in seen[at:]:
        again.add(s)
    whole = tallied(seen)
    assert again.metrics() == whole.metrics()
    assert same_bits(again.save(), whole.save())


def test_a_cleared_tally_has_forgotten_every_step():
    tally = tallied(steps([8, 8]))
    tally.clear()
    assert (tally.metrics(), tally.samples) == ({}, 0)


def test_many_steps_are_kept_in_few_tensors():
    seen = steps([2] * 2500)
    tally = tallied(seen, None)
    assert len(tally._sums) + len(tally._packed) < 1024
    assert tally.metrics()["train/loss"] == pytest.approx(
        torch.cat([s.losses for s in seen]).double().mean().item(), rel=1e-6
    )
    again = Tally(None)
    again.restore(tallied(seen[:1700], None).save(), CPU)
    for s in seen[1700:]:
        again.add(s)
    assert again.metrics() == tally.metrics()
