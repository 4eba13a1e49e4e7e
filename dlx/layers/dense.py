"""Dense layers of sequences, and the scores of words."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def by_rows(
    x: Float[Array, "*b d"], kernel: Float[Array, "d k"], dimensions=None, **options
) -> Float[Array, "*b k"]:
    """Is `jax.lax.dot_general` for `flax.linen.Dense`, with all axes but the last of `x` made one.

    The product is the same. The gradient of the kernel sums over one axis instead of two, for which XLA on a
    CPU has its fast form; over two it transposes the larger factor first and takes twice as long. The only
    `dimensions` are the last of `x` and the first of `kernel`.
    """
    if dimensions not in (None, (((x.ndim - 1,), (0,)), ((), ()))):
        raise ValueError(
            f"by_rows sums over the last axis of x and the first of the kernel, not {dimensions}"
        )
    return product(x.reshape(-1, x.shape[-1]), kernel, **options).reshape(*x.shape[:-1], -1)


def product(x: Float[Array, "n d"], kernel: Float[Array, "d k"], **options) -> Float[Array, "n k"]:
    """Is the matrix product `jax.lax.dot_general`, for kernels that are learned.

    The gradient of the kernel is x^T times that of the product, and XLA on a CPU takes long to lay out its
    left factor (experiments/LOG.md). So that of a kernel with more rows than columns is found as its
    transpose, whose left factor is the narrow one; a barrier keeps XLA from turning it back. Few rows of `x`
    have the plain form, for the kernel itself is turned, too.
    """

    def plain(x, kernel):
        return jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), **options)

    def turned(x, kernel):
        columns = jax.lax.optimization_barrier(kernel.T)
        return jax.lax.dot_general(x, columns, (((1,), (1,)), ((), ())), **options)

    if len(x) < kernel.shape[0] or kernel.shape[0] <= kernel.shape[1]:
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=turned, default=plain)


def scores(x: Float[Array, "*b d"], matrix: Float[Array, "k d"]) -> Float[Array, "*b k"]:
    """Returns the products of hidden states with every row of a matrix, such as embeddings, in float32."""
    return by_rows(x, matrix.astype(x.dtype).T, preferred_element_type=jnp.float32)
