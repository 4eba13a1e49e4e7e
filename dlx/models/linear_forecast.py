"""Linear forecasters (Zeng et al. 2023, "Are transformers effective for time series forecasting?")."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlx.core import Model
from dlx.layers.recurrent import uniform
from dlx.nn import from_linen


def moving_average(x: Float[Array, "b t c"], width: int) -> Float[Array, "b t c"]:
    """Averages `width` values around each, an odd number; the first and the last value go on outside."""
    half = (width - 1) // 2
    wide = jnp.concatenate([jnp.repeat(x[:, :1], half, 1), x, jnp.repeat(x[:, -1:], half, 1)], axis=1)
    return jax.lax.reduce_window(wide, 0.0, jax.lax.add, (1, width, 1), (1, 1, 1), "valid") / width


class Line(nn.Module):
    """The kernel and the bias of a linear map from `inputs` to `outputs` numbers."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "t k"], Float[Array, "k"]]:
        """Returns both."""
        bound = uniform(self.inputs**-0.5)
        kernel = self.param("kernel", bound, (self.inputs, self.outputs))
        return jnp.asarray(kernel), jnp.asarray(self.param("bias", bound, (self.outputs,)))


def along_time(
    x: Float[Array, "b t c"], kernel: Float[Array, "t k"], bias: Float[Array, "k"], horizon: int
) -> Float[Array, "b h c q"]:
    """Maps the history of each channel to its future by one matrix, the same for all channels."""
    rows = x.swapaxes(1, 2).reshape(-1, x.shape[1])  # one product of two matrices, the fastest form
    return jnp.moveaxis((rows @ kernel + bias).reshape(len(x), x.shape[2], horizon, -1), 1, 2)


class DLinear(nn.Module):
    """A linear map of the trend, a moving average, and another of what is left of the history.

    Averaging is linear, so the two maps are one: with the average as a matrix A and the kernels S and T,
    (x - A x)' S + (A x)' T = x' (S + A' (T - S)). Computed so, A meets the kernels, which are smaller than a
    batch, and the batch meets one product instead of two.
    """

    targets: int
    horizon: int
    quantiles: int
    kernel: int

    @nn.compact
    def __call__(self, history: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b h c q"]:
        """Returns forecasts of the first channels."""
        x = history[..., : self.targets].astype(jnp.float32)
        sizes = (x.shape[1], self.horizon * self.quantiles)
        seasonal, below = Line(*sizes, name="seasonal")()
        trend, above = Line(*sizes, name="trend")()
        average = partial(moving_average, width=self.kernel)
        (smooth,) = jax.linear_transpose(average, trend[None])((trend - seasonal)[None])
        return along_time(x, seasonal + smooth[0], below + above, self.horizon)


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
        line = Line(x.shape[1], self.horizon * self.quantiles, name="linear")()
        return along_time(x - last, *line, self.horizon) + last[..., None]


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
