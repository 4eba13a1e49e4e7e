import flax.linen as nn
import jax
import numpy as np
import pytest

from dlx.layers.convolution import max_pool


@pytest.mark.parametrize("shape, size", [((2, 8, 6, 3), 2), ((2, 7, 9, 1), 2), ((1, 9, 9, 2), 3)])
def test_pooling_equals_the_window_reduction_and_so_does_its_gradient(shape, size):
    x = jax.random.normal(jax.random.key(0), shape)
    window = {"window_shape": (size, size), "strides": (size, size)}
    np.testing.assert_array_equal(max_pool(x, size), nn.max_pool(x, **window))
    ours = jax.grad(lambda x: (max_pool(x, size) ** 2).sum())(x)
    theirs = jax.grad(lambda x: (nn.max_pool(x, **window) ** 2).sum())(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
