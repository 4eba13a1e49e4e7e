"""The deep belief network: a stack of restricted Boltzmann machines (Hinton, Osindero and Teh 2006).

Its parameters are {"layer_0": machine, "layer_1": machine, ..., "head": {"kernel", "bias"}}, a machine as
in `dlx.models.rbm`; the visible units of each are the hidden ones of that below. One set of parameters is
seen in three ways: as machines, each of which learns what those below make of the data; unrolled, as a
perceptron with logistic units and a softmax layer, `apply`; unrolled up and down, as a deep autoencoder
whose decoder has the encoder's weights transposed (Hinton and Salakhutdinov 2006 let the two part).
"""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from dlx.core import Key, Model, Params, Variables
from dlx.models import rbm


def dbn(
    num_classes: int, hidden: Sequence[int] = (500, 500, 2000), units: str = "binary", chains: int = 0
) -> Model:
    """Builds a stack with so many hidden units in each layer; outputs are logits of the classes.

    Inputs of any shape are flattened; they are scaled to 0 ... 1 for "binary" visible `units`, to mean 0 and
    variance 1 for "gaussian" ones. The state holds for each layer how often its units are on ("activation",
    a running average) and, with `chains`, the visible units of so many Markov chains ("chain").
    """

    def init(key: Key, x: Shaped[Array, "b ..."]) -> Variables:
        *keys, head_key = jax.random.split(key, 2 * len(hidden) + 1)
        sizes = [x.size // len(x), *hidden]
        params: dict[str, Params] = {}
        state: dict[str, Params] = {}
        for layer, (below, above) in enumerate(itertools.pairwise(sizes)):
            params[name(layer)] = rbm.init(keys[2 * layer], below, above, (2 / (below + above)) ** 0.5)
            state[name(layer)] = {"activation": jnp.full(above, 0.5)}
            if chains:
                mean = jnp.full((chains, below), 0.5 if kind(layer, units) == "binary" else 0.0)
                first = rbm.sample_visible(mean, keys[2 * layer + 1], kind(layer, units))
                state[name(layer)]["chain"] = first
        kernel = jax.nn.initializers.glorot_normal()(head_key, (sizes[-1], num_classes))
        params["head"] = {"kernel": kernel, "bias": jnp.zeros(num_classes)}
        return Variables(params, state)

    def apply(variables: Variables, x: Shaped[Array, "b ..."], key: Key | None = None):
        head = variables.params["head"]
        top = encode(variables.params, x.reshape(len(x), -1), len(hidden))
        return top @ head["kernel"] + head["bias"], variables.state

    return Model(init, apply)


def name(layer: int) -> str:
    """Returns what a layer is called in the parameters and in the state."""
    return f"layer_{layer}"


def kind(layer: int, units: str) -> str:
    """Returns the kind of the visible units of a layer: `units` at the bottom, above them binary."""
    return units if layer == 0 else "binary"


def encode(params: Mapping[str, Params], visible: Float[Array, "b v"], layers: int) -> Float[Array, "b h"]:
    """Returns the probabilities of the hidden units of the highest of `layers`, mean field upwards."""
    for layer in range(layers):
        visible = rbm.hidden_mean(params[name(layer)], visible)
    return visible


def decode_field(
    params: Mapping[str, Params], hidden: Float[Array, "b h"], layers: int
) -> Float[Array, "b v"]:
    """Returns what the lowest visible units feel of the highest of `layers`, mean field downwards.

    That is the logits of binary visible units, and the means of Gaussian ones.
    """
    for layer in reversed(range(1, layers)):
        hidden = rbm.visible_mean(params[name(layer)], hidden)
    return rbm.visible_field(params[name(0)], hidden)


def decode(
    params: Mapping[str, Params], hidden: Float[Array, "b h"], layers: int, units: str = "binary"
) -> Float[Array, "b v"]:
    """Returns the means of the lowest visible units, from the hidden units of the highest of `layers`."""
    field = decode_field(params, hidden, layers)
    return jax.nn.sigmoid(field) if units == "binary" else field


def chain(
    params: Mapping[str, Params],
    visible: Float[Array, "b v"],
    key: Key,
    layers: int,
    steps: int,
    units: str = "binary",
) -> Float[Array, "b v"]:
    """Returns what the network dreams: data, `steps` of the Markov chain in the top machine away.

    Up to the machine and down from it the units have their means.
    """
    top = params[name(layers - 1)]
    below = encode(params, visible, layers - 1)
    hidden = rbm.hidden_mean(top, rbm.gibbs(top, below, key, steps, kind(layers - 1, units))[0])
    return decode(params, hidden, layers, units)
