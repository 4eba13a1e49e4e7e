from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from conftest import same

from dlx.models import MODELS, efficientnet
from dlx.pretrained import PretrainedError, from_timm, from_torchvision, to_timm, to_torchvision

STILL = {"dropout": 0.0, "stochastic_depth": 0.0}


@pytest.fixture(scope="module")
def b0():
    """B0 in torchvision, and its variables here."""
    reference = parity.torchvision("efficientnet_b0", num_classes=7)
    return reference, from_torchvision("efficientnet_b0", parity.arrays(reference))


@pytest.mark.parametrize("size", [64, 75])
def test_b0_is_torchvisions(b0, size):
    parity.check_inference(b0[0], efficientnet.efficientnet_b0(7), b0[1], parity.images(2, size))


def test_b0_trains_as_torchvisions(b0):
    model, back = efficientnet.efficientnet_b0(7, **STILL), partial(to_torchvision, "efficientnet_b0")
    parity.check_training(b0[0], model, b0[1], parity.images(8, 64), back)


def test_gradients_are_torchvisions(b0):
    model, back = efficientnet.efficientnet_b0(7, **STILL), partial(to_torchvision, "efficientnet_b0")
    parity.check_gradients(b0[0], model, b0[1], parity.images(2, 64), back)


def test_b5_with_its_own_normalisation_is_torchvisions():
    reference = parity.torchvision("efficientnet_b5", num_classes=3)
    variables = from_torchvision("efficientnet_b5", parity.arrays(reference))
    model, back = efficientnet.efficientnet_b5(3, **STILL), partial(to_torchvision, "efficientnet_b5")
    parity.check_training(reference, model, variables, parity.images(8, 64), back)


def test_timm_has_the_same_b0():
    reference = parity.timm("efficientnet_b0", num_classes=7)
    theirs = parity.arrays(reference)
    variables = from_timm("efficientnet_b0", theirs)
    parity.check_inference(reference, efficientnet.efficientnet_b0(7), variables, parity.images(2, 64))
    assert same(
        to_timm("efficientnet_b0", variables),
        {name: theirs[name] for name in theirs if not name.endswith("num_batches_tracked")},
    )


def test_a_round_trip_is_exact(b0):
    theirs = parity.arrays(b0[0])
    back = to_torchvision("efficientnet_b0", b0[1])
    assert same(back, {name: theirs[name] for name in theirs if not name.endswith("num_batches_tracked")})


@pytest.mark.parametrize(
    "library, variant", [*(("torchvision", i) for i in range(8)), *(("timm", i) for i in range(5))]
)
def test_every_variant_has_the_librarys_entries(library, variant, key):
    torch, name = parity.needed("torch"), f"efficientnet_b{variant}"
    with torch.device("meta"):
        package = parity.needed(library)
        theirs = package.models.get_model(name) if library == "torchvision" else package.create_model(name)
    theirs = theirs.state_dict()
    theirs = {k: tuple(v.shape) for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    shapes = jax.eval_shape(MODELS[name]().init, key, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    ours = {"torchvision": to_torchvision, "timm": to_timm}[library](name, blank)
    assert {k: v.shape for k, v in ours.items()} == theirs


def test_other_networks_of_timm_are_refused():
    for name in ("efficientnet_b5", "tf_efficientnet_b0"):
        with pytest.raises(PretrainedError, match=name):
            from_timm(name, {})


@pytest.fixture(scope="module")
def small(b0):
    """B0 with much stochastic depth, its variables, its compiled passes, and images."""
    model = efficientnet.efficientnet_b0(7, dropout=0.0, stochastic_depth=0.5)
    return model, b0[1], jax.jit(model.apply), parity.images(4, 32)


def test_without_key_it_is_the_same_twice_and_a_batch_is_its_examples(small):
    _, variables, apply, images = small
    logits, state = apply(variables, images)
    assert logits.shape == (4, 7) and logits.dtype == jnp.float32
    assert same(logits, apply(variables, images)[0]) and same(state, variables.state)
    np.testing.assert_allclose(apply(variables, images[:1])[0], logits[:1], rtol=1e-4, atol=1e-5)


def test_stochastic_depth_draws_from_the_key(small):
    _, variables, apply, images = small
    one, two, other = (apply(variables, images, key=jax.random.key(seed))[0] for seed in (0, 0, 1))
    assert same(one, two) and not same(one, other)


def test_stochastic_depth_grows_from_nothing_at_the_first_block(small, monkeypatch):
    rates = []

    def spy(x, rate, key):
        rates.append(rate)
        return x

    monkeypatch.setattr(efficientnet, "stochastic_depth", spy)
    model, variables, _, images = small
    jax.eval_shape(lambda: model.apply(variables, images, key=jax.random.key(0)))
    shortcuts = [2, 4, 6, 7, 9, 10, 12, 13, 14]  # of 16 blocks, those that keep the shape
    np.testing.assert_allclose(rates, [0.5 * block / 16 for block in shortcuts])


def test_half_precision_keeps_float32_weights_and_logits(small):
    _, variables, apply, images = small
    model = efficientnet.efficientnet_b0(7, dtype="bfloat16")
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    rounded, exact = jax.jit(model.apply)(variables, images)[0], apply(variables, images)[0]
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.05 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize(
    "channels, width, expected", [(32, 1.1, 32), (16, 1.1, 16), (24, 1.4, 32), (8, 0.5, 8)]
)
def test_widths_are_multiples_of_8_that_lose_a_tenth_at_most(channels, width, expected):
    assert efficientnet.scaled(channels, width) == expected


def test_there_is_no_b8():
    with pytest.raises(ValueError, match="B8"):
        efficientnet.efficientnet(8)
