"""What a classifier looks at: how its logits change with the pixels of an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

Logits = Callable[[Array], Array]  # images [b, h, w, c] to logits [b, k], each image by itself


def input_gradient(
    logits: Logits, images: Num[Array, "b h w c"], classes: Int[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Returns the derivative of the logit of each image's class by its pixels (Simonyan et al. 2013)."""

    def chosen(images):
        return jnp.take_along_axis(logits(images), classes[:, None], axis=-1).sum()

    return jax.grad(chosen)(images.astype(jnp.float32))


def smooth_gradient(
    logits: Logits,
    key: Array,
    images: Num[Array, "b h w c"],
    classes: Int[Array, "b"],
    *,
    noise: float | Float[Array, "c"],
    draws: int = 32,
) -> Float[Array, "b h w c"]:
    """Averages `input_gradient` over images with normal noise of that deviation (Smilkov et al. 2017).

    `noise` is in units of the pixels, one number or one for each channel. Gradients of single images waver
    from pixel to pixel where the logits hardly do; the average shows what they have in common.
    """

    def add(total, key):
        noisy = images + noise * jax.random.normal(key, images.shape)
        return total + input_gradient(logits, noisy, classes), None

    total, _ = jax.lax.scan(add, jnp.zeros(images.shape), jax.random.split(key, draws))
    return total / draws
