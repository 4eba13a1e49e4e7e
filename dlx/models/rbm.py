"""The restricted Boltzmann machine (Smolensky 1986; Hinton 2002), as pure functions of its parameters.

A machine is {"kernel": W [v, h], "visible": a [v], "hidden": b [h]}. Hidden units are binary; visible units
are "binary", with the energy E(v, h) = -a.v - b.h - v.W.h, or "gaussian" of variance 1, with
E(v, h) = |v - a|^2 / 2 - b.h - v.W.h: scale such data to mean 0 and variance 1. The probability of a state
is exp(-E) / Z. What is called the guide here is Hinton 2010, "A practical guide to training restricted
Boltzmann machines".
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlx.core import Key

Machine = Mapping[str, Array]
UNITS = ("binary", "gaussian")


def init(key: Key, visible: int, hidden: int, std: float = 0.01) -> dict[str, Array]:
    """Draws weights from a normal distribution, of the guide's width unless given; biases are 0."""
    kernel = std * jax.random.normal(key, (visible, hidden))
    return {"kernel": kernel, "visible": jnp.zeros(visible), "hidden": jnp.zeros(hidden)}


def hidden_mean(params: Machine, visible: Float[Array, "b v"]) -> Float[Array, "b h"]:
    """Returns the probability that each hidden unit is on, given the visible ones."""
    return jax.nn.sigmoid(visible @ params["kernel"] + params["hidden"])


def visible_field(params: Machine, hidden: Float[Array, "b h"]) -> Float[Array, "b v"]:
    """Returns what visible units feel of the hidden ones: binary units' logits, Gaussian units' means."""
    return hidden @ params["kernel"].T + params["visible"]


def visible_mean(params: Machine, hidden: Float[Array, "b h"], units: str = "binary") -> Float[Array, "b v"]:
    """Returns the mean of the visible units, given the hidden ones."""
    field = visible_field(params, hidden)
    return jax.nn.sigmoid(field) if _binary(units) else field


def free_energy(params: Machine, visible: Float[Array, "b v"], units: str = "binary") -> Float[Array, "b"]:
    """Returns -log of the sum of exp(-E(v, h)) over all hidden states h, in nats."""
    softened = jax.nn.softplus(visible @ params["kernel"] + params["hidden"]).sum(axis=-1)
    if _binary(units):
        return -visible @ params["visible"] - softened
    return jnp.square(visible - params["visible"]).sum(axis=-1) / 2 - softened


def sample_visible(mean: Float[Array, "b v"], key: Key, units: str = "binary") -> Float[Array, "b v"]:
    """Draws visible units that have this mean."""
    if _binary(units):
        return jax.random.bernoulli(key, mean).astype(mean.dtype)
    return mean + jax.random.normal(key, mean.shape, mean.dtype)


def gibbs(
    params: Machine, visible: Float[Array, "b v"], key: Key, steps: int = 1, units: str = "binary"
) -> tuple[Float[Array, "b v"], Float[Array, "b v"]]:
    """Returns the visible units after so many steps of the Markov chain, and the means they were drawn with.

    A step draws all hidden units given the visible ones, and then all visible units given those.
    """

    def step(visible, key):
        hidden_key, visible_key = jax.random.split(key)
        hidden = jax.random.bernoulli(hidden_key, hidden_mean(params, visible)).astype(visible.dtype)
        mean = visible_mean(params, hidden, units)
        return sample_visible(mean, visible_key, units), mean

    visible, key = jax.lax.fori_loop(
        0,
        steps - 1,
        lambda index, carry: (step(carry[0], jax.random.fold_in(key, index))[0], key),
        (visible, key),
    )
    return step(visible, jax.random.fold_in(key, steps))


def contrastive_divergence(
    params: Machine,
    visible: Float[Array, "b v"],
    key: Key,
    steps: int = 1,
    units: str = "binary",
    chain: Float[Array, "c v"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, "c v"]]:
    """Returns the free energy of the data minus that of the model's fantasies, a loss, and samples of these.

    The samples are `steps` of the Markov chain away from the data (CD-k, Hinton 2002) or, with a `chain`,
    from where that stood (persistent CD, Tieleman 2008): it goes on next time from the samples that come
    back. Fantasies are the means that the samples were drawn with, for intensities and means of the layer
    below are no samples either (section 3 of the guide). They are constants to the gradient, which for the
    kernel is <v h> of the fantasies minus <v h> of the data, with probabilities for h.
    """
    start = visible if chain is None else chain
    sample, fantasy = jax.lax.stop_gradient(gibbs(params, start, key, steps, units))
    gap = free_energy(params, visible, units).mean() - free_energy(params, fantasy, units).mean()
    return gap, sample


def sparsity(
    params: Machine, visible: Float[Array, "b v"], average: Float[Array, "h"], target: float
) -> Float[Array, ""]:
    """Returns a loss that moves hidden units to be on as often as `target` (section 11 of the guide).

    With q the running `average` of how often each unit is on, the cross entropy between target and q has the
    gradient q - target with respect to the input of the unit, and so to its bias and its weights.
    """
    field = visible @ params["kernel"] + params["hidden"]
    return (jax.lax.stop_gradient(average - target) * field.mean(axis=0)).sum()


def log_partition(
    params: Machine,
    key: Key,
    *,
    chains: int = 100,
    temperatures: int = 1000,
    base: Float[Array, "v"] | None = None,
    units: str = "binary",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimates log Z by annealed importance sampling (Salakhutdinov and Murray 2008), with its error.

    Chains begin in a machine without weights whose visible biases are `base` (0 unless given; those that fit
    the mean of the data serve best), and the parameters move to those of `params` in `temperatures` equal
    steps. The error is the estimate's standard deviation in nats as the chains show it: too small where none
    of them found the states that matter.
    """
    start = jnp.zeros_like(params["visible"]) if base is None else base

    def between(beta):
        visible = (1 - beta) * start + beta * params["visible"]
        return {"kernel": beta * params["kernel"], "visible": visible, "hidden": beta * params["hidden"]}

    def step(carry, schedule):
        visible, weight = carry
        before, after, key = schedule
        ratio = free_energy(between(before), visible, units) - free_energy(between(after), visible, units)
        return (gibbs(between(after), visible, key, units=units)[0], weight + ratio), None

    first, rest = jax.random.split(key)
    empty = jnp.zeros((chains, len(params["hidden"])))  # without weights they make no difference
    visible = sample_visible(visible_mean(between(0.0), empty, units), first, units)
    betas = jnp.linspace(0, 1, temperatures + 1)
    schedule = (betas[:-1], betas[1:], jax.random.split(rest, temperatures))
    (_, weights), _ = jax.lax.scan(step, (visible, jnp.zeros(chains)), schedule)
    first_sum = _log_weight(between(0.0), empty[:1], units)[0] + len(params["hidden"]) * jnp.log(2.0)
    average = jax.nn.logsumexp(weights) - jnp.log(chains)
    return first_sum + average, jnp.exp(weights - average).std() / jnp.sqrt(chains)


def exact_log_partition(params: Machine, units: str = "binary") -> Float[Array, ""]:
    """Returns log Z by summing over all hidden states, of which there are 2^h; refuses more than 20 units."""
    count = len(params["hidden"])
    if count > 20:
        raise ValueError(f"{count} hidden units have 2^{count} states; at most 20 can be summed over")
    states = jnp.arange(2**count)[:, None] >> jnp.arange(count) & 1
    return jax.nn.logsumexp(_log_weight(params, states.astype(jnp.float32), units))


def _log_weight(params: Machine, hidden: Float[Array, "b h"], units: str) -> Float[Array, "b"]:
    """Returns the log of the sum, or the integral, of exp(-E(v, h)) over all visible states v."""
    field = visible_field(params, hidden)
    if _binary(units):
        summed = jax.nn.softplus(field).sum(axis=-1)
    else:
        squares = jnp.square(field) - jnp.square(params["visible"])
        summed = (squares + jnp.log(2 * jnp.pi)).sum(axis=-1) / 2
    return hidden @ params["hidden"] + summed


def _binary(units: str) -> bool:
    """Tells whether units are binary; raises ValueError unless they are of `UNITS`."""
    if units not in UNITS:
        raise ValueError(f"visible units are {' or '.join(map(repr, UNITS))}, not {units!r}")
    return units == "binary"
