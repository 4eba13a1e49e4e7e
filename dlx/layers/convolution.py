"""Convolution and pooling, in the form that is fast on the machines people have."""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.layers import winograd
from dlx.layers.dense import by_rows
from dlx.layers.placement import parts

Sides = Sequence[tuple[int, int]]  # pixels of zeros (above, below) and (left, right) of the image
AROUND, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
CHANNELS, NUMBERS = 64, 36_864  # of a core's share of a convolution: channels, columns times weights of one
MANY = 64  # channels with which the gradient of a kernel is products, one for each of its places


class Conv(nn.Module):
    """A convolution of images, with the parameters, the initial values and the defaults of `flax.linen.Conv`.

    `padding` is "SAME", "VALID", or pixels of zeros on every side; `strides` holds for rows and columns.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: str | int = "SAME"
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b y x d"]:
        """Returns `features` channels, in the compute dtype."""
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        x, kernel = (jnp.asarray(array, self.dtype) for array in (x, kernel))  # weights may be NumPy's
        y = convolve(x, kernel, self.strides, self.padding)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + bias.astype(self.dtype)


def convolve(
    x: Shaped[Array, "b h w c"],
    kernel: Shaped[Array, "i j c d"],
    stride: int = 1,
    padding: str | int = "SAME",
) -> Shaped[Array, "b y x d"]:
    """Weighs the windows of the image that start every `stride` pixels by the kernel.

    On a CPU a kernel of one pixel, and one that covers more pixels than the image or the output has, is a
    matrix product: XLA computes the former's gradient slowly, and exchanges the latter's kernel and image for
    a form that its fast convolution does not have, here or in the gradient. A product is faster, too, for
    windows of few numbers that do not begin at every pixel. XLA's gradient of larger kernels is slow
    (experiments/LOG.md): in float32 one of 3 x 3 pixels and some channels is `in_tiles` there, all others are
    `by_products`; not on a mesh of several devices, which would exchange the sums of every tile and product.
    """
    size, image = kernel.shape[:2], x.shape[1:3]
    if isinstance(padding, str):
        (above, below), (left, right) = jax.lax.padtype_to_pads(image, size, (stride, stride), padding)
        sides = ((above, below), (left, right))
    else:
        sides = ((padding, padding), (padding, padding))
    direct = functools.partial(windowed, stride=stride, sides=sides)
    plain = x.dtype == jnp.float32 and parts() == 1
    few = stride > 1 and math.prod(kernel.shape[:3]) <= 32
    larger = math.prod(size) > min(math.prod(outputs(x, kernel, stride, sides)), math.prod(image))
    tiled_size = (size, stride) == ((3, 3), 1) and sides in (AROUND, NONE)
    if size == (1, 1) or few or larger:
        other: Callable = functools.partial(multiplied, stride=stride, sides=sides)
    elif plain and tiled_size and math.prod(kernel.shape[2:]) >= 1024:
        other = in_tiles if sides == AROUND else in_inner_tiles
    elif plain:
        other = functools.partial(by_products, stride=stride, sides=sides)
    else:
        return direct(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=other, default=direct)


def outputs(x, kernel, stride: int, sides: Sides) -> tuple[int, int]:
    """Returns the rows and columns of the convolution."""
    rows, columns = (
        (side + sum(more) - window) // stride + 1
        for side, more, window in zip(x.shape[1:3], sides, kernel.shape[:2], strict=True)
    )
    return rows, columns


def windowed(
    x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "i j c d"], stride: int, sides: Sides
) -> Shaped[Array, "b y x d"]:
    """Is the convolution as XLA has it."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=layout)


def multiplied(
    x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "i j c d"], stride: int, sides: Sides
) -> Shaped[Array, "b y x d"]:
    """Is the same as one matrix product, of the pixels of every window side by side and the kernel."""
    pixels = windows(x, kernel, stride, sides)
    return by_rows(pixels, kernel.reshape(-1, kernel.shape[-1]))


def windows(x, kernel, stride: int, sides: Sides) -> Shaped[Array, "b y x n"]:
    """Returns the numbers of every window side by side, copied column by column and then row by row."""
    high, wide, *_ = kernel.shape
    x = jnp.pad(x, [(0, 0), *sides, (0, 0)])
    y, z = x.shape[1] - high + 1, x.shape[2] - wide + 1  # pixels where a window may start
    columns = jnp.concatenate([x[:, :, j : j + z : stride] for j in range(wide)], axis=-1)
    return jnp.concatenate([columns[:, i : i + y : stride] for i in range(high)], axis=-1)


def places(x, kernel, stride: int, sides: Sides) -> list[Shaped[Array, "b y x c"]]:
    """Returns, for every place in the kernel, the pixels that it meets in all windows."""
    high, wide, *_ = kernel.shape
    x = jnp.pad(x, [(0, 0), *sides, (0, 0)])
    y, z = x.shape[1] - high + 1, x.shape[2] - wide + 1  # pixels where a window may start
    return [x[:, i : i + y : stride, j : j + z : stride] for i in range(high) for j in range(wide)]


def narrow(x, kernel, stride: int, sides: Sides) -> bool:
    """Returns whether XLA on a CPU leaves all cores but one idle, and `side_by_side` is worth its copies.

    Its convolution shares among cores the columns of the output, to each as many as have `NUMBERS` products
    with a kernel of one channel, or, where those are all of them, the channels, `CHANNELS` to each; never the
    rows or the images (found by measuring, experiments/LOG.md).
    """
    _, columns = outputs(x, kernel, stride, sides)
    weights = math.prod(kernel.shape[:3])
    share = NUMBERS / weights
    tasks = columns / share if columns > share else math.ceil(kernel.shape[3] / CHANNELS)
    products = weights * kernel.shape[3] / sum(kernel.shape[2:])  # for each number that is copied
    return tasks < 1.5 and len(x) * columns >= 2 * share and products >= 128


def side_by_side(
    x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "i j c d"], stride: int, sides: Sides
) -> Shaped[Array, "b y x d"]:
    """Is the same for kernels at least as wide as the stride, as one wide image of all images."""
    (batch, height, width, channels), window = x.shape, kernel.shape[1]
    above_below, (left, right) = sides
    rows, columns = outputs(x, kernel, stride, sides)
    each = max(columns, -(-(width + max(left, right)) // stride))  # those beyond `columns` see two images
    x = jnp.pad(x, [(0, 0), (0, 0), (left, each * stride - width - left), (0, 0)])
    x = x.swapaxes(0, 1).reshape(1, height, -1, channels)
    y = windowed(x, kernel, stride, (above_below, (0, window - stride)))
    return y.reshape(rows, batch, each, -1)[:, :, :columns].swapaxes(0, 1)


def spread(x, kernel, stride: int, sides: Sides) -> Shaped[Array, "b y x d"]:
    """Returns the convolution, by all cores of a CPU."""
    form = side_by_side if narrow(x, kernel, stride, sides) else windowed
    return form(x, kernel, stride, sides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_products(
    x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "i j c d"], stride: int, sides: Sides
) -> Shaped[Array, "b y x d"]:
    """Is the same; the gradient of the kernel is a matrix product.

    Of many channels it is one for each place in the kernel, all of them with the gradient of the outputs
    written out as columns; of few those would be too narrow to be fast.
    """
    return spread(x, kernel, stride, sides)


def products_forward(x, kernel, stride, sides):
    """Returns the convolution and what its gradients need."""
    return spread(x, kernel, stride, sides), (x, kernel)


def products_backward(stride, sides, saved, gradient):
    """Returns the gradients of the image and of the kernel."""
    x, kernel = saved
    of_image = jax.linear_transpose(lambda x: windowed(x, kernel, stride, sides), x)
    if x.shape[-1] < MANY:
        of_kernel = jax.linear_transpose(lambda kernel: multiplied(x, kernel, stride, sides), kernel)
        return *of_image(gradient), *of_kernel(gradient)
    columns = jax.lax.optimization_barrier(gradient.reshape(-1, kernel.shape[-1]).T)  # once for all products
    products = [columns @ p.reshape(-1, p.shape[-1]) for p in places(x, kernel, stride, sides)]
    return *of_image(gradient), jnp.stack(products).swapaxes(1, 2).reshape(kernel.shape)


by_products.defvjp(products_forward, products_backward)


@jax.custom_vjp
def in_tiles(x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "3 3 c d"]) -> Shaped[Array, "b h w d"]:
    """Is the same for 3 x 3 pixels with zeros around the image, by Winograd's algorithm where that is faster.

    Outputs come from the basis that keeps float32's digits, gradients from the one that multiplies least.
    """
    return tiled(x, kernel, winograd.TWO)


def tiled(x, kernel, basis: winograd.Basis) -> Shaped[Array, "b h w d"]:
    """Returns the convolution; of few channels XLA's, since changing the basis takes longer than it saves."""
    if math.prod(kernel.shape[2:]) >= 128 * 256:
        return winograd.convolve(x, kernel, basis)
    return spread(x, kernel, 1, AROUND)


def tiles_forward(x, kernel):
    """Returns the convolution and what its gradients need."""
    return in_tiles(x, kernel), (x, kernel)


def tiles_backward(saved, gradient):
    """Returns the gradients of the image and of the kernel."""
    x, kernel = saved
    batch, height, width, _ = x.shape
    many = (
        batch * -(-height // 4) * -(-width // 4) >= 128
    )  # tiles of four, for a fast product of each coordinate
    basis = winograd.FOUR if many else winograd.TWO
    mirrored = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return tiled(gradient, mirrored, basis), winograd.kernel_gradient(x, gradient, basis)


in_tiles.defvjp(tiles_forward, tiles_backward)


def in_inner_tiles(x: Shaped[Array, "b h w c"], kernel: Shaped[Array, "3 3 c d"]) -> Shaped[Array, "b y x d"]:
    """Is the same without zeros around the image, whose edge is computed and dropped."""
    return in_tiles(x, kernel)[:, 1:-1, 1:-1]


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
