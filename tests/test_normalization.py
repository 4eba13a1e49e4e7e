from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same

from dlx.layers.normalization import BatchNorm, normalized


@pytest.fixture
def images():
    return 3 + 2 * jax.random.normal(jax.random.key(1), (4, 3, 5, 6))


@pytest.fixture
def perturbed(images):
    """Parameters and running statistics with no two alike."""
    variables = BatchNorm(use_running_average=True).init(jax.random.key(0), images)
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.float32(draw.uniform(0.5, 1.5, leaf.shape)), variables)


@pytest.mark.parametrize("average", [True, False])
def test_outputs_and_gradients_are_those_of_flax(images, perturbed, average):
    def loss(module, variables, x):
        y, _ = module.apply(variables, x, mutable="batch_stats")
        return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape)))

    flax = nn.BatchNorm(average, epsilon=1e-3, use_fast_variance=False)
    ours = BatchNorm(average, epsilon=1e-3)
    np.testing.assert_allclose(loss(ours, perturbed, images), loss(flax, perturbed, images), rtol=1e-5)
    for argument in (0, 1):
        both = [jax.grad(partial(loss, m), argument)(perturbed, images) for m in (ours, flax)]
        if argument == 0:
            both = [gradient["params"] for gradient in both]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *both)


def test_running_statistics_average_the_mean_and_the_unbiased_variance(images, perturbed):
    _, state = BatchNorm(False, momentum=0.75).apply(perturbed, images, mutable="batch_stats")
    before, after = perturbed["batch_stats"], state["batch_stats"]
    x = np.asarray(images, np.float64).reshape(-1, 6)
    np.testing.assert_allclose(after["mean"], 0.75 * before["mean"] + 0.25 * x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(after["var"], 0.75 * before["var"] + 0.25 * x.var(0, ddof=1), rtol=1e-6)


def test_inference_leaves_the_running_statistics_alone(images, perturbed):
    _, state = BatchNorm(True).apply(perturbed, images, mutable="batch_stats")
    assert same(state["batch_stats"], perturbed["batch_stats"])


def test_a_large_mean_does_not_drown_the_variance():
    x = 10_000 + jax.random.normal(jax.random.key(0), (512, 4))
    _, mean, var = normalized(x, jnp.ones(4), jnp.zeros(4), 1e-5)
    np.testing.assert_allclose(var, np.asarray(x, np.float64).var(0), rtol=1e-3)
    np.testing.assert_allclose(mean, 10_000, rtol=1e-4)


def test_bfloat16_images_have_float32_statistics(images, perturbed):
    half = images.astype(jnp.bfloat16)
    y, state = BatchNorm(False, dtype="bfloat16").apply(perturbed, half, mutable="batch_stats")
    _, exact = BatchNorm(False).apply(perturbed, half.astype(jnp.float32), mutable="batch_stats")
    assert y.dtype == jnp.bfloat16
    for name in ("mean", "var"):
        assert state["batch_stats"][name].dtype == jnp.float32
        np.testing.assert_allclose(state["batch_stats"][name], exact["batch_stats"][name], rtol=1e-6)


def test_one_example_of_one_pixel_has_a_finite_variance(perturbed):
    y, state = BatchNorm(False).apply(perturbed, jnp.ones((1, 6)), mutable="batch_stats")
    assert jnp.isfinite(y).all() and all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
