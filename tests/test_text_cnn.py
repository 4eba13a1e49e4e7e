import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.models import MODELS

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 6)), jnp.int32)
MASK = jnp.arange(6) < jnp.array([4, 6, 1])[:, None]
SIZES = {"num_classes": 3, "vocabulary": 11, "embedding": 4, "windows": [2, 3], "filters": 5}


@pytest.fixture(scope="module")
def made():
    model, rng = MODELS["text_cnn"](**SIZES), np.random.default_rng(1)
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS, MASK)
    variables = jax.tree.map(lambda x: jnp.float32(x + 0.5 * rng.normal(size=x.shape)), variables)
    return model, jax.jit(lambda *inputs: model.apply(*inputs)[0]), variables


def test_it_is_a_maximum_over_all_windows_with_a_word_in_them(made):
    _, apply, variables = made
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables.params)
    for row, length in enumerate((4, 6, 1)):
        pooled = []
        for window in (2, 3):
            edge = np.zeros((window - 1, 4))
            x = np.concatenate([edge, params["tokens"]["embedding"][np.asarray(TOKENS[row, :length])], edge])
            kernel, bias = params[f"window_{window}"]["kernel"], params[f"window_{window}"]["bias"]
            answers = [x[i : i + window].reshape(-1) @ kernel + bias for i in range(len(x) - window + 1)]
            pooled.append(np.maximum(answers, 0).max(axis=0))
        expected = np.concatenate(pooled) @ params["head"]["kernel"] + params["head"]["bias"]
        np.testing.assert_allclose(apply(variables, TOKENS, MASK)[row], expected, atol=1e-5)


def test_padding_and_other_examples_do_not_change_a_class(made):
    _, apply, variables = made
    logits = apply(variables, TOKENS, MASK)
    noisy = apply(variables, jnp.where(MASK, TOKENS, 7).at[1].set(5), MASK)
    np.testing.assert_array_equal(noisy[::2], logits[::2])
    assert not (noisy[1] == logits[1]).any()
    left = apply(variables, jnp.roll(TOKENS, 2, axis=1)[:1], jnp.roll(MASK, 2, axis=1)[:1])
    np.testing.assert_allclose(left[0], logits[0], atol=1e-5)
    np.testing.assert_allclose(apply(variables, TOKENS[2:, :1], MASK[2:, :1])[0], logits[2], atol=1e-5)


def test_nothing_but_padding_is_classified_by_the_head_alone(made):
    _, apply, variables = made
    logits = apply(variables, TOKENS, MASK.at[0].set(False))
    np.testing.assert_allclose(logits[0], variables.params["head"]["bias"])


def test_dropout_needs_a_key(made, key):
    model, apply, variables = made
    noisy, state = model.apply(variables, TOKENS, MASK, key=key)
    assert not jnp.allclose(noisy, apply(variables, TOKENS, MASK)) and state == {}


def test_the_sizes_are_those_of_the_paper(key):
    variables = jax.eval_shape(MODELS["text_cnn"]().init, key, TOKENS, MASK)
    filters = sum((window * 300 + 1) * 100 for window in (3, 4, 5))
    assert filters == 360_300
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 20_000 * 300 + filters + 2 * (300 + 1)
