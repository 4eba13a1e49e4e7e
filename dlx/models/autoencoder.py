"""Autoencoders: plain, denoising (Vincent et al. 2008) and variational (Kingma and Welling 2014).

Their parameters are {"encoder": perceptron, "decoder": perceptron}, and a perceptron is {"dense_0":
{"kernel", "bias"}, "dense_1": ...}, with ReLU between its layers. Inputs of any shape are flattened on their
way in; what is decoded has their shape again, and is unbounded: logits of pixels in 0 ... 1, or means of
scaled numbers.
"""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from dlx.core import Key, Model, Params, Variables

Perceptron = Mapping[str, Mapping[str, Array]]
Outputs = dict[str, Array]


def autoencoder(hidden: Sequence[int] = (256,), code: int = 32) -> Model:
    """Builds an autoencoder with the given hidden widths, which the decoder has in the reverse order.

    `apply(variables, x [b, ...])` returns {"code" [b, code], "reconstruction" [b, ...]}, with a key the same
    as without.
    """
    return denoising_autoencoder(hidden, code, noise=0.0)


def denoising_autoencoder(hidden: Sequence[int] = (256,), code: int = 32, noise: float | int = 0.3) -> Model:
    """Builds an autoencoder that, with a key, gets its inputs with Gaussian `noise` of that deviation added.

    Learned with the clean input for a target, it points from noise to where data are likely (Alain and Bengio
    2014). In and out is as `autoencoder` has it.
    """
    if noise < 0:
        raise ValueError(f"noise={noise} is a standard deviation, at least 0")

    def init(key: Key, x: Shaped[Array, "b ..."]) -> Variables:
        first, second = jax.random.split(key)
        sizes = [x.size // len(x), *hidden, code]
        return Variables(
            {"encoder": perceptron(first, sizes), "decoder": perceptron(second, sizes[::-1])}, {}
        )

    def apply(variables: Variables, x: Shaped[Array, "b ..."], key: Key | None = None):
        seen = flat(x)
        if key is not None and noise:
            seen = seen + noise * jax.random.normal(key, seen.shape)
        inside = layers(variables.params["encoder"], seen)
        return {"code": inside, "reconstruction": decode(variables.params, inside, x.shape)}, variables.state

    return Model(init, apply)


def variational_autoencoder(hidden: Sequence[int] = (256,), code: int = 32) -> Model:
    """Builds a variational autoencoder, whose code is normal given the input, and N(0, 1) over the data.

    `apply(variables, x [b, ...])` returns {"code", "mean", "log_variance", all [b, code], "reconstruction"
    [b, ...]}. With a key the code is a sample, mean + deviation * noise, through which the gradient reaches
    both; without a key it is the mean. A bound on the likelihood needs samples, and so a key.
    """

    def init(key: Key, x: Shaped[Array, "b ..."]) -> Variables:
        first, second = jax.random.split(key)
        below = [x.size // len(x), *hidden]
        decoder = perceptron(second, [code, *below[::-1]])
        return Variables({"encoder": perceptron(first, [*below, 2 * code]), "decoder": decoder}, {})

    def apply(variables: Variables, x: Shaped[Array, "b ..."], key: Key | None = None):
        mean, log_variance = jnp.split(layers(variables.params["encoder"], flat(x)), 2, axis=-1)
        inside = mean
        if key is not None:
            inside = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        outputs = {"code": inside, "mean": mean, "log_variance": log_variance}
        return outputs | {"reconstruction": decode(variables.params, inside, x.shape)}, variables.state

    return Model(init, apply)


def decode(
    params: Mapping[str, Params], code: Float[Array, "b k"], shape: Sequence[int] = ()
) -> Float[Array, "b ..."]:
    """Returns what codes stand for, [b, d], or of the `shape` of a batch but for its first axis."""
    found = layers(params["decoder"], code)
    return found.reshape(len(found), *shape[1:]) if shape else found


def flat(x: Shaped[Array, "b ..."]) -> Float[Array, "b d"]:
    """Returns a batch as rows of float32."""
    return jnp.reshape(x, (len(x), -1)).astype(jnp.float32)


def perceptron(key: Key, sizes: Sequence[int], bias: bool = True) -> dict[str, dict[str, Array]]:
    """Draws dense layers between so many units: kernels of He et al. (2015), biases 0 or, without, none."""
    found = {}
    keys = jax.random.split(key, len(sizes) - 1)
    for number, (own, (before, after)) in enumerate(zip(keys, itertools.pairwise(sizes), strict=True)):
        kernel = jax.nn.initializers.he_normal()(own, (before, after))
        found[f"dense_{number}"] = {"kernel": kernel} | ({"bias": jnp.zeros(after)} if bias else {})
    return found


def layers(params: Perceptron, x: Float[Array, "b d"]) -> Float[Array, "b k"]:
    """Returns what comes out of dense layers with ReLU between them."""
    for number in range(len(params)):
        layer = params[f"dense_{number}"]
        x = (jax.nn.relu(x) if number else x) @ layer["kernel"] + layer.get("bias", 0.0)
    return x
