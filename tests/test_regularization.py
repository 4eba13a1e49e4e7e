import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same

from dlx.layers.regularization import stochastic_depth

X = jax.random.normal(jax.random.key(1), (1000, 3, 2)) + 2


@pytest.mark.parametrize("rate, key", [(0.0, jax.random.key(0)), (0.5, None)])
def test_without_rate_or_key_it_is_the_identity(rate, key):
    assert same(stochastic_depth(X, rate, key), X)


def test_whole_examples_are_dropped_or_scaled_by_what_is_kept(key):
    y = stochastic_depth(X, 0.25, key)
    dropped = np.asarray((y == 0).all(axis=(1, 2)))
    np.testing.assert_allclose(y[~dropped], X[~dropped] / 0.75, rtol=1e-6)
    assert not y[dropped].any()
    assert 0.2 < dropped.mean() < 0.3


def test_the_expectation_stays(key):
    draws = jax.vmap(lambda k: stochastic_depth(X[:4], 0.4, k))(jax.random.split(key, 20_000))
    np.testing.assert_allclose(draws.mean(axis=0), X[:4], rtol=0.03)


def test_the_key_decides(key):
    assert same(stochastic_depth(X, 0.5, key), stochastic_depth(X, 0.5, key))
    assert not same(stochastic_depth(X, 0.5, key), stochastic_depth(X, 0.5, jax.random.key(1)))


def test_rate_one_drops_all_and_no_rate_lies_beyond(key):
    assert not stochastic_depth(X, 1.0, key).any()
    with pytest.raises(ValueError, match="probability"):
        stochastic_depth(X, 1.5, key)


def test_half_precision_stays(key):
    assert stochastic_depth(X.astype(jnp.bfloat16), 0.3, key).dtype == jnp.bfloat16
