"""Recurrent language models (Zaremba et al. 2014) and classifiers of sequences."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlx.core import Model, Variables
from dlx.layers.dense import by_rows, scores
from dlx.layers.recurrent import Recurrent, State, uniform
from dlx.layers.regularization import dropout
from dlx.nn import from_linen


class LanguageModel(nn.Module):
    """Words as vectors, recurrent layers with dropout before, between and after, and the words' scores."""

    cell: str
    vocabulary: int
    width: int
    depth: int
    dropout: float
    tied: bool
    dtype: str

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        state: State | None = None,
        mask: Bool[Array, "b t"] | None = None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "b t k"], State]:
        """Returns logits of what follows each token, and the state after the last."""

        def dropped(x):
            return dropout(x, self.dropout, self.make_rng("dropout") if train and self.dropout else None)

        near = uniform(self.width**-0.5)
        words = nn.Embed(self.vocabulary, self.width, self.dtype, embedding_init=near, name="tokens")
        stack = Recurrent(
            self.cell, self.width, self.depth, dropout=self.dropout, dtype=self.dtype, name="layers"
        )
        x, state = stack(dropped(words(tokens)), mask, state, train=train)
        if self.tied:
            bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))
            return scores(dropped(x), words.embedding) + bias, state
        head = nn.Dense(self.vocabulary, dtype=self.dtype, kernel_init=near, dot_general=by_rows, name="head")
        return head(dropped(x)).astype(jnp.float32), state


def language_model(cell: str, vocabulary, width, depth, dropout, tied, dtype) -> Model:
    """Views the language model as two pure functions whose inputs but the tokens have names."""
    pure = from_linen(LanguageModel(cell, vocabulary, width, depth, dropout, tied, dtype))

    def apply(variables, tokens, state=None, mask=None, *, key=None):
        return pure.apply(variables, tokens, state, mask, key=key)

    return Model(pure.init, apply)


def lstm(
    vocabulary: int = 10_000,
    width: int = 650,
    depth: int = 2,
    dropout: float = 0.5,
    tied: bool = False,
    dtype: str = "float32",
) -> Model:
    """Builds the LSTM language model; the defaults are the paper's medium one, of 19,775,200 parameters.

    `apply(variables, tokens [b, t], state=None, mask=None, *, key=None)` returns (logits [b, t, vocabulary],
    float32, of what follows each token; the state after the last token). That state, given with the next
    piece of the same text, continues it: cut it out of the gradient (`jax.lax.stop_gradient`) to truncate
    backpropagation. No state is one of zeros, as `layers.recurrent.zeros("lstm", batch, width, depth)` has it
    where a loop needs the first to look like the rest. Where `mask` [b, t] is False the state stays as it
    was.
    `tied` takes the words' vectors as weights of the scores (Press & Wolf 2017).
    """
    return language_model("lstm", vocabulary, width, depth, dropout, tied, dtype)


def gru(
    vocabulary: int = 10_000,
    width: int = 650,
    depth: int = 2,
    dropout: float = 0.5,
    tied: bool = False,
    dtype: str = "float32",
) -> Model:
    """Builds the same language model with GRU cells: 18,087,800 parameters; see `lstm`."""
    return language_model("gru", vocabulary, width, depth, dropout, tied, dtype)


def decoder(model: Model) -> tuple[Callable[..., tuple[State, Array]], Callable[..., tuple[State, Array]]]:
    """Returns how an `lstm` or `gru` writes, as `dlx.decoding` takes it: (start, step).

    `start(variables, tokens [b, t], lengths [b], room=None) -> (state, logits [b, k])` reads prompts of at
    least one token, padded on the right where they are shorter than t, and says what follows each; there is
    always room. `step(variables, state, token [b]) -> (state, logits [b, k])` reads one token more.
    """

    def start(variables: Variables, tokens, lengths, room: int | None = None) -> tuple[State, Array]:
        mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
        (logits, state), _ = model.apply(variables, tokens, mask=mask)
        return state, jnp.take_along_axis(logits, (lengths - 1)[:, None, None], axis=1)[:, 0]

    def step(variables: Variables, state: State, token) -> tuple[State, Array]:
        (logits, state), _ = model.apply(variables, token[:, None], state)
        return state, logits[:, 0]

    return start, step


class Classifier(nn.Module):
    """Words as vectors, recurrent layers in both directions, one vector of them all, and its scores."""

    num_classes: int
    cell: str
    vocabulary: int
    embedding: int
    width: int
    depth: int
    bidirectional: bool
    pooling: str
    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits."""

        def dropped(x):
            return dropout(x, self.dropout, self.make_rng("dropout") if train and self.dropout else None)

        small = nn.initializers.normal(0.1)
        x = nn.Embed(self.vocabulary, self.embedding, self.dtype, embedding_init=small, name="tokens")(tokens)
        stack = Recurrent(
            self.cell, self.width, self.depth, self.bidirectional, self.dropout, self.dtype, name="layers"
        )
        x, state = stack(dropped(x), mask, train=train)
        x = dropped(pool(x.astype(jnp.float32), mask, state, self.pooling, 1 + self.bidirectional))
        return nn.Dense(self.num_classes, name="head")(x)


def pool(
    x: Float[Array, "b t d"], mask: Bool[Array, "b t"], state: State, pooling: str, directions: int
) -> Float[Array, "b d"]:
    """Returns one vector of all that is not padding: its "max" or "mean", or the "last" outputs.

    The last output of a direction is where that direction ends. Padding alone gives zeros.
    """
    some = mask.any(axis=1, keepdims=True)
    if pooling == "max":
        return jnp.where(some, jnp.where(mask[..., None], x, -jnp.inf).max(axis=1), 0)
    if pooling == "mean":
        return x.sum(axis=1) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    if pooling == "last":
        return jnp.concatenate([carry[0] for carry in state[-directions:]], axis=-1)
    raise ValueError(f'pooling is "max", "mean" or "last", not {pooling!r}')


def lstm_classifier(
    num_classes: int = 2,
    vocabulary: int = 20_000,
    embedding: int = 128,
    width: int = 128,
    depth: int = 1,
    cell: str = "lstm",
    bidirectional: bool = True,
    pooling: str = "max",
    dropout: float = 0.5,
    dtype: str = "float32",
) -> Model:
    """Builds a recurrent classifier of sequences of tokens.

    `apply(variables, tokens [b, t], mask [b, t])` returns logits [b, num_classes], float32; `mask` is True
    where there is a token, and padding on either side changes nothing. `width` is that of each direction,
    `cell` "lstm" or "gru", and `pooling` "max", "mean" or "last" (the two ends). Dropout is before, between
    and after the recurrent layers.
    """
    module = Classifier(
        num_classes, cell, vocabulary, embedding, width, depth, bidirectional, pooling, dropout, dtype
    )
    return from_linen(module)
