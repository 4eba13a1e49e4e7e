"""The FT-Transformer: every column of a table becomes a token (Gorishniy et al. 2021)."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlx.core import Model
from dlx.layers.attention import attend
from dlx.nn import from_linen


def near(width: int) -> Callable[..., Array]:
    """Returns the paper's start of tokens: uniform within 1 / sqrt(width) of 0."""

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(width)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Tokens(nn.Module):
    """A vector for each column, after one that will hold the answer."""

    cardinalities: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, numbers: Float[Array, "b n"], codes: Int[Array, "b c"]) -> Float[Array, "b t d"]:
        """Returns number times weight plus bias of a column, or category plus bias; 0 is no category."""
        if codes.shape[1] != len(self.cardinalities):
            raise ValueError(f"{codes.shape[1]} categories for cardinalities {self.cardinalities}")
        start = near(self.width)
        weight = self.param("weight", start, (numbers.shape[1], self.width))
        bias = self.param("bias", start, (numbers.shape[1] + codes.shape[1], self.width))
        answer = self.param("answer", start, (1, 1, self.width))
        vectors = [numbers[..., None] * weight]
        for column, size in enumerate(self.cardinalities):
            table = nn.Embed(size - 1, self.width, embedding_init=start, name=f"category_{column}")
            code = codes[:, column, None]
            vectors.append(jnp.where(code[..., None] > 0, table(jnp.maximum(code - 1, 0)), 0))
        columns = jnp.concatenate(vectors, axis=1) + bias
        return jnp.concatenate([jnp.broadcast_to(answer, (len(numbers), 1, self.width)), columns], axis=1)


class Block(nn.Module):
    """Attention among columns and a gated network for each, normalised before and with ways around.

    The first block normalises nothing before its attention, the last one attends for the answer alone.
    """

    heads: int
    hidden: int
    attention_dropout: float
    dropout: float
    first: bool
    last: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b s d"]:
        """Returns as many tokens, or the first one alone."""
        width = x.shape[-1]
        y = x if self.first else nn.LayerNorm(name="norm_1")(x)
        asking = y[:, :1] if self.last else y
        shape = (self.heads, width // self.heads)
        query, key, value = (
            nn.DenseGeneral(shape, name=name)(of)
            for name, of in (("query", asking), ("key", y), ("value", y))
        )
        if train and self.attention_dropout:
            weights = jnp.einsum("bshd,bthd->bhst", query, key) / math.sqrt(shape[1])
            weights = nn.Dropout(self.attention_dropout, deterministic=False)(jax.nn.softmax(weights))
            seen = jnp.einsum("bhst,bthd->bshd", weights, value)
        else:
            seen = attend(query, key, value)
        x = x[:, : asking.shape[1]] + nn.DenseGeneral(width, axis=(-2, -1), name="out")(seen)
        y = nn.Dense(2 * self.hidden, name="gated")(nn.LayerNorm(name="norm_2")(x))
        kept, gate = jnp.split(y, 2, axis=-1)
        y = nn.Dropout(self.dropout, deterministic=not train)(kept * nn.relu(gate))
        return x + nn.Dense(width, name="down")(y)


class FTTransformer(nn.Module):
    """Tokens of columns through blocks; the answer's token decides."""

    num_classes: int
    cardinalities: tuple[int, ...]
    width: int
    depth: int
    heads: int
    hidden: int
    attention_dropout: float
    dropout: float

    @nn.compact
    def __call__(
        self, numbers: Float[Array, "b n"], codes: Int[Array, "b c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits, or numbers."""
        x = Tokens(self.cardinalities, self.width, name="tokens")(numbers, codes)
        for layer in range(self.depth):
            drops = (self.attention_dropout, self.dropout)
            ends = (layer == 0, layer == self.depth - 1)
            x = Block(self.heads, self.hidden, *drops, *ends, name=f"block_{layer}")(x, train=train)
        return nn.Dense(self.num_classes, name="head")(nn.relu(nn.LayerNorm(name="norm")(x[:, 0])))


def ft_transformer(
    num_classes: int,
    cardinalities: Sequence[int] = (),
    width: int = 192,
    depth: int = 3,
    heads: int = 8,
    hidden: int | None = None,
    attention_dropout: float | int = 0.2,
    dropout: float | int = 0.1,
) -> Model:
    """Builds the FT-Transformer; the defaults are those of the paper, without its residual dropout of 0.

    `apply(variables, numbers [b, n], codes [b, c])` returns float32 [b, num_classes]. `cardinalities` says
    how many codes each column of categories has, that of the unknown, 0, among them; `hidden` (None: four
    thirds of the width) is the width between a block's dense layers, where pairs become one by ReGLU
    (Shazeer 2020).
    """
    if width % heads:
        raise ValueError(f"width={width} does not split into heads={heads} evenly")
    sizes = (width, depth, heads, hidden or width * 4 // 3)
    module = FTTransformer(num_classes, tuple(cardinalities), *sizes, attention_dropout, dropout)
    return from_linen(module)
