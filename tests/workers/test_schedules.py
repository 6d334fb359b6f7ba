import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from tunesmith_studies.vocabulary import HYPERPARAMETERS
from tunesmith_workers.optim import make_optimizer
from tunesmith_workers.schedules import Length, Schedule, make_schedule, needs_length

LR, EPOCHS, STEPS = 0.3, 12, 5
LENGTH = Length(EPOCHS, STEPS)
OTHERS = {
    "constant": {}, "inverse_time": {"decay": 0.7}, "step": {"step_size": 5, "gamma": 0.3},
    "exponential": {"gamma": 0.9}, "inverse_sqrt": {}, "cosine": {}, "piecewise": {"milestones": "3,8"},
    "one_cycle": {"annihilation": 0.1},
}  # fmt: skip


def fresh(params: dict[str, object]) -> Schedule:
    optimizer = make_optimizer(nn.Linear(1, 1), {"lr": LR, "optimizer": "momentum"} | params)
    return make_schedule(optimizer, params, LENGTH)


def groups(params: dict[str, object]) -> list[dict[str, float]]:
    """Rate and momentum at every optimizer step."""
    schedule, seen = fresh(params), []
    optimizer = schedule.scheduler.optimizer
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            group = optimizer.param_groups[0]
            seen.append({"lr": group["lr"], "momentum": group["momentum"]})
            optimizer.step()
            schedule.after("step")
        schedule.after("epoch")
    return seen


def rates(params: dict[str, object]) -> list[float]:
    """The rate of every epoch; checks that it does not change within one."""
    seen = [g["lr"] for g in groups(params)]
    assert all(seen[i] == seen[i - i % STEPS] for i in range(len(seen)))
    return seen[::STEPS]


@pytest.mark.parametrize(
    ("params", "formula"),
    [
        ({}, lambda t: LR),
        ({"schedule": "constant"}, lambda t: LR),
        ({"schedule": "inverse_time"}, lambda t: LR / (1 + 0.1 * t)),
        ({"schedule": "inverse_time", "decay": 0.7}, lambda t: LR / (1 + 0.7 * t)),
        ({"schedule": "step"}, lambda t: LR * 0.1 ** (t // 4)),
        ({"schedule": "step", "step_size": 5, "gamma": 0.3}, lambda t: LR * 0.3 ** (t // 5)),
        ({"schedule": "exponential"}, lambda t: LR * 0.95**t),
        ({"schedule": "exponential", "gamma": 0.5}, lambda t: LR * 0.5**t),
        ({"schedule": "inverse_sqrt"}, lambda t: LR / math.sqrt(1 + t)),
        ({"schedule": "cosine"}, lambda t: LR * (1 + math.cos(math.pi * t / EPOCHS)) / 2),
        ({"schedule": "piecewise"}, lambda t: LR * 0.1 ** ((t >= 6) + (t >= 9))),
        (
            {"schedule": "piecewise", "milestones": "3, 8", "gamma": 0.5},
            lambda t: LR * 0.5 ** ((t >= 3) + (t >= 8)),
        ),
    ],
)
def test_each_schedule_follows_its_formula(params, formula):
    assert rates(params) == pytest.approx([formula(t) for t in range(EPOCHS)], rel=1e-9)


TOTAL = 37  # optimizer steps of a run that ends within its eighth epoch


@pytest.mark.parametrize(
    ("params", "formula"),
    [
        ({"schedule": "constant"}, lambda s: LR),
        ({"schedule": "inverse_time"}, lambda s: LR / (1 + 0.1 * (s // STEPS))),
        ({"schedule": "exponential"}, lambda s: LR * 0.95 ** (s // STEPS)),
        ({"schedule": "inverse_sqrt"}, lambda s: LR / math.sqrt(1 + s // STEPS)),
        ({"schedule": "step"}, lambda s: LR * 0.1 ** (s // 12)),
        ({"schedule": "step", "step_size": 2}, lambda s: LR * 0.1 ** (s // (2 * STEPS))),
        ({"schedule": "cosine"}, lambda s: LR * (1 + math.cos(math.pi * s / TOTAL)) / 2),
        ({"schedule": "piecewise"}, lambda s: LR * 0.1 ** ((s >= 18) + (s >= 28))),
        (
            {"schedule": "piecewise", "milestones": "2,4", "gamma": 0.5},
            lambda s: LR * 0.5 ** ((s >= 2 * STEPS) + (s >= 4 * STEPS)),
        ),
        ({"schedule": "one_cycle"}, lambda s: one_cycle(s, LR / 25, LR, LR / 25 / 1e4, TOTAL)),
        (
            {"schedule": "one_cycle", "annihilation": 0.2},
            lambda s: annihilating_cycle(s, LR / 25, LR, LR / 25 / 1e4, share=0.2, total=TOTAL),
        ),
    ],
)
def test_each_schedule_follows_its_formula_at_every_step_of_a_run_that_counts_steps(params, formula):
    """Shares of the run go by steps; what goes by epochs still does."""
    optimizer = make_optimizer(nn.Linear(1, 1), {"lr": LR, "optimizer": "momentum"} | params)
    schedule, seen = make_schedule(optimizer, params, Length(8, STEPS, TOTAL)), []
    for step in range(TOTAL):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after("step")
        if (step + 1) % STEPS == 0:
            schedule.after("epoch")
    assert seen == pytest.approx([formula(s) for s in range(TOTAL)], rel=1e-9)


def one_cycle(step: int, low: float, peak: float, last: float, total: int = EPOCHS * STEPS) -> float:
    """Cosine from low to peak over the first 30 % of the steps, then to last; the recipe's §1.5."""
    top = 0.3 * total - 1
    if step <= top:
        return peak + (low - peak) * (1 + math.cos(math.pi * step / top)) / 2
    return last + (peak - last) * (1 + math.cos(math.pi * (step - top) / (total - 1 - top))) / 2


def test_one_cycle_rises_to_its_peak_and_falls_while_momentum_does_the_opposite():
    seen = groups({"schedule": "one_cycle"})
    steps = range(EPOCHS * STEPS)
    assert [g["lr"] for g in seen] == pytest.approx(
        [one_cycle(s, LR / 25, LR, LR / 25 / 1e4) for s in steps], rel=1e-9
    )
    assert [g["momentum"] for g in seen] == pytest.approx(
        [one_cycle(s, 0.95, 0.85, 0.95) for s in steps], rel=1e-9
    )
    assert max(g["lr"] for g in seen) == pytest.approx(LR)


def annihilating_cycle(
    step: int, first: float, peak: float, last: float, *, share: float, total: int = EPOCHS * STEPS
) -> float:
    """Up to the peak and back in two equal straight lines, then down to last; the recipe's §1.5."""
    top = (1 - share) / 2 * total - 1
    if step <= top:
        return first + (peak - first) * step / top
    if step <= 2 * top:
        return peak + (first - peak) * (step - top) / top
    return first + (last - first) * (step - 2 * top) / (total - 1 - 2 * top)


@pytest.mark.parametrize("share", [0.1, 0.15, 0.5])
def test_one_cycle_with_annihilation_is_shorter_than_the_run_and_ends_orders_of_magnitude_lower(share):
    seen = groups({"schedule": "one_cycle", "annihilation": share, "div_factor": 10.0})
    steps = range(EPOCHS * STEPS)
    assert [g["lr"] for g in seen] == pytest.approx(
        [annihilating_cycle(s, LR / 10, LR, LR / 10 / 1e4, share=share) for s in steps], rel=1e-9
    )
    assert [g["momentum"] for g in seen] == pytest.approx(
        [annihilating_cycle(s, 0.95, 0.85, 0.95, share=share) for s in steps], rel=1e-9
    )
    assert seen[-1]["lr"] == pytest.approx(seen[0]["lr"] / 1e4)
    # the cycle's two sides are equal: at its end the rate is back where it began
    assert min(abs(g["lr"] - LR / 10) for g in seen[STEPS:]) < LR / 10


def test_momentum_never_rises_with_a_rising_rate():
    seen = groups({"schedule": "one_cycle", "annihilation": 0.15})
    for one, after in pairwise(seen):
        assert (after["lr"] - one["lr"]) * (after["momentum"] - one["momentum"]) <= 0


def test_one_cycle_cycles_beta1_of_adam_and_leaves_plain_sgd_without_momentum():
    adam = fresh({"schedule": "one_cycle", "optimizer": "adam", "momentum_high": 0.97})
    assert adam.scheduler.optimizer.param_groups[0]["betas"] == (0.97, 0.999)
    sgd = fresh({"schedule": "one_cycle", "optimizer": "sgd"})
    assert sgd.scheduler.optimizer.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize(
    ("params", "own"),
    [
        ({"schedule": "constant"}, lambda t: 1.0),
        ({"schedule": "inverse_time", "decay": 0.5}, lambda t: 1 / (1 + 0.5 * t)),
        ({"schedule": "exponential", "gamma": 0.9}, lambda t: 0.9**t),
        ({"schedule": "inverse_sqrt"}, lambda t: 1 / math.sqrt(1 + t)),
    ],
)
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_cooldown_is_a_straight_line_to_0_over_the_last_share_of_the_steps(params, own, share):
    epochs, steps = 4, 5
    total, cooling = epochs * steps, round(share * epochs * steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make_schedule(optimizer, params | {"cooldown": share}, Length(epochs, steps))
    for step in range(total):
        left = total - step
        expected = 0.1 * own(step // steps) * (1.0 if left > cooling else left / (cooling + 1))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12), step
        optimizer.step()
        schedule.after("step")
        if (step + 1) % steps == 0:
            schedule.after("epoch")


def test_a_cooldown_is_refused_with_a_schedule_that_has_an_end_of_its_own():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="the schedule cosine has an end of its own"):
        make_schedule(optimizer, {"schedule": "cosine", "cooldown": 0.2}, Length(4, 5))


@pytest.mark.parametrize("name", HYPERPARAMETERS["schedule"].choices)
@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (4, 0), (7, 3), (EPOCHS, 0)])
def test_a_replayed_schedule_stands_where_one_that_ran_there_stands_to_the_bit(name, epoch, step):
    params = {"schedule": name} | OTHERS[name]
    ran, replayed = fresh(params), fresh(params)
    for index in range(epoch * STEPS + step):
        ran.scheduler.optimizer.step()
        ran.after("step")
        if (index + 1) % STEPS == 0:
            ran.after("epoch")
    replayed.replay(epoch, step, LENGTH)
    assert replayed.scheduler.optimizer.param_groups[0]["lr"] == ran.scheduler.optimizer.param_groups[0]["lr"]
    assert replayed.scheduler.state_dict().keys() == ran.scheduler.state_dict().keys()
    assert replayed.scheduler.last_epoch == ran.scheduler.last_epoch


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"schedule": "warmup"}, "schedule must be one of constant, .*, got 'warmup'"),
        (
            {"schedule": "piecewise", "milestones": "a,b"},
            'milestones must be numbers .* such as "10,15", got',
        ),
        ({"schedule": "piecewise", "milestones": "8,3"}, "milestones must rise from above 0, got '8,3'"),
        ({"schedule": "step", "step_size": 0}, "step_size must be a whole number from 1 up, got 0"),
        ({"schedule": "step", "step_size": 1.5}, "step_size must be a whole number from 1 up, got 1.5"),
        ({"schedule": "one_cycle", "annihilation": 2}, "annihilation must be a number from 0 to 1, got 2"),
        ({"schedule": "one_cycle", "pct_start": 2}, "pct_start must be a number from 0 to 1, got 2"),
    ],
)
def test_a_value_that_makes_no_schedule_is_named(params, message):
    with pytest.raises(ValueError, match=message):
        fresh(params)


@pytest.mark.parametrize("rising", [0.0, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("annihilation", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("total", range(1, 12))
def test_one_cycle_works_for_runs_of_any_length(total, rising, annihilation):
    optimizer = make_optimizer(nn.Linear(1, 1), {"lr": LR, "optimizer": "momentum"})
    params = {"schedule": "one_cycle", "pct_start": rising, "annihilation": annihilation}
    schedule = make_schedule(optimizer, params, Length(total, 1))
    for _ in range(total):
        optimizer.step()
        schedule.after("step")
    assert 0 < optimizer.param_groups[0]["lr"] <= LR


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * t / 7)) / 2 for t in range(7)]),
        ({"schedule": "step"}, [0.1 ** (t // 2) for t in range(7)]),
        ({"schedule": "step", "step_size": 1}, [0.1 ** (t // STEPS) for t in range(7)]),
        ({"schedule": "piecewise"}, [1, 1, 1, 1, 0.1, 0.01, 0.01]),  # at 3.5, rounded to even, and 5.25
        ({"schedule": "piecewise", "milestones": "1,2"}, [0.1 ** (t // STEPS) for t in range(7)]),
        ({"schedule": "exponential", "gamma": 0.5}, [0.5 ** (t // STEPS) for t in range(7)]),
    ],
    ids=lambda p: str(p.get("schedule")) if isinstance(p, dict) else "",
)
def test_a_budget_of_steps_is_the_length_that_a_schedule_goes_by(params, expected):
    """Seven steps, in epochs of STEPS."""
    length = Length(EPOCHS, STEPS, total=7)
    for start in (0, 5):
        model = nn.Linear(1, 1)
        optimizer = make_optimizer(model, {"lr": 1.0})
        schedule = make_schedule(optimizer, params, length)
        schedule.replay(start // STEPS, start % STEPS, length)
        rates = []
        for t in range(start, 7):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.after("step")
            if (t + 1) % STEPS == 0:
                schedule.after("epoch")
        assert rates == pytest.approx(expected[start:])


def test_a_cycle_of_a_budget_of_steps_ends_with_its_last_step():
    optimizer = make_optimizer(nn.Linear(1, 1), {"lr": 1.0})
    schedule = make_schedule(optimizer, {"schedule": "one_cycle"}, Length(EPOCHS, STEPS, total=7))
    assert schedule.scheduler.total_steps == 7
    assert schedule.per == "step"


@pytest.mark.parametrize(
    ("params", "needs"),
    [
        ({}, False), ({"schedule": "cosine"}, True), ({"schedule": "one_cycle"}, True),
        ({"schedule": "step"}, True), ({"schedule": "step", "step_size": 3}, False),
        ({"schedule": "piecewise"}, True), ({"schedule": "piecewise", "milestones": "4,8.0"}, False),
        ({"schedule": "exponential"}, False), ({"schedule": "inverse_sqrt"}, False),
    ],
)  # fmt: skip
def test_schedules_that_go_by_shares_of_the_run_need_its_length(params, needs):
    assert needs_length(params) is needs
