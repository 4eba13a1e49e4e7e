import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from conftest import same

from dlx.nn import from_linen, standardized


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


MODEL = from_linen(Small())
INPUT = np.random.default_rng(0).normal(3, 2, size=(32, 4)).astype(np.float32)


def test_params_and_statistics_come_apart(key):
    variables = MODEL.init(key, INPUT)
    assert set(variables.params) == {"Dense_0", "BatchNorm_0"} and set(variables.state) == {"batch_stats"}


def test_without_a_key_the_output_is_the_same_twice_and_the_state_unchanged(key):
    variables = MODEL.init(key, INPUT)
    first, state = MODEL.apply(variables, INPUT)
    second, _ = MODEL.apply(variables, INPUT)
    assert same(first, second) and same(state, variables.state)


def test_with_a_key_it_trains_dropout_draws_and_statistics_move(key):
    variables = MODEL.init(key, INPUT)
    one, state = MODEL.apply(variables, INPUT, key=jax.random.key(1))
    two, _ = MODEL.apply(variables, INPUT, key=jax.random.key(2))
    again, _ = MODEL.apply(variables, INPUT, key=jax.random.key(1))
    assert not same(one, two) and same(one, again)
    assert not same(state, variables.state) and jax.tree.structure(state) == jax.tree.structure(
        variables.state
    )


def test_standardized_equals_the_model_on_scaled_inputs_and_keeps_its_numbers_without_gradient(key):
    mean, std = INPUT.mean(0), INPUT.std(0)
    model = standardized(MODEL, mean, std)
    variables = model.init(key, INPUT)
    inner = MODEL.init(key, (INPUT - mean) / std)
    assert same(variables.params, inner.params)
    expected, _ = MODEL.apply(inner, (INPUT - mean) / std)
    actual, state = model.apply(variables, INPUT)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_array_equal(state["standardized"]["mean"], mean)
    _, trained = model.apply(variables, INPUT, key=key)
    assert same(trained["standardized"], variables.state["standardized"])
    assert set(trained) == {"standardized", "batch_stats"}


def test_integer_pixels_are_scaled_as_numbers_not_as_bytes(key):
    pixels = np.full((2, 4), 200, np.uint8)
    model = standardized(MODEL, [100.0], [50.0])
    actual, _ = model.apply(model.init(key, pixels), pixels)
    inner = MODEL.init(key, jnp.full((2, 4), 2.0))
    np.testing.assert_allclose(actual, MODEL.apply(inner, jnp.full((2, 4), 2.0))[0], rtol=1e-6)
