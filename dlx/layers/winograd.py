"""Convolutions of 3 x 3 pixels with fewer multiplications (Winograd 1980; Lavin and Gray, arXiv:1509.09308).

A tile of n x n outputs of a 3 x 3 window is linear in its (n + 2) x (n + 2) pixels and in the nine weights.
After a fixed change of basis of both, each of its (n + 2)^2 coordinates is one product, where 9 n^2 were: for
all tiles together, one matrix product for each coordinate. The gradient of the kernel is the same algorithm
backwards, and that is where it saves most: XLA's own is slow on large images (experiments/LOG.md).

The work goes through the image in strips of rows, so that the tiles of one stay in a CPU's caches. This is
the form for float32 on a CPU; `dlx.layers.convolution.convolve` chooses it.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TILES = 256  # that are looked at together, at least: enough for a fast matrix product


Matrix = Sequence[Sequence[float | int]]


class Basis(NamedTuple):
    """The changes of basis in one dimension, [n + 2, n + 2], [n + 2, 3] and [n, n + 2].

    For all pixels x and weights w, outputs @ ((weights @ w) * (pixels @ x)) are the n sums of w times a
    window of x. Outputs and weights are polynomials' values at n + 1 points and at infinity (Toom and Cook),
    and the pixels' follows from them; where the points lie decides what rounding costs.
    """

    pixels: Matrix
    weights: Matrix
    outputs: Matrix


TWO = Basis(  # points 0, 1, -1: rounds no worse than adding up the nine products does
    pixels=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]],
    weights=[[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    outputs=[[1, 1, 1, 0], [0, 1, -1, 1]],
)
FOUR = Basis(  # points 0, 1, -1, 1/2, -2: some ten times worse, and the best of the simple points
    pixels=[
        [1 / 2, -3 / 4, -1, 3 / 4, 1 / 2, 0],
        [0, -2 / 5, 1 / 5, 1, 2 / 5, 0],
        [0, -2 / 5, 1, -1 / 5, -2 / 5, 0],
        [0, 1, 1 / 2, -1, -1 / 2, 0],
        [0, 1 / 2, -1, -1 / 2, 1, 0],
        [0, 1 / 2, -3 / 4, -1, 3 / 4, 1 / 2],
    ],
    weights=[
        [2, 0, 0],
        [5 / 6, 5 / 6, 5 / 6],
        [5 / 6, -5 / 6, 5 / 6],
        [32 / 15, 16 / 15, 8 / 15],
        [1 / 15, -2 / 15, 4 / 15],
        [0, 0, 2],
    ],
    outputs=[[1, 1, 1, 1, 1, 0], [0, 1, -1, 1 / 2, -2, 0], [0, 1, 1, 1 / 4, 4, 0], [0, 1, -1, 1 / 8, -8, 1]],
)


def strips(shape: tuple[int, ...], n: int) -> tuple[int, int, int]:
    """Returns how many strips an image [b, h, w, c] is cut into, and how many tiles high and wide each is."""
    batch, height, width, _ = shape
    high, wide = -(-height // n), -(-width // n)
    count = -(-high // min(high, -(-TILES // (batch * wide))))
    return count, -(-high // count), wide


def changed(matrix: Matrix, x: Float[Array, "*batch h w c"], step: int) -> Float[Array, "*tile b y x c"]:
    """Returns tiles of an image, one every `step` pixels, in another basis; their coordinates come first."""

    def combined(x, axis: int) -> list[Array]:
        size = len(matrix[0])
        end = (x.shape[axis] - size) // step * step + 1
        pixels = [jax.lax.slice_in_dim(x, i, i + end, step, axis) for i in range(size)]
        return [linear(row, pixels) for row in matrix]

    rows = jnp.stack(combined(x, 1))
    return jnp.stack(combined(rows, 3), axis=1)


def linear(weights, arrays) -> Array:
    """Returns the sum of the arrays times the weights, without those that have none."""
    terms = [
        x if w == 1 else -x if w == -1 else float(w) * x for w, x in zip(weights, arrays, strict=True) if w
    ]
    return reduce(jnp.add, terms)


def squared(matrix: Matrix) -> Float[Array, "i j"]:
    """Returns the change of basis in two dimensions, both flattened."""
    return jnp.kron(jnp.array(matrix, jnp.float32), jnp.array(matrix, jnp.float32))


def padded(x, count: int, high: int, wide: int, n: int, edge: int) -> Array:
    """Surrounds an image by `edge` pixels of zeros, with more below and to the right to fill the tiles."""
    below, right = count * high * n - x.shape[1], wide * n - x.shape[2]
    return jnp.pad(x, [(0, 0), (edge, edge + below), (edge, edge + right), (0, 0)])


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], to: Basis = TWO
) -> Float[Array, "b h w d"]:
    """Weighs the 3 x 3 pixels around every pixel by the kernel; outside the image there are zeros."""
    batch, height, width, channels = x.shape
    n, features = len(to.outputs), kernel.shape[-1]
    count, high, wide = strips(x.shape, n)
    weights = (squared(to.weights) @ kernel.reshape(9, -1)).reshape(-1, channels, features)
    x = padded(x, count, high, wide, n, 1)

    def strip(index):
        pixels = jax.lax.dynamic_slice_in_dim(x, index * high * n, high * n + 2, 1)
        tiles = changed(to.pixels, pixels, n).reshape(len(weights), -1, channels)
        tiles = jnp.einsum("ktc,kcd->ktd", tiles, weights)
        tiles = tiles.reshape(n + 2, n + 2, batch, high, wide, features)
        rows = jnp.stack([linear(row, tiles) for row in to.outputs], axis=-3)  # [n + 2, b, y, n, x, d]
        outputs = jnp.stack([linear(row, list(rows)) for row in to.outputs], axis=-2)
        return outputs.reshape(batch, high * n, wide * n, features)

    if count == 1:
        return strip(0)[:, :height, :width]

    def fill(index, y):
        return jax.lax.dynamic_update_slice_in_dim(y, strip(index), index * high * n, 1)

    y = jnp.zeros((batch, count * high * n, wide * n, features), x.dtype)
    return jax.lax.fori_loop(0, count, fill, y)[:, :height, :width]


def kernel_gradient(
    x: Float[Array, "b h w c"], gradient: Float[Array, "b h w d"], to: Basis = FOUR
) -> Float[Array, "3 3 c d"]:
    """Returns the gradient of the kernel of `convolve`, from that of its outputs."""
    n, (channels, features) = len(to.outputs), (x.shape[-1], gradient.shape[-1])
    count, high, wide = strips(x.shape, n)
    x, gradient = padded(x, count, high, wide, n, 1), padded(gradient, count, high, wide, n, 0)

    def add(index, total):
        pixels = jax.lax.dynamic_slice_in_dim(x, index * high * n, high * n + 2, 1)
        outputs = jax.lax.dynamic_slice_in_dim(gradient, index * high * n, high * n, 1)
        pixels = changed(to.pixels, pixels, n).reshape(len(total), -1, channels)
        outputs = changed(list(zip(*to.outputs, strict=True)), outputs, n).reshape(len(total), -1, features)
        return total + jnp.einsum("ktc,ktd->kcd", pixels, outputs)

    total = jnp.zeros(((n + 2) ** 2, channels, features), x.dtype)
    total = jax.lax.fori_loop(0, count, add, total) if count > 1 else add(0, total)
    kernel = squared(to.weights).T @ total.reshape(len(total), -1)
    return kernel.reshape(3, 3, channels, features)
