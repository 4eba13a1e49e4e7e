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
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], -1)


def scores(x: Float[Array, "*b d"], matrix: Float[Array, "k d"]) -> Float[Array, "*b k"]:
    """Returns the products of hidden states with every row of a matrix, such as embeddings, in float32."""
    return by_rows(x, matrix.astype(x.dtype).T, preferred_element_type=jnp.float32)
