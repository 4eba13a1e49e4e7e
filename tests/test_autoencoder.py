"""Autoencoders and Deep SVDD: the terms of the bound, its gradient, and what keeps a centre from collapse."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same

from dlx import losses
from dlx.core import Variables
from dlx.models import MODELS, autoencoder
from dlx.nn import ensemble

SMALL = {
    "autoencoder": {"hidden": (8,), "code": 3},
    "denoising_autoencoder": {"hidden": (8,), "code": 3, "noise": 0.5},
    "variational_autoencoder": {"hidden": (8,), "code": 3},
}


@pytest.fixture
def x():
    return jnp.float32(np.random.default_rng(0).normal(size=(6, 4, 5, 1)))


def test_the_divergence_is_that_of_samples():
    mean, log_variance = jnp.array([0.5, -1.0, 0.0]), jnp.array([0.3, -2.0, 0.0])
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(jax.random.key(0), (200_000, 3))
    own = -0.5 * (log_variance + jnp.square(z - mean) / jnp.exp(log_variance))
    samples = (own + 0.5 * jnp.square(z)).sum(-1)
    expected, error = float(samples.mean()), float(samples.std()) / 200_000**0.5
    assert float(losses.gaussian_kl(mean, log_variance)) == pytest.approx(expected, abs=4 * error)
    assert float(losses.gaussian_kl(jnp.zeros((1, 4)), jnp.zeros((1, 4)))[0]) == 0


def linear_gaussian(weights, offset, mean_weights, mean_offset, log_variance):
    """Parameters of a variational autoencoder without hidden layers, of one number of code."""
    encoder = {
        "kernel": jnp.stack([mean_weights, jnp.zeros_like(mean_weights)], 1),
        "bias": jnp.array([mean_offset, log_variance]),
    }
    decoder = {"kernel": weights[None], "bias": offset}
    return Variables({"encoder": {"dense_0": encoder}, "decoder": {"dense_0": decoder}}, {})


def test_the_bound_is_the_likelihood_for_the_exact_posterior_and_below_it_for_others():
    weights, offset = jnp.array([1.0, -0.5, 2.0]), jnp.array([0.2, 0.0, -1.0])
    x = jnp.array([[0.3, 1.0, -0.4]])
    covariance = jnp.outer(weights, weights) + jnp.eye(3)
    exact = jax.scipy.stats.multivariate_normal.logpdf(x[0], offset, covariance)
    variance = 1 / (1 + weights @ weights)
    model = MODELS["variational_autoencoder"](hidden=(), code=1)

    def bound(shift):
        posterior = (variance * weights, -variance * weights @ offset + shift, jnp.log(variance) + shift)
        many = jnp.broadcast_to(x, (100_000, 3))
        found, _ = model.apply(linear_gaussian(weights, offset, *posterior), many, key=jax.random.key(1))
        error = jnp.square(found["reconstruction"] - many).sum(-1)
        likelihood = -0.5 * error - 1.5 * jnp.log(2 * jnp.pi)
        return float((likelihood - losses.gaussian_kl(found["mean"], found["log_variance"])).mean())

    assert bound(0.0) == pytest.approx(float(exact), abs=0.02)
    assert bound(0.5) < float(exact) - 0.1


def test_the_gradient_passes_through_the_sample():
    model = MODELS["variational_autoencoder"](hidden=(), code=1)
    x = jnp.zeros((200_000, 1))

    def square(bias):
        params = linear_gaussian(jnp.ones(1), jnp.zeros(1), jnp.zeros(1), bias[0], bias[1])
        return jnp.square(model.apply(params, x, key=jax.random.key(0))[0]["code"]).mean()

    found = jax.grad(square)(jnp.array([0.7, -0.4]))  # of mean**2 + variance
    np.testing.assert_allclose(found, [2 * 0.7, np.exp(-0.4)], rtol=0.02)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_outputs_have_the_shape_of_inputs_and_only_a_key_makes_them_vary(name, x):
    model = MODELS[name](**SMALL[name])
    variables = model.init(jax.random.key(0), x)
    found, state = model.apply(variables, x)
    assert found["reconstruction"].shape == x.shape and found["code"].shape == (6, 3)
    assert same(found, model.apply(variables, x)[0]) and same(state, variables.state)
    one, two = (model.apply(variables, x, key=jax.random.key(seed))[0] for seed in (1, 2))
    assert same(one, two) == (name == "autoencoder")
    single = model.apply(variables, x[:1])[0]
    np.testing.assert_allclose(single["reconstruction"], found["reconstruction"][:1], atol=1e-6)
    if name == "variational_autoencoder":
        assert same(found["code"], found["mean"])
        again = autoencoder.decode(variables.params, found["code"], x.shape)
        np.testing.assert_array_equal(again, found["reconstruction"])


def test_a_denoiser_differs_from_the_plain_one_by_its_noise_alone(x):
    variables = MODELS["autoencoder"](hidden=(8,), code=3).init(jax.random.key(0), x)
    model = MODELS["denoising_autoencoder"](hidden=(8,), code=3, noise=0.5)
    assert same(variables, model.init(jax.random.key(0), x))
    seen = x + 0.5 * jax.random.normal(jax.random.key(1), (6, 20)).reshape(x.shape)
    by_hand, _ = model.apply(variables, seen)
    found, _ = model.apply(variables, x, key=jax.random.key(1))
    np.testing.assert_allclose(found["code"], by_hand["code"], atol=1e-6)
    with pytest.raises(ValueError, match="noise=-1 is a standard deviation"):
        MODELS["denoising_autoencoder"](noise=-1)


def test_the_number_of_parameters_is_that_by_hand():
    def count(name, **settings):
        shapes = jax.eval_shape(
            MODELS[name](hidden=(16, 8), code=3, **settings).init, jax.random.key(0), jnp.zeros((1, 10))
        )
        return sum(leaf.size for leaf in jax.tree.leaves(shapes.params))

    inner = 10 * 16 + 16 * 8 + 8 * 3
    assert count("autoencoder") == 2 * inner + (16 + 8 + 3) + (8 + 16 + 10)
    assert count("variational_autoencoder") == 2 * inner + 8 * 3 + (16 + 8 + 6) + (8 + 16 + 10)
    assert count("deep_svdd") == inner


def test_the_centre_of_deep_svdd_is_of_the_data_fixed_and_nowhere_zero(x):
    model = MODELS["deep_svdd"](hidden=(8,), code=16)
    variables = model.init(jax.random.key(0), x)
    assert all("bias" not in layer for layer in variables.params.values())
    centre = variables.state["centre"]
    assert float(jnp.abs(centre).min()) >= 0.1 - 1e-6
    far = jnp.abs(mean := model.apply(variables, x)[0]["code"].mean(0)) > 0.1
    assert far.any() and not far.all()
    np.testing.assert_allclose(centre[far], mean[far], atol=1e-5)
    np.testing.assert_array_equal(jnp.sign(centre), jnp.where(mean < 0, -1, 1))
    found, state = model.apply(variables, 3 * x, key=jax.random.key(1))
    assert same(state, variables.state)
    np.testing.assert_allclose(found["distance"], jnp.square(found["code"] - centre).sum(-1), rtol=1e-6)
    nothing = variables._replace(params=jax.tree.map(jnp.zeros_like, variables.params))
    assert float(model.apply(nothing, x)[0]["distance"].min()) >= 16 * 0.1**2 - 1e-6


def test_members_of_an_ensemble_are_models_of_their_own(x):
    model = MODELS["denoising_autoencoder"](hidden=(8,), code=3)
    both = ensemble(model, 3)
    variables = both.init(jax.random.key(0), x)
    plain, _ = both.apply(variables, x)
    noisy, _ = both.apply(variables, x, key=jax.random.key(1))
    for member in range(3):
        own = model.init(jax.random.split(jax.random.key(0), 3)[member], x)
        assert same(own, jax.tree.map(operator.itemgetter(member), variables))
        np.testing.assert_allclose(plain["code"][member], model.apply(own, x)[0]["code"], atol=1e-6)
        key = jax.random.split(jax.random.key(1), 3)[member]
        np.testing.assert_allclose(noisy["code"][member], model.apply(own, x, key=key)[0]["code"], atol=1e-6)
    with pytest.raises(ValueError, match="at least one member, not 0"):
        ensemble(model, 0)
