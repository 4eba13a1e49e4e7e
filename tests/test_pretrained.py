import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import safetensors.numpy
from conftest import same

from dlx import pretrained
from dlx.models import resnet, vgg
from dlx.pretrained import PREPROCESSING, TIMM, TORCHVISION, PretrainedError
from dlx.pretrained.rules import CHANGES, flat

HALF_WIDE = np.array([1.5, -(2.0**-9), 65280.0], np.float32)  # exact in bfloat16 and float16


@pytest.fixture(scope="module")
def variables():
    """ResNet-18 with three classes and a value of its own in every place."""
    shapes = jax.eval_shape(resnet.resnet18(3).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def state_dict(variables):
    return pretrained.to_torchvision("resnet18", variables)


def test_round_trips_are_exact(variables, state_dict):
    there = pretrained.from_torchvision("resnet18", state_dict)
    assert same(there, variables)
    assert same(pretrained.to_torchvision("resnet18", there), state_dict)
    assert state_dict["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(there))


def test_a_round_trip_through_vgg_reorders_the_flattened_map():
    shapes = jax.eval_shape(vgg.vgg16_bn(3, hidden=4).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    state_dict = pretrained.to_torchvision("vgg16_bn", variables)
    kernel = variables.params["Dense_0"]["kernel"].reshape(7, 7, 512, 4)
    np.testing.assert_array_equal(
        state_dict["classifier.0.weight"].reshape(4, 512, 7, 7), kernel.transpose(3, 2, 0, 1)
    )
    here, there = CHANGES["dense after 7x7"]
    assert same(here(there(variables.params["Dense_0"]["kernel"])), variables.params["Dense_0"]["kernel"])


def test_torch_loads_strictly_what_goes_out(variables, state_dict):
    torch = parity.needed("torch")
    reference = parity.torchvision("resnet18", num_classes=3)
    reference.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()}, strict=True)
    again = parity.arrays(reference)
    assert any("num_batches_tracked" in name for name in again)
    assert same(pretrained.from_torchvision("resnet18", again), variables)
    weights = {k: v for k, v in again.items() if "num_batches_tracked" not in k}
    assert same(weights, state_dict)


def test_one_error_lists_everything_left_over_missing_or_misshaped(state_dict):
    del state_dict["layer1.0.bn1.running_var"]
    state_dict["layer4.1.conv2.weight"] = np.zeros((512, 512, 1, 1), np.float32)
    state_dict["bn1.weight"] = np.zeros((64, 1), np.float32)
    state_dict["bn1.bias"] = np.zeros(65, np.float32)
    state_dict["conv1.weight"] = np.zeros(3, np.float32)
    state_dict["extra.weight"] = np.zeros(5, np.float32)
    with pytest.raises(PretrainedError) as raised:
        pretrained.from_torchvision("resnet18", state_dict)
    text = str(raised.value)
    assert "missing: layer1.0.bn1.running_var" in text
    assert "misshaped: layer4.1.conv2.weight is (512, 512, 1, 1) instead of (512, 512, 3, 3)" in text
    assert "misshaped: bn1.weight is (64, 1) instead of (64,)" in text
    assert "misshaped: bn1.bias is (65,) instead of (64,)" in text
    assert "misshaped: conv1.weight is (3,) instead of (64, 3, 7, 7)" in text
    assert "left over: extra.weight (5,)" in text
    assert len(text.splitlines()) == 7


def test_a_missing_head_and_a_wrong_depth_are_listed_too(state_dict):
    del state_dict["fc.bias"]
    with pytest.raises(PretrainedError, match="missing: fc.bias"):
        pretrained.from_torchvision("resnet18", state_dict)
    with pytest.raises(PretrainedError, match="missing: layer3.5.conv2.weight"):
        pretrained.from_torchvision("resnet34", state_dict)


def test_an_unknown_model_is_answered_with_the_known_ones(state_dict):
    with pytest.raises(PretrainedError, match="no weights of torchvision for 'lenet'; .*resnet18"):
        pretrained.from_torchvision("lenet", state_dict)


def test_half_precision_weights_become_float32(variables, state_dict):
    halves = {k: v.astype(np.float16) for k, v in state_dict.items()}
    leaves = jax.tree.leaves(pretrained.from_torchvision("resnet18", halves))
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}


@pytest.mark.parametrize("library, name", [(t, n) for t in ("torchvision", "timm") for n in ("resnet18",)])
def test_every_entry_has_its_own_name(library, name, variables):
    rule = {"torchvision": TORCHVISION, "timm": TIMM}[library][name]
    leaves = flat({"params": variables.params, **variables.state})
    assert len({rule.entry(path).name for path in leaves}) == len(leaves)


def test_safetensors_are_read_half_precision_included(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int64(3)[None]}
    arrays["b"], arrays["h"] = HALF_WIDE.astype(jnp.bfloat16), HALF_WIDE.astype(np.float16)
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    loaded = pretrained.load(tmp_path / "w.safetensors")
    assert same(loaded, arrays | {"b": HALF_WIDE, "h": HALF_WIDE})

    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-4])
    with pytest.raises(PretrainedError, match="not a whole safetensors file"):
        pretrained.load(tmp_path / "cut.safetensors")


def test_files_of_torch_are_read_also_from_within_a_checkpoint(tmp_path):
    torch = parity.needed("torch")
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3).T,
        "b": torch.tensor(HALF_WIDE).to(torch.bfloat16),
        "p": torch.nn.Parameter(torch.ones(2)),
    }
    expected = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "b": HALF_WIDE}
    expected["p"] = np.ones(2, np.float32)
    for name, saved in {"w.pth": tensors, "c.pt": {"epoch": 3, "state_dict": tensors}}.items():
        torch.save(saved, tmp_path / name)
        loaded = pretrained.load(str(tmp_path / name))
        assert set(loaded) == set(expected)
        for entry in expected:
            np.testing.assert_array_equal(loaded[entry], expected[entry])
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-40])
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("cut.pth", "empty.pth"):
        with pytest.raises(PretrainedError, match="not a whole file of PyTorch"):
            pretrained.load(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(PretrainedError, match="holds no state dict"):
        pretrained.load(tmp_path / "list.pth")


class Malicious:
    """What runs a command when it is unpickled freely."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return open, (str(self.victim), "w")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, writer):
    torch = parity.needed("torch")
    weights, victim = {"a": Malicious(tmp_path / "victim")}, tmp_path / "victim"
    if writer == "torch":
        torch.save(weights, tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(pickle.dumps(weights, protocol=2))
    with pytest.raises(PretrainedError, match="not read for safety"):
        pretrained.load(tmp_path / "w.pth")
    assert not victim.exists()


def test_without_torch_its_files_are_refused_with_advice(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PretrainedError, match="install torch"):
        pretrained.load(tmp_path / "w.pth")


def test_a_name_of_the_hub_is_downloaded_or_refused_with_advice(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(repository, file):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(PretrainedError, match="timm/resnet50.a1_in1k .*no route to host.*give its path"):
        pretrained.load("timm/resnet50.a1_in1k")

    def download(repository, file):
        assert (repository, file) == ("timm/resnet50.a1_in1k", "model.safetensors")
        safetensors.numpy.save_file({"a": HALF_WIDE}, tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert same(pretrained.load("timm/resnet50.a1_in1k"), {"a": HALF_WIDE})

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PretrainedError, match="install huggingface_hub"):
        pretrained.load("timm/resnet50.a1_in1k")


def test_missing_files_and_unknown_formats_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights/w.safetensors"):
        pretrained.load("weights/w.safetensors")
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(PretrainedError, match=r"w.npz is none of .safetensors, .pth"):
        pretrained.load(tmp_path / "w.npz")


def test_preprocessing_is_what_the_publishers_say():
    models, timm = parity.needed("torchvision").models, parity.needed("timm")
    for name, ours in PREPROCESSING.items():
        library, weights = name.split("/")
        model, tag = weights.split(".")
        mean, std = np.array(ours.mean) / 255, np.array(ours.std) / 255
        if library == "torchvision":
            theirs = models.get_model_weights(model)[tag].transforms()
            assert (theirs.crop_size, theirs.resize_size) == ([ours.size], [ours.resize]), name
            assert theirs.interpolation.value == ours.interpolation, name
            if model == "inception_v3":  # whose first lines turn ImageNet's standardisation into its own
                mean, std = theirs.mean, theirs.std
                assert ours.mean == ours.std == (127.5,) * 3
            np.testing.assert_allclose((mean, std), (theirs.mean, theirs.std), rtol=1e-6)
        else:
            theirs = timm.models.get_pretrained_cfg(weights)
            assert (theirs.architecture, theirs.tag) == (model, tag)
            assert theirs.input_size == (3, ours.size, ours.size), name
            assert int(ours.size / theirs.crop_pct) == ours.resize, name
            assert theirs.interpolation == ours.interpolation, name
            np.testing.assert_allclose((mean, std), (theirs.mean, theirs.std), rtol=1e-6)
