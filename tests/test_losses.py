"""Losses against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from dlx import losses, metrics

LOGITS = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
LABELS = np.array([0, 1, 2, 3, 0, 1])


def test_cross_entropy_is_scikit_learns_log_loss():
    got = losses.softmax_cross_entropy(LOGITS, LABELS)
    assert got.shape == (6,)
    probabilities = np.float64(jax.nn.softmax(LOGITS))
    probabilities /= probabilities.sum(-1, keepdims=True)
    assert got.mean() == pytest.approx(log_loss(LABELS, probabilities), rel=1e-6)


def test_smoothing_is_cross_entropy_with_the_smoothed_target():
    target = 0.9 * np.eye(4)[LABELS] + 0.1 / 4
    expected = -(target * jax.nn.log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(losses.softmax_cross_entropy(LOGITS, LABELS, 0.1), expected, rtol=1e-6)
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="label_smoothing must be"):
            losses.softmax_cross_entropy(LOGITS, LABELS, wrong)


def test_leading_axes_are_kept():
    got = losses.softmax_cross_entropy(LOGITS.reshape(2, 3, 4), LABELS.reshape(2, 3))
    np.testing.assert_array_equal(got, losses.softmax_cross_entropy(LOGITS, LABELS).reshape(2, 3))


def test_low_precision_logits_are_summed_in_float32():
    logits = jnp.zeros((1, 1000), jnp.bfloat16)
    for smoothing in (0.0, 0.1):
        got = losses.softmax_cross_entropy(logits, np.array([3]), smoothing)
        assert got.dtype == jnp.float32
        assert got[0] == pytest.approx(np.log(1000), rel=1e-6)
    half = np.float16([[0.1, 2.0]])
    assert losses.binary_cross_entropy(half, np.array([[0, 1]])).dtype == jnp.float32
    assert (
        float(losses.mean_squared_error(np.float16([300.0]), np.float16([0.0]))[0]) == 90_000
    )  # beyond float16


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_that_is_no_class_is_nan_and_a_mask_takes_it_out(label, smoothing):
    labels, mask = np.array([0, label]), np.array([1.0, 0.0])
    assert np.isnan(losses.softmax_cross_entropy(LOGITS[:2], labels, smoothing)).tolist() == [False, True]

    def total(logits, labels):
        return metrics.mean(losses.softmax_cross_entropy(logits, labels, smoothing), mask).total

    got = jax.grad(total)(jnp.asarray(LOGITS[:2]), labels)
    np.testing.assert_array_equal(got, jax.grad(total)(jnp.asarray(LOGITS[:2]), np.array([0, 0])))
    assert np.isfinite(got).all() and not got[1].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 4, 6, 100])
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(smoothing, chunk):
    rng = np.random.default_rng(0)
    states, matrix = jnp.float32(rng.normal(size=(2, 3, 5))), jnp.float32(rng.normal(size=(4, 5)))
    labels, mask = np.array([[0, 3, 1], [2, -1, 0]]), np.array([[1, 1, 0], [1, 0, 1]])

    def whole(states, matrix):
        values = losses.softmax_cross_entropy(states @ matrix.T, labels, smoothing)
        return metrics.mean(values, mask).total, values

    def chunked(states, matrix):
        values = losses.chunked_cross_entropy(states, matrix, labels, smoothing, chunk=chunk)
        return metrics.mean(values, mask).total, values

    expected = jax.jit(jax.grad(whole, argnums=(0, 1), has_aux=True))(states, matrix)
    got = jax.jit(jax.grad(chunked, argnums=(0, 1), has_aux=True))(states, matrix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)


def test_logits_are_never_whole():
    def bytes_of(loss):
        shapes = [jax.ShapeDtypeStruct(s, d) for s, d in (((4096, 8), "float32"), ((5000, 8), "float32"))]
        labels = jax.ShapeDtypeStruct((4096,), jnp.int32)
        step = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return step.lower(*shapes, labels).compile().memory_analysis().temp_size_in_bytes

    whole = 4 * 4096 * 5000
    chunked = bytes_of(lambda *x: losses.chunked_cross_entropy(*x, chunk=256).sum())
    assert chunked < whole / 4
    assert bytes_of(lambda x, m, y: losses.softmax_cross_entropy(x @ m.T, y).sum()) > whole / 2


def test_products_are_in_the_dtype_of_the_states_and_losses_in_float32():
    states, matrix = jnp.ones((3, 4), jnp.bfloat16), jnp.ones((1000, 4))
    got = losses.chunked_cross_entropy(states, matrix, np.array([1, 2, 3]), chunk=2)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.log(1000), rtol=1e-6)
    with pytest.raises(ValueError, match="at least one state, not 0"):
        losses.chunked_cross_entropy(states, matrix, np.array([1, 2, 3]), chunk=0)


def test_binary_cross_entropy_averages_what_follows_the_batch():
    labels = np.eye(4)[LABELS]
    chance = 1 / (1 + np.exp(-np.float64(LOGITS)))
    expected = -(labels * np.log(chance) + (1 - labels) * np.log(1 - chance))
    np.testing.assert_allclose(losses.binary_cross_entropy(LOGITS, labels), expected.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS[:, 0], labels[:, 0] > 0), expected[:, 0], rtol=1e-5
    )
    assert losses.binary_cross_entropy(np.float32([200, -200]), np.array([0, 1])).tolist() == [200, 200]


def test_mean_squared_error_is_that():
    np.testing.assert_allclose(losses.mean_squared_error(LOGITS, LOGITS - 2), 4 * np.ones(6), rtol=1e-5)
    np.testing.assert_allclose(
        losses.mean_squared_error(LOGITS[:, 0], np.zeros(6)), LOGITS[:, 0] ** 2, rtol=1e-6
    )
    with pytest.raises(Exception, match="Type-check error"):
        losses.mean_squared_error(LOGITS, LOGITS[:, :1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_distribution_over_classes_is_a_label_too(smoothing):
    """All on one class it is that label; a mixture of labels has the mixture of their losses."""
    first, second = LABELS, (LABELS + 1) % 4
    eye, share = np.eye(4, dtype=np.float32), np.float32([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
    ours, others = (losses.softmax_cross_entropy(LOGITS, labels, smoothing) for labels in (first, second))
    got = losses.softmax_cross_entropy(LOGITS, eye[first], smoothing)
    np.testing.assert_allclose(got, ours, rtol=1e-6)
    mixed = share[:, None] * eye[first] + (1 - share[:, None]) * eye[second]
    got = losses.softmax_cross_entropy(LOGITS, mixed, smoothing)
    np.testing.assert_allclose(got, share * ours + (1 - share) * others, rtol=1e-5)
    with pytest.raises(Exception, match="Type-check error"):
        losses.softmax_cross_entropy(LOGITS, eye[first][:, :3])
