"""Scaled dot-product attention (Vaswani et al. 2017): who sees whom, and the fast form of each platform.

    attend(query, key, value, causal=True, segments=segments)        # training a decoder on packed documents
    seen, cache = attend_cached(query, key, value, cache, start)     # decoding, a few tokens at a time

Fewer heads of keys and values than of queries are shared by groups of query heads, in order (Ainslie et al.
2023).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlx.layers.dense import by_rows
from dlx.layers.placement import constrain, parts
from dlx.layers.regularization import dropout

SPAN = 64  # queries at a time where causality or a window lets whole blocks of keys be skipped
SPANS = 8  # at most so many spans, each compiled by itself
KEPT = 2**25  # scores kept for the gradient; where there are more, they are computed again
AT_ONCE = 2**21  # scores at a time where they are computed again


def attend(
    query: Float[Array, "b t heads d"],
    key: Float[Array, "b s groups d"],
    value: Float[Array, "b s groups d"],
    mask: Bool[Array, "#b #heads #t #s"] | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    segments: Int[Array, "b t"] | None = None,
    lengths: Int[Array, "b"] | None = None,
    dropout_rate: int | float = 0.0,
    dropout_key: Array | None = None,
) -> Float[Array, "b t heads d"]:
    """Returns the values averaged by the softmax of query times key over the root of the width.

    A query sees a key when all of these allow it: True in `mask`; the key's place is not after its own
    (`causal`) and less than `window` places away, on either side; both are of the same of the `segments`,
    such as the documents packed into one row; the key is among the first `lengths` of its example. What a
    query that may see none receives is finite and means nothing.

    The softmax is float32 whatever the inputs are. Each platform has its form: cuDNN's kernel on a GPU where
    it fits; on a CPU heads in front of time, plain batched products, blocks of keys that no query sees left
    out, and memory that grows with t + s for long sequences.

    With a `dropout_key` each weight of the softmax is dropped at `dropout_rate`, as
    `dlx.layers.regularization.dropout` does it. No kernel of cuDNN that JAX offers to all draws such noise:
    every platform then has the form of the CPU. Which weights a key drops depends on the shapes.
    """
    heads, groups = query.shape[2], key.shape[2]
    if heads % groups:
        raise ValueError(f"{heads} heads of queries do not share {groups} heads of keys and values evenly")
    if window is not None and window < 1:
        raise ValueError(f"a window holds at least the query's own place: 1 or more, not {window}")
    if segments is not None and query.shape[1] != key.shape[1]:
        raise ValueError(
            f"segments are of one sequence seen by itself, not of {query.shape[1]} queries and "
            f"{key.shape[1]} keys: give a mask"
        )
    if dropout_key is not None and dropout_rate:
        noisy = partial(blocked, dropout_rate=dropout_rate, dropout_key=dropout_key)
        return noisy(query, key, value, mask, segments, lengths, causal=causal, window=window)
    forms = {
        "cpu": partial(blocked, causal=causal, window=window),
        "default": partial(fused, causal=causal, window=window),
    }
    return jax.lax.platform_dependent(query, key, value, mask, segments, lengths, **forms)


class KeyValue(NamedTuple):
    """The keys and values of one layer that have been seen so far, heads in front of time.

    Room for s of them is there from the start; how many places are filled is known to the caller.
    """

    key: Float[Array, "b groups s d"]
    value: Float[Array, "b groups s d"]


def attend_cached(
    query: Float[Array, "b t heads d"],
    key: Float[Array, "b t groups d"],
    value: Float[Array, "b t groups d"],
    cache: KeyValue,
    start: Int[Array, "b"],
    *,
    window: int | None = None,
) -> tuple[Float[Array, "b t heads d"], KeyValue]:
    """Attends causally to what the cache holds and to the keys given, and returns the cache with these added.

    The t tokens of an example take the places from its own `start` on; what the cache holds there and
    after is overwritten or not seen. Places past its end are dropped.
    """
    put = jax.vmap(lambda buffer, new, place: buffer.at[:, place].set(new, mode="drop"))
    places = start[:, None] + jnp.arange(query.shape[1])
    cache = KeyValue(
        *(
            put(buffer, new.swapaxes(1, 2).astype(buffer.dtype), places)
            for buffer, new in zip(cache, (key, value), strict=True)
        )
    )
    distance = places[:, :, None] - jnp.arange(cache.key.shape[2])
    allowed = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    seen = blocked(query, cache.key, cache.value, allowed[:, None], heads_first=True)
    return seen, cache


def blocked(
    query: Float[Array, "b t heads d"],
    key: Float[Array, "b ..."],
    value: Float[Array, "b ..."],
    mask: Bool[Array, "#b #heads #t #s"] | None = None,
    segments: Int[Array, "b t"] | None = None,
    lengths: Int[Array, "b"] | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    heads_first: bool = False,
    span: int | None = None,
    chunk: int | None = None,
    dropout_rate: int | float = 0.0,
    dropout_key: Array | None = None,
) -> Float[Array, "b t heads d"]:
    """Computes attention as products of one matrix for each example and head, a span of queries at a time.

    Each span meets only the keys that some query of it may see. Within spans, `chunk` queries at a time keep
    no scores for the gradient: they are computed again, with the noise they had. None chooses both by size.
    """
    query = query.swapaxes(1, 2) * query.shape[-1] ** -0.5
    key, value = (x if heads_first else x.swapaxes(1, 2) for x in (key, value))
    batch, heads, time, width = query.shape
    keys = key.shape[2]
    if chunk is None and batch * heads * time * keys > KEPT:
        chunk = max(16, AT_ONCE // (batch * heads * keys))
    if span is None:
        span = max(SPAN, -(-time // SPANS)) if causal or window else time
    if chunk is not None:
        span = max(1, span // chunk) * chunk

    def taken(x, rows, axis):
        return jax.lax.dynamic_slice_in_dim(x, rows[0], len(rows), axis)

    def sight(rows, first, last):
        """Returns which of the keys from `first` to `last` each of the queries at `rows` may see."""
        columns, found = jnp.arange(first, last), []
        if mask is not None:
            piece = mask[..., first:last] if mask.shape[3] > 1 else mask
            found.append(taken(piece, rows, 2) if mask.shape[2] > 1 else piece)
        if causal:
            found.append((rows[:, None] >= columns)[None, None])
        if window is not None:
            found.append((jnp.abs(rows[:, None] - columns) < window)[None, None])
        if segments is not None:
            own = taken(segments, rows, 1)[..., None]
            found.append((own == segments[:, None, first:last])[:, None])
        if lengths is not None:
            found.append((columns < lengths[:, None])[:, None, None])
        return found

    outputs = []
    for begin in range(0, time, span):
        end = min(begin + span, time)
        first = 0 if window is None else min(max(0, begin - window + 1), keys - 1)
        last = min(end, keys) if causal else keys if window is None else min(keys, end + window - 1)
        last = max(first + 1, last)
        near = (key[:, :, first:last], value[:, :, first:last])

        def part(rows, query, near=near, first=first, last=last):
            noise = None if dropout_key is None else jax.random.fold_in(dropout_key, rows[0])
            return average(query, near[0], near[1], sight(rows, first, last), dropout_rate, noise)

        if chunk is None:
            outputs.append(part(jnp.arange(begin, end), query[:, :, begin:end]))
            continue
        part = jax.checkpoint(part)
        whole = begin + (end - begin) // chunk * chunk
        if whole > begin:
            pieces = query[:, :, begin:whole].reshape(batch, heads, -1, chunk, width)
            rows = jnp.arange(begin, whole).reshape(-1, chunk)
            pieces = jax.lax.map(lambda piece, part=part: part(*piece), (rows, jnp.moveaxis(pieces, 2, 0)))
            outputs.append(jnp.moveaxis(pieces, 0, 2).reshape(batch, heads, -1, width))
        if end > whole:
            outputs.append(part(jnp.arange(whole, end), query[:, :, whole:end]))
    return jnp.concatenate(outputs, axis=2).swapaxes(1, 2)


def average(
    query: Float[Array, "b heads t d"],
    key: Float[Array, "b groups s d"],
    value: Float[Array, "b groups s d"],
    allowed: list[Bool[Array, "#b #heads #t s"]],
    rate: int | float = 0.0,
    noise: Array | None = None,
) -> Float[Array, "b heads t d"]:
    """Returns the values averaged by the softmax of scaled queries times keys, weights dropped at `rate`."""
    batch, heads, time, width = query.shape
    query = query.reshape(batch, key.shape[1], -1, width)
    scores = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, time, -1)
    if allowed:
        every = allowed[0]
        for other in allowed[1:]:
            every = every & other
        scores = jnp.where(every, scores, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(scores).astype(value.dtype), rate, noise)
    weights = weights.reshape(batch, key.shape[1], -1, key.shape[2])
    return jnp.matmul(weights, value).reshape(batch, heads, time, width)


def fused(
    query: Float[Array, "b t heads d"],
    key: Float[Array, "b s groups d"],
    value: Float[Array, "b s groups d"],
    mask: Bool[Array, "#b #heads #t #s"] | None = None,
    segments: Int[Array, "b t"] | None = None,
    lengths: Int[Array, "b"] | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
) -> Float[Array, "b t heads d"]:
    """Computes attention by JAX's own function: cuDNN's kernel on a GPU where it fits, else XLA's."""
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None])[:, None]
        mask = same if mask is None else mask & same
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    narrow = query.shape[-1] <= 128 and query.shape[-1] % 8 == 0
    fits = half and narrow and mask is None and (window is None or causal)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        is_causal=causal,
        key_value_seq_lengths=None if lengths is None else lengths.astype(jnp.int32),
        local_window_size=None if window is None else (window - 1, 0 if causal else window - 1),
        implementation="cudnn" if fits and jax.default_backend() == "gpu" else "xla",
    )


class Projections(nn.Module):
    """The queries, keys and values of every head by one product, with the parameters of `flax.linen.Dense`.

    Along the last axis of the kernel [d, 3 d] and the bias [3 d] they come in this order, each head by head.
    Where a mesh divides the heads, the kernel is moved to them, and not the larger queries, keys and values.
    """

    heads: int
    kernel_init: Callable
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> tuple[Float[Array, "b t heads w"], ...]:
        """Returns queries, keys and values."""
        batch, time, width = x.shape
        if width % self.heads:
            raise ValueError(f"a width of {width} does not split into {self.heads} heads")
        kernel = self.param("kernel", self.kernel_init, (width, 3 * width))
        bias = self.param("bias", nn.initializers.zeros, (3 * width,))
        x, kernel, bias = (jnp.asarray(array, self.dtype) for array in (x, kernel, bias))
        if parts("model") > 1:
            kernel = constrain(kernel.reshape(width, 3, self.heads, -1), None, None, "model", None)
            bias = constrain(bias.reshape(3, self.heads, -1), None, "model", None)
        qkv = jax.lax.dot_general(x.reshape(-1, width), kernel, (((1,), (0,)), ((), ())))
        qkv = qkv.reshape(batch, time, *kernel.shape[1:]) + bias
        query, key, value = jnp.moveaxis(qkv.reshape(batch, time, 3, self.heads, -1), 2, 0)
        return query, key, value


class SelfAttention(nn.Module):
    """Each position looks at all positions of its example, with several heads side by side."""

    heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "#b #heads #t #t"] | None = None
    ) -> Float[Array, "b t d"]:
        """Returns what each position has seen."""
        batch, time, width = x.shape
        # Xavier's bounds (Glorot and Bengio 2010) for each of the three square matrices by itself
        square = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        query, key, value = Projections(self.heads, square, self.dtype, name="qkv")(x)
        seen = attend(query, key, value, mask).reshape(batch, time, width)
        xavier = nn.initializers.xavier_uniform()
        return nn.Dense(width, dtype=self.dtype, kernel_init=xavier, dot_general=by_rows, name="out")(seen)
