"""Forecasters that read the history with all its channels: an LSTM, and the temporal convolutional network.

Both see covariates beside the targets. The forecast of the whole horizon is a linear map of the last output.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlx.core import Model
from dlx.layers.recurrent import Recurrent
from dlx.layers.regularization import dropout
from dlx.layers.reversible import normalize, restore
from dlx.nn import from_linen


class Forecaster(nn.Module):
    """A network over the history, and the forecasts its last output gives, on the window's scale or not."""

    body: Any  # [b, t, d] -> [b, t, width]
    targets: int
    horizon: int
    quantiles: int
    reversible: bool

    @nn.compact
    def __call__(self, history: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b h c q"]:
        """Returns forecasts of the first channels."""
        x = history.astype(jnp.float32)
        own, scale = normalize(x[..., : self.targets])
        if self.reversible:
            x = jnp.concatenate([own, x[..., self.targets :]], axis=-1)
        last = self.body(x, train=train)[:, -1]
        y = nn.Dense(self.horizon * self.targets * self.quantiles, name="forecast")(last)
        y = y.reshape(len(x), self.horizon, self.targets, self.quantiles)
        return restore(y, scale) if self.reversible else y


class LSTM(nn.Module):
    """Layers of long short-term memory over time."""

    width: int
    depth: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b t e"]:
        """Returns the outputs of the last layer."""
        layers = Recurrent("lstm", self.width, self.depth, dropout=self.dropout, name="layers")
        return layers(x, train=train)[0]


def causal(x: Float[Array, "b t d"], kernel: int, dilation: int) -> Float[Array, "b t kd"]:
    """Puts beside each step the kernel - 1 before it that lie `dilation` apart; zeros before the first."""
    reach = (kernel - 1) * dilation
    wide = jnp.pad(x, ((0, 0), (reach, 0), (0, 0)))
    return jnp.concatenate([wide[:, i * dilation :][:, : x.shape[1]] for i in range(kernel)], axis=-1)


class TemporalConvolution(nn.Module):
    """Residual blocks of two causal convolutions with weight normalisation, whose dilation doubles."""

    width: int
    depth: int
    kernel: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b t e"]:
        """Returns an output for each step that depends on no later one."""
        for block in range(self.depth):
            y = x
            for half in range(2):
                # the convolution as the one matrix product that it is
                dense = nn.WeightNorm(nn.Dense(self.width, name=f"convolution_{block}_{half}"))
                y = nn.relu(dense(causal(y, self.kernel, 2**block)))
                y = dropout(y, self.dropout, self.make_rng("dropout") if train and self.dropout else None)
            if x.shape[-1] != self.width:
                x = nn.Dense(self.width, name=f"shortcut_{block}")(x)
            x = nn.relu(x + y)
        return x


def lstm_forecaster(
    targets: int,
    horizon: int,
    quantiles: int = 1,
    width: int = 64,
    depth: int = 1,
    dropout: float = 0.0,
    reversible: bool = False,
) -> Model:
    """Builds an LSTM that reads the history and forecasts the whole horizon at once.

    `apply(variables, history [b, t, d])` gives [b, horizon, targets, quantiles], float32. The first `targets`
    of the d channels are forecast, the others are covariates. If `reversible`, targets are on the scale of
    their window (Kim et al. 2022), which suits levels that wander and harms what has a fixed mean.
    """
    body = LSTM(width, depth, dropout)
    return from_linen(Forecaster(body, targets, horizon, quantiles, reversible))


def tcn(
    targets: int,
    horizon: int,
    quantiles: int = 1,
    width: int = 32,
    depth: int = 5,
    kernel: int = 3,
    dropout: float = 0.0,
    reversible: bool = False,
) -> Model:
    """Builds the temporal convolutional network of Bai et al. (2018), `depth` blocks of `width` channels.

    Block i has dilation 2**i; the last output sees 1 + 2 * (kernel - 1) * (2**depth - 1) steps. Inputs and
    outputs are as those of `lstm_forecaster`.
    """
    body = TemporalConvolution(width, depth, kernel, dropout)
    return from_linen(Forecaster(body, targets, horizon, quantiles, reversible))
