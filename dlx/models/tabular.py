"""Networks for tables: numbers [b, n] and codes of categories [b, c], of which 0 is a category not seen."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlx.core import Model
from dlx.layers.recurrent import uniform
from dlx.nn import from_linen


class Periodic(nn.Module):
    """A vector for each number, of waves with learned frequencies ("PLR" of Gorishniy et al. 2022)."""

    waves: int
    deviation: float
    width: int

    @nn.compact
    def __call__(self, numbers: Float[Array, "b n"]) -> Float[Array, "b d"]:
        """Returns all vectors side by side; each column has its own frequencies and its own dense layer."""
        columns, inputs = numbers.shape[1], 2 * self.waves
        rates = self.param("frequencies", nn.initializers.normal(self.deviation), (columns, self.waves))
        phases = 2 * math.pi * numbers[..., None] * rates
        waves = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1)
        bound = uniform(inputs**-0.5)
        kernel = self.param("kernel", bound, (columns, inputs, self.width))
        bias = self.param("bias", bound, (columns, self.width))
        return nn.relu(jnp.einsum("bnk,nkd->bnd", waves, kernel) + bias).reshape(len(numbers), -1)


class Features(nn.Module):
    """Numbers, waves of them, and a learned vector for each category; of an unknown one it is 0."""

    cardinalities: tuple[int, ...]
    embedding: int
    waves: int = 0
    deviation: float = 0.1

    @nn.compact
    def __call__(self, numbers: Float[Array, "b n"], codes: Int[Array, "b c"]) -> Float[Array, "b d"]:
        """Returns all of them side by side."""
        if codes.shape[1] != len(self.cardinalities):
            raise ValueError(f"{codes.shape[1]} categories for cardinalities {self.cardinalities}")
        vectors = [numbers]
        if self.waves:
            vectors.append(Periodic(self.waves, self.deviation, self.embedding, name="numbers")(numbers))
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
    waves: int
    deviation: float

    @nn.compact
    def __call__(
        self, numbers: Float[Array, "b n"], codes: Int[Array, "b c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits, or numbers."""
        sizes = (self.embedding, self.waves, self.deviation)
        x = Features(self.cardinalities, *sizes, name="features")(numbers, codes)
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
    waves: int = 0,
    deviation: float | int = 0.1,
) -> Model:
    """Builds a multilayer perceptron for tables, with entity embeddings (Guo and Berkhahn 2016).

    `apply(variables, numbers [b, n], codes [b, c])` returns float32 [b, num_classes]. `cardinalities` says
    how many codes each column of categories has, that of the unknown, 0, among them. With `waves` each number
    is joined by a vector as wide as those of categories: sines and cosines of so many frequencies through a
    dense layer (Gorishniy et al. 2022); the frequencies start with the standard `deviation`, in waves per
    unit of the number, and are learned.
    """
    shape = (embedding, tuple(hidden), dropout, waves, deviation)
    return from_linen(TabularMLP(num_classes, tuple(cardinalities), *shape))


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
