import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.layers.dense import by_rows


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (2, 3, 5, 6)], ids=str)
def test_the_product_and_its_gradients_are_those_of_dense(shape, key):
    x = jax.random.normal(key, shape)
    plain, flat = nn.Dense(7), nn.Dense(7, dot_general=by_rows)
    params = plain.init(key, x)

    def loss(layer):
        return lambda params, x: jnp.sum(jnp.sin(layer.apply(params, x)))

    np.testing.assert_allclose(flat.apply(params, x), plain.apply(params, x), atol=1e-6)
    found, expected = (jax.grad(loss(layer), argnums=(0, 1))(params, x) for layer in (flat, plain))
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_gradient_of_the_kernel_sums_over_one_axis(key):
    layer, x = nn.Dense(7, dot_general=by_rows), jnp.ones((2, 3, 6))
    params = layer.init(key, x)
    text = str(jax.make_jaxpr(jax.grad(lambda params: layer.apply(params, x).sum()))(params))
    assert "dimension_numbers=(([0], [0])" in text and "([0, 1], [0, 1])" not in text


def test_other_products_are_refused():
    with pytest.raises(ValueError, match="sums over the last axis"):
        by_rows(jnp.ones((2, 6)), jnp.ones((6, 7)), (((0,), (0,)), ((), ())))
