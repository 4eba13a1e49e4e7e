"""Linear forecasters (Zeng et al. 2023, "Are transformers effective for time series forecasting?")."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlx.core import Model
from dlx.layers.recurrent import uniform
from dlx.nn import from_linen


def moving_average(x: Float[Array, "b t c"], width: int) -> Float[Array, "b t c"]:
    """Averages `width` values around each, an odd number; the first and the last value go on outside."""
    half = (width - 1) // 2
    wide = jnp.concatenate([jnp.repeat(x[:, :1], half, 1), x, jnp.repeat(x[:, -1:], half, 1)], axis=1)
    sums = jnp.cumsum(jnp.pad(wide, ((0, 0), (1, 0), (0, 0))), axis=1)
    return (sums[:, width:] - sums[:, :-width]) / width


def along_time(x: Float[Array, "b t c"], horizon: int, quantiles: int, name: str) -> Float[Array, "b h c q"]:
    """Maps the history of each channel to its future by one matrix, the same for all channels.

    Called within a compact module.
    """
    bound = uniform(x.shape[1] ** -0.5)
    dense = nn.Dense(horizon * quantiles, kernel_init=bound, bias_init=bound, name=name)
    return jnp.moveaxis(dense(x.swapaxes(1, 2)).reshape(len(x), -1, horizon, quantiles), 1, 2)


class DLinear(nn.Module):
    """A linear map of the trend, a moving average, and another of what is left of it."""

    targets: int
    horizon: int
    quantiles: int
    kernel: int

    @nn.compact
    def __call__(self, history: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b h c q"]:
        """Returns forecasts of the first channels."""
        x = history[..., : self.targets].astype(jnp.float32)
        trend = moving_average(x, self.kernel)
        linear = partial(along_time, horizon=self.horizon, quantiles=self.quantiles)
        return linear(x - trend, name="seasonal") + linear(trend, name="trend")


class NLinear(nn.Module):
    """A linear map of the history less its last value, which is added again."""

    targets: int
    horizon: int
    quantiles: int

    @nn.compact
    def __call__(self, history: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b h c q"]:
        """Returns forecasts of the first channels."""
        x = history[..., : self.targets].astype(jnp.float32)
        last = x[:, -1:]
        return along_time(x - last, self.horizon, self.quantiles, "linear") + last[..., None]


def dlinear(targets: int, horizon: int, quantiles: int = 1, kernel: int = 25) -> Model:
    """Builds DLinear: `apply(variables, history [b, t, d])` gives [b, horizon, targets, quantiles], float32.

    The first `targets` of the d channels are forecast, each from its own history by matrices that all share;
    other channels are not looked at. The trend is a moving average of `kernel` steps, an odd number.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a moving average of kernel={kernel} steps has no middle; give an odd number")
    return from_linen(DLinear(targets, horizon, quantiles, kernel))


def nlinear(targets: int, horizon: int, quantiles: int = 1) -> Model:
    """Builds NLinear, with inputs and outputs as those of `dlinear`."""
    return from_linen(NLinear(targets, horizon, quantiles))
