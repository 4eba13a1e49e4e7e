"""Noise that is there in training only."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


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
