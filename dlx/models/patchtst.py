"""PatchTST (Nie et al. 2023, "A time series is worth 64 words"): patches of one channel as tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlx.core import Model
from dlx.layers.attention import SelfAttention
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


class PatchTST(nn.Module):
    """An encoder over the patches of each channel by itself, and a linear map from all tokens to the future.

    As in the paper, attention and dense layers are followed by the addition of what came in and by batch
    normalisation over the tokens. (The published code also adds each layer's scores to the next layer's.)
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
        x = nn.Dense(self.width, name="patches")(x)
        places = self.param("positions", uniform(0.02), x.shape[1:])
        x = drop(x + places)
        for layer in range(self.depth):
            y = SelfAttention(self.heads, name=f"attention_{layer}")(x)
            x = norm(f"norm_{layer}_1", x + drop(y))
            y = drop(nn.gelu(nn.Dense(self.hidden, name=f"dense_{layer}_1")(x), approximate=False))
            x = norm(f"norm_{layer}_2", x + drop(nn.Dense(self.width, name=f"dense_{layer}_2")(y)))
        bound = uniform((x.shape[1] * self.width) ** -0.5)
        head = nn.Dense(self.horizon * self.quantiles, kernel_init=bound, bias_init=bound, name="forecast")
        y = head(x.reshape(len(x), -1)).reshape(len(history), self.targets, self.horizon, self.quantiles)
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
