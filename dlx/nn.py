"""The one door between Flax Linen and the rest, and models made from models."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlx.core import Model, Variables


def from_linen(module: nn.Module) -> Model:
    """Views a Linen module as a pair of pure functions.

    The module's `__call__` takes `train: bool` by keyword. "Training" is the presence of a key: it feeds
    the "dropout" stream, and the batch statistics that come back are the next ones.
    """

    def init(key, *inputs):
        variables = dict(module.init(key, *inputs, train=False))
        return Variables(variables.pop("params", {}), variables)

    def apply(variables, *inputs, key=None):
        collections = {"params": variables.params, **variables.state}
        if key is None:
            return module.apply(collections, *inputs, train=False), variables.state
        return module.apply(
            collections, *inputs, train=True, rngs={"dropout": key}, mutable=list(variables.state)
        )

    return Model(init, apply)


def standardized(model: Model, mean, std) -> Model:
    """Returns `model` behind zero-centring and division by the standard deviation of its first input.

    `mean` and `std` broadcast against the last axis of the input. They live in `Variables.state` under
    "standardized": they are saved with the run, travel with the weights, and never get a gradient.
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)

    def scaled(values, x):
        return (x.astype(jnp.float32) - values["mean"]) / values["std"]

    def init(key, x, *inputs):
        values = {"mean": mean, "std": std}
        params, state = model.init(key, scaled(values, x), *inputs)
        return Variables(params, state | {"standardized": values})

    def apply(variables, x, *inputs, key=None):
        state = dict(variables.state)
        values = state.pop("standardized")
        outputs, state = model.apply(Variables(variables.params, state), scaled(values, x), *inputs, key=key)
        return outputs, dict(state) | {"standardized": values}

    return Model(init, apply)


def ensemble(model: Model, members: int) -> Model:
    """Returns so many copies of `model`, each drawn with a key of its own, as one model.

    Leaves of the variables, and outputs, have a leading axis of the members more; inputs have not. With a key
    each member trains with one of its own.
    """
    if members < 1:
        raise ValueError(f"an ensemble has at least one member, not {members}")

    def init(key, *inputs):
        return jax.vmap(lambda own: model.init(own, *inputs))(jax.random.split(key, members))

    def apply(variables, *inputs, key=None):
        if key is None:
            return jax.vmap(lambda own: model.apply(own, *inputs))(variables)
        keys = jax.random.split(key, members)
        return jax.vmap(lambda own, key: model.apply(own, *inputs, key=key))(variables, keys)

    return Model(init, apply)
