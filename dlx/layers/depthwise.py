"""Depthwise convolution, in the form that is fast on the machine at hand.

XLA's convolution by groups is slow on a CPU; a sum over the window of shifted images times weights is not.
experiments/LOG.md has the measurement.
"""

from collections.abc import Callable
from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from dlx.layers.placement import parts

TOGETHER = 4  # rows, at most, whose products are added up at once


class DepthwiseConv(nn.Module):
    """A convolution of every channel with its own odd window; with stride 1 the sides stay."""

    size: int
    stride: int = 1
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b y x c"]:
        """Returns the filtered channels, in the compute dtype."""
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, 1, x.shape[-1]))
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(
    x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "k k 1 c"], stride: int = 1
) -> Shaped[Array, "b y x c"]:
    """Weighs the pixels of an odd window around every `stride`-th pixel, each channel by its own kernel.

    Outside the image there are zeros.
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=partial(weighted_shifts, stride=stride), default=partial(grouped, stride=stride)
    )


def forward(x, kernel, stride: int):
    """Returns the convolution and what its gradients need."""
    return depthwise(x, kernel, stride), (x, kernel)


def backward(stride: int, saved, gradient):
    """Returns the gradients of the image and of the kernel."""

    def of_grouped(x, kernel, gradient):
        return jax.vjp(partial(grouped, stride=stride), x, kernel)[1](gradient)

    def of_shifts(x, kernel, gradient):
        return image_gradient(x, kernel, gradient, stride), kernel_gradient(x, kernel, gradient, stride)

    # on a mesh with an axis more than the batch's, XLA adds up the kernel's gradient of groups too often
    default = of_shifts if parts() > parts("data") else of_grouped
    return jax.lax.platform_dependent(*saved, gradient, cpu=of_shifts, default=default)


depthwise.defvjp(forward, backward)


def grouped(
    x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "k k 1 c"], stride: int
) -> Shaped[Array, "b y x c"]:
    """Is the convolution as XLA has it, with as many groups as channels."""
    sides = [(len(kernel) // 2, len(kernel) // 2)] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), sides, dimension_numbers=layout, feature_group_count=x.shape[-1]
    )


def weighted_shifts(
    x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "k k 1 c"], stride: int
) -> Shaped[Array, "b y x c"]:
    """Is the same as a sum of shifted images times weights, added in float32."""
    return weighted(surrounded(x, len(kernel) // 2), kernel, stride).astype(x.dtype)


def image_gradient(x, kernel, gradient, stride: int) -> Shaped[Array, "b h w c"]:
    """Returns the gradient of the image: the output's, spread by `stride`, through the mirrored kernel."""
    _, height, width, _ = x.shape
    _, rows, columns, _ = gradient.shape
    rest = (height - (rows - 1) * stride - 1, width - (columns - 1) * stride - 1)
    spread = surrounded(gradient, len(kernel) // 2, stride - 1, rest)
    return weighted(spread, kernel[::-1, ::-1], 1).astype(x.dtype)


def kernel_gradient(x, kernel, gradient, stride: int) -> Shaped[Array, "k k 1 c"]:
    """Returns the gradient of the kernel: at every place in a window, its pixels times the output's gradient.

    The products of each place are added up row by row, a few rows at a time, into sums for every column: what
    XLA on a CPU makes of that is vectors, where its reductions over rows take one number after the other, and
    those over all pixels copy every shifted image first (experiments/LOG.md).
    """
    size, (batch, high, wide, channels) = len(kernel), gradient.shape
    x = surrounded(x, size // 2)
    places = [(i, j) for i in range(size) for j in range(size)]
    together = max(rows for rows in range(1, TOGETHER + 1) if high % rows == 0)

    def row(image, y):
        """Returns a row of every image, [b, columns, c]; sliced alone, for slices of slices are slow."""
        return jax.lax.dynamic_index_in_dim(image, y, 1, keepdims=False).astype(jnp.float32)

    def add(part, sums):
        first = part * together
        slopes = [row(gradient, first + y) for y in range(together)]
        pixels = [row(x, first * stride + y) for y in range((together - 1) * stride + size)]
        end = (wide - 1) * stride + 1
        return tuple(
            reduce(
                jnp.add,
                [pixels[y * stride + i][:, j : j + end : stride] * slope for y, slope in enumerate(slopes)],
                total,
            )
            for (i, j), total in zip(places, sums, strict=True)
        )

    zeros = (jnp.zeros((batch, wide, channels)),) * size**2
    sums = jax.lax.fori_loop(0, high // together, add, zeros)
    return jnp.stack(sums).sum((1, 2)).reshape(kernel.shape).astype(kernel.dtype)


def weighted(x, kernel, stride: int) -> Float[Array, "b y x c"]:
    """Returns the weighted sums of all windows that lie inside the image."""
    weights = kernel.astype(jnp.float32).reshape(-1, kernel.shape[-1])
    pairs = zip(shifts(x, len(kernel), stride), weights, strict=True)
    return reduce(jnp.add, [pixels * weight for pixels, weight in pairs])


def shifts(x, size: int, stride: int) -> list[Array]:
    """Returns, for every place in a window, the pixels at that place of all windows, in float32."""
    y, z = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    places = [(i, j) for i in range(size) for j in range(size)]
    return [x[:, i : i + y : stride, j : j + z : stride].astype(jnp.float32) for i, j in places]


def surrounded(x, pixels: int, between: int = 0, rest: tuple[int, int] = (0, 0)) -> Shaped[Array, "b y x c"]:
    """Puts zeros around the image, `between` its pixels, and `rest` more below and to the right."""
    below, right = ((pixels, pixels + more, between) for more in rest)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), below, right, (0, 0, 0)])
