import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.layers.convolution import adaptive_avg_pool, avg_pool, max_pool


@pytest.mark.parametrize("shape, size", [((2, 8, 6, 3), 2), ((2, 7, 9, 1), 2), ((1, 9, 9, 2), 3)])
def test_pooling_equals_the_window_reduction_and_so_does_its_gradient(shape, size):
    x = jax.random.normal(jax.random.key(0), shape)
    window = {"window_shape": (size, size), "strides": (size, size)}
    np.testing.assert_array_equal(max_pool(x, size), nn.max_pool(x, **window))
    ours = jax.grad(lambda x: (max_pool(x, size) ** 2).sum())(x)
    theirs = jax.grad(lambda x: (nn.max_pool(x, **window) ** 2).sum())(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "shape, size, stride, padding",
    [((2, 8, 6, 3), 3, 2, 1), ((2, 7, 9, 1), 3, 2, 0), ((1, 3, 1, 2), 3, 1, 1), ((2, 4, 5, 1), 2, 1, 1)],
)
def test_overlapping_and_padded_pooling_equals_the_window_reduction(shape, size, stride, padding):
    x = jax.random.normal(jax.random.key(0), shape) - 5  # a padding of zeros would win
    window = {"window_shape": (size, size), "strides": (stride, stride), "padding": ((padding, padding),) * 2}
    np.testing.assert_array_equal(max_pool(x, size, stride, padding), nn.max_pool(x, **window))
    ours = jax.grad(lambda x: (max_pool(x, size, stride, padding) ** 2).sum())(x)
    theirs = jax.grad(lambda x: (nn.max_pool(x, **window) ** 2).sum())(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("height, width, size", [(14, 21, 7), (10, 3, 4), (1, 2, 7), (7, 7, 7), (5, 8, 1)])
def test_adaptive_pooling_averages_the_windows_that_pytorch_takes(height, width, size):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = np.zeros((2, size, size, 3), np.float32)
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            expected[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), size), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "side, size, stride, padding", [(8, 2, 2, 0), (9, 3, 1, 1), (17, 5, 3, 0), (7, 3, 2, 1)]
)
def test_averaging_equals_the_window_reduction(side, size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 3))
    sides = ((padding, padding), (padding, padding))
    theirs = nn.avg_pool(x, (size, size), (stride, stride), sides)
    np.testing.assert_allclose(avg_pool(x, size, stride, padding), theirs, rtol=1e-5, atol=1e-6)
