import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.layers.dense import by_rows, product, scores
from dlx.models import MODELS

TWICE = "(([0, 1], [0, 1]), ([], []))"  # a product that sums over the first two axes of both factors
TOKENS = jnp.ones((2, 3), jnp.int32)
SEQUENCES = {  # name -> (settings, inputs)
    "bert": ({"vocabulary": 11, "context": 4, "width": 8, "depth": 1, "heads": 2}, (TOKENS,)),
    "gpt": ({"vocabulary": 11, "context": 4, "width": 8, "depth": 1, "heads": 2}, (TOKENS,)),
    "llama": ({"vocabulary": 11, "width": 8, "depth": 1, "heads": 2, "hidden": 8}, (TOKENS,)),
    "lstm": ({"vocabulary": 11, "width": 8, "depth": 1}, (TOKENS,)),
    "gru": ({"vocabulary": 11, "width": 8, "depth": 1, "tied": True}, (TOKENS,)),
    "transformer": (
        {"source_vocabulary": 11, "target_vocabulary": 11, "width": 8, "depth": 1, "heads": 2, "hidden": 8},
        (TOKENS, TOKENS > 0, TOKENS),
    ),
    "seq2seq": (
        {"source_vocabulary": 11, "target_vocabulary": 11, "width": 8, "depth": 1, "attention": "general"},
        (TOKENS, TOKENS > 0, TOKENS),
    ),
    "vit_b16": ({"width": 8, "depth": 1, "heads": 2, "hidden": 8}, (jnp.ones((2, 32, 32, 3)),)),
}


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
    assert "dimension_numbers=(([0], [0])" in text and TWICE not in text


@pytest.mark.parametrize(("shape", "left"), [((9, 6, 4), 4), ((9, 4, 6), 4), ((5, 6, 4), 6)], ids=str)
def test_the_left_factor_of_a_kernels_gradient_is_the_narrow_one_where_rows_are_many(shape, left, key):
    """What XLA compiles, on a CPU: of few rows the plain form is kept."""
    rows, inputs, outputs = shape
    x, kernel = jax.random.normal(key, (rows, inputs)), jax.random.normal(key, (inputs, outputs))
    grad = jax.grad(lambda kernel, x: jnp.square(product(x, kernel)).sum())
    np.testing.assert_allclose(grad(kernel, x), 2 * x.T @ (x @ kernel), rtol=1e-5, atol=1e-5)
    lines = jax.jit(grad).lower(kernel, x).compile().as_text().splitlines()
    found = [line for line in lines if " dot(" in line and "lhs_contracting_dims={0}" in line]
    assert len(found) == 1 and f" = f32[{left}," in found[0]


@pytest.mark.parametrize("name", SEQUENCES)
def test_no_kernel_of_a_sequence_model_has_its_gradient_summed_over_two_axes(name, key):
    settings, inputs = SEQUENCES[name]
    model = MODELS[name](**settings)
    variables = model.init(key, *inputs)

    def total(params):
        outputs, _ = model.apply(variables._replace(params=params), *inputs, key=key)
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(outputs))

    assert TWICE not in str(jax.make_jaxpr(jax.grad(total))(variables.params))


def test_scores_are_products_with_every_row_in_float32(key):
    x, matrix = jax.random.normal(key, (2, 3, 6), jnp.bfloat16), jax.random.normal(key, (7, 6))
    found = scores(x, matrix)
    assert found.shape == (2, 3, 7) and found.dtype == jnp.float32
    wide = jnp.einsum("btd,kd->btk", x.astype(jnp.float32), matrix.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(found, wide, atol=1e-5)


def test_other_products_are_refused():
    with pytest.raises(ValueError, match="sums over the last axis"):
        by_rows(jnp.ones((2, 6)), jnp.ones((6, 7)), (((0,), (0,)), ((), ())))
