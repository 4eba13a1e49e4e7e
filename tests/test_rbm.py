"""Boltzmann machines against their definition: sums over all states of machines small enough for it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.models import dbn, rbm


def small(visible=4, hidden=3, std=0.8, seed=1):
    """A machine of a few units that feel each other."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "kernel": std * jax.random.normal(keys[0], (visible, hidden)),
        "visible": 0.5 * jax.random.normal(keys[1], (visible,)),
        "hidden": 0.5 * jax.random.normal(keys[2], (hidden,)),
    }


def states(count):
    return jnp.array(list(itertools.product((0.0, 1.0), repeat=count)))


def energy(params, visible, hidden, units="binary"):
    """The definition, for one state."""
    felt = -hidden @ params["hidden"] - visible @ params["kernel"] @ hidden
    if units == "binary":
        return felt - visible @ params["visible"]
    return felt + jnp.square(visible - params["visible"]).sum() / 2


@pytest.mark.parametrize("units", rbm.UNITS)
def test_the_free_energy_sums_over_all_hidden_states(units, key):
    params, visible = small(), jax.random.normal(key, (5, 4))
    for row, found in zip(visible, rbm.free_energy(params, visible, units), strict=True):
        energies = jnp.array([energy(params, row, hidden, units) for hidden in states(3)])
        assert found == pytest.approx(float(-jax.nn.logsumexp(-energies)), rel=1e-5)


@pytest.mark.parametrize("units", rbm.UNITS)
def test_units_have_the_means_that_their_energy_gives(units, key):
    params, visible = small(), jax.random.normal(key, (1, 4))
    weights = jax.nn.softmax(jnp.array([-energy(params, visible[0], h, units) for h in states(3)]))
    assert jnp.allclose(rbm.hidden_mean(params, visible)[0], weights @ states(3), atol=1e-6)
    hidden = jnp.array([[1.0, 0.0, 1.0]])
    mean = rbm.visible_mean(params, hidden, units)[0]
    if units == "binary":
        weights = jax.nn.softmax(jnp.array([-energy(params, v, hidden[0]) for v in states(4)]))
        assert jnp.allclose(mean, weights @ states(4), atol=1e-6)
    else:  # the energy is smallest at the mean
        slope = jax.grad(energy, 1)(params, mean, hidden[0], units)
        assert jnp.allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize("units", rbm.UNITS)
@pytest.mark.parametrize("persistent", [False, True])
def test_the_gradient_of_contrastive_divergence_is_the_hand_formula(units, persistent, key):
    """<v h> of the fantasies minus <v h> of the data, at whatever fantasies the chain gives."""
    params, visible = small(), jax.random.uniform(key, (6, 4))
    chain = jax.random.uniform(jax.random.key(5), (9, 4)).round() if persistent else None
    _, fantasy = rbm.gibbs(params, visible if chain is None else chain, key, 3, units)

    def loss(params):
        return rbm.contrastive_divergence(params, visible, key, 3, units, chain)[0]

    found = jax.grad(loss)(params)
    on, dreamt = rbm.hidden_mean(params, visible), rbm.hidden_mean(params, fantasy)
    kernel = fantasy.T @ dreamt / len(fantasy) - visible.T @ on / len(visible)
    assert jnp.allclose(found["kernel"], kernel, atol=1e-5)
    assert jnp.allclose(found["hidden"], dreamt.mean(0) - on.mean(0), atol=1e-5)
    assert jnp.allclose(found["visible"], fantasy.mean(0) - visible.mean(0), atol=1e-5)


def test_a_persistent_chain_goes_on_from_its_samples(key):
    params, visible, chain = small(), jnp.ones((6, 4)), jnp.zeros((9, 4))
    _, sample = rbm.contrastive_divergence(params, visible, key, 2, "binary", chain)
    assert sample.shape == chain.shape and set(np.unique(sample)) <= {0.0, 1.0}
    assert jnp.array_equal(sample, rbm.gibbs(params, chain, key, 2)[0])
    elsewhere = rbm.contrastive_divergence(params, 1 - visible, key, 2, "binary", chain)[1]
    assert jnp.array_equal(sample, elsewhere)  # the data have no part in it


def exact(params):
    """The probability of every visible state."""
    return jax.nn.softmax(-rbm.free_energy(params, states(len(params["visible"]))))


def test_the_chain_of_a_small_machine_has_its_distribution(key):
    params, chains = small(), 40_000
    visible = jax.random.bernoulli(key, 0.5, (chains, 4)).astype(jnp.float32)
    sample, _ = jax.jit(rbm.gibbs, static_argnums=3)(params, visible, key, 30)
    number = (sample @ jnp.array([8.0, 4.0, 2.0, 1.0])).astype(int)
    found = jnp.bincount(number, length=16) / chains
    assert jnp.abs(found - exact(params)).max() < 5 * (0.25 / chains) ** 0.5


def test_a_chain_of_gaussian_units_has_the_exact_mean(key):
    params, chains = small(std=0.5), 40_000
    sample, _ = jax.jit(rbm.gibbs, static_argnums=(3, 4))(params, jnp.zeros((chains, 4)), key, 40, "gaussian")
    hidden = states(3)
    field = rbm.visible_field(params, hidden)
    weights = jax.nn.softmax(hidden @ params["hidden"] + jnp.square(field).sum(-1) / 2)
    assert jnp.abs(sample.mean(0) - weights @ field).max() < 0.05


@pytest.mark.parametrize("units", rbm.UNITS)
def test_the_exact_partition_function_is_the_sum_over_all_states(units):
    params = small()
    if units == "binary":
        total = jax.nn.logsumexp(-rbm.free_energy(params, states(4)))
    else:  # an integral over a grid, of a machine with one visible unit
        params = small(visible=1)
        grid = jnp.linspace(-12, 12, 4001)[:, None]
        total = jax.nn.logsumexp(-rbm.free_energy(params, grid, units)) + jnp.log(24 / 4000)
    assert rbm.exact_log_partition(params, units) == pytest.approx(float(total), abs=1e-4)


@pytest.mark.parametrize("units", rbm.UNITS)
@pytest.mark.parametrize("base", [None, jnp.linspace(-1.0, 1.0, 6)])
def test_annealed_importance_sampling_finds_the_partition_function(units, base, key):
    params = small(6, 5, 0.6)
    found, error = jax.jit(
        lambda p: rbm.log_partition(p, key, chains=500, temperatures=300, base=base, units=units)
    )(params)
    assert 0 < error < 0.1
    assert found == pytest.approx(float(rbm.exact_log_partition(params, units)), abs=5 * float(error))


def test_a_machine_too_large_to_sum_and_unknown_units_are_refused(key):
    with pytest.raises(ValueError, match="30 hidden units have 2.30 states"):
        rbm.exact_log_partition(rbm.init(key, 4, 30))
    with pytest.raises(ValueError, match="'binary' or 'gaussian', not 'softmax'"):
        rbm.free_energy(small(), jnp.ones((1, 4)), "softmax")


@pytest.mark.parametrize("persistent", [False, True])
def test_learning_raises_the_exact_likelihood(persistent, key):
    data = jnp.array([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]])
    params = rbm.init(key, 6, 4, 0.1)

    def likelihood(params):
        return -rbm.free_energy(params, data).mean() - rbm.exact_log_partition(params)

    def step(carry, key):
        params, chain = carry
        seen = chain if persistent else None

        def loss(params):
            return rbm.contrastive_divergence(params, data, key, 1, "binary", seen)

        grads, chain = jax.grad(loss, has_aux=True)(params)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), chain), None

    start = likelihood(params)
    chain = jnp.zeros((20, 6)) if persistent else data
    (params, _), _ = jax.lax.scan(step, (params, chain), jax.random.split(key, 2000))
    assert start == pytest.approx(6 * np.log(0.5), abs=0.1)
    assert likelihood(params) > -2.2  # the best is -log 3 = -1.1


def test_the_gradient_of_sparsity_is_how_far_units_are_from_their_target(key):
    params, visible = small(), jax.random.uniform(key, (6, 4))
    average = jnp.array([0.5, 0.1, 0.02])
    found = jax.grad(rbm.sparsity)(params, visible, average, 0.1)
    assert jnp.allclose(found["hidden"], average - 0.1, atol=1e-6)
    assert jnp.allclose(found["kernel"], jnp.outer(visible.mean(0), average - 0.1), atol=1e-6)
    assert jnp.all(found["visible"] == 0)


def test_a_stack_unrolled_is_a_perceptron_on_its_own_features(key):
    model, x = dbn.dbn(3, [5, 4]), jax.random.uniform(key, (7, 2, 3, 1))
    variables = model.init(key, x)
    logits, state = model.apply(variables, x)
    hidden = x.reshape(7, 6)
    for layer in range(2):  # by hand
        machine = variables.params[f"layer_{layer}"]
        hidden = jax.nn.sigmoid(hidden @ machine["kernel"] + machine["hidden"])
    assert jnp.allclose(dbn.encode(variables.params, x.reshape(7, 6), 2), hidden)
    head = variables.params["head"]
    assert jnp.allclose(logits, hidden @ head["kernel"] + head["bias"], atol=1e-6)
    assert state is variables.state


@pytest.mark.parametrize("units", rbm.UNITS)
def test_the_decoder_goes_back_through_the_same_weights(units, key):
    variables = dbn.dbn(3, [5, 4], units).init(key, jnp.ones((1, 6)))
    hidden = jax.random.uniform(key, (7, 4))
    lower, upper = variables.params["layer_0"], variables.params["layer_1"]
    field = (
        jax.nn.sigmoid(hidden @ upper["kernel"].T + upper["visible"]) @ lower["kernel"].T + lower["visible"]
    )
    wanted = jax.nn.sigmoid(field) if units == "binary" else field
    assert jnp.allclose(dbn.decode(variables.params, hidden, 2, units), wanted, atol=1e-6)


def test_a_network_with_chains_keeps_one_for_each_layer(key):
    state = dbn.dbn(3, [5, 4], "gaussian", chains=8).init(key, jnp.ones((1, 6))).state
    bottom, top = state["layer_0"]["chain"], state["layer_1"]["chain"]
    assert bottom.shape == (8, 6) and top.shape == (8, 5)
    assert set(np.unique(top)) == {0.0, 1.0} and len(np.unique(bottom)) == 48
    assert "chain" not in dbn.dbn(3, [5]).init(key, jnp.ones((1, 6))).state["layer_0"]
