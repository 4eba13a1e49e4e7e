import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import sharding
from dlx.layers import depthwise

CASES = [
    ((2, 9, 7, 5), 3, 1),
    ((2, 8, 8, 5), 3, 2),
    ((3, 9, 6, 4), 5, 2),
    ((2, 1, 2, 4), 5, 1),
    ((1, 2, 3, 2), 5, 2),
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    shape, size, stride = request.param
    x = jax.random.normal(jax.random.key(0), shape)
    return x, jax.random.normal(jax.random.key(1), (size, size, 1, shape[-1])), stride


def test_the_sum_of_shifts_is_the_convolution_by_groups(case):
    plain = depthwise.grouped(*case)
    np.testing.assert_allclose(depthwise.depthwise(*case), plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(depthwise.weighted_shifts(*case), plain, rtol=1e-4, atol=1e-5)


def test_its_gradients_are_those_of_the_convolution_by_groups(case):
    x, kernel, stride = case

    def gradients(convolution):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(convolution(*a, stride))), (0, 1))(x, kernel)

    ours, theirs = gradients(depthwise.depthwise), gradients(depthwise.grouped)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_half_precision_adds_in_float32():
    x = jnp.ones((1, 8, 8, 1), jnp.bfloat16)
    y = depthwise.depthwise(x, jnp.full((5, 5, 1, 1), 1 + 2**-7, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and float(y[0, 4, 4, 0]) == float(jnp.bfloat16(25 * (1 + 2**-7)))


def test_the_layer_keeps_float32_weights_and_computes_in_its_dtype(key):
    layer = depthwise.DepthwiseConv(3, stride=2, dtype="bfloat16")
    y, variables = layer.init_with_output(key, jnp.ones((1, 5, 5, 4)))
    assert y.shape == (1, 3, 3, 4) and y.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].shape == (3, 3, 1, 4)
    assert variables["params"]["kernel"].dtype == jnp.float32


def test_on_many_devices_it_is_the_same(key):
    x, kernel = jax.random.normal(key, (8, 6, 6, 4)), jax.random.normal(key, (3, 3, 1, 4))
    gradients = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(depthwise.depthwise(x, k, 2))), (0, 1)))
    placed = jax.device_put(x, sharding.batch(sharding.mesh(devices=jax.devices()[:4])))
    for one, many in zip(gradients(x, kernel), gradients(placed, kernel), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)
