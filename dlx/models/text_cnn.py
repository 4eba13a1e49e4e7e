"""The convolutional neural network for sentence classification (Kim 2014)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlx.core import Model
from dlx.layers.recurrent import uniform
from dlx.layers.regularization import dropout
from dlx.nn import from_linen


class TextCNN(nn.Module):
    """Filters over every few words in a row, the strongest answer of each, and the scores of these."""

    num_classes: int
    vocabulary: int
    embedding: int
    windows: tuple[int, ...]
    filters: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns logits."""
        near = uniform(0.25)  # as the paper draws the words it has no vectors for
        words = nn.Embed(self.vocabulary, self.embedding, self.dtype, embedding_init=near, name="tokens")
        x = jnp.where(mask[..., None], words(tokens), 0)
        pooled = [self.strongest(x, mask, window) for window in self.windows]
        key = self.make_rng("dropout") if train and self.dropout else None
        x = dropout(jnp.concatenate(pooled, axis=-1), self.dropout, key)
        return nn.Dense(self.num_classes, name="head")(x)

    def strongest(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"], window: int
    ) -> Float[Array, "b f"]:
        """Returns the largest answer of each filter to `window` words in a row that are not all padding."""
        # a convolution over time as one product for each place in the window; zeros stand at both ends
        sides = ((0, 0), (window - 1, window - 1))
        x, mask = jnp.pad(x, (*sides, (0, 0))), jnp.pad(mask, sides)
        places = x.shape[1] - window + 1
        x = jnp.concatenate([x[:, i : i + places] for i in range(window)], axis=-1)
        seen = jnp.stack([mask[:, i : i + places] for i in range(window)]).any(axis=0)
        y = nn.Dense(self.filters, dtype=self.dtype, name=f"window_{window}")(x)
        return jnp.where(seen[..., None], nn.relu(y), 0).max(axis=1).astype(jnp.float32)


def text_cnn(
    num_classes: int = 2,
    vocabulary: int = 20_000,
    embedding: int = 300,
    windows: Sequence[int] = (3, 4, 5),
    filters: int = 100,
    dropout: float = 0.5,
    dtype: str = "float32",
) -> Model:
    """Builds the CNN of the paper, with `filters` filters for each width in `windows`.

    `apply(variables, tokens [b, t], mask [b, t])` returns logits [b, num_classes], float32; `mask` is True
    where there is a token, and padding on either side changes nothing. Windows may stick out over both ends,
    so that a sentence may be shorter than they are; there, zeros stand. With the sizes of the paper, vectors
    and head apart, there are 360,300 parameters. Its bound on the norm of the head's columns is the
    optimizer's matter.
    """
    module = TextCNN(num_classes, vocabulary, embedding, tuple(windows), filters, dropout, dtype)
    return from_linen(module)
