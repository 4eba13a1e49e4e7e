"""Networks for tables: numbers [b, n] and codes of categories [b, c], of which 0 is a category not seen."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlx.core import Model
from dlx.nn import from_linen


class Features(nn.Module):
    """Numbers, and a learned vector for each category; of an unknown one it is 0."""

    cardinalities: tuple[int, ...]
    embedding: int

    @nn.compact
    def __call__(self, numbers: Float[Array, "b n"], codes: Int[Array, "b c"]) -> Float[Array, "b d"]:
        """Returns all of them side by side."""
        if codes.shape[1] != len(self.cardinalities):
            raise ValueError(f"{codes.shape[1]} categories for cardinalities {self.cardinalities}")
        vectors = [numbers]
        for column, size in enumerate(self.cardinalities):
            table = nn.Embed(size - 1, self.embedding, name=f"category_{column}")
            code = codes[:, column]
            vectors.append(jnp.where(code[:, None] > 0, table(jnp.maximum(code - 1, 0)), 0))
        return jnp.concatenate(vectors, axis=-1)


class TabularMLP(nn.Module):
    """Dense layers with ReLU and dropout between them."""

    num_classes: int
    cardinalities: tuple[int, ...]
    embedding: int
    hidden: tuple[int, ...]
    dropout: float

    @nn.compact
    def __call__(
        self, numbers: Float[Array, "b n"], codes: Int[Array, "b c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits, or numbers."""
        x = Features(self.cardinalities, self.embedding, name="features")(numbers, codes)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)


class TabularResNet(nn.Module):
    """Blocks of normalisation, two dense layers and a way around them."""

    num_classes: int
    cardinalities: tuple[int, ...]
    embedding: int
    width: int
    depth: int
    hidden: int
    dropout: float
    residual_dropout: float

    @nn.compact
    def __call__(
        self, numbers: Float[Array, "b n"], codes: Int[Array, "b c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits, or numbers."""

        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = Features(self.cardinalities, self.embedding, name="features")(numbers, codes)
        x = nn.Dense(self.width, name="stem")(x)
        for _ in range(self.depth):
            y = nn.relu(nn.Dense(self.hidden)(norm(x)))
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            y = nn.Dense(self.width)(y)
            x = x + nn.Dropout(self.residual_dropout, deterministic=not train)(y)
        return nn.Dense(self.num_classes, name="head")(nn.relu(norm(x)))


def tabular_mlp(
    num_classes: int,
    cardinalities: Sequence[int] = (),
    embedding: int = 8,
    hidden: Sequence[int] = (256, 256),
    dropout: float | int = 0.1,
) -> Model:
    """Builds a multilayer perceptron for tables, with entity embeddings (Guo and Berkhahn 2016).

    `apply(variables, numbers [b, n], codes [b, c])` returns float32 [b, num_classes]. `cardinalities` says
    how many codes each column of categories has, that of the unknown, 0, among them.
    """
    return from_linen(TabularMLP(num_classes, tuple(cardinalities), embedding, tuple(hidden), dropout))


def tabular_resnet(
    num_classes: int,
    cardinalities: Sequence[int] = (),
    embedding: int = 8,
    width: int = 128,
    depth: int = 3,
    hidden: int = 256,
    dropout: float | int = 0.2,
    residual_dropout: float | int = 0.0,
) -> Model:
    """Builds the ResNet for tables of Gorishniy et al. (2021); in and out is as `tabular_mlp` has it."""
    module = TabularResNet(
        num_classes, tuple(cardinalities), embedding, width, depth, hidden, dropout, residual_dropout
    )
    return from_linen(module)
