"""Reversible instance normalisation (Kim et al. 2022): each series of each window on a scale of its own.

scaled, scale = normalize(history)       # the model sees windows of mean 0 and standard deviation 1
forecast = restore(model(scaled), scale)
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Scale(NamedTuple):
    """Mean and standard deviation of each channel of each window over its time."""

    mean: Float[Array, "b 1 c"]
    std: Float[Array, "b 1 c"]


def normalize(history: Float[Array, "b t c"], epsilon: float = 1e-5) -> tuple[Float[Array, "b t c"], Scale]:
    """Returns windows of mean 0 and variance 1 along time, and what `restore` needs.

    The variance is the biased one plus `epsilon`. The paper's learned scale and shift of each channel are
    left out: what follows can learn them.
    """
    history = history.astype(jnp.float32)
    mean = history.mean(axis=1, keepdims=True)
    std = jnp.sqrt(jnp.square(history - mean).mean(axis=1, keepdims=True) + epsilon)
    return (history - mean) / std, Scale(mean, std)


def restore(forecast: Float[Array, "b h c *q"], scale: Scale) -> Float[Array, "b h c *q"]:
    """Undoes `normalize` on what was forecast from it; axes after the channels share their scale."""
    more = (1,) * (forecast.ndim - 3)
    mean, std = (x.reshape(*x.shape, *more) for x in scale)
    return forecast * std + mean
