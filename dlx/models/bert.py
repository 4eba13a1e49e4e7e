"""BERT (Devlin et al. 2018, "Pre-training of deep bidirectional transformers"), with its heads."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlx.core import Model, Variables
from dlx.layers.activation import gelu
from dlx.layers.dense import by_rows, scores
from dlx.layers.regularization import dropout
from dlx.models.transformer import Block
from dlx.nn import from_linen

SIZES = {  # base and large: section 3 of the paper; the others: Turc et al. 2019
    "tiny": {"width": 128, "depth": 2, "heads": 2},
    "mini": {"width": 256, "depth": 4, "heads": 4},
    "small": {"width": 512, "depth": 4, "heads": 8},
    "medium": {"width": 512, "depth": 8, "heads": 8},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
}
HEADS = ("encoder", "masked_lm", "pretraining", "classifier", "tagger")


class Encoder(nn.Module):
    """Words, positions and segments, and blocks that see the whole text."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int
    context: int
    segments: int
    dropout: float
    attention_dropout: float
    epsilon: float
    init_std: float
    dtype: str

    def setup(self):
        """Makes embeddings and blocks."""
        start = nn.initializers.truncated_normal(self.init_std)
        embed = partial(nn.Embed, features=self.width, embedding_init=start, dtype=self.dtype)
        self.words, self.types = embed(self.vocabulary), embed(self.segments)
        self.positions = self.param("positions", start, (self.context, self.width))
        self.norm = nn.LayerNorm(self.epsilon, dtype=self.dtype)
        block = partial(
            Block,
            self.width,
            self.heads,
            self.hidden,
            self.dropout,
            self.attention_dropout,
            activation=gelu,
            epsilon=self.epsilon,
            kernel_init=start,
            dtype=self.dtype,
        )
        self.block = [block() for _ in range(self.depth)]

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        mask: Bool[Array, "b t"] | None,
        types: Int[Array, "b t"] | None,
        *,
        train: bool,
    ) -> Float[Array, "b t d"]:
        """Returns what each token means where it stands."""
        time = tokens.shape[1]
        if time > self.context:
            raise ValueError(f"texts of {time} tokens are longer than the {self.context} positions: cut them")
        types = jnp.zeros_like(tokens) if types is None else types
        x = self.words(tokens) + self.types(types) + self.positions[:time].astype(self.dtype)
        x = dropout(self.norm(x), self.dropout, self.make_rng("dropout") if train and self.dropout else None)
        for block in self.block:
            x, _ = block(x, None if mask is None else mask[:, None, None], train=train)
        return x

    def scores(self, x: Float[Array, "b m d"]) -> Float[Array, "b m v"]:
        """Returns the product of `x` with the embedding of every word."""
        return scores(x, self.words.embedding)


class MaskedLM(nn.Module):
    """A dense layer before, and a bias after, the product with the embeddings of the words."""

    @nn.compact
    def __call__(self, x: Float[Array, "b m d"], encoder: Encoder) -> Float[Array, "b m v"]:
        """Returns logits over the vocabulary."""
        start = nn.initializers.truncated_normal(encoder.init_std)
        width, dtype = x.shape[-1], encoder.dtype
        x = gelu(nn.Dense(width, kernel_init=start, dtype=dtype, dot_general=by_rows, name="dense")(x))
        x = nn.LayerNorm(encoder.epsilon, dtype=encoder.dtype, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (encoder.vocabulary,))
        return encoder.scores(x) + bias


class Bert(nn.Module):
    """The encoder and what a task adds to it."""

    encoder: Encoder
    head: str
    num_classes: int
    classifier_dropout: float

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        mask: Bool[Array, "b t"] | None = None,
        types: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b m"] | None = None,
        *,
        train: bool,
    ):
        """Returns what the head does, see `bert`."""
        if positions is not None and self.head not in ("masked_lm", "pretraining"):
            raise ValueError(f"positions are those of masked tokens; the head {self.head!r} has none")
        dtype, start = self.encoder.dtype, nn.initializers.truncated_normal(self.encoder.init_std)
        x = self.encoder(tokens, mask, types, train=train)

        def pooled():
            width = self.encoder.width
            return nn.tanh(nn.Dense(width, kernel_init=start, dtype=dtype, name="pooler")(x[:, 0]))

        def words():
            y = x if positions is None else jnp.take_along_axis(x, positions[..., None], axis=1)
            return MaskedLM(name="masked_lm")(y, self.encoder)

        def classes(number, y, name):
            rate = self.classifier_dropout if name != "next_sentence" else 0
            y = dropout(y, rate, self.make_rng("dropout") if train and rate else None)
            return nn.Dense(number, kernel_init=start, name=name)(y.astype(jnp.float32))

        match self.head:
            case "encoder":
                return x, pooled()
            case "masked_lm":
                return words()
            case "pretraining":
                return words(), classes(2, pooled(), "next_sentence")
            case "classifier":
                return classes(self.num_classes, pooled(), "classifier")
            case "tagger":
                return classes(self.num_classes, x, "tagger")


def bert(
    head: str = "encoder",
    num_classes: int = 2,
    vocabulary: int = 30522,
    width: int = 128,
    depth: int = 2,
    heads: int = 2,
    hidden: int | None = None,
    context: int = 512,
    segments: int = 2,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    epsilon: float = 1e-12,
    init_std: float = 0.02,
    dtype: str = "float32",
) -> Model:
    """Builds BERT; the defaults are the tiny one with the vocabulary of the uncased English models.

    `apply(variables, tokens, mask, types, positions)` takes token numbers [b, t], up to `context` in a text;
    the mask, bool [b, t], True where there is a token (None: everywhere); and types [b, t], the number of
    each token's segment (None: 0). What comes out depends on the head:
    "encoder" gives (hidden [b, t, width], pooled [b, width]), the second tanh of a dense layer on the first
    token;
    "masked_lm" gives logits [b, t, vocabulary], or [b, m, vocabulary] at the `positions`, ints [b, m]: losses
    that need a few positions take the product with the vocabulary for them alone;
    "pretraining" gives (logits as of "masked_lm", logits [b, 2] of the next sentence: 0 it follows, 1 not);
    "classifier" gives logits [b, num_classes] of the text; "tagger" logits [b, t, num_classes].

    Parameters are "encoder", "pooler" and those of the head, under the same paths in every model: `carry`
    takes them from one to another.
    `hidden` is 4 times the width unless given. `init_std` is the deviation that weights start with: 0.02, the
    paper's, suits a width of 768; a narrow model leaves the plateau of word frequencies sooner with
    0.02 * sqrt(768 / width). Texts of nothing but padding give numbers that mean nothing,
    but finite ones.
    """
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; choose one of {', '.join(HEADS)}")
    hidden = 4 * width if hidden is None else hidden
    sizes = (vocabulary, width, depth, heads, hidden, context, segments)
    encoder = Encoder(*sizes, dropout, attention_dropout, epsilon, init_std, dtype)
    return from_linen(Bert(encoder, head, num_classes, dropout))


def carry(pretrained: Variables, fresh: Variables) -> Variables:
    """Returns `fresh` with the encoder of `pretrained`, and its pooler where both have one.

    From one head to another: heads themselves stay fresh. Raises ValueError for encoders of other sizes.
    """
    parts = {name for name in ("encoder", "pooler") if name in pretrained.params and name in fresh.params}
    for name in parts:
        old, new = (jax.tree.map(jnp.shape, tree.params[name]) for tree in (pretrained, fresh))
        if old != new:
            raise ValueError(f"the {name} pretrained is not of the sizes of the fresh one: {old}, {new}")
    return Variables(fresh.params | {name: pretrained.params[name] for name in parts}, fresh.state)


def bert_tiny(head: str = "encoder", **settings) -> Model:
    """Builds BERT-tiny: 4,385,920 parameters with the pooler."""
    return bert(head, **SIZES["tiny"] | settings)


def bert_mini(head: str = "encoder", **settings) -> Model:
    """Builds BERT-mini: 11,170,560 parameters with the pooler."""
    return bert(head, **SIZES["mini"] | settings)


def bert_small(head: str = "encoder", **settings) -> Model:
    """Builds BERT-small: 28,763,648 parameters with the pooler."""
    return bert(head, **SIZES["small"] | settings)


def bert_medium(head: str = "encoder", **settings) -> Model:
    """Builds BERT-medium: 41,373,184 parameters with the pooler."""
    return bert(head, **SIZES["medium"] | settings)


def bert_base(head: str = "encoder", **settings) -> Model:
    """Builds BERT-base: 109,482,240 parameters with the pooler."""
    return bert(head, **SIZES["base"] | settings)


def bert_large(head: str = "encoder", **settings) -> Model:
    """Builds BERT-large: 335,141,888 parameters with the pooler."""
    return bert(head, **SIZES["large"] | settings)
