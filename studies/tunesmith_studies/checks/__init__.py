# ruff: noqa: E501 - a table
"""What preflight's numbers mean: from what workers measured to one finding a check.

Workers measure and report plain numbers, the built-in trainer's preflight and the observer of somebody's
own loop alike; nothing there knows a threshold. Each function here reads the names it needs and answers
None where they are missing, so a loop in which less can be seen is judged by what was seen.

Samples are rows of a split, losses are in nats per sample, shares lie in [0, 1], times are seconds.

| name | what it holds |
|---|---|
| `sys/epoch` | samples trained on so far over the training split's size; in every point |
| `cost/<probe>/samples`, `…/seconds` | what each probe trained on, and how long it took |
| **labels** | |
| `check/labels/classes` | classes that the task has; missing where its target is no class |
| `check/labels/lowest`, `…/highest` | smallest and largest label of training and validation |
| `check/labels/outside` | labels outside 0 … classes - 1, or not whole |
| `check/labels/present` | classes with a training sample |
| `check/labels/val_only` | classes with a validation sample and no training sample |
| `check/labels/width` | outputs of the model for a sample |
| **balance** | |
| `check/balance/entropy` | H(p) = -Σ p log p of the training labels |
| `check/balance/largest`, `…/smallest` | share of the commonest and of the rarest class that is present |
| **order** | |
| `check/order/same` | share of neighbours with equal labels, in the order in which training sees its samples |
| `check/order/chance` | that share in a random order: Σ p² |
| `check/order/shuffled` | 1 if the order differs from epoch to epoch |
| **inputs** | |
| `check/inputs/not_finite` | numbers that are NaN or infinite, in training and validation |
| `check/inputs/mean`, `…/deviation` | of all numbers that reach the first layer with weights (the inputs, if unknown) |
| `check/inputs/columns` | numbers in a sample |
| `check/inputs/uneven` | deviation of the widest column over the median column's, of those that vary |
| `check/inputs/normalised` | 1 if the first layer with weights is a normalisation |
| **leak** | |
| `check/leak/train_rows`, `val_rows`, `test_rows` | samples of each split |
| `check/leak/val_in_train`, `test_in_train`, `test_in_val` | share of the first's rows that stand in the second, to the bit |
| `check/leak/train_twins` | share of training rows that stand in it more than once |
| `check/leak/near`, `…/near_twins` | share of validation's and of training's rows with another training row ten times nearer than is usual, and not equal |
| `check/leak/column` | largest share of a column's variance that the label explains (η²) |
| **shift** (validation against training) | |
| `check/shift/rows_train`, `rows_val` | samples compared |
| `check/shift/columns` | columns compared |
| `check/shift/distance` | largest Kolmogorov–Smirnov distance of a column |
| `check/shift/neighbours`, `…/pooled` | share of nearest neighbours from the own split, among so many rows, half of each |
| `check/shift/chi2`, `…/classes` | χ² of the labels' counts, over so many classes |
| **loss** | |
| `check/loss/batch` | samples in a batch |
| `check/loss/values` | numbers that the loss gives for a batch |
| `check/loss/alone` | mean loss of samples evaluated one by one |
| `check/loss/together` | mean loss of the same samples as the trainer computes it for a batch |
| `check/loss/lowest` | smallest loss of a sample seen in any probe |
| `check/loss/shifted` | change of the mean loss when 1 is added to all outputs; 0: it normalises by itself |
| **initial_loss** | |
| `check/initial/loss` | mean loss of a fresh model over at least four batches |
| `check/initial/guess` | loss of saying the same of every sample and class: log C of a cross-entropy |
| `check/initial/prior_loss` | cross-entropy of the labels against the mean prediction |
| **outputs** (of the model that overfitted a batch) | |
| `check/outputs/sum_error` | largest distance of a sample's sum of outputs from 1 |
| `check/outputs/log_sum` | largest distance of log Σ exp of a sample's outputs from 0 |
| `check/outputs/sigmoid` | 1 if the loss applies a sigmoid to them |
| `check/outputs/column_sum_error` | largest distance of a class's sum over a batch from 1; of loops |
| `check/outputs/lowest`, `…/highest` | of all outputs |
| **overfit** | |
| `check/overfit/<n>/loss`, `accuracy`, `steps`, `rate`, `tried` | training on n samples: the best loss, and with it accuracy, steps and rate; rates tried |
| **zeroed** | |
| `check/zeroed/loss`, `…/real_loss` | loss on zeroed and on real inputs, after training on the real ones |
| `check/zeroed/change` | mean distance of outputs on real and on zeroed inputs, over the outputs' size |
| **generalise** | |
| `check/generalise/<n>/loss`, `accuracy` | on validation after training on n samples |
| `check/generalise/<n>/z` | mean gain in loss over predictions dealt out at random, in standard errors |
| `check/generalise/neighbours` | accuracy of the nearest training sample's label, less what chance gives, in standard errors |
| `check/generalise/exchanged` | classes whose validation rows mostly stand beside another's, in a circle |
| `check/generalise/relabelled` | accuracy on validation after the best one-to-one renaming of the classes |
| `check/generalise/offset` | k if that renaming is mostly label + k |
| **gradients** (over the first steps) | |
| `check/gradients/parameters` | tensors that train |
| `check/gradients/missing/<name>`, `zero/<name>`, `not_finite/<name>`, `frozen/<name>` | 1 for each offender; its numbers |
| `check/gradients/left_out/<name>` | 1 for each parameter of the model that no optimizer holds; its numbers |
| `check/gradients/foreign` | tensors that an optimizer holds and the model that is trained has not |
| `check/gradients/unregistered` | numbers that take part and get a gradient, and are no parameters of the model |
| `check/gradients/weakest` | smallest over largest (gradient norm / weight norm) of weights |
| **units** | |
| `check/units/constant/<layer>` | share of a nonlinearity's units whose output is the same for all samples |
| `check/units/twins/<layer>` | share of a layer's units that start with the same weights as another |
| **modes** | |
| `check/modes/repeat` | largest difference of two evaluations of the same samples, over the outputs' size |
| `check/modes/batch` | the same of samples evaluated with and without others in their batch |
| `check/modes/buffers` | buffers that an evaluation changed |
| `check/modes/stuck`, `…/asleep` | modules in training mode after eval(); dropout and normalisation not in it after train() |
| `check/modes/evaluating_in_training` | share of evaluations with a module in training mode |
| `check/modes/training_in_evaluation` | share of training steps with no module in training mode |
| **zero_grad** | |
| `check/zero_grad/kept` | share of optimizer steps that still had the last step's gradients in theirs |
| **determinism** | |
| `check/determinism/difference` | largest difference of losses between two runs of one seed |
| **rate** (the study's own) | |
| `check/rate/lr`, `…/steps` | the rate, and the steps trained at it |
| `check/rate/first`, `…/begin`, `…/last`, `…/lowest` | mean loss of the first 2, the first 8 and the last 8 steps, and the lowest mean of 8 |
| `check/rate/noise` | standard error of the difference of `begin` and `last` |
| `check/rate/update` | median over weights of the first step's norm / weight norm |
| `check/rate/low_…`, `check/rate/high_…` | the same at a lower and a higher rate, tried where the loss does not clearly fall |
| **depth** | |
| `check/depth/layers` | layers with weights, one after another |
| `check/depth/accuracy`, `…/linear`, `…/rows` | validation accuracy of the model and of a linear one after the same samples (2000 of them at most), on so many rows |
| **time** (of an optimizer step) | |
| `time/batch`, `time/median`, `time/p95` | at the study's batch size |
| `time/loading`, `time/forward`, `time/backward`, `time/step` | medians of its parts |
| `time/fixed`, `time/sample` | a step takes fixed + sample · batch |
| `time/evaluate` | evaluating the validation split once |
| `time/build`, `time/first`, `time/snapshot` | building model and optimizer; the first step less a usual one; writing a snapshot |
| `time/waiting` | by what factor the clock runs longer than that, for others use the machine as well |
| `time/train_samples`, `time/val_samples` | of the splits |
| **memory** | |
| `memory/free`, `memory/fixed`, `memory/sample` | bytes: free, for the model and its optimizer, for each sample of a batch |
| `memory/largest` | largest batch that ran, where that was tried; else worked out from the three |
| `memory/tried` | 1 if it was tried (on a GPU, by doubling) |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tunesmith_studies.checks import costs, data, learning, losses, model, own_rate, splits
from tunesmith_studies.checks.said import Known, Measured, Verdicts
from tunesmith_studies.findings import Finding, gravest_first
from tunesmith_studies.trial import Point

CHECKS: tuple[Callable[[Measured, Known], Verdicts], ...] = (
    data.labels, data.inputs, data.order, data.balance, splits.leak, splits.shift,
    losses.loss, losses.initial_loss,
    model.outputs, model.gradients, model.units, model.modes, model.zero_grad, model.determinism,
    learning.overfit, learning.zeroed, learning.generalise, own_rate.rate, learning.depth,
    costs.time, costs.memory,
)  # fmt: skip


def judge(measured: Measured, known: Known) -> tuple[Finding, ...]:
    """A finding for each check whose numbers were measured, the gravest first."""
    found = (next(check(measured, known), None) for check in CHECKS)
    return gravest_first(f for f in found if f is not None)


def merged(curve: Iterable[Point]) -> dict[str, float]:
    """All that a measuring trial reported, as one table: of each name the newest value."""
    return {name: value for point in curve for name, value in point.metrics.items()}


__all__ = ["CHECKS", "Known", "Measured", "judge", "merged"]
