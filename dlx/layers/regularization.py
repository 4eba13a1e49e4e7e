"""Noise that is there in training only."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def stochastic_depth(
    x: Shaped[Array, "b ..."], rate: float, key: Array | None = None
) -> Shaped[Array, "b ..."]:
    """Drops a residual branch for whole examples, each with probability `rate` (Huang et al. 2016).

    What is kept grows by 1 / (1 - rate), so that the expectation stays. Without a key, or at rate 0, it is
    the identity.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate is a probability, between 0 and 1, not {rate}")
    if key is None or rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)
    kept = jax.random.bernoulli(key, 1 - rate, (len(x),) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def dropout(x: Float[Array, "*b d"], rate: int | float, key: Array | None = None) -> Float[Array, "*b d"]:
    """Zeroes every element with probability `rate` (Srivastava et al. 2014).

    What is kept grows by 1 / (1 - rate), so that the expectation stays. Without a key, or at rate 0, it is
    the identity. The rate is rounded to a multiple of 2 ** -16: every element draws 16 bits, half of what
    `flax.linen.Dropout` draws, in half the time.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate is a probability, between 0 and 1, not {rate}")
    dropped, values = round(rate * 2**16), 2**16
    if key is None or dropped == 0:
        return x
    if dropped == values:
        return jnp.zeros_like(x)
    *batch, width = x.shape
    pairs = jax.random.bits(key, (*batch, -(-width // 2)), jnp.uint32)
    bits = jax.lax.bitcast_convert_type(pairs, jnp.uint16).reshape(*batch, -1)[..., :width]
    return jnp.where(bits >= dropped, x * (values / (values - dropped)), 0).astype(x.dtype)
