"""Where a token stands: rotary positions (Su et al. 2021), and the places of tokens."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Stretch(NamedTuple):
    """How Llama 3.1 fits its rotations to contexts longer than those that it first learned from.

    Wavelengths above `context / low` grow by `factor`, those below `context / high` stay, and those between
    change smoothly. (Dubey et al. 2024, "The Llama 3 herd of models", and the code released with it.)
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    context: int = 8192


def rotary(
    x: Float[Array, "b t heads d"],
    positions: Int[Array, "#b t"],
    base: float = 10_000.0,
    stretch: Stretch | None = None,
) -> Float[Array, "b t heads d"]:
    """Turns queries or keys by angles that grow with the position: their products know only distances.

    Number i of the first half of the width turns together with number i of the second half, by
    base ** (-2 i / d) of a radian for each place. The angles are float32 whatever `x` is.
    """
    half = x.shape[-1] // 2
    angle = positions[..., None, None].astype(jnp.float32) * frequencies(half, base, stretch)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def frequencies(half: int, base: float, stretch: Stretch | None = None) -> Float[Array, "half"]:
    """Returns the angles of one step, in radians, from the fastest to the slowest."""
    plain = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if stretch is None:
        return plain
    turns = stretch.context * plain / (2 * math.pi)  # within the first context
    share = jnp.clip((turns - stretch.low) / (stretch.high - stretch.low), 0, 1)
    return share * plain + (1 - share) * plain / stretch.factor


def places(tokens: Int[Array, "b t"], start: Int[Array, "b"] | None = None) -> Int[Array, "#b t"]:
    """Returns the positions of tokens that follow each other, from 0 or from each example's `start` on."""
    following = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return following if start is None else start[:, None] + following
