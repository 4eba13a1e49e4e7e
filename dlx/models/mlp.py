"""The multilayer perceptron (Rumelhart, Hinton and Williams 1986)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.core import Model
from dlx.nn import from_linen


class MLP(nn.Module):
    """Dense layers with ReLU and dropout between them; inputs of any shape are flattened."""

    num_classes: int
    hidden: Sequence[int] = (256, 256)
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b ..."], *, train: bool) -> Shaped[Array, "b k"]:
        """Returns logits."""
        x = x.reshape(len(x), -1).astype(self.dtype)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x)


def mlp(
    num_classes: int, hidden: Sequence[int] = (256, 256), dropout: float = 0.0, dtype: str = "float32"
) -> Model:
    """Builds a multilayer perceptron with the given hidden widths."""
    return from_linen(MLP(num_classes, tuple(hidden), dropout, dtype))
