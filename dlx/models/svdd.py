"""Deep support vector data description (Ruff et al. 2018): normal data are mapped close to a point."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from dlx.core import Key, Model, Variables
from dlx.models.autoencoder import flat, layers, perceptron

AWAY = 0.1  # the least that a coordinate of the centre is from 0


def deep_svdd(hidden: Sequence[int] = (128,), code: int = 32) -> Model:
    """Builds a network whose outputs are learned to lie close to a centre that stays where it is.

    `init(key, x [n, ...])` takes the centre from the data it is given, which should be much or all of the
    training part: the mean of their codes under the weights as drawn. `apply` returns {"code" [b, code],
    "distance" [b]}, the squared distance from the centre: the score, and what training makes small.

    One code for everything would make it 0. As in the paper, layers have no biases, ReLU is unbounded, and
    the centre is fixed (it is state, under "centre") and has no coordinate near 0, which zero weights would
    reach.
    """

    def init(key: Key, x: Shaped[Array, "n ..."]) -> Variables:
        params = perceptron(key, [x.size // len(x), *hidden, code], bias=False)
        return Variables(params, {"centre": centre(layers(params, flat(x)))})

    def apply(variables: Variables, x: Shaped[Array, "b ..."], key: Key | None = None):
        found = layers(variables.params, flat(x))
        distance = jnp.square(found - variables.state["centre"]).sum(axis=-1)
        return {"code": found, "distance": distance}, variables.state

    return Model(init, apply)


def centre(codes: Float[Array, "n k"]) -> Float[Array, "k"]:
    """Returns the mean of codes, no coordinate nearer to 0 than 0.1."""
    mean = codes.mean(axis=0)
    return jnp.where(jnp.abs(mean) < AWAY, jnp.where(mean < 0, -AWAY, AWAY), mean)
