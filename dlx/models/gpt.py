"""GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners").

And what all decoders share: caches, hidden states, and how they write.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlx.core import Model, Variables
from dlx.layers.attention import KeyValue, Projections, attend, attend_cached
from dlx.layers.dense import by_rows, scores
from dlx.layers.embedding import places
from dlx.layers.regularization import dropout
from dlx.nn import from_linen

SIZES = {  # table 2 of the paper
    "small": {"depth": 12, "heads": 12, "width": 768},
    "medium": {"depth": 24, "heads": 16, "width": 1024},
    "large": {"depth": 36, "heads": 20, "width": 1280},
    "xl": {"depth": 48, "heads": 25, "width": 1600},
}


class Cache(NamedTuple):
    """What a decoder remembers: how many tokens of each example, and their keys and values in each layer.

    Setting `filled` back forgets the tokens from there on.
    """

    filled: Int[Array, "b"]
    layers: tuple[KeyValue, ...]


class Block(nn.Module):
    """Causal self-attention, then two dense layers, each normalised before and added to what came in."""

    heads: int
    depth: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        segments: Int[Array, "b t"] | None = None,
        past: tuple[KeyValue, Int[Array, "b"]] | None = None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "b t d"], KeyValue | None]:
        """Returns the tokens, updated, and the cache with them in it; `past` is it and where they come."""
        batch, time, width = x.shape
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        dense = partial(
            nn.Dense, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, dot_general=by_rows
        )
        # what is added to the residual starts smaller the more there is of it (section 2.3 of the paper)
        last = partial(dense, width, kernel_init=nn.initializers.normal(0.02 * (2 * self.depth) ** -0.5))

        def drop(y):
            return dropout(y, self.dropout, self.make_rng("dropout") if train and self.dropout else None)

        projections = Projections(self.heads, nn.initializers.normal(0.02), self.dtype, name="qkv")
        query, key, value = projections(norm(name="norm_1")(x))
        cache = None
        if past is None:
            seen = attend(query, key, value, causal=True, segments=segments)
        else:
            seen, cache = attend_cached(query, key, value, *past)
        x = x + drop(last(name="out")(seen.reshape(batch, time, width)))
        y = nn.gelu(dense(4 * width, name="dense_1")(norm(name="norm_2")(x)), approximate=True)
        return x + drop(last(name="dense_2")(y)), cache


class GPT(nn.Module):
    """Tokens and learned positions, blocks that see the past, and a product with every token's embedding."""

    vocabulary: int
    context: int
    depth: int
    heads: int
    width: int
    dropout: float
    tied: bool
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
        """Returns what `gpt` says."""
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not split into {self.heads} heads")
        room = jnp.zeros((len(tokens), self.heads, 0, self.width // self.heads), self.dtype)
        cache = opened(tokens, segments, cache, self.context, KeyValue(room, room), self.depth)
        start = None if cache is None else cache.filled
        positions = places(tokens, start) if positions is None else positions
        table = partial(nn.Embed, features=self.width, embedding_init=nn.initializers.normal(0.02))
        words = table(self.vocabulary, dtype=self.dtype, name="tokens")
        x = words(tokens) + table(self.context, dtype=self.dtype, name="positions")(positions)
        x = dropout(x, self.dropout, self.make_rng("dropout") if train and self.dropout else None)
        layers = []
        for layer in range(self.depth):
            block = Block(self.heads, self.depth, self.dropout, self.dtype, name=f"block_{layer}")
            past = None if cache is None else (cache.layers[layer], cache.filled)
            x, seen = block(x, segments, past, train=train)
            layers.append(seen)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        last = words if self.tied else table(self.vocabulary, name="head")
        return closed(x, last, cache, layers, hidden)


def opened(
    tokens: Int[Array, "b t"],
    segments: Int[Array, "b t"] | None,
    cache: Cache | int | None,
    context: int,
    layer: KeyValue,
    depth: int,
) -> Cache | None:
    """Returns the cache to write to, a new one where `cache` is the number of tokens to make room for.

    `layer` has the shapes of one layer with room for no token. Raises ValueError where tokens or room exceed
    the context, tokens the room, or where segments are given beside a cache.
    """
    time = tokens.shape[1]
    if cache is None or isinstance(cache, int):
        room = time if cache is None else cache
        if max(time, room) > context:
            raise ValueError(
                f"{max(time, room)} tokens are more than the context of {context}: give fewer, or build the "
                "model with a larger context"
            )
    else:
        room = cache.layers[0].key.shape[2]
    if time > room:
        raise ValueError(f"{time} tokens do not fit into a cache with room for {room}")
    if cache is not None and segments is not None:
        raise ValueError("a cache is of one text in each row: segments are for packed rows without a cache")
    if isinstance(cache, int):
        buffers = jax.tree.map(lambda x: jnp.zeros((*x.shape[:2], room, x.shape[3]), x.dtype), layer)
        return Cache(jnp.zeros(len(tokens), jnp.int32), (buffers,) * depth)
    return cache


def closed(
    x: Float[Array, "b t d"],
    table: nn.Embed,
    cache: Cache | None,
    layers: list[KeyValue | None],
    hidden: bool,
):
    """Returns hidden states, or their products with a table, with the cache as it is now if there is one."""
    matrix = jnp.asarray(table.embedding)  # looked up even where it is not used, for `init` to make it
    outputs = x if hidden else scores(x, matrix)
    if cache is None:
        return outputs
    filled = cache.filled + x.shape[1]
    fits = filled <= cache.layers[0].key.shape[2]
    return jnp.where(fits[:, None, None], outputs, jnp.nan), Cache(
        filled, tuple(layer for layer in layers if layer is not None)
    )


def language_model(module: nn.Module) -> Model:
    """Views a decoder in Linen as a `Model` whose inputs but the tokens have names."""
    pure = from_linen(module)

    def apply(variables, tokens, segments=None, positions=None, cache=None, *, hidden=False, key=None):
        return pure.apply(variables, tokens, segments, positions, cache, hidden, key=key)

    return Model(pure.init, apply)


def head(variables: Variables) -> Float[Array, "k d"]:
    """Returns the matrix whose product with hidden states is the logits: the tokens' own where it is tied."""
    return jnp.asarray(variables.params.get("head", variables.params["tokens"])["embedding"])


def decoder(model: Model) -> tuple[Callable[..., tuple[Cache, Array]], Callable[..., tuple[Cache, Array]]]:
    """Returns how a `gpt` or `llama` writes, as `dlx.decoding` takes it: (start, step).

    `start(variables, tokens [b, t], lengths [b], room) -> (cache, logits [b, k])` reads prompts of `lengths`,
    at least 1, padded on the right up to t, and says what follows each; `room` is the number of tokens,
    prompt included, that the cache can hold (static under jit). `step(variables, cache, token [b]) ->
    (cache, logits [b, k])` reads one token more. A step beyond the room gives logits of NaN.
    """

    def start(variables: Variables, tokens, lengths, room: int) -> tuple[Cache, Array]:
        (states, cache), _ = model.apply(variables, tokens, cache=room, hidden=True)
        last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return cache._replace(filled=lengths), scores(last, head(variables))

    def step(variables: Variables, cache: Cache, token) -> tuple[Cache, Array]:
        (logits, cache), _ = model.apply(variables, token[:, None], cache=cache)
        return cache, logits[:, 0]

    return start, step


def gpt(
    vocabulary: int = 50_257,
    context: int = 1024,
    depth: int = 6,
    heads: int = 6,
    width: int = 384,
    dropout: float = 0.0,
    tied: bool = True,
    dtype: str = "float32",
) -> Model:
    """Builds a GPT of any size; logits come from the embedding of the tokens where it is `tied`.

    `apply(variables, tokens [b, t], segments=None, positions=None, cache=None, *, hidden=False, key=None)`
    returns logits [b, t, vocabulary], float32: what follows each token. With `hidden` they stop before the
    last product, [b, t, width], for `losses.chunked_cross_entropy(states, head(variables), labels)`.
    Tokens see those before them of the same of the `segments`, int [b, t]; `positions`, int [b or 1, t], are
    0, 1, ... unless given. Dropout is on the embeddings and on what each half of a block adds.

    With a `cache` the outputs are (logits, cache), and the tokens come after what the cache holds; the number
    of tokens to make room for, in place of a cache, starts one (static under jit). Past its end logits
    are NaN. `decoder` makes of this what `dlx.decoding` takes.
    """
    return language_model(GPT(vocabulary, context, depth, heads, width, dropout, tied, dtype))


def gpt2(**settings) -> Model:
    """Builds GPT-2: 124,439,808 parameters."""
    return gpt(**SIZES["small"] | settings)


def gpt2_medium(**settings) -> Model:
    """Builds GPT-2 medium: 354,823,168 parameters."""
    return gpt(**SIZES["medium"] | settings)


def gpt2_large(**settings) -> Model:
    """Builds GPT-2 large: 774,030,080 parameters."""
    return gpt(**SIZES["large"] | settings)


def gpt2_xl(**settings) -> Model:
    """Builds GPT-2 XL: 1,557,611,200 parameters."""
    return gpt(**SIZES["xl"] | settings)
