"""Batch normalisation (Ioffe and Szegedy 2015), with the running statistics that PyTorch keeps."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


class BatchNorm(nn.Module):
    """Normalises every channel by the mean and variance of the batch; in inference by their running averages.

    Takes the place of `flax.linen.BatchNorm`: parameters "scale" and "bias", batch statistics "mean" and
    "var", all float32 whatever the compute `dtype`. The running variance averages the unbiased variance of
    the batch, n / (n - 1) times the one that normalises, as in PyTorch (Flax averages the biased one).
    `momentum` is the share that the running averages keep in each step, 1 less PyTorch's.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: str = "float32"
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Shaped[Array, "*batch c"]) -> Shaped[Array, "*batch c"]:
        """Returns `x` normalised, scaled and shifted, in the compute dtype."""
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        x = x.astype(self.dtype)
        if self.use_running_average:
            y = (x - mean.value) * (scale * jax.lax.rsqrt(var.value + self.epsilon)) + bias
            return y.astype(self.dtype)
        y, batch_mean, batch_var = normalized(x, scale, bias, self.epsilon)
        count = x.size // channels
        unbiased = batch_var * (count / max(count - 1, 1))
        mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
        var.value = self.momentum * var.value + (1 - self.momentum) * unbiased
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(
    x: Shaped[Array, "*batch c"], scale: Float[Array, "c"], bias: Float[Array, "c"], epsilon: float
) -> tuple[Shaped[Array, "*batch c"], Float[Array, "c"], Float[Array, "c"]]:
    """Returns `x` normalised by its own statistics, with its mean and its (biased) variance in float32.

    The variance is the mean of squared deviations, never the difference of two large numbers. The gradient is
    written out, for it takes fewer passes over `x` than the one derived step by step and keeps `x` alone;
    the mean and the variance pass no gradient on.
    """
    return forward(x, scale, bias, epsilon)[0]


def forward(x, scale, bias, epsilon):
    """Returns what `normalized` does, and what its gradient needs."""
    wide = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = wide.mean(axes)
    # not `wide - mean`: XLA on a CPU writes out what is summed, and would have `y` read it instead of `x`
    var = jnp.square(mean - wide).mean(axes)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (wide - mean) * (scale * inverse) + bias
    return (y.astype(x.dtype), mean, var), (x, scale, mean, inverse)


def backward(epsilon, saved, cotangents):
    """Returns the gradients of `x`, `scale` and `bias`: section 3 of the paper, with the sums gathered."""
    x, scale, mean, inverse = saved
    axes = tuple(range(x.ndim - 1))
    wide, dy = x.astype(jnp.float32), cotangents[0].astype(jnp.float32)
    dbias, dscale = dy.sum(axes), (dy * (mean - wide)).sum(axes) * -inverse
    count = x.size // x.shape[-1]
    unit = (wide - mean) * inverse
    dx = (scale * inverse) * (dy - dbias / count - unit * (dscale / count))
    return dx.astype(x.dtype), dscale, dbias


normalized.defvjp(forward, backward)


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square and scales it (Zhang and Sennrich 2019).

    The parameter "scale" and the mean are float32 whatever the compute `dtype`.
    """

    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Returns `x` normalised over its last axis, in the compute dtype."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        return (wide * inverse * scale).astype(self.dtype)
