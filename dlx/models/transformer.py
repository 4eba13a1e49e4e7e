"""The Transformer (Vaswani et al. 2017, "Attention is all you need"): encoder, decoder, and its layers."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlx.core import Model, Variables
from dlx.layers.attention import attend
from dlx.layers.regularization import dropout
from dlx.nn import from_linen

SIZES = {  # table 3 of the paper
    "base": {"width": 512, "depth": 6, "heads": 8, "hidden": 2048, "dropout": 0.1},
    "big": {"width": 1024, "depth": 6, "heads": 16, "hidden": 4096, "dropout": 0.3},
}
xavier = nn.initializers.xavier_uniform()


class Memory(NamedTuple):
    """What attention looks at: one key and one value for each position and head."""

    keys: Array  # [b, s, heads, d]
    values: Array


class Cache(NamedTuple):
    """What a decoder knows after `position` tokens."""

    position: Array  # a scalar
    source_mask: Array  # [b, s]
    source: tuple[Memory, ...]  # of each layer: the encoded source
    target: tuple[Memory, ...]  # of each layer: the tokens so far, and room for the rest


def attend_with_dropout(
    query: Float[Array, "b t heads d"],
    memory: Memory,
    mask: Bool[Array, "#b #heads #t #s"] | None,
    rate: float,
    key: Array,
) -> Float[Array, "b t heads d"]:
    """Returns what `attend` does, with the softmax's probabilities dropped at `rate`."""
    query, keys, values = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, *memory))
    scores = jnp.matmul(query, keys.swapaxes(2, 3), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    chances = dropout(jax.nn.softmax(scores).astype(values.dtype), rate, key)
    return jnp.matmul(chances, values).swapaxes(1, 2)


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
        dense = partial(nn.Dense, self.width, dtype=self.dtype, kernel_init=self.kernel_init)
        self.query, self.key, self.value, self.out = dense(), dense(), dense(), dense()

    def memory(self, x: Float[Array, "b s d"]) -> Memory:
        """Returns the keys and values of `x`."""
        return Memory(*(part(x).reshape(*x.shape[:2], self.heads, -1) for part in (self.key, self.value)))

    def __call__(
        self,
        x: Float[Array, "b t d"],
        memory: Memory,
        mask: Bool[Array, "#b #heads #t #s"] | None,
        *,
        train: bool,
    ) -> Float[Array, "b t d"]:
        """Returns what each position of `x` has seen."""
        query = self.query(x).reshape(*x.shape[:2], self.heads, -1)
        if train and self.dropout:
            seen = attend_with_dropout(query, memory, mask, self.dropout, self.make_rng("dropout"))
        else:
            seen = attend(query, *memory, mask)
        return self.out(seen.reshape(x.shape))


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
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        self.attention, self.norm_1 = attention(), norm()
        if self.crosses:
            self.cross, self.norm_cross = attention(), norm()
        self.dense_1, self.dense_2, self.norm_2 = dense(self.hidden), dense(self.width), norm()

    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #heads #t #s"] | None,
        source: Memory | None = None,
        source_mask: Bool[Array, "#b #heads #t #r"] | None = None,
        past: Memory | None = None,
        position: Int[Array, ""] | int = 0,
        *,
        train: bool,
    ) -> tuple[Float[Array, "b t d"], Memory]:
        """Returns `x` updated, and what it attended to: its own memory, or `past` with that written in."""

        def before(norm, x):
            return norm(x) if self.norm == "pre" else x

        def after(norm, x, y):
            x = x + dropout(y, self.dropout, self.make_rng("dropout") if train and self.dropout else None)
            return norm(x) if self.norm == "post" else x

        y = before(self.norm_1, x)
        memory = self.attention.memory(y)
        if past is not None:
            memory = jax.tree.map(
                lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=1), past, memory
            )
        x = after(self.norm_1, x, self.attention(y, memory, mask, train=train))
        if source is not None:
            y = before(self.norm_cross, x)
            x = after(self.norm_cross, x, self.cross(y, source, source_mask, train=train))
        y = before(self.norm_2, x)
        x = after(self.norm_2, x, self.dense_2(self.activation(self.dense_1(y))))
        return x, memory

    def cross_memory(self, source: Float[Array, "b s d"]) -> Memory:
        """Returns the keys and values of an encoded source."""
        return self.cross.memory(source)


def sinusoids(positions: Int[Array, "t"], width: int) -> Float[Array, "t d"]:
    """Returns sines and cosines of wavelengths from 2 pi to 10000 * 2 pi, in turns (section 3.5)."""
    angles = positions[:, None] * 10000.0 ** (-jnp.arange(0, width, 2) / width)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(len(positions), -1)[:, :width]


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
            self.output = nn.Dense(self.target_vocabulary, use_bias=False, dtype=self.dtype)
        self.encoder = [block() for _ in range(self.depth)]
        self.decoder = [block(crosses=True) for _ in range(self.depth)]
        if self.norm == "pre":
            self.encoder_norm = nn.LayerNorm(1e-6, dtype=self.dtype)
            self.decoder_norm = nn.LayerNorm(1e-6, dtype=self.dtype)

    def embed(self, words: nn.Embed, tokens: Int[Array, "b t"], start, *, train: bool):
        """Returns the words at their places, the first of which is `start`."""
        places = sinusoids(start + jnp.arange(tokens.shape[1]), self.width).astype(self.dtype)
        x = words(tokens) * jnp.asarray(self.width**0.5, self.dtype) + places
        return dropout(x, self.dropout, self.make_rng("dropout") if train and self.dropout else None)

    def encode(
        self, source: Int[Array, "b s"], source_mask: Bool[Array, "b s"], *, train: bool
    ) -> tuple[Memory, ...]:
        """Returns what each layer of the decoder looks at."""
        x = self.embed(self.target_words if self.shared else self.source_words, source, 0, train=train)
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
        mask: Bool[Array, "1 1 t r"],
        past: tuple[Memory, ...] | None = None,
        position: Int[Array, ""] | int = 0,
        *,
        train: bool,
    ) -> tuple[Float[Array, "b t k"], tuple[Memory, ...]]:
        """Returns logits of what follows each token, and the memories of the target."""
        x = self.embed(self.target_words, target, position, train=train)
        memories = []
        for layer, block in enumerate(self.decoder):
            ago = None if past is None else past[layer]
            x, memory = block(x, mask, source[layer], source_mask[:, None, None], ago, position, train=train)
            memories.append(memory)
        if self.norm == "pre":
            x = self.decoder_norm(x)
        logits = self.target_words.attend(x) if self.shared else self.output(x)
        return logits.astype(jnp.float32), tuple(memories)

    def __call__(
        self,
        source: Int[Array, "b s"],
        source_mask: Bool[Array, "b s"],
        target: Int[Array, "b t"],
        *,
        train: bool,
    ) -> Float[Array, "b t k"]:
        """Returns logits: what follows each target token, given the source and the tokens up to it."""
        causal = jnp.tri(target.shape[1], dtype=bool)[None, None]
        memories = self.encode(source, source_mask, train=train)
        return self.decode(target, memories, source_mask, causal, train=train)[0]

    def start(self, source: Int[Array, "b s"], source_mask: Bool[Array, "b s"], max_length: int) -> Cache:
        """Returns the cache before the first token."""
        room = jnp.zeros((len(source), max_length, self.heads, self.width // self.heads), self.dtype)
        memories = self.encode(source, source_mask, train=False)
        return Cache(jnp.int32(0), source_mask, memories, (Memory(room, room),) * self.depth)

    def step(self, cache: Cache, token: Int[Array, "b"]) -> tuple[Cache, Float[Array, "b k"]]:
        """Returns the cache with a token more, and logits of what follows it."""
        past = jnp.arange(cache.target[0].keys.shape[1]) <= cache.position
        logits, target = self.decode(
            token[:, None],
            cache.source,
            cache.source_mask,
            past[None, None, None],
            cache.target,
            cache.position,
            train=False,
        )
        logits = jnp.where(cache.position < past.size, logits[:, 0], jnp.nan)
        return cache._replace(position=cache.position + 1, target=target), logits


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
