import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from training import same_bits
from tunesmith_workers import rng, snapshots
from tunesmith_workers.snapshots import SnapshotCorrupt, load, restore_model, restore_optimizer, save

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int8,
    torch.uint8, torch.uint32, torch.bool,
]  # fmt: skip


def test_a_tree_comes_back_as_it_was(tmp_path):
    tree = {
        "floats": [0.1, math.inf, -math.inf, -0.0, 5e-324],
        "ints": [0, -1, 2**53 + 1, -(2**200)],
        "rest": (None, True, "a\nb \u2028 ü"),
        "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "$tensor": {"$": 1},
        "empty": [torch.empty(0), torch.empty(2, 0, 3), (), {}],
    }
    file = save(tmp_path / "a", tree)
    assert same_bits(load(file.path), tree)


def test_nan_comes_back_as_nan(tmp_path):
    assert math.isnan(load(save(tmp_path / "a", [math.nan]).path)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_to_the_bit(tmp_path, dtype):
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (64,), dtype=torch.uint8)
    tensor = raw.view(dtype)
    back = load(save(tmp_path / "a", {"x": tensor}).path)["x"]
    assert back.dtype == dtype
    assert torch.equal(back.view(torch.uint8), raw)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
)
keys = st.text(st.characters(codec="utf-8"), max_size=5) | st.integers() | st.booleans()
trees = st.recursive(
    scalars,
    lambda t: st.lists(t) | st.dictionaries(keys, t) | st.lists(t).map(tuple),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_any_tree_of_plain_values_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "any"
    assert same_bits(load(save(path, tree).path), tree)


def test_what_is_tied_is_stored_once_and_comes_back_tied(tmp_path):
    weight = torch.randn(1000)
    file = save(tmp_path / "a", {"a": weight, "b": weight, "part": weight[10:20], "step": weight[::2]})
    assert file.size < 4 * 1000 + 2000
    back = load(file.path)
    back["a"][12] = 5.0
    assert back["b"][12] == back["part"][2] == back["step"][6] == 5.0


def test_of_a_view_on_a_large_storage_only_the_part_in_use_is_stored(tmp_path):
    large = torch.randn(100_000)
    file = save(tmp_path / "a", large[50_000:50_010])
    assert file.size < 1000
    assert torch.equal(load(file.path), large[50_000:50_010])


def test_strides_come_back(tmp_path):
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tree = {"image": image, "transposed": torch.randn(3, 4).t(), "expanded": torch.randn(3, 1).expand(3, 4)}
    back = load(save(tmp_path / "a", tree).path)
    assert same_bits(back, tree)
    assert back["image"].is_contiguous(memory_format=torch.channels_last)


def test_the_same_tree_gives_the_same_file(tmp_path):
    tree = {"b": torch.ones(3), "a": [torch.zeros(2), 1]}
    one, other = save(tmp_path / "a", tree), save(tmp_path / "b", tree)
    assert (one.sha256, one.size) == (other.sha256, other.size)
    assert one.path.read_bytes() == other.path.read_bytes()


def test_a_snapshot_is_safetensors_with_json_in_its_header(tmp_path):
    file = save(tmp_path / "a", {"x": torch.ones(3)})
    with safe_open(file.path, framework="pt") as reader:
        assert list(reader.keys()) == ["s0"]
        assert json.loads(reader.metadata()["tunesmith"])["tree"]["x"]["$tensor"]["shape"] == [3]


def test_a_snapshot_is_to_the_byte_what_safetensors_writes(tmp_path):
    tree = {"say": 'ü \u2028 "', "empty": torch.empty(0), "all": [torch.rand(n + 1) for n in range(12)]}
    file = save(tmp_path / "a", tree)
    with safe_open(file.path, framework="pt") as reader:
        storages = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
        save_file(storages, tmp_path / "theirs", reader.metadata())
    written = file.path.read_bytes()
    assert written == (tmp_path / "theirs").read_bytes()
    assert (file.size, file.sha256) == (len(written), hashlib.sha256(written).hexdigest())


def test_what_a_snapshot_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"snapshot\.more\.cache\[1\] is a set"):
        save(tmp_path / "a", {"more": {"cache": [1, {2}]}})
    with pytest.raises(TypeError, match=r"snapshot\.x: a snapshot cannot hold a torch\.sparse_coo"):
        save(tmp_path / "a", {"x": torch.ones(2, 2).to_sparse()})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    old = save(tmp_path / "a", {"x": 1})

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "a", {"x": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert load(old.path) == {"x": 1}


def damaged(tmp_path: Path, how: str) -> Path:
    file = save(tmp_path / "snap", {"weights": torch.arange(100.0), "epoch": 3})
    content = bytearray(file.path.read_bytes())
    if how == "cut short":
        content = content[:-17]
    elif how == "a bit flipped in a tensor":
        content[-9] ^= 1
    elif how == "a bit flipped in the header":
        content[3] ^= 1
    elif how == "a view past its storage":
        content = content.replace(b'\\"shape\\": [100]', b'\\"shape\\": [999]')
    elif how == "an unknown mark":
        content = content.replace(b"$tensor", b"$pickle")
    elif how == "another format":
        content = content.replace(b'\\"format\\": 2', b'\\"format\\": 9')
    elif how == "a pickle":
        torch.save({"x": torch.ones(3)}, file.path)
        return file.path
    elif how == "foreign safetensors":
        save_file({"x": torch.ones(3)}, file.path)
        return file.path
    elif how == "missing":
        file.path.unlink()
        return file.path
    file.path.write_bytes(content)
    return file.path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut short", "not a readable safetensors file"),
        ("a bit flipped in a tensor", "its tensors are not those that were written"),
        ("a bit flipped in the header", "not a readable safetensors file"),
        (
            "a view past its storage",
            "header is damaged: ValueError: a view of 3996 bytes on a storage of 400",
        ),
        ("an unknown mark", r"header is damaged: ValueError: unknown mark \$pickle"),
        ("another format", "format 9, this version reads 2"),
        ("a pickle", "not a readable safetensors file"),
        ("foreign safetensors", "not one of Tunesmith's snapshots"),
        ("missing", "there is no such file"),
    ],
)
def test_a_corrupt_snapshot_says_what_is_wrong(tmp_path, how, message):
    with pytest.raises(SnapshotCorrupt, match=message):
        load(damaged(tmp_path, how))


# --- into models and optimizers -------------------------------------------------------------------


class Tied(nn.Module):
    """An input and an output layer that share one weight."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        if tie:
            self.write.weight = self.read.weight


def through_a_file(tmp_path: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    return load(save(tmp_path / "m", {"model": model.state_dict()}).path)["model"]


def test_tied_weights_survive_and_train_as_one(tmp_path):
    trained = Tied()
    fresh = Tied()
    restore_model(fresh, through_a_file(tmp_path, trained))
    assert fresh.read.weight is fresh.write.weight
    assert torch.equal(fresh.read.weight, trained.read.weight)
    assert len(list(fresh.parameters())) == 1


def test_a_snapshot_of_a_tied_model_does_not_go_into_an_untied_one(tmp_path):
    with pytest.raises(SnapshotCorrupt, match="tie different weights together"):
        restore_model(Tied(tie=False), through_a_file(tmp_path, Tied()))


def test_channels_last_comes_back_into_a_model_built_without_it(tmp_path):
    trained = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    fresh = nn.Conv2d(3, 8, 3)
    restore_model(fresh, through_a_file(tmp_path, trained))
    assert fresh.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fresh.weight, trained.weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(4, 3, bias=False), r"it lacks nothing and has \['bias'\] besides"),
        (nn.Sequential(nn.Linear(4, 3)), r"it lacks \['0.bias', '0.weight'\]"),
        (nn.Linear(4, 5), r"weight is torch.float32 \[3, 4\] in it and torch.float32 \[5, 4\] in the model"),
        (nn.Linear(4, 3).double(), r"weight is torch.float32 \[3, 4\] in it and torch.float64"),
    ],
)
def test_a_snapshot_of_another_model_is_refused(tmp_path, model, message):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(SnapshotCorrupt, match=message):
        restore_model(model, through_a_file(tmp_path, nn.Linear(4, 3)))
    assert same_bits(dict(model.state_dict()), before)


def trained_adamw(weight_decay: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=weight_decay)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_an_optimizer_gets_the_saved_state_and_keeps_its_own_hyperparameters(tmp_path):
    _, trunk = trained_adamw(1e-3)
    branch = torch.optim.AdamW(nn.Linear(4, 3).parameters(), lr=0.5, weight_decay=3e-2)
    restore_optimizer(branch, load(save(tmp_path / "o", trunk.state_dict()).path))
    group = branch.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 3e-2)
    assert same_bits(branch.state_dict()["state"], trunk.state_dict()["state"])


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    model, trunk = trained_adamw(0.0)
    state = trunk.state_dict() | {"kind": "AdamW"}
    with pytest.raises(SnapshotCorrupt, match="optimizer is AdamW, this trial's is SGD"):
        restore_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), state)
    with pytest.raises(SnapshotCorrupt, match="other parameters"):
        restore_optimizer(torch.optim.AdamW([*model.parameters(), nn.Parameter(torch.ones(1))]), state)
    with pytest.raises(SnapshotCorrupt, match=r"exp_avg of shape \[3, 4\] for parameter 0"):
        restore_optimizer(torch.optim.AdamW(nn.Linear(9, 9).parameters()), state)


def test_random_state_comes_back_for_every_generator(tmp_path):
    import random

    import numpy as np

    rng.begin(3, threads=1)
    random.gauss(0, 1)  # leaves a second number in store
    np.random.standard_normal()  # likewise
    file = save(tmp_path / "r", rng.state(torch.device("cpu")))

    def draw() -> tuple[float, float, float]:
        return random.gauss(0, 1), float(np.random.standard_normal()), torch.randn(1).item()

    first = draw()
    rng.begin(4, threads=1)
    rng.restore(load(file.path), torch.device("cpu"))
    assert draw() == first


def test_the_random_state_of_a_cuda_device_is_saved_and_restored(tmp_path, monkeypatch):
    device, put = torch.device("cuda:0"), {}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda d: torch.full((16,), 9, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, d: put.update({d: state}))
    tree = load(save(tmp_path / "r", rng.state(device)).path)
    rng.restore(tree, torch.device("cpu"))
    assert put == {}
    rng.restore(tree, device)
    assert put[device].tolist() == [9] * 16


def test_every_tensor_of_a_tree_is_found():
    one, two = torch.ones(1), torch.ones(2)
    assert list(snapshots.tensors({"a": [one, 3], "b": (None, {"c": two})})) == [one, two]


def test_weights_that_lie_side_by_side_in_one_storage_are_not_tied(tmp_path):
    """As cuDNN packs those of an LSTM: a snapshot of them must fit a model on a CPU."""

    class Packed(nn.Module):
        def __init__(self, flat):
            super().__init__()
            self.a, self.b = nn.Parameter(flat[:5]), nn.Parameter(flat[5:].clone() if flat[0] else flat[5:])

    packed, apart = Packed(torch.arange(10.0)), Packed(torch.ones(10))
    restore_model(apart, through_a_file(tmp_path, packed))
    assert torch.equal(torch.cat([apart.a, apart.b]), torch.arange(10.0))


def test_a_model_restored_from_the_file_itself_lies_in_memory(tmp_path):
    """Channels last and tied, which it is not when it is built; what is mapped is emptied afterwards."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bias = nn.Conv2d(4, 8, 3), nn.Parameter(torch.randn(8))
            self.head = nn.Linear(8, 8)
            self.out = nn.Linear(8, 8)
            self.out.weight = self.head.weight

    one, other = Model(), Model()
    one.conv.to(memory_format=torch.channels_last)
    path = tmp_path / "s.safetensors"
    save(path, {"model": one.state_dict(), "more": one.state_dict()["bias"].clone(), "k": 1})
    saved = load(path, mapped="model")
    restore_model(other, saved["model"])
    more = saved["more"]
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(bytes(size))
    assert not saved["model"]["head.weight"].any()
    assert torch.equal(more, one.bias)
    for (name, was), (_, now) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(was, now), name
        assert was.stride() == now.stride(), name
    assert other.out.weight is other.head.weight


def test_of_a_mapped_part_only_what_it_shares_with_no_other_stays_in_the_file(tmp_path):
    path, tied = tmp_path / "s.safetensors", torch.arange(4.0)
    save(path, {"model": {"a": tied, "b": torch.ones(3)}, "more": [tied]})
    saved = load(path, mapped="model")
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(saved["more"][0], tied)
    assert saved["model"]["a"].data_ptr() == saved["more"][0].data_ptr()


def test_a_damaged_mapped_part_is_found(tmp_path):
    path = tmp_path / "s.safetensors"
    save(path, {"model": {"a": torch.ones(1000)}})
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(SnapshotCorrupt, match="digest differs"):
        load(path, mapped="model")
