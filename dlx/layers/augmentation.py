"""Augmentation of image batches on the device, inside the jitted step, from the step's key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def random_flip(key: Array, images: Num[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """Mirrors each image left to right with probability one half."""
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_affine(
    key: Array,
    images: Num[Array, "b h w c"],
    *,
    shift: float = 0.0,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> Float[Array, "b h w c"]:
    """Moves, turns, scales and shears each image by its own uniform draw, with bilinear sampling.

    `shift` is in pixels, `rotate` in degrees, `scale` and `shear` are fractions: each draw is between minus
    and plus its argument. Pixels from outside the image take the nearest edge's value. With every
    strength 0 the images come back unchanged.
    """
    _, height, width, _ = images.shape
    draw = jax.random.uniform(key, (5, len(images)), minval=-1.0)
    angle = draw[0] * jnp.deg2rad(rotate)
    zoom, lean = 1 + draw[1] * scale, draw[2] * shear
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    matrix = jnp.stack([jnp.stack([cos, lean - sin], -1), jnp.stack([sin, cos], -1)], -2)  # [b, 2, 2]
    offset = draw[3:].T * shift

    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    centre = jnp.array([height - 1, width - 1]) / 2
    where = jnp.einsum("bij,hwj->bhwi", matrix, grid - centre) + centre + offset[:, None, None]
    return jax.vmap(bilinear)(images.astype(jnp.float32), where)


def bilinear(image: Float[Array, "h w c"], where: Float[Array, "y x 2"]) -> Float[Array, "y x c"]:
    """Samples an image at real-valued (row, column) positions; the edge's value goes on outside."""
    height, width, _ = image.shape
    where = jnp.clip(where, 0, jnp.array([height - 1, width - 1]))
    low = jnp.floor(where).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.array([height - 1, width - 1]))
    down, right = jnp.split(where - low, 2, axis=-1)
    top = image[low[..., 0], low[..., 1]] * (1 - right) + image[low[..., 0], high[..., 1]] * right
    bottom = image[high[..., 0], low[..., 1]] * (1 - right) + image[high[..., 0], high[..., 1]] * right
    return top * (1 - down) + bottom * down
