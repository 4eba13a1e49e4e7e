import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.core import Variables
from dlx.layers.recurrent import zeros
from dlx.models import MODELS, recurrent

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 6)), jnp.int32)
LENGTHS = jnp.array([4, 6, 1])
MASK = jnp.arange(6) < LENGTHS[:, None]
CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])
SMALL = {"vocabulary": 11, "width": 5}


def size(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def started(name, *inputs, **sizes):
    """Returns a model and variables of which none is constant."""
    model = MODELS[name](**sizes)
    rng = np.random.default_rng(1)
    variables = jax.jit(model.init)(jax.random.key(0), *inputs)
    return model, jax.tree.map(lambda x: jnp.float32(x + 0.3 * rng.normal(size=x.shape)), variables)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # words, two layers of (650 + 650 + 1) x 4 x 650, and scores with their biases
        ("lstm", 10_000 * 650 + 2 * 4 * 650 * (650 + 650 + 1) + (650 + 1) * 10_000),
        # two biases in each of three gates
        ("gru", 10_000 * 650 + 2 * 3 * 650 * (650 + 650 + 2) + (650 + 1) * 10_000),
    ],
)
def test_the_medium_models_have_the_parameters_of_the_paper(name, count, key):
    variables = jax.eval_shape(MODELS[name]().init, key, TOKENS)
    assert size(variables) == count == {"lstm": 19_775_200, "gru": 18_087_800}[name]
    tied = jax.eval_shape(MODELS[name](tied=True).init, key, TOKENS)
    assert size(tied) == count - 10_000 * 650


@CELLS
@pytest.mark.parametrize("tied", [False, True])
def test_a_text_in_pieces_is_the_text_and_the_future_is_unseen(cell, tied):
    model, variables = started(cell, TOKENS, **SMALL, tied=tied)
    apply = jax.jit(model.apply)
    (logits, state), _ = apply(variables, TOKENS)
    assert logits.shape == (3, 6, 11) and logits.dtype == jnp.float32
    (first, between), _ = apply(variables, TOKENS[:, :4], zeros(cell, 3, 5, 2))
    (second, end), _ = apply(variables, TOKENS[:, 4:], between)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), logits, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), end, state)
    (changed, _), _ = apply(variables, TOKENS.at[:, 4:].set((TOKENS[:, 4:] + 1) % 11))
    np.testing.assert_array_equal(changed[:, :4], logits[:, :4])
    assert not (changed[:, 4:] == logits[:, 4:]).any()


@CELLS
def test_writing_step_by_step_gives_the_logits_of_the_whole(cell):
    model, variables = started(cell, TOKENS, **SMALL)
    start, step = recurrent.decoder(model)
    (expected, _), _ = jax.jit(model.apply)(variables, TOKENS)
    state, logits = jax.jit(start)(variables, jnp.where(MASK, TOKENS, 10), LENGTHS)
    np.testing.assert_allclose(logits, expected[jnp.arange(3), LENGTHS - 1], atol=1e-5)
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(state))
    state, logits = start(variables, TOKENS[:, :1], jnp.ones(3, jnp.int32))
    for place in range(1, 6):
        state, logits = jax.jit(step)(variables, state, TOKENS[:, place])
        np.testing.assert_allclose(logits, expected[:, place], atol=1e-5)


def test_words_can_be_the_weights_of_the_scores():
    model, variables = started("gru", TOKENS, **SMALL, tied=True)
    before = model.apply(variables, TOKENS)[0][0]
    unseen = next(word for word in range(11) if word not in np.asarray(TOKENS[0]))
    params = dict(variables.params)
    params["tokens"] = {"embedding": params["tokens"]["embedding"].at[unseen].add(1.0)}
    after = model.apply(Variables(params, {}), TOKENS)[0][0]
    changed = (before != after)[0].any(axis=0)
    assert changed[unseen] and changed.sum() == 1


def test_dropout_needs_a_key_and_leaves_the_state_between_steps_alone(key):
    model, variables = started("lstm", TOKENS, vocabulary=11, width=64, depth=1, dropout=0.5)
    (calm, _), _ = model.apply(variables, TOKENS)
    np.testing.assert_array_equal(calm, model.apply(variables, TOKENS)[0][0])
    (noisy, _), state = model.apply(variables, TOKENS, key=key)
    assert not (noisy == calm).any() and state == {}
    words = variables.params["tokens"]["embedding"][TOKENS]
    # with words of zero, of which dropout makes zeros, all that is random is after the layer
    params = variables.params | {"tokens": {"embedding": 0 * words[0, 0] + jnp.zeros((11, 64))}}
    still, noisy = (model.apply(Variables(params, {}), TOKENS, key=k)[0] for k in (None, key))
    jax.tree.map(np.testing.assert_array_equal, still[1], noisy[1])
    assert not (still[0] == noisy[0]).any()


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
@CELLS
def test_padding_and_other_examples_do_not_change_a_class(cell, pooling):
    sizes = {"vocabulary": 11, "embedding": 4, "width": 5, "cell": cell, "pooling": pooling, "num_classes": 3}
    model, variables = started("lstm_classifier", TOKENS, MASK, **sizes)
    apply = jax.jit(lambda *inputs: model.apply(*inputs)[0])
    logits = apply(variables, TOKENS, MASK)
    noisy = apply(variables, jnp.where(MASK, TOKENS, 7).at[1].set(5), MASK)
    np.testing.assert_array_equal(noisy[::2], logits[::2])
    assert not (noisy[1] == logits[1]).any()
    left = apply(variables, jnp.roll(TOKENS, 2, axis=1)[:1], jnp.roll(MASK, 2, axis=1)[:1])
    np.testing.assert_allclose(left[0], logits[0], atol=1e-5)
    np.testing.assert_allclose(apply(variables, TOKENS[:1, :4], MASK[:1, :4])[0], logits[0], atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
def test_nothing_but_padding_is_classified_by_the_head_alone(pooling):
    sizes = {"vocabulary": 11, "embedding": 4, "width": 5, "pooling": pooling}
    model, variables = started("lstm_classifier", TOKENS, MASK, **sizes)
    mask = MASK.at[0].set(False)
    gradient = jax.grad(lambda v: model.apply(v, TOKENS, mask)[0].sum())(variables)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(model.apply(variables, TOKENS, mask)[0][0], variables.params["head"]["bias"])


def test_pooling_is_what_its_name_says():
    x, state = (
        jnp.arange(12.0).reshape(1, 3, 4),
        ((jnp.zeros((1, 2)),), (jnp.array([[1.0, 2]]),), (jnp.ones((1, 2)),)),
    )
    mask = jnp.array([[True, True, False]])
    x = jnp.where(mask[..., None], x - 20, 0)
    np.testing.assert_array_equal(recurrent.pool(x, mask, state, "max", 2)[0], [-16, -15, -14, -13])
    np.testing.assert_array_equal(recurrent.pool(x, mask, state, "mean", 2)[0], [-18, -17, -16, -15])
    np.testing.assert_array_equal(recurrent.pool(x, mask, state, "last", 2)[0], [1, 2, 1, 1])
    with pytest.raises(ValueError, match="max.*mean.*last.*'first'"):
        recurrent.pool(x, mask, state, "first", 2)


def test_the_classifier_has_the_parameters_of_the_formula(key):
    variables = jax.eval_shape(MODELS["lstm_classifier"](num_classes=3).init, key, TOKENS, MASK)
    assert size(variables) == 20_000 * 128 + 2 * 4 * 128 * (128 + 128 + 1) + 3 * (2 * 128 + 1)
