from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from conftest import same

from dlx.core import Variables
from dlx.models.vit import resize_positions, vit, vit_b32, vit_s16
from dlx.pretrained import (
    TIMM,
    TORCHVISION,
    PretrainedError,
    from_timm,
    from_torchvision,
    to_timm,
    to_torchvision,
)
from dlx.pretrained.rules import CHANGES, shapes

SMALL = {"patch": 4, "width": 16, "depth": 3, "heads": 2, "hidden": 32}
TIMMS = {  # our name -> timm's; torchvision's are vit_b_16 and so on
    f"vit_{size[0]}{patch}": f"vit_{size}_patch{patch}_224"
    for size in ("small", "base", "large")
    for patch in (16, 32)
}


@pytest.fixture
def small(key):
    model = vit(5, **SMALL)
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    return model, model.init(key, images), images


def test_the_network_is_torchvisions():
    reference = parity.torchvision("vit_b_32", num_classes=7, image_size=64)
    weights = parity.arrays(reference)
    variables = from_torchvision("vit_b32", weights)
    model, back = vit_b32(7), partial(to_torchvision, "vit_b32")
    images = parity.images(2, 64)
    parity.check_inference(reference, model, variables, images)
    parity.check_gradients(reference, model, variables, images, back, tolerance=1e-4)
    assert same(back(variables), weights)


def test_torchvisions_first_files_load_too():
    """Those of 2022 call the dense layers of a block linear_1 and linear_2."""
    today = blank("vit_b32", TORCHVISION)
    first = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): array
        for name, array in today.items()
    }
    first["encoder.layers.encoder_layer_4.mlp.linear_2.bias"] = np.arange(768, dtype=np.float32)
    assert len(set(first) - set(today)) == 12 * 4
    params = from_torchvision("vit_b32", first).params
    np.testing.assert_array_equal(params["block_4"]["dense_2"]["bias"], np.arange(768))


def test_the_network_is_timms():
    reference = parity.timm("vit_small_patch16_224", num_classes=7)
    weights = parity.arrays(reference)
    variables = from_timm("vit_s16", weights)
    parity.check_inference(reference, vit_s16(7), variables, parity.images(2, 224))
    assert same(to_timm("vit_s16", variables), weights)


def test_positions_for_another_size_are_timms():
    reference = parity.timm("vit_small_patch16_224", num_classes=7)
    variables = from_timm("vit_s16", parity.arrays(reference))
    larger = parity.needed("timm").layers.resample_abs_pos_embed(reference.pos_embed, [16, 15])
    fitted = resize_positions(variables, 256, 240)
    np.testing.assert_allclose(fitted.params["positions"], larger.detach().numpy(), atol=1e-6)
    reference.set_input_size((64, 96))
    images = jax.random.normal(jax.random.key(0), (1, 64, 96, 3))
    parity.check_inference(reference, vit_s16(7), resize_positions(variables, 64, 96), images)


def test_weights_for_larger_images_load_as_they_are():
    weights = blank("vit_s32", TIMM)
    weights["pos_embed"] = np.zeros((1, 1 + 12 * 12, 384), np.float32)  # of 384 pixels
    variables = from_timm("vit_s32", weights)
    assert variables.params["positions"].shape == (1, 145, 384)
    assert resize_positions(variables, 224, 224).params["positions"].shape == (1, 50, 384)
    with pytest.raises(PretrainedError, match="missing: norm.weight"):
        from_timm("vit_s32", {name: array for name, array in weights.items() if name != "norm.weight"})


def blank(name, table):
    """Returns the entries of our model under a library's names, all 0 and without memory."""
    found = {}
    for path, leaf in shapes(name, 1000, 224).items():
        there, change = table[name].entry(path)
        found[there] = CHANGES[change][1](np.broadcast_to(np.float32(0), leaf.shape))
    return found


@pytest.mark.parametrize("name", TIMMS)
def test_every_size_has_timms_entries(name):
    torch, timm = parity.needed("torch"), parity.needed("timm")
    with torch.device("meta"):
        theirs = timm.create_model(TIMMS[name], num_classes=1000).state_dict()
    ours = {k: v.shape for k, v in blank(name, TIMM).items()}
    assert ours == {k: tuple(v.shape) for k, v in theirs.items()}


def test_permuting_patches_with_their_positions_changes_nothing(small):
    model, variables, images = small
    order = np.random.default_rng(0).permutation(16)
    patches = images.reshape(4, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(4, 16, 4, 4, 3)
    moved = patches[:, order].reshape(4, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(images.shape)
    places = variables.params["positions"]
    places = jnp.concatenate([places[:, :1], places[:, 1:][:, order]], axis=1)
    logits, _ = model.apply(variables, images)
    both, _ = model.apply(Variables(variables.params | {"positions": places}, {}), moved)
    np.testing.assert_allclose(both, logits, atol=1e-6)
    assert not np.allclose(model.apply(variables, moved)[0], logits, atol=1e-4)


def test_stochastic_depth_grows_from_nothing_to_its_rate(key):
    """At rate 1 the last block's halves are never there in training: its weights get no gradient."""
    model = vit(5, **SMALL, stochastic_depth=1.0)
    images = jax.random.normal(key, (8, 16, 16, 3))
    variables = model.init(key, images)

    def loss(params):
        return jnp.sum(model.apply(Variables(params, {}), images, key=jax.random.key(3))[0] ** 2)

    gradients = jax.grad(loss)(variables.params)
    moved = {name: any(jnp.any(g != 0) for g in jax.tree.leaves(gradients[name])) for name in gradients}
    assert moved["block_0"] and moved["block_1"] and not moved["block_2"]
    still, _ = model.apply(variables, images)
    plain, _ = vit(5, **SMALL).apply(variables, images)
    assert same(still, plain)


def test_sizes_that_do_not_split_into_patches_are_named(small):
    model, variables, images = small
    with pytest.raises(ValueError, match="15 x 16"):
        model.apply(variables, images[:, :15])
    with pytest.raises(ValueError, match="18 x 16"):
        resize_positions(variables, 18, 16)
    assert resize_positions(variables, 16, 16) is variables
    with pytest.raises(ValueError, match="8 positions are no square"):
        resize_positions(resize_positions(variables, 8, 16), 16, 16)


@pytest.mark.parametrize("size", [(8, 24), (32, 32)])
def test_another_input_size_needs_only_new_positions(small, size):
    model, variables, _ = small
    fitted = resize_positions(variables, *size)
    logits, _ = model.apply(fitted, jnp.ones((2, *size, 3)))
    assert logits.shape == (2, 5) and bool(jnp.all(jnp.isfinite(logits)))
    untouched = {name: p for name, p in fitted.params.items() if name != "positions"}
    assert same(untouched, {name: p for name, p in variables.params.items() if name != "positions"})
