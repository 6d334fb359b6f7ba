"""One optimizer step: accumulation, precision, clipping, and memory that runs out."""

import gc
import weakref

import pytest
import torch
from torch import nn
from training import CPU, blobs, ending, make_work, points, run, same_bits, saved, tree, wish_at
from tunesmith_workers import rng
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.endings import Ending
from tunesmith_workers.stepping import Learner
from tunesmith_workers.tasks.registry import Task, TaskError


def doubles(samples=150, **changes):
    """A task in float64: equal results differ by rounding alone."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(samples) % 3
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    x[:, 0] += y

    def build(params):
        dropout = nn.Dropout(params.get("dropout", 0.0))
        return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), dropout, nn.Linear(16, 3)).double()

    return blobs(splits=Splits(Split(x, y), Split(x, y)), build=build, **changes)


def learner(task: Task, **params):
    rng.begin(7, threads=1)
    return Learner(task, params, task.splits.train, seed=7, device=CPU)


def close(one, other, tolerance=1e-10):
    return all((one[k] - other[k]).abs().max() <= tolerance for k in one)


# --- accumulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [128, 256, 150, 129], ids=lambda n: f"{n}samples")
@pytest.mark.parametrize(
    "more",
    [
        {}, {"label_smoothing": 0.2}, {"clip_norm": 0.05}, {"noise": 0.1}, {"mixup": 0.4},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
    ],
    ids=",".join,
)  # fmt: skip
def test_four_batches_of_32_make_the_step_of_one_of_128(tmp_path, samples, more):
    """On the trainer's own path, in float64, over two epochs; the last step may be a short one."""
    task = doubles(samples)
    ends = []
    for params in ({"batch_size": 32, "accumulation": 4}, {"batch_size": 128}):
        work = make_work(params={"lr": 0.5} | more | params, epochs=2, keep_snapshot=True)
        ends.append(run(task, work, tmp_path))
    assert close(tree(ends[0])["model"], tree(ends[1])["model"])
    names = points(ends[0])[0].metrics.keys()
    for one, other in zip(points(ends[0]), points(ends[1]), strict=True):
        assert {n: one.metrics[n] for n in names} == pytest.approx(
            {n: other.metrics[n] for n in names}, abs=1e-9
        )


def test_a_step_s_gradient_is_that_of_the_mean_loss_over_all_its_samples():
    task = doubles(50).task
    one = learner(task, batch_size=16, accumulation=4)
    chunk = torch.arange(50)
    seen = one.backward(one.load(chunk, 0, 0))
    other = learner(task).model
    train = task.splits.train
    nn.functional.cross_entropy(other(train.x), train.y).backward()
    for mine, theirs in zip(one.model.parameters(), other.parameters(), strict=True):
        assert (mine.grad - theirs.grad).abs().max() < 1e-12
    assert torch.allclose(seen.losses, nn.functional.cross_entropy(other(train.x), train.y, reduction="none"))
    assert torch.allclose(seen.total, seen.losses.sum())
    assert torch.equal(seen.targets, train.y)
    assert seen.outputs.shape == (50, 3)


def test_a_learner_s_weights_are_freed_with_it():
    gc.disable()
    try:
        one = learner(doubles().task, optimizer="momentum")
        one.step(torch.arange(32), 0, 0)
        weights = weakref.ref(next(one.model.parameters()))
        del one
        assert weights() is None
    finally:
        gc.enable()


def test_a_loss_that_gives_one_number_is_refused_and_one_of_several_a_sample_is_summed():
    task = doubles(10).task
    changed = Task(task.splits, 3, task.build, loss=nn.functional.cross_entropy)
    with pytest.raises(TaskError, match="one number for a batch; it must give one for each sample"):
        learner(changed).step(torch.arange(10))
    squares = Task(
        Splits(Split(task.splits.train.x, task.splits.train.x[:, :3]), task.splits.val), None, task.build,
        loss=lambda o, y: (o - y) ** 2,
    )  # fmt: skip
    seen = learner(squares).step(torch.arange(10))
    assert torch.allclose(seen.losses, ((seen.outputs - task.splits.train.x[:, :3]) ** 2).sum(1))


# --- the norm of the gradient ---------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_gradient_s_norm_is_reported_as_it_was_before_clipping(clip):
    task = doubles(50).task
    one = learner(task, clip_norm=clip)
    one.step(torch.arange(50))
    other = learner(task).model
    nn.functional.cross_entropy(other(task.splits.train.x), task.splits.train.y).backward()
    norm = sum((p.grad**2).sum() for p in other.parameters()).sqrt().item()
    assert norm > 0.01
    assert one.gradient_norm() == pytest.approx(norm)


def test_a_sparse_gradient_has_the_norm_of_the_dense_one():
    generator = torch.Generator().manual_seed(3)
    split = Split(torch.randint(0, 9, (20, 4), generator=generator), torch.arange(20) % 3)

    def task(sparse):
        def build(params):
            return nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(16, 3))

        return blobs(splits=Splits(split, split), build=build).task

    dense, sparse = (learner(task(is_sparse), lr=0.1) for is_sparse in (False, True))
    for one in (dense, sparse):
        one.step(torch.arange(20))
    assert sparse.gradient_norm() == pytest.approx(dense.gradient_norm(), rel=1e-6)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_computes_in_it_and_keeps_weights_gradients_and_losses_in_fp32(precision, dtype):
    task = blobs().task
    one = learner(task, precision=precision, lr=0.1)
    seen_in = []
    one.model[1].register_forward_hook(lambda m, x, out: seen_in.append(out.dtype))
    seen = one.step(torch.arange(40))
    assert set(seen_in) == {dtype}
    assert {p.dtype for p in one.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in one.model.parameters()} == {torch.float32}
    assert (seen.losses.dtype, seen.outputs.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_almost_as_full_precision_does(tmp_path, precision):
    params = {"lr": 0.1, "batch_size": 8, "clip_norm": 1.0, "optimizer": "momentum"}
    full, half = (
        points(run(blobs(), make_work(params=params | {"precision": p}, epochs=5), tmp_path))[-1].metrics
        for p in ("fp32", precision)
    )
    assert half["val/loss"] == pytest.approx(full["val/loss"], rel=0.05)
    assert half["val/loss"] != full["val/loss"]
    assert half["grad/norm"] == pytest.approx(full["grad/norm"], rel=0.2)


def test_clipping_in_fp16_sees_the_gradient_without_its_scale():
    one = learner(blobs().task, precision="fp16", clip_norm=1e-3, lr=1.0, hidden=16)
    one.scaler.load_state_dict(one.scaler.state_dict() | {"scale": 1024.0})  # overflows nothing
    before = [p.detach().clone() for p in one.model.parameters()]
    one.step(torch.arange(40))
    moved = sum(((p - b) ** 2).sum() for p, b in zip(one.model.parameters(), before, strict=True)).sqrt()
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precisions", [("fp32", "fp16"), ("fp16", "fp32")])
def test_a_branch_may_compute_in_another_precision_than_its_trunk(tmp_path, precisions):
    trunk, branch = (
        make_work(number=i, epochs=i + 2, params={"lr": 0.1, "precision": precision}, keep_snapshot=True)
        for i, precision in enumerate(precisions)
    )
    snapshot = saved(run(blobs(), trunk, tmp_path))[-1].file.path
    said = run(blobs(), branch, tmp_path, resume=snapshot)
    assert ending(said) == Ending("complete", "budget")
    assert [p.step for p in points(said)] == [3]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_trial_in_half_precision_goes_on_from_its_middle(tmp_path, precision):
    params = {"lr": 0.1, "batch_size": 8, "dropout": 0.3, "precision": precision}
    work = make_work(params=params, keep_snapshot=True)
    whole = run(blobs(), work, tmp_path)
    first = run(blobs(), work, tmp_path, asked=wish_at(7))
    second = run(blobs(), work, tmp_path, resume=saved(first)[-1].file.path)
    assert same_bits(tree(second), tree(whole))


def test_fp16_s_scale_is_in_the_snapshot(tmp_path):
    params = {"lr": 0.1, "precision": "fp16"}
    said = run(blobs(), make_work(params=params, epochs=1, keep_snapshot=True), tmp_path)
    assert tree(said)["scaler"]["scale"] > 0


# --- memory ---------------------------------------------------------------------------------------


class Hungry(nn.Module):
    """Runs out of memory with more than `most` samples at once in training, after it has used its layers."""

    def __init__(self, inner, most, sizes, error):
        super().__init__()
        self.inner, self.most, self.sizes, self.error = inner, most, sizes, error

    def forward(self, x):
        said = self.inner(x)
        if self.training and len(x) > self.most:
            raise self.error
        if self.training:
            self.sizes.append(len(x))
        return said


def hungry(most, error=None, norm=False):
    """A task in float64 whose model is hungry, and the sizes of the batches that it took."""
    sizes = []
    error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    task = doubles(150)
    build = task.task.build

    def built(params):
        inner = build(params)
        if norm:
            inner = nn.Sequential(nn.BatchNorm1d(4, affine=False).double(), inner)
        return Hungry(inner, most, sizes, error)

    return blobs(splits=task.task.splits, build=built), sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["gpu", "cpu"],
)
def test_a_trial_whose_device_runs_out_of_memory_goes_on_with_smaller_batches(tmp_path, error, capsys):
    params = {"lr": 0.5, "batch_size": 64, "optimizer": "adam"}
    work = make_work(params=params, keep_snapshot=True, epochs=2)
    plain = run(hungry(1000)[0], work, tmp_path)
    task, sizes = hungry(20, error)
    capsys.readouterr()
    small = run(task, work, tmp_path)
    assert sizes == 2 * [16, 16, 16, 16, 16, 16, 16, 16, 16, 6]
    assert close(tree(small)["model"], tree(plain)["model"])
    assert [p.metrics.get("sys/micro_batch") for p in points(small)] == [16, 16]
    assert [p.metrics.get("sys/micro_batch") for p in points(plain)] == [None, None]
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "out of memory with 64 samples at once: goes on with 32, 2 times a step",
        "out of memory with 32 samples at once: goes on with 16, 4 times a step",
    ]


def test_a_step_that_begins_again_draws_what_it_would_have_drawn(tmp_path):
    """Dropout of the pieces of a step, and nothing of the tries that failed."""
    params = {"lr": 0.5, "dropout": 0.5, "batch_size": 16, "accumulation": 4}
    work = make_work(params=params, keep_snapshot=True)
    plain = run(hungry(16)[0], work, tmp_path)
    again = run(
        hungry(16)[0],
        make_work(**work.model_dump() | {"params": params | {"batch_size": 64, "accumulation": 1}}),
        tmp_path,
    )
    assert close(tree(again)["model"], tree(plain)["model"], 0.0)


def test_running_statistics_count_no_batch_of_a_try_that_failed(tmp_path):
    work = make_work(params={"batch_size": 50, "lr": 0.0}, epochs=1, keep_snapshot=True)
    end = tree(run(hungry(25, norm=True)[0], work, tmp_path))["model"]
    assert end["inner.0.num_batches_tracked"].item() == 6


def test_a_short_last_batch_may_be_the_one_that_runs_out(tmp_path):
    """Some other program takes memory away before the last step of 22 samples."""
    task, sizes = hungry(1000)
    model = []
    build = task.task.build

    def built(params):
        model.append(build(params))
        return model[0]

    def ask():
        model[0].most = 1000 if len(sizes) < 2 else 10

    run(
        blobs(splits=task.task.splits, build=built),
        make_work(params={"batch_size": 64}, epochs=1),
        tmp_path,
        asked=ask,
    )
    assert sizes == [64, 64, 5, 5, 5, 5, 2]


def test_a_trial_goes_on_with_the_batches_that_fitted_before_an_interruption(tmp_path):
    work = make_work(params={"lr": 0.5, "batch_size": 64, "dropout": 0.5}, keep_snapshot=True)
    whole = run(hungry(20)[0], work, tmp_path)
    first = run(hungry(20)[0], work, tmp_path, asked=wish_at(4))
    task, sizes = hungry(20)
    second = run(task, work, tmp_path, resume=saved(first)[-1].file.path)
    assert max(sizes) == 16
    assert same_bits(tree(second), tree(whole))


def test_a_device_without_memory_for_one_sample_fails_as_torch_does(tmp_path):
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        run(hungry(0)[0], make_work(params={"batch_size": 8}), tmp_path)


def test_another_error_is_not_tried_again(tmp_path):
    task, sizes = hungry(4, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(task, make_work(params={"batch_size": 8}), tmp_path)
    assert sizes == []


def test_a_model_that_fits_is_asked_for_each_batch_once(tmp_path):
    task, sizes = hungry(1000)
    said = run(task, make_work(params={"batch_size": 64}, epochs=1), tmp_path)
    assert sizes == [64, 64, 22]
    assert ending(said) == Ending("complete", "budget")
