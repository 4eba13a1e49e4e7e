"""The Transformer (Vaswani et al. 2017, "Attention is all you need"): encoder, decoder, and its layers."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlx.core import Model, Variables
from dlx.layers.attention import KeyValue, attend, attend_cached
from dlx.layers.dense import by_rows, scores
from dlx.layers.embedding import places
from dlx.layers.regularization import dropout
from dlx.nn import from_linen

SIZES = {  # table 3 of the paper
    "base": {"width": 512, "depth": 6, "heads": 8, "hidden": 2048, "dropout": 0.1},
    "big": {"width": 1024, "depth": 6, "heads": 16, "hidden": 4096, "dropout": 0.3},
}
Memory = tuple[Array, Array]  # what attention looks at: keys and values, each [b, s, heads, d]
xavier = nn.initializers.xavier_uniform()


class Cache(NamedTuple):
    """What a decoder knows: how many tokens of each example, the encoded source, and their keys and values.

    Setting `filled` back forgets the tokens from there on.
    """

    filled: Int[Array, "b"]
    source_mask: Bool[Array, "b s"]
    source: tuple[Memory, ...]  # of each layer
    layers: tuple[KeyValue, ...]


class Attention(nn.Module):
    """Multi-head attention in two halves, so that what is looked at can be projected once and kept."""

    width: int
    heads: int
    dropout: float
    kernel_init: Callable
    dtype: str

    def setup(self):
        """Makes the four projections."""
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not split into {self.heads} heads")
        dense = partial(
            nn.Dense, self.width, dtype=self.dtype, kernel_init=self.kernel_init, dot_general=by_rows
        )
        self.query, self.key, self.value, self.out = dense(), dense(), dense(), dense()

    def memory(self, x: Float[Array, "b s d"]) -> Memory:
        """Returns the keys and values of `x`."""
        key, value = (part(x).reshape(*x.shape[:2], self.heads, -1) for part in (self.key, self.value))
        return key, value

    def __call__(
        self,
        x: Float[Array, "b t d"],
        memory: Memory,
        mask: Bool[Array, "#b #heads #t #s"] | None = None,
        past: tuple[KeyValue, Int[Array, "b"]] | None = None,
        *,
        causal: bool = False,
        train: bool,
    ) -> tuple[Float[Array, "b t d"], KeyValue | None]:
        """Returns what each position of `x` has seen, and the cache with the memory in it.

        With a `past`, the cache and where `x` comes in it, that is all until then.
        """
        query, cache = self.query(x).reshape(*x.shape[:2], self.heads, -1), None
        if past is None:
            noise = self.make_rng("dropout") if train and self.dropout else None
            seen = attend(query, *memory, mask, causal=causal, dropout_rate=self.dropout, dropout_key=noise)
        else:
            seen, cache = attend_cached(query, *memory, *past)
        return self.out(seen.reshape(x.shape)), cache


class Block(nn.Module):
    """Attention to itself, attention to the source in a decoder, and two dense layers.

    Each adds to what came in and is normalised: after the sum ("post", the paper's) or before the layer
    ("pre", Xiong et al. 2020).
    """

    width: int
    heads: int
    hidden: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    norm: str = "post"
    crosses: bool = False
    activation: Callable = nn.relu
    epsilon: float = 1e-6
    kernel_init: Callable = xavier
    dtype: str = "float32"

    def setup(self):
        """Makes the layers; the normalisations have their numbers."""
        attention = partial(
            Attention, self.width, self.heads, self.attention_dropout, self.kernel_init, self.dtype
        )
        norm = partial(nn.LayerNorm, self.epsilon, dtype=self.dtype)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init, dot_general=by_rows)
        self.attention, self.norm_1 = attention(), norm()
        if self.crosses:
            self.cross, self.norm_cross = attention(), norm()
        self.dense_1, self.dense_2, self.norm_2 = dense(self.hidden), dense(self.width), norm()

    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #heads #t #t"] | None = None,
        source: Memory | None = None,
        source_mask: Bool[Array, "#b #heads #t #r"] | None = None,
        past: tuple[KeyValue, Int[Array, "b"]] | None = None,
        *,
        causal: bool = False,
        train: bool,
    ) -> tuple[Float[Array, "b t d"], KeyValue | None]:
        """Returns `x` updated, and the cache with it in it; `past` is it and where `x` comes."""

        def before(norm, x):
            return norm(x) if self.norm == "pre" else x

        def after(norm, x, y):
            x = x + dropout(y, self.dropout, self.make_rng("dropout") if train and self.dropout else None)
            return norm(x) if self.norm == "post" else x

        y = before(self.norm_1, x)
        seen, cache = self.attention(y, self.attention.memory(y), mask, past, causal=causal, train=train)
        x = after(self.norm_1, x, seen)
        if source is not None:
            seen, _ = self.cross(before(self.norm_cross, x), source, source_mask, train=train)
            x = after(self.norm_cross, x, seen)
        y = before(self.norm_2, x)
        x = after(self.norm_2, x, self.dense_2(self.activation(self.dense_1(y))))
        return x, cache

    def cross_memory(self, source: Float[Array, "b s d"]) -> Memory:
        """Returns the keys and values of an encoded source."""
        return self.cross.memory(source)


def sinusoids(positions: Int[Array, "*b t"], width: int) -> Float[Array, "*b t d"]:
    """Returns sines and cosines of wavelengths from 2 pi to 10000 * 2 pi, in turns (section 3.5)."""
    angles = positions[..., None] * 10000.0 ** (-jnp.arange(0, width, 2) / width)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, -1)[..., :width]


class Transformer(nn.Module):
    """An encoder of the source and a decoder that continues the target, token by token.

    `depth` counts the blocks of each. `dropout` is for the embeddings and the output of every layer, as in
    the paper. With `norm` "pre" both stacks end in a normalisation. `shared` makes one matrix of the
    embeddings of both languages and the product with the vocabulary. Sentences may have any length.

    Of width w and hidden width h there are depth * (12 w^2 + 4 w h + 24 w + 2 h) parameters in the blocks
    ("pre": and 4 w), and w for each word of the shared vocabulary, or of the source's and twice of the
    target's.
    """

    source_vocabulary: int = 8000
    target_vocabulary: int = 8000
    width: int = 256
    depth: int = 3
    heads: int = 8
    hidden: int = 1024
    dropout: float = 0.1
    norm: str = "post"
    shared: bool = True
    dtype: str = "float32"

    def setup(self):
        """Makes embeddings and blocks."""
        if self.norm not in ("post", "pre"):
            raise ValueError(f'norm is "post" or "pre", not {self.norm!r}')
        if self.shared and self.source_vocabulary != self.target_vocabulary:
            raise ValueError(
                f"embeddings are shared by one vocabulary, not {self.source_vocabulary} source and "
                f"{self.target_vocabulary} target tokens: set shared to False"
            )
        # of unit variance once multiplied by the root of the width
        embed = partial(
            nn.Embed,
            features=self.width,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(self.width**-0.5),
        )
        block = partial(
            Block, self.width, self.heads, self.hidden, self.dropout, norm=self.norm, dtype=self.dtype
        )
        self.target_words = embed(self.target_vocabulary)
        if not self.shared:
            self.source_words = embed(self.source_vocabulary)
            self.output = nn.Dense(
                self.target_vocabulary, use_bias=False, dtype=self.dtype, dot_general=by_rows
            )
        self.encoder = [block() for _ in range(self.depth)]
        self.decoder = [block(crosses=True) for _ in range(self.depth)]
        if self.norm == "pre":
            self.encoder_norm = nn.LayerNorm(1e-6, dtype=self.dtype)
            self.decoder_norm = nn.LayerNorm(1e-6, dtype=self.dtype)

    def embed(self, words: nn.Embed, tokens: Int[Array, "b t"], start=None, *, train: bool):
        """Returns the words at their places, the first of which is each example's `start`, or 0."""
        where = sinusoids(places(tokens, start), self.width).astype(self.dtype)
        x = words(tokens) * jnp.asarray(self.width**0.5, self.dtype) + where
        return dropout(x, self.dropout, self.make_rng("dropout") if train and self.dropout else None)

    def encode(
        self, source: Int[Array, "b s"], source_mask: Bool[Array, "b s"], *, train: bool
    ) -> tuple[Memory, ...]:
        """Returns what each layer of the decoder looks at."""
        x = self.embed(self.target_words if self.shared else self.source_words, source, train=train)
        for block in self.encoder:
            x, _ = block(x, source_mask[:, None, None], train=train)
        if self.norm == "pre":
            x = self.encoder_norm(x)
        return tuple(block.cross_memory(x) for block in self.decoder)

    def decode(
        self,
        target: Int[Array, "b t"],
        source: tuple[Memory, ...],
        source_mask: Bool[Array, "b s"],
        cache: Cache | None = None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "b t k"], tuple[KeyValue, ...]]:
        """Returns logits of what follows each token, and the layers of the cache with the tokens in them."""
        start = None if cache is None else cache.filled
        x, layers = self.embed(self.target_words, target, start, train=train), []
        for layer, block in enumerate(self.decoder):
            past = None if cache is None else (cache.layers[layer], cache.filled)
            x, seen = block(
                x, None, source[layer], source_mask[:, None, None], past, causal=True, train=train
            )
            layers.append(seen)
        if self.norm == "pre":
            x = self.decoder_norm(x)
        logits = scores(x, self.target_words.embedding) if self.shared else self.output(x)
        return logits.astype(jnp.float32), tuple(layer for layer in layers if layer is not None)

    def __call__(
        self,
        source: Int[Array, "b s"],
        source_mask: Bool[Array, "b s"],
        target: Int[Array, "b t"],
        *,
        train: bool,
    ) -> Float[Array, "b t k"]:
        """Returns logits: what follows each target token, given the source and the tokens up to it."""
        return self.decode(target, self.encode(source, source_mask, train=train), source_mask, train=train)[0]

    def start(self, source: Int[Array, "b s"], source_mask: Bool[Array, "b s"], max_length: int) -> Cache:
        """Returns the cache before the first token."""
        room = jnp.zeros((len(source), self.heads, max_length, self.width // self.heads), self.dtype)
        memories = self.encode(source, source_mask, train=False)
        filled = jnp.zeros(len(source), jnp.int32)
        return Cache(filled, source_mask, memories, (KeyValue(room, room),) * self.depth)

    def step(self, cache: Cache, token: Int[Array, "b"]) -> tuple[Cache, Float[Array, "b k"]]:
        """Returns the cache with a token more, and logits of what follows it."""
        logits, layers = self.decode(token[:, None], cache.source, cache.source_mask, cache, train=False)
        fits = cache.filled < cache.layers[0].key.shape[2]
        logits = jnp.where(fits[:, None], logits[:, 0], jnp.nan)
        return cache._replace(filled=cache.filled + 1, layers=layers), logits


def transformer(**sizes) -> Model:
    """Builds the Transformer from the fields of `Transformer`.

    `apply(variables, source, source_mask, target)` takes token numbers [b, s], bool [b, s] that is True where
    there is a token, and the token numbers [b, t] that the decoder has seen, a start token and the sentence
    without its end; it returns logits [b, t, target_vocabulary] of what follows each. Padding after the
    target needs no mask, for no token before sees it. Label smoothing is the loss's.
    """
    return from_linen(Transformer(**sizes))


def transformer_base(**settings) -> Model:
    """Builds the base model of the paper: 44,138,496 parameters and 512 for each word of the vocabulary."""
    return transformer(**SIZES["base"] | settings)


def transformer_big(**settings) -> Model:
    """Builds the big model of the paper: 176,357,376 parameters and 1024 for each word of the vocabulary."""
    return transformer(**SIZES["big"] | settings)


def decoder(**sizes) -> tuple[Callable[..., Cache], Callable[..., tuple[Cache, Array]]]:
    """Returns how the model of these sizes writes, as `dlx.decoding` takes it: (start, step).

    `start(variables, source, source_mask, max_length) -> cache` encodes the source once, with room for
    `max_length` tokens (static under jit); `step(variables, cache, token [b]) -> (cache, logits [b, k])`
    takes one token of each sentence, the start token first. A step beyond the room gives logits of NaN.
    """
    module = Transformer(**sizes)

    def start(variables: Variables, source, source_mask, max_length: int):
        return module.apply({"params": variables.params}, source, source_mask, max_length, method="start")

    def step(variables: Variables, cache: Cache, token):
        return module.apply({"params": variables.params}, cache, token, method="step")

    return start, step
