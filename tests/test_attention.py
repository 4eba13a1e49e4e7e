import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.layers.attention import SelfAttention, attend, batched, fused


def drawn(*shape, seed=0, dtype="float32"):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def inputs(dtype="float32"):
    return (
        drawn(2, 5, 3, 8, seed=1, dtype=dtype),
        drawn(2, 7, 3, 8, seed=2, dtype=dtype),
        drawn(2, 7, 3, 8, seed=3, dtype=dtype),
    )


MASKS = {
    "none": None,
    "padding": jnp.arange(7)[None, None, None] < jnp.array([4, 7])[:, None, None, None],
    "causal": jnp.tril(jnp.ones((5, 7), bool))[None, None],
    "blind": jnp.zeros((2, 1, 1, 7), bool),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_all_forms_give_the_same_values_and_gradients(mask):
    def loss(form, query, key, value):
        return jnp.sum(jnp.sin(form(query, key, value, mask)))

    for form in (batched, fused):
        np.testing.assert_allclose(form(*inputs(), mask), attend(*inputs(), mask), atol=1e-6)
        gradients = (jax.grad(loss, argnums=(1, 2, 3))(f, *inputs()) for f in (form, attend))
        for one, other in zip(*gradients, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_attention_is_the_formula():
    query, key, value = (np.asarray(x, np.float64)[1, :, 2] for x in inputs())  # one example, one head
    weights = np.exp(query @ key.T / np.sqrt(8))
    expected = weights / weights.sum(axis=1, keepdims=True) @ value
    np.testing.assert_allclose(attend(*inputs())[1, :, 2], expected, atol=1e-6)


def test_a_masked_key_changes_nothing_and_a_blind_query_averages():
    query, key, value = inputs()
    mask = MASKS["padding"]
    before = attend(query, key, value, mask)
    after = attend(query, key.at[0, 4:].set(9.0), value.at[0, 4:].set(9.0), mask)
    np.testing.assert_array_equal(before, after)
    blind = attend(query, key, value, MASKS["blind"])
    np.testing.assert_allclose(blind, jnp.broadcast_to(value.mean(1, keepdims=True), blind.shape), atol=1e-6)


def test_the_softmax_is_float32_under_bfloat16():
    for form in (batched, fused):
        text = str(jax.make_jaxpr(form)(*inputs("bfloat16")))
        assert "exp" in text and all("f32" in line for line in text.splitlines() if " exp " in line)
        out = form(*inputs("bfloat16"))
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), attend(*inputs()), atol=0.05)


def test_permuted_positions_come_out_permuted(key):
    layer, x = SelfAttention(2), drawn(2, 6, 8)
    variables = layer.init(key, x)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(
        layer.apply(variables, x[:, order]), layer.apply(variables, x)[:, order], atol=1e-6
    )


def test_each_of_the_three_projections_starts_like_a_square_one(key):
    kernel = SelfAttention(2).init(key, drawn(1, 4, 96))["params"]["qkv"]["kernel"]
    bound = np.sqrt(6 / (96 + 96))
    assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound


def test_heads_that_do_not_split_the_width_are_named(key):
    with pytest.raises(ValueError, match="width of 8 .* 3 heads"):
        SelfAttention(3).init(key, drawn(1, 4, 8))
