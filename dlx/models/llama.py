"""A modern decoder: Llama (Touvron et al. 2023; Dubey et al. 2024), and models of its form.

RMS normalisation before each half of a block, rotary positions, gated dense layers (SwiGLU, Shazeer 2020),
heads of keys and values shared by groups of query heads, and no bias anywhere.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlx.core import Model
from dlx.layers.attention import KeyValue, attend, attend_cached
from dlx.layers.dense import by_rows
from dlx.layers.embedding import Stretch, places, rotary
from dlx.layers.normalization import RMSNorm
from dlx.layers.regularization import dropout
from dlx.models.gpt import Cache, closed, language_model, opened

start = nn.initializers.normal(0.02)


class Attention(nn.Module):
    """Causal self-attention in which several query heads share keys and values."""

    heads: int
    groups: int
    base: float
    stretch: Stretch | None
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        positions: Int[Array, "#b t"],
        segments: Int[Array, "b t"] | None,
        past: tuple[KeyValue, Int[Array, "b"]] | None,
    ) -> tuple[Float[Array, "b t d"], KeyValue | None]:
        """Returns what each position has seen, and the cache with the new keys and values in it."""
        batch, time, width = x.shape
        dense = partial(nn.Dense, use_bias=False, kernel_init=start, dtype=self.dtype, dot_general=by_rows)

        def heads(number, name):
            return dense(number * (width // self.heads), name=name)(x).reshape(batch, time, number, -1)

        turn = partial(rotary, positions=positions, base=self.base, stretch=self.stretch)
        query, key = turn(heads(self.heads, "query")), turn(heads(self.groups, "key"))
        value = heads(self.groups, "value")
        cache = None
        if past is None:
            seen = attend(query, key, value, causal=True, segments=segments)
        else:
            seen, cache = attend_cached(query, key, value, *past)
        seen = seen.reshape(batch, time, width)
        return dense(width, name="out")(seen), cache


class Block(nn.Module):
    """Attention, then gated dense layers, each normalised before and added to what came in."""

    attention: Attention
    hidden: int
    dropout: float
    epsilon: float
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], *where, train: bool
    ) -> tuple[Float[Array, "b t d"], KeyValue | None]:
        """Returns the tokens, updated, and the cache; `where` is what the attention takes beside them."""
        norm = partial(RMSNorm, self.epsilon, self.dtype)
        dense = partial(nn.Dense, use_bias=False, kernel_init=start, dtype=self.dtype, dot_general=by_rows)

        def drop(y):
            return dropout(y, self.dropout, self.make_rng("dropout") if train and self.dropout else None)

        y, cache = self.attention(norm(name="norm_1")(x), *where)
        x = x + drop(y)
        y = norm(name="norm_2")(x)
        y = nn.silu(dense(self.hidden, name="gate")(y)) * dense(self.hidden, name="up")(y)
        return x + drop(dense(x.shape[-1], name="down")(y)), cache


class Llama(nn.Module):
    """Tokens, blocks that see the past, and a product with one row for each token."""

    vocabulary: int
    context: int
    depth: int
    heads: int
    groups: int
    width: int
    hidden: int
    base: float
    stretch: Stretch | None
    epsilon: float
    dropout: float
    tied: bool
    remat: bool
    dtype: str

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        segments: Int[Array, "b t"] | None = None,
        positions: Int[Array, "#b t"] | None = None,
        cache: Cache | int | None = None,
        hidden: bool = False,
        *,
        train: bool,
    ):
        """Returns what `llama` says."""
        if self.width % (2 * self.heads):
            raise ValueError(f"a width of {self.width} does not split into {self.heads} heads of even width")
        if self.heads % self.groups:
            raise ValueError(f"{self.heads} heads do not share {self.groups} heads of keys and values evenly")
        room = jnp.zeros((len(tokens), self.groups, 0, self.width // self.heads), self.dtype)
        cache = opened(tokens, segments, cache, self.context, KeyValue(room, room), self.depth)
        filled = None if cache is None else cache.filled
        positions = places(tokens, filled) if positions is None else positions
        words = nn.Embed(self.vocabulary, self.width, embedding_init=start, dtype=self.dtype, name="tokens")
        x = dropout(words(tokens), self.dropout, self.make_rng("dropout") if train and self.dropout else None)

        def run(block, *inputs):
            return block(*inputs, train=train)

        run, layers = nn.remat(run) if self.remat else run, []
        for layer in range(self.depth):
            attention = Attention(self.heads, self.groups, self.base, self.stretch, self.dtype, parent=None)
            block = Block(
                attention, self.hidden, self.dropout, self.epsilon, self.dtype, name=f"block_{layer}"
            )
            past = None if cache is None else (cache.layers[layer], cache.filled)
            x, seen = run(block, x, positions, segments, past)
            layers.append(seen)
        x = RMSNorm(self.epsilon, self.dtype, name="norm")(x)
        last = words
        if not self.tied:
            last = nn.Embed(self.vocabulary, self.width, embedding_init=start, name="head")
        return closed(x, last, cache, layers, hidden)


def llama(
    vocabulary: int = 32_000,
    context: int = 2048,
    depth: int = 6,
    heads: int = 6,
    groups: int | None = None,
    width: int = 384,
    hidden: int = 1024,
    base: float = 10_000.0,
    stretch: dict | None = None,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    tied: bool = False,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Builds a decoder of Llama's form and any size; `apply` is that of `dlx.models.gpt.gpt`.

    `groups` is the number of heads of keys and values, each shared by heads / groups of the query heads
    (None: as many as these). `hidden` is the width inside the gated layers, `base` that of the rotary
    positions, and `stretch` the fields of `dlx.layers.embedding.Stretch`, for models made for longer contexts
    by it. Logits come from a matrix of their own, or from the embedding of the tokens where it is `tied`.
    With `remat` the gradient computes each block again from what came into it, which is all that is kept of
    it: a third more work for a fraction of the memory.
    """
    module = Llama(
        vocabulary,
        context,
        depth,
        heads,
        groups or heads,
        width,
        hidden,
        base,
        None if stretch is None else Stretch(**stretch),
        epsilon,
        dropout,
        tied,
        remat,
        dtype,
    )
    return language_model(module)


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"depth": 22, "heads": 32, "groups": 4, "width": 2048, "hidden": 5632},
    "3_2_1b": {
        "vocabulary": 128_256,
        "context": 131_072,
        "depth": 16,
        "heads": 32,
        "groups": 8,
        "width": 2048,
        "hidden": 8192,
        "base": 500_000.0,
        "stretch": {"factor": 32.0, "low": 1.0, "high": 4.0, "context": 8192},
        "tied": True,
    },
    "3_8b": {
        "vocabulary": 128_256,
        "context": 8192,
        "depth": 32,
        "heads": 32,
        "groups": 8,
        "width": 4096,
        "hidden": 14_336,
        "base": 500_000.0,
    },
    "3_70b": {
        "vocabulary": 128_256,
        "context": 8192,
        "depth": 80,
        "heads": 64,
        "groups": 8,
        "width": 8192,
        "hidden": 28_672,
        "base": 500_000.0,
    },
    "2_7b": {"context": 4096, "depth": 32, "heads": 32, "width": 4096, "hidden": 11_008},
    "2_70b": {"context": 4096, "depth": 80, "heads": 64, "groups": 8, "width": 8192, "hidden": 28_672},
}


def tinyllama(**settings) -> Model:
    """Builds TinyLlama (Zhang et al. 2024): 1,100,048,384 parameters."""
    return llama(**SIZES["tiny"] | settings)


def llama3_2_1b(**settings) -> Model:
    """Builds Llama 3.2 1B: 1,235,814,400 parameters."""
    return llama(**SIZES["3_2_1b"] | settings)


def llama3_8b(**settings) -> Model:
    """Builds Llama 3 8B: 8,030,261,248 parameters."""
    return llama(**SIZES["3_8b"] | settings)


def llama3_70b(**settings) -> Model:
    """Builds Llama 3 70B: 70,553,706,496 parameters."""
    return llama(**SIZES["3_70b"] | settings)


def llama2_7b(**settings) -> Model:
    """Builds Llama 2 7B (Touvron et al. 2023b): 6,738,415,616 parameters."""
    return llama(**SIZES["2_7b"] | settings)


def llama2_70b(**settings) -> Model:
    """Builds Llama 2 70B: 68,976,648,192 parameters."""
    return llama(**SIZES["2_70b"] | settings)
