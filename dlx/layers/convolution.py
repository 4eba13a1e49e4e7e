"""Convolution and pooling, in the form that is fast on the machines people have."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def max_pool(
    x: Shaped[Array, "b h w c"], size: int = 2, stride: int | None = None, padding: int = 0
) -> Shaped[Array, "b y x c"]:
    """Takes the maximum over windows of `size` x `size`; a rest at the edge is dropped.

    Windows start every `stride` pixels, by default side by side; `padding` pixels of minus infinity surround
    the image. The maximum of strided slices, over rows and then over columns: forward as fast as a window
    reduction, and its gradient, elementwise, much faster on a CPU than XLA's scatter into windows
    (experiments/LOG.md). Where pixels of a window are equal they share the gradient.
    """
    stride = stride or size
    if padding:
        sides = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        x = jnp.pad(x, sides, constant_values=-jnp.inf)
    _, height, width, _ = x.shape
    y, z = (height - size) // stride * stride + 1, (width - size) // stride * stride + 1
    x = functools.reduce(jnp.maximum, [x[:, i : i + y : stride] for i in range(size)])
    return functools.reduce(jnp.maximum, [x[:, :, i : i + z : stride] for i in range(size)])


def avg_pool(
    x: Shaped[Array, "b h w c"], size: int = 2, stride: int | None = None, padding: int = 0
) -> Shaped[Array, "b y x c"]:
    """Averages windows of `size` x `size`, by default side by side; a rest at the edge is dropped.

    Windows start every `stride` pixels; `padding` pixels of zero surround the image, and count.
    """
    stride = stride or size
    x, dtype = x.astype(jnp.float32), x.dtype
    x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    _, height, width, _ = x.shape
    y, z = (height - size) // stride * stride + 1, (width - size) // stride * stride + 1
    x = functools.reduce(jnp.add, [x[:, i : i + y : stride] for i in range(size)])
    x = functools.reduce(jnp.add, [x[:, :, i : i + z : stride] for i in range(size)])
    return (x / size**2).astype(dtype)


def adaptive_avg_pool(x: Shaped[Array, "b h w c"], size: int) -> Shaped[Array, "b {size} {size} c"]:
    """Averages the image to `size` x `size` values, over windows that cover it as evenly as they can.

    Window i of n spans the pixels from floor(i h / n) to ceil((i + 1) h / n), as in PyTorch: windows overlap
    where n does not divide h, and repeat pixels where n is above h.
    """

    def windows(side: int) -> Array:
        """Returns the matrix [size, side] that averages each window."""
        pixel, index = jnp.arange(side), jnp.arange(size)[:, None]
        inside = (pixel >= index * side // size) & (pixel < -(-(index + 1) * side // size))
        return (inside / inside.sum(axis=1, keepdims=True)).astype(x.dtype)

    _, height, width, _ = x.shape
    if (height, width) == (size, size):
        return x
    return jnp.einsum("yh,bhwc,xw->byxc", windows(height), x, windows(width))
