"""How weights are drawn, and taken from other weights."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from training import blobs, make_work, run, saved, tree
from tunesmith_workers import rng
from tunesmith_workers.init import initialise
from tunesmith_workers.weights import WeightsError, read_weights, take_over


def net(width: int = 200) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, width), nn.LayerNorm(width), nn.Linear(width, 100, bias=False),
    )  # fmt: skip


def drawn(how: str, seed: int = 5) -> nn.Sequential:
    torch.manual_seed(1)
    model = net()
    with torch.no_grad():
        for module in (model[1], model[5]):
            module.weight.fill_(0.5)
            module.bias.fill_(0.25)
    initialise(model, {"init": how}, seed)
    return model


def test_as_built_touches_nothing():
    torch.manual_seed(1)
    built = net().state_dict()
    made = drawn("as_built").state_dict()
    assert torch.equal(made["0.weight"], built["0.weight"])
    assert torch.equal(made["4.bias"], built["4.bias"])


@pytest.mark.parametrize("how", ["xavier", "he", "orthogonal"])
def test_biases_are_zero_and_norms_left(how):
    model = drawn(how)
    assert not model[0].bias.any()
    assert not model[4].bias.any()
    for norm in (model[1], model[5]):
        assert torch.equal(norm.weight, torch.full_like(norm.weight, 0.5))
        assert torch.equal(norm.bias, torch.full_like(norm.bias, 0.25))


def test_xavier_is_uniform_with_its_variance():
    weight = drawn("xavier")[6].weight
    bound = math.sqrt(6 / (200 + 100))
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    assert weight.var().item() == pytest.approx(2 / 300, rel=0.03)
    assert drawn("xavier")[0].weight.var().item() == pytest.approx(2 / (3 * 25 + 16 * 25), rel=0.1)


def test_he_is_normal_with_variance_two_over_fan_in():
    model = drawn("he")
    weight = model[6].weight
    assert weight.var().item() == pytest.approx(2 / 200, rel=0.03)
    assert (weight.abs() < 2 * math.sqrt(2 / 200)).float().mean().item() == pytest.approx(0.954, abs=0.005)
    assert model[0].weight.var().item() == pytest.approx(2 / (3 * 25), rel=0.1)


def test_orthogonal_is_orthogonal():
    model = drawn("orthogonal")
    rows = model[6].weight
    assert torch.allclose(rows @ rows.T, torch.eye(100), atol=1e-5)
    kernels = model[0].weight.flatten(1)
    assert torch.allclose(kernels @ kernels.T, torch.eye(16), atol=1e-5)


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    net()
    before = torch.get_rng_state()
    first = drawn("he", 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[6].weight, drawn("he", 5)[6].weight)
    assert not torch.equal(first[6].weight, drawn("he", 6)[6].weight)


def test_an_unknown_initialisation_is_named():
    with pytest.raises(ValueError, match="init must be one of as_built, xavier, he, orthogonal, got 'zeros'"):
        initialise(net(), {"init": "zeros"}, 1)


# --- from other weights ---------------------------------------------------------------------------


def test_what_fits_by_name_and_shape_is_taken_and_the_line_says_which(tmp_path):
    given = {name: torch.full_like(t, 2) for name, t in net().state_dict().items()}
    given["6.weight"] = torch.zeros(10, 200)
    given["7.bias"] = torch.zeros(3)
    save_file(given, tmp_path / "w.safetensors")
    weights = read_weights("big", tmp_path / "w.safetensors")
    model = net()
    fresh = model[6].weight.clone()
    line = take_over(model, weights)
    assert line == (
        f"starts from big (sha256 {weights.sha256[:12]}), which gives 11 of 12 tensors; fresh: 6.weight; "
        "not used: 6.weight, 7.bias"
    )
    assert torch.equal(model[6].weight, fresh)
    assert model[1].running_var.unique().tolist() == [2.0]
    assert model[1].num_batches_tracked.item() == 2


def test_a_snapshot_s_model_can_be_taken_and_its_random_state_and_optimizer_stay_behind(tmp_path):
    work = make_work(params={"hidden": 8, "lr": 0.1}, keep_snapshot=True)
    said = run(blobs(), work, tmp_path)
    weights = read_weights("trunk", saved(said)[-1].file.path)
    assert weights.sha256 == saved(said)[-1].file.sha256
    model = blobs(classes=5).task.build({"hidden": 8})
    rng.begin(3, 1)
    before = torch.get_rng_state()
    line = take_over(model, weights)
    assert "which gives 4 of 6 tensors; fresh: 7.weight, 7.bias; not used: 7.weight, 7.bias" in line
    assert torch.equal(model[1].weight, tree(said)["model"]["1.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_half_precision_are_taken_into_the_model_s(tmp_path):
    save_file({"6.weight": torch.ones(100, 200, dtype=torch.float16)}, tmp_path / "w.safetensors")
    model = net()
    take_over(model, read_weights("half", tmp_path / "w.safetensors"))
    assert model[6].weight.dtype == torch.float32
    assert model[6].weight.unique().tolist() == [1.0]


def test_weights_of_which_nothing_fits_are_refused_with_both_sides_names(tmp_path):
    save_file({"head.weight": torch.ones(3, 2)}, tmp_path / "w.safetensors")
    weights = read_weights("other", tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weights other fits .*head.weight \[3, 2\]; the model has 0"):
        take_over(net(), weights)


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    for content in (b"", b"no tensors at all", b"\x80\x04pickle"):
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(WeightsError, match=r"--weights w=.*neither a snapshot nor a safetensors file"):
            read_weights("w", tmp_path / "w")
    with pytest.raises(WeightsError, match="No such file"):
        read_weights("w", tmp_path / "nowhere")
