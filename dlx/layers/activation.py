"""Activations in forms that are fast everywhere."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns x times the normal distribution function of x (Hendrycks and Gimpel 2016).

    By erf, where JAX's own `gelu(approximate=False)` goes by erfc, which keeps the digits of values too small
    to matter below x = -3 and takes more than twice as long on a CPU. Training keeps one array, the slope.
    """
    return x * chance(x)


def chance(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the probability that a standard normal variable is below x."""
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


@gelu.defjvp
def gelu_jvp(primals, tangents):
    """Returns gelu and its derivative: with density p and distribution function P, P(x) + x p(x)."""
    (x,), (dx,) = primals, tangents
    slope = chance(x) + x * jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi)
    return gelu(x), dx * slope
