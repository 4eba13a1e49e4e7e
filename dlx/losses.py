"""Losses of a batch, one number per example; `metrics.mean` averages them, mask and all.

Everything is computed in float32, whatever the dtype of the logits.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Integer, Num, Shaped


def softmax_cross_entropy(
    logits: Float[Array | np.ndarray, "*b k"],
    labels: Integer[Array | np.ndarray, "*b"] | Float[Array | np.ndarray, "*b k"],
    label_smoothing: int | float = 0.0,
) -> Float[Array, "*b"]:
    """Returns -log softmax(logits)[label], in nats, or its mean under a distribution over the k classes.

    `labels` are integers, or real numbers with an axis of classes more: a distribution for each example,
    such as mixed labels are. With `label_smoothing` s the target keeps 1 - s of what it is and gets s / k on
    every class (Szegedy et al. 2016, "Rethinking the Inception architecture"). A label outside
    0 ... k - 1 makes its loss NaN, on both sides; a masked mean leaves it out.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}")
    logits = jnp.asarray(logits, jnp.float32)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        losses = optax.softmax_cross_entropy(logits, jnp.asarray(labels, jnp.float32))
    else:
        labels = jnp.where(labels < 0, logits.shape[-1], labels)  # a negative index would count from the end
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not label_smoothing:
        return losses
    uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    return (1.0 - label_smoothing) * losses + label_smoothing * uniform


def chunked_cross_entropy(
    states: Float[Array, "*b d"],
    matrix: Float[Array, "k d"],
    labels: Integer[Array | np.ndarray, "*b"],
    label_smoothing: int | float = 0.0,
    *,
    chunk: int = 2048,
) -> Float[Array, "*b"]:
    """Returns `softmax_cross_entropy` of the logits `states @ matrix.T`, which are never there as a whole.

    Logits of `chunk` states at a time, on all devices together, are made in float32, and made again for the
    gradient, which the matrix gathers in its own dtype. The products are in the dtype of the states. What a
    masked mean leaves out costs its part of the work all the same.
    """
    if chunk < 1:
        raise ValueError(f"a chunk holds at least one state, not {chunk}")

    def losses(rows, matrix, labels):
        @jax.checkpoint
        def part(states, labels):
            logits = jnp.matmul(states, matrix.astype(states.dtype).T, preferred_element_type=jnp.float32)
            return softmax_cross_entropy(logits, labels, label_smoothing)

        whole = len(rows) // size * size
        pieces = rows[:whole].reshape(-1, size, rows.shape[1]), labels[:whole].reshape(-1, size)
        each = jax.lax.map(lambda piece: part(*piece), pieces).reshape(-1)
        return jnp.concatenate([each, part(rows[whole:], labels[whole:])])

    parts = jax.sharding.get_abstract_mesh().shape.get("data", 1)
    size, rows, flat = chunk, states.reshape(-1, states.shape[-1]), jnp.asarray(labels).reshape(-1)
    if parts == 1 or flat.size % parts:
        return losses(rows, matrix, flat).reshape(labels.shape)
    # each device its own rows, and its own sum of the matrix's gradient until the loop is over
    size, free = max(1, chunk // parts), P.UNCONSTRAINED
    copies = jnp.broadcast_to(matrix, (parts, *matrix.shape))
    copies = jax.lax.with_sharding_constraint(copies, P("data", free, free))
    rows, flat = rows.reshape(parts, -1, rows.shape[1]), flat.reshape(parts, -1)
    return jax.vmap(losses, spmd_axis_name="data")(rows, copies, flat).reshape(labels.shape)


def binary_cross_entropy(
    logits: Float[Array | np.ndarray, "b *d"], labels: Shaped[Array | np.ndarray, "b *d"]
) -> Float[Array, "b"]:
    """Returns the cross entropy of independent sigmoids in nats, averaged over all axes but the first.

    `labels` are 0 or 1 of any dtype, or probabilities between them.
    """
    logits, labels = jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32)
    return _per_example(optax.sigmoid_binary_cross_entropy(logits, labels))


def mean_squared_error(
    predictions: Float[Array | np.ndarray, "b *d"], targets: Num[Array | np.ndarray, "b *d"]
) -> Float[Array, "b"]:
    """Returns the squared difference, averaged over all axes but the first."""
    return _per_example(jnp.square(jnp.asarray(predictions, jnp.float32) - jnp.asarray(targets, jnp.float32)))


def quantile_loss(
    predictions: Float[Array | np.ndarray, "*b q"],
    targets: Num[Array | np.ndarray, "*b"],
    quantiles: Sequence[int | float],
) -> Float[Array, "*b"]:
    """Returns the pinball loss averaged over quantiles, which the quantiles of the target make smallest.

    Of a target above its predicted quantile p, p times the difference counts, below it 1 - p times (Koenker
    and Bassett 1978). `quantiles` are the p of the last axis, each between 0 and 1.
    """
    levels = np.asarray(quantiles, np.float32)
    if levels.shape != predictions.shape[-1:] or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            f"{predictions.shape[-1]} predictions need as many quantiles between 0 and 1, not {quantiles}"
        )
    gap = jnp.asarray(targets, jnp.float32)[..., None] - jnp.asarray(predictions, jnp.float32)
    return jnp.mean(jnp.maximum(levels * gap, (levels - 1) * gap), axis=-1)


def gaussian_kl(mean: Float[Array, "*b k"], log_variance: Float[Array, "*b k"]) -> Float[Array, "*b"]:
    """Returns the divergence KL(N(mean, variance) || N(0, 1)) in nats, summed over k independent numbers.

    This is the term of the evidence lower bound that has a closed form (Kingma and Welling 2014, appendix B).
    """
    return 0.5 * jnp.sum(jnp.exp(log_variance) + jnp.square(mean) - 1 - log_variance, axis=-1)


def _per_example(losses: Float[Array, "b *d"]) -> Float[Array, "b"]:
    return jnp.mean(losses, axis=tuple(range(1, losses.ndim)))
