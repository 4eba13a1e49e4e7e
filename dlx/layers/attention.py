"""Scaled dot-product attention and multi-head self-attention (Vaswani et al. 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend(
    query: Float[Array, "b t heads d"],
    key: Float[Array, "b s heads d"],
    value: Float[Array, "b s heads d"],
    mask: Bool[Array, "#b #heads #t #s"] | None = None,
) -> Float[Array, "b t heads d"]:
    """Returns the values averaged by the softmax of query times key over the root of the width.

    True in `mask` lets a query see a key; a query that may see none averages all values. The softmax is
    float32 whatever the inputs are. On a CPU the heads move in front of time and the products are plain
    batched ones: twice as fast there as the fused form that runs elsewhere.
    """
    return jax.lax.platform_dependent(query, key, value, mask, cpu=batched, default=fused)


def batched(
    query: Float[Array, "b t heads d"],
    key: Float[Array, "b s heads d"],
    value: Float[Array, "b s heads d"],
    mask: Bool[Array, "#b #heads #t #s"] | None = None,
) -> Float[Array, "b t heads d"]:
    """Computes attention as products of one matrix for each example and head."""
    query, key, value = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jnp.matmul(jax.nn.softmax(scores).astype(value.dtype), value).swapaxes(1, 2)


def fused(
    query: Float[Array, "b t heads d"],
    key: Float[Array, "b s heads d"],
    value: Float[Array, "b s heads d"],
    mask: Bool[Array, "#b #heads #t #s"] | None = None,
) -> Float[Array, "b t heads d"]:
    """Computes attention by JAX's own function: cuDNN's kernel on a GPU where it fits, else XLA's."""
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    narrow = query.shape[-1] <= 128 and query.shape[-1] % 8 == 0
    kernel = jax.default_backend() == "gpu" and half and narrow and mask is None
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask, implementation="cudnn" if kernel else "xla"
    )


class SelfAttention(nn.Module):
    """Each position looks at all positions of its example, with several heads side by side.

    One projection gives queries, keys and values, in this order along its last axis and each head by head.
    """

    heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "#b #heads #t #t"] | None = None
    ) -> Float[Array, "b t d"]:
        """Returns what each position has seen."""
        batch, time, width = x.shape
        if width % self.heads:
            raise ValueError(f"a width of {width} does not split into {self.heads} heads")
        # Xavier's bounds (Glorot and Bengio 2010) for each of the three square matrices by itself
        square = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        qkv = nn.Dense(3 * width, dtype=self.dtype, kernel_init=square, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, time, 3, self.heads, -1), 2, 0)
        seen = attend(query, key, value, mask).reshape(batch, time, width)
        xavier = nn.initializers.xavier_uniform()
        return nn.Dense(width, dtype=self.dtype, kernel_init=xavier, name="out")(seen)
