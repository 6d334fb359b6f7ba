import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file
from torch import nn
from training import blobs, make_work, points, run
from tunesmith_workers.tasks import builtin, digits, files, models
from tunesmith_workers.tasks.registry import Entry, Loop, Registry, Task, TaskError, digest_of, train
from tunesmith_workers.weights import read_weights


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def csv(path: Path, *lines: str) -> Path:
    (path / "data.csv").write_text("\n".join(lines) + "\n")
    return path / "data.csv"


def rows(n: int) -> list[str]:
    """A numeric column, a text column and a target with two classes."""
    return [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(n)]


# --- built in -------------------------------------------------------------------------------------


def test_digits_is_split_60_20_20_with_every_class_in_each():
    splits = digits.task().splits
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [1079, 359, 359]
    for split in (splits.train, splits.val, splits.test):
        share = torch.bincount(split.y).float() / len(split)
        assert share.min() > 0.09
        assert (float(split.x.min()), float(split.x.max())) == (0.0, 1.0)
    everything = torch.cat([s.x.flatten(1) for s in (splits.train, splits.val, splits.test)])
    assert len(torch.unique(everything, dim=0)) == 1797  # no image is in two splits


@pytest.mark.parametrize(
    ("params", "epochs", "least"),
    [
        ({"optimizer": "momentum", "lr": 0.1, "hidden": 128, "weight_decay": 1e-3}, 25, 0.95),
        ({"model": "cnn", "optimizer": "momentum", "lr": 0.05}, 15, 0.95),
    ],
    ids=["mlp", "cnn"],
)
def test_digits_are_learnt(tmp_path, params, epochs, least):
    entry = Entry("digits", digits.task(), "0" * 64)
    said = run(entry, make_work(task="digits", params=params, epochs=epochs), tmp_path)
    assert points(said)[-1].metrics["val/accuracy"] >= least


def test_a_fresh_network_guesses():
    """The first loss of an untrained network is about log C, as the recipe's first check wants."""
    task = digits.task()
    for model in ("mlp", "cnn"):
        torch.manual_seed(0)
        loss = task.loss(task.build({"model": model})(task.splits.val.x), task.splits.val.y).mean()
        assert float(loss.detach()) == pytest.approx(np.log(10), rel=0.05)


@pytest.mark.parametrize(
    ("sample", "depth"), [((1, 8, 8), 2), ((3, 32, 32), 3), ((1, 5, 7), 4), ((4, 1, 1), 1), ((1, 28, 28), 6)]
)
def test_a_cnn_takes_images_of_any_size(sample, depth):
    model = models.build("x", models.Shape(sample, 5), {"model": "cnn", "depth": depth, "hidden": 8})
    assert model(torch.zeros(2, *sample)).shape == (2, 5)


def test_an_mlp_has_the_depth_and_width_asked_for():
    model = models.build("x", models.Shape((3, 4), 5), {"hidden": 7, "depth": 3})
    assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [(7, 12), (7, 7), (7, 7), (5, 7)]
    linear = models.build("x", models.Shape((3, 4), 5), {"depth": 0})
    assert [tuple(p.shape) for p in linear.parameters()] == [(5, 12), (5,)]


# --- from files -----------------------------------------------------------------------------------


def test_a_table_is_standardised_by_its_training_split_alone(tmp_path):
    x = np.random.default_rng(0).normal(50, 9, (200, 3))
    x[:, 2] = 4.0
    splits = files.task("t", npz(tmp_path, X=x, y=np.arange(200) % 4)).splits
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [120, 40, 40]
    mean, deviation = splits.train.x.mean(0), splits.train.x.std(0, correction=0)
    assert torch.allclose(mean, torch.zeros(3), atol=1e-5)
    assert torch.allclose(deviation, torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    assert not torch.allclose(splits.val.x.mean(0), torch.zeros(3), atol=1e-3)


def test_a_csv_file_becomes_numbers_with_a_column_for_each_text(tmp_path):
    path = csv(tmp_path, "size,colour,class", *rows(60))
    task = files.task("t", path)
    assert task.classes == 2
    assert task.splits.train.x.shape[1] == 3  # size, blue, red
    assert set(task.splits.train.x[:, 1:].flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(task.splits.train.x[:, 1:].sum(1), torch.ones(len(task.splits.train)))


def test_a_parquet_file_reads_as_the_same_csv_file(tmp_path):
    from pyarrow import csv as arrow_csv

    path = csv(tmp_path, "size,colour,class", *rows(60))
    parquet.write_table(arrow_csv.read_csv(path), tmp_path / "data.parquet")
    one, other = files.task("t", path), files.task("t", tmp_path / "data.parquet")
    assert torch.equal(one.splits.train.x, other.splits.train.x)
    assert torch.equal(one.splits.train.y, other.splits.train.y)


def test_categories_of_parquet_are_texts(tmp_path):
    table = pa.table({"c": pa.array(["a", "b"] * 30).dictionary_encode(), "y": pa.array([0, 0, 1] * 20)})
    parquet.write_table(table, tmp_path / "d.parquet")
    assert files.task("t", tmp_path / "d.parquet").splits.train.x.shape[1] == 2


@pytest.mark.parametrize(
    ("names", "target"),
    [("a,b,c", 2), ("a,target,b", 1), ("y,a,b", 0), ("y,Target,b", 1), ("label,class,y", 0)],
)
def test_the_target_is_the_column_named_so_else_the_last(tmp_path, names, target):
    lines = [f"{i % 2},{i % 3},{i % 4}" for i in range(60)]
    assert files.task("t", csv(tmp_path, names, *lines)).classes == target + 2


def test_images_are_standardised_and_channels_come_first(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 6, 5, 3), dtype=np.uint8)
    task = files.task("t", npz(tmp_path, X=pixels, y=np.arange(100) % 2))
    assert task.splits.train.x.shape == (60, 3, 6, 5)
    assert torch.allclose(task.splits.train.x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert any(isinstance(m, nn.Conv2d) for m in task.build({}).modules())
    grey = files.task("t", npz(tmp_path, X=pixels[..., 0], y=np.arange(100) % 2))
    assert grey.splits.train.x.shape == (60, 1, 6, 5)


def test_a_test_split_that_the_file_gives_stays_the_test_split(tmp_path):
    x = np.arange(100.0)[:, None]
    y = np.arange(100) % 2
    path = npz(tmp_path, X_train=x[:80], y_train=y[:80], X_test=x[80:], y_test=y[80:])
    splits = files.task("t", path).splits
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [64, 16, 20]
    assert float(splits.test.x.min()) > float(torch.cat([splits.train.x, splits.val.x]).max())


Y = np.arange(60) % 2
BAD_ARRAYS = [
    (
        {"X": np.full((60, 2), np.nan), "y": Y},
        r"column 'X\[:, 0\]' has 60 missing or infinite values in 60 rows",
    ),
    (
        {"X": np.full((60, 2), np.inf), "y": Y},
        "60 missing or infinite values in 60 rows; fill them in or drop",
    ),
    ({"X": np.ones((60, 2)), "y": np.zeros(60)}, r"target 'y' has a single class \(0.0 in all 60 rows\)"),
    ({"X": np.ones((60, 2)), "y": Y[:50]}, r"X has shape \[60, 2\] and y \[50\]; y needs one value a sample"),
    ({"X": np.ones((60, 2)), "y": np.ones((60, 1))}, r"y \[60, 1\]; y needs one value a sample"),
    ({"X": np.ones((60, 2))}, "needs arrays X and y, or X_train, .*; it has X"),
    (
        {"X": np.ones((60, 2)), "y": np.linspace(0, 1, 60)},
        "holds 60 different numbers such as 0 and .*regression",
    ),
    (
        {"X": np.ones((60, 2)), "y": np.arange(60)},
        "holds 60 different values in 60 rows, too many to be classes",
    ),
    (
        {"X": np.ones((60, 4, 4)), "y": Y},
        r"X has shape \[60, 4, 4\] of float64; tables are .*, images are uint8",
    ),
    ({"X": np.ones((60, 3, 4, 9), np.uint8), "y": Y}, "so 9 channels; channels come last and are 1 to 4"),
    ({"X": np.ones((4, 2)), "y": Y[:4]}, "4 rows in 2 classes leave the val split empty"),
    ({"X": np.array(5), "y": Y}, r"X has shape \[\] and y \[60\]"),
    ({"X": np.array([[object()]] * 60), "y": Y}, "not a readable .npz file without pickled objects"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_ARRAYS)
def test_an_npz_file_that_cannot_be_used_says_why(tmp_path, arrays, message):
    path = npz(tmp_path, **arrays)
    with pytest.raises(TaskError, match=message) as found:
        files.task("mine", path)
    assert str(found.value).startswith(f"--data mine={path}: ")


BAD_LINES = [
    (["a,b,y", *rows(30), ",red,yes"], "column 'a' has 1 missing or infinite values in 31 rows"),
    (["a,b,y", *rows(30), "1,,yes"], "column 'b' has 1 missing or infinite values in 31 rows"),
    (["a,b,y", *rows(30), "1,red,"], "column 'y' has 1 missing or infinite values in 31 rows"),
    (["a,y", *(f"{i},cat" for i in range(30))], r"target 'y' has a single class \(cat in all 30 rows\)"),
    (["a", "1", "2"], r"needs at least two columns, .*; it has \['a'\]"),
    (["a,y"], "has no rows"),
    (["a,y", "1,2,3"], "not a readable csv file: .*Expected 2 columns, got 3"),
    (
        ["name,y", *(f"n{i},{i % 2}" for i in range(300))],
        r"column 'name' has \d+ different texts in 300 rows, more",
    ),
    (["day,y", *(f"2024-01-{i % 28 + 1:02d},{i % 2}" for i in range(60))], "column 'day' is of type date32"),
]


@pytest.mark.parametrize(("lines", "message"), BAD_LINES)
def test_a_csv_file_that_cannot_be_used_says_why(tmp_path, lines, message):
    with pytest.raises(TaskError, match=message):
        files.task("mine", csv(tmp_path, *lines))


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"--data a=.*/none.csv: there is no such file"):
        files.task("a", tmp_path / "none.csv")
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(TaskError, match=r"a data file ends in .npz, .csv or .parquet, not in '.xlsx'"):
        files.task("a", tmp_path / "a.xlsx")
    (tmp_path / "a.npz").write_text("nothing of the kind")
    with pytest.raises(TaskError, match=r"not a readable \.npz file"):
        files.task("a", tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "a.npz", X=np.random.default_rng(0).random((100, 3)), y=np.arange(100))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:200] + b"\xff" * 60 + whole[260:])
    with pytest.raises(TaskError, match=r"not a readable \.npz file"):
        files.task("a", tmp_path / "a.npz")
    (tmp_path / "a.parquet").write_text("nothing of the kind")
    with pytest.raises(TaskError, match="not a readable parquet file"):
        files.task("a", tmp_path / "a.parquet")


# --- the registry ---------------------------------------------------------------------------------

TASK_FILE = """
import torch
from tunesmith_workers.data import Split, Splits
from tunesmith_workers.tasks.registry import Task, register, train
from {neighbour} import WIDTH

@register("mine")
def mine():
    x = torch.arange(20.0).reshape(10, 2)
    split = Split(x, torch.arange(10) % 2)
    return Task(Splits(split, split), classes=2, build=lambda params: torch.nn.Linear(2, WIDTH))

@train("own loop")
def loop(trial):
    pass
"""


def task_file(path: Path, name: str, width: int = 2) -> Path:
    """Names differ from test to test, as a process knows a module by its name once for all."""
    (path / f"{name}_neighbour.py").write_text(f"WIDTH = {width}\n")
    (path / f"{name}.py").write_text(TASK_FILE.format(neighbour=f"{name}_neighbour"))
    return path / f"{name}.py"


@pytest.fixture(autouse=True)
def _same_path_as_before(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_task_file_registers_tasks_and_loops_and_may_import_its_neighbours(tmp_path):
    registry = builtin.registry([task_file(tmp_path, "first_tasks")])
    assert set(registry.digests()) == {"digits", "mine", "own loop"}
    assert isinstance(registry["mine"].task, Task)
    assert isinstance(registry["own loop"].task, Loop)


def test_a_digest_changes_with_code_neighbours_and_data_and_with_nothing_else(tmp_path):
    def digest(name: str, width: int = 2) -> str:
        (tmp_path / name).mkdir()
        registry = Registry()
        registry.add_file(task_file(tmp_path / name, name, width))
        return registry.digests()["mine"]

    task = digits.task()
    assert digest_of(task, b"code") == digest_of(digits.task(), b"code")
    assert digest_of(task, b"code") != digest_of(task, b"other")
    assert digest_of(blobs().task, b"") != digest_of(blobs(samples=61).task, b"")
    assert digest("one_width") != digest("two_width", 3)


def test_a_digest_changes_with_the_weights_that_trials_may_start_from(tmp_path):
    def digests(**values: float) -> dict[str, str]:
        found = {}
        for name, value in values.items():
            save_file({"w": torch.full((2,), value)}, tmp_path / "w")
            found[name] = read_weights(name, tmp_path / "w")
        registry = Registry(found)
        registry.add("task", blobs().task, b"code")
        registry.add("loop", Loop(print), b"code")
        return registry.digests()

    sets = [{}, {"big": 1.0}, {"big": 2.0}, {"large": 1.0}, {"big": 1.0, "large": 1.0}]
    assert len({digests(**values)["task"] for values in sets}) == len(sets)
    assert len({digests(**values)["loop"] for values in sets}) == 1  # a loop takes no weights
    assert digests(big=1.0, large=1.0) == digests(large=1.0, big=1.0)
    assert digests()["task"] == digest_of(blobs().task, b"code")


def test_a_digest_is_the_same_whatever_files_were_given_before(tmp_path):
    def digest(*names: str) -> str:
        registry = Registry()
        for name in names:
            registry.add_file(tmp_path / f"{name}.py")
        for name in names:  # as in a process of its own
            del sys.modules[f"tunesmith_task_file_{name}"]
        return registry.digests()["shared_b"]

    (tmp_path / "shared_width.py").write_text("WIDTH = 2\n")
    for name in ("shared_a", "shared_b"):
        code = (
            f"import shared_width\nfrom {train.__module__} import train\n@train('{name}')\ndef loop(t): ...\n"
        )
        (tmp_path / f"{name}.py").write_text(code)
    assert digest("shared_b") == digest("shared_a", "shared_b") == digest("shared_b", "shared_a")


def test_task_files_of_two_directories_have_neighbours_of_one_name(tmp_path):
    registry = Registry()
    for name, width in (("here", 3), ("there", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "twin_width.py").write_text(f"WIDTH = {width}\n")
        code = f"from twin_width import WIDTH\nfrom {train.__module__} import train\n"
        code += f"@train('{name}')\ndef loop(t): return WIDTH\n"
        (tmp_path / name / f"{name}_tasks.py").write_text(code)
        registry.add_file(tmp_path / name / f"{name}_tasks.py")
    assert [registry[name].task.run(None) for name in ("here", "there")] == [3, 5]


def test_libraries_inside_a_project_are_no_part_of_its_digest(tmp_path):
    def digest(name: str, version: int) -> str:
        packages = tmp_path / name / "lib" / "site-packages"
        packages.mkdir(parents=True)
        (packages / f"{name}_library.py").write_text(f"VERSION = {version}\n")
        sys.path.insert(0, str(packages))
        code = "import importlib, sys\nimportlib.import_module(__name__[20:] + '_library')\n"
        code += f"from {train.__module__} import train\n@train('t')\ndef loop(t): ...\n"
        (tmp_path / name / f"{name}.py").write_text(code)
        registry = Registry()
        registry.add_file(tmp_path / name / f"{name}.py")
        assert f"{name}_library" in sys.modules
        return registry.digests()["t"]

    assert digest("venv_one", 1) == digest("venv_two", 2)


def test_names_are_taken_once(tmp_path):
    registry = Registry()
    registry.add("a", blobs().task, b"")
    with pytest.raises(TaskError, match="two tasks are named 'a'"):
        registry.add("a", blobs().task, b"")


def test_an_unknown_task_is_named_with_those_that_there_are():
    with pytest.raises(TaskError, match="this worker has no task 'dogits'; it has digits"):
        builtin.registry()["dogits"]


def test_a_task_file_that_registers_nothing_or_no_task_says_so(tmp_path):
    (tmp_path / "empty_tasks.py").write_text("x = 1\n")
    with pytest.raises(TaskError, match=r"empty_tasks.py: registers no task; decorate a function"):
        Registry().add_file(tmp_path / "empty_tasks.py")
    source = "from tunesmith_workers.tasks.registry import register\n@register('a')\ndef a(): return 3\n"
    (tmp_path / "wrong_tasks.py").write_text(source)
    with pytest.raises(TaskError, match="'a' must return a Task, it returned int"):
        Registry().add_file(tmp_path / "wrong_tasks.py")
    with pytest.raises(TaskError, match="there is no such file"):
        Registry().add_file(tmp_path / "none_tasks.py")
