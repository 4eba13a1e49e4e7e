"""PatchTST (Nie et al. 2023, "A time series is worth 64 words"): patches of one channel as tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlx.core import Model
from dlx.layers.attention import Projections
from dlx.layers.dense import by_rows
from dlx.layers.normalization import BatchNorm
from dlx.layers.recurrent import uniform
from dlx.layers.regularization import dropout
from dlx.layers.reversible import normalize, restore
from dlx.nn import from_linen


def patches(x: Float[Array, "b t"], size: int, stride: int) -> Float[Array, "b n p"]:
    """Cuts series into overlapping patches; the last value goes on for `stride` steps, for one patch more."""
    x = jnp.concatenate([x, jnp.repeat(x[:, -1:], stride, axis=1)], axis=1)
    count = (x.shape[1] - size) // stride + 1
    return x[:, stride * jnp.arange(count)[:, None] + jnp.arange(size)]


def dense(inputs: int, outputs: int, name: str) -> nn.Dense:
    """Returns a dense layer that starts as PyTorch's do, within 1 / sqrt(inputs) of 0."""
    bound = uniform(inputs**-0.5)
    return nn.Dense(outputs, kernel_init=bound, bias_init=bound, dot_general=by_rows, name=name)


class ResidualAttention(nn.Module):
    """Attention whose scores are added to those of the layer below (He et al. 2021, "RealFormer")."""

    heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], below: Float[Array, "b heads n n"] | None
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b heads n n"]]:
        """Returns what each token has seen, and the scores: before the softmax, those `below` added."""
        width = x.shape[-1]
        query, key, value = Projections(self.heads, uniform(width**-0.5), "float32", name="qkv")(x)
        scores = jnp.einsum("bthd,bshd->bhts", query, key) * (width // self.heads) ** -0.5
        scores = scores if below is None else scores + below
        seen = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), value)
        return dense(width, width, "out")(seen.reshape(x.shape)), scores


class PatchTST(nn.Module):
    """An encoder over the patches of each channel by itself, and a linear map from all tokens to the future.

    As in the paper, attention and dense layers are followed by the addition of what came in and by batch
    normalisation over the tokens; as in its code, each layer's scores are added to the next layer's.
    """

    targets: int
    horizon: int
    quantiles: int
    patch: int
    stride: int
    width: int
    depth: int
    heads: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, history: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b h c q"]:
        """Returns forecasts of the first channels."""
        rate = self.dropout

        def drop(x):
            return dropout(x, rate, self.make_rng("dropout") if train and rate else None)

        def norm(name, x):
            return BatchNorm(use_running_average=not train, name=name)(x)

        x, scale = normalize(history[..., : self.targets])
        x = patches(x.swapaxes(1, 2).reshape(-1, x.shape[1]), self.patch, self.stride)
        x = dense(self.patch, self.width, "patches")(x)
        places = self.param("positions", uniform(0.02), x.shape[1:])
        x = drop(x + places)
        scores = None
        for layer in range(self.depth):
            y, scores = ResidualAttention(self.heads, name=f"attention_{layer}")(x, scores)
            x = norm(f"norm_{layer}_1", x + drop(y))
            y = nn.gelu(dense(self.width, self.hidden, f"dense_{layer}_1")(x), approximate=False)
            y = dense(self.hidden, self.width, f"dense_{layer}_2")(drop(y))
            x = norm(f"norm_{layer}_2", x + drop(y))
        x = x.reshape(len(x), -1)
        y = dense(x.shape[1], self.horizon * self.quantiles, "forecast")(x)
        y = y.reshape(len(history), self.targets, self.horizon, self.quantiles)
        return restore(jnp.moveaxis(y, 1, 2), scale)


def patchtst(
    targets: int,
    horizon: int,
    quantiles: int = 1,
    patch: int = 16,
    stride: int = 8,
    width: int = 16,
    depth: int = 3,
    heads: int = 4,
    hidden: int = 128,
    dropout: float = 0.3,
) -> Model:
    """Builds PatchTST: `apply(variables, history [b, t, d])` gives [b, horizon, targets, quantiles], float32.

    The first `targets` of the d channels are forecast, each from its own history on the scale of its window
    (reversible instance normalisation). The default sizes are the paper's for the small ETT sets; with them,
    a history of 336 is 42 patches. Raises a ValueError for a history shorter than a patch.
    """
    module = PatchTST(targets, horizon, quantiles, patch, stride, width, depth, heads, hidden, dropout)
    return from_linen(module)
