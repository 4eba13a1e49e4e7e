"""Adapters: nothing at the start, exact when merged, and alone in what is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import lora
from dlx.models import MODELS
from tests.conftest import same


@pytest.fixture
def net():
    model = MODELS["mlp"](num_classes=3, hidden=[8, 6])
    inputs = jax.random.normal(jax.random.key(1), (5, 4))
    return model, inputs, model.init(jax.random.key(2), inputs)


def nudged(variables):
    """The variables after a change of every adapter."""
    return variables._replace(params=jax.tree.map(lambda leaf: leaf + 0.1, variables.params))


def test_at_the_start_the_adapted_model_is_the_model(net):
    model, inputs, variables = net
    start = lora.start(jax.random.key(0), variables, rank=2)
    outputs, _ = lora.adapted(model, rank=2).apply(start, inputs)
    assert same(outputs, model.apply(variables, inputs)[0])


def test_merging_changes_no_bit_of_the_outputs(net):
    model, inputs, variables = net
    changed = nudged(lora.start(jax.random.key(0), variables, rank=2, alpha=3.0))
    outputs, state = lora.adapted(model, rank=2, alpha=3.0).apply(changed, inputs)
    whole = lora.merged(changed)
    assert same(outputs, model.apply(whole, inputs)[0])
    assert jax.tree.structure(whole) == jax.tree.structure(variables)
    assert jax.tree.structure(state) == jax.tree.structure(changed.state)
    assert not np.allclose(outputs, model.apply(variables, inputs)[0])


def test_a_merged_kernel_is_the_sum_of_the_paper(net):
    _, _, variables = net
    changed = nudged(lora.start(jax.random.key(0), variables, rank=2, targets="Dense_0/kernel", alpha=6.0))
    adapter = changed.params["Dense_0/kernel"]
    expected = variables.params["Dense_0"]["kernel"] + 6.0 / 2 * adapter["a"] @ adapter["b"]
    whole = lora.merged(changed)
    np.testing.assert_allclose(whole.params["Dense_0"]["kernel"], expected, rtol=1e-6)
    assert same(whole.params["Dense_1"], variables.params["Dense_1"])


def test_only_adapters_are_parameters(net):
    model, inputs, _ = net
    small = lora.adapted(model, rank=1, targets="Dense_[01]/kernel")
    variables = small.init(jax.random.key(0), inputs)
    sizes = {name: (pair["a"].shape, pair["b"].shape) for name, pair in variables.params.items()}
    assert sizes == {"Dense_0/kernel": ((4, 1), (1, 8)), "Dense_1/kernel": ((8, 1), (1, 6))}
    grads = jax.grad(lambda params: small.apply(variables._replace(params=params), inputs)[0].sum())(
        variables.params
    )
    assert all(jnp.abs(pair["b"]).max() > 0 for pair in grads.values())


def test_kernels_of_convolutions_have_adapters_too():
    model = MODELS["lenet"](num_classes=3, features=[4, 5, 6])
    images = jnp.ones((2, 12, 12, 1))
    small = lora.adapted(model, rank=2, targets="Conv_1/kernel")
    variables = small.init(jax.random.key(0), images)
    (pair,) = variables.params.values()
    assert (pair["a"].shape[1], pair["b"].shape) == (2, (2, 5))
    changed = nudged(variables)
    assert same(small.apply(changed, images)[0], model.apply(lora.merged(changed), images)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "must be at least 1, not 0"),
        ({"rank": 9}, "an adapter of rank 9 is no smaller"),
        (
            {"rank": 2, "targets": "attention"},
            "no matrix matches 'attention'; the parameters are Dense_0/bias",
        ),
    ],
)
def test_what_cannot_be_adapted_is_refused(net, options, message):
    _, _, variables = net
    with pytest.raises(ValueError, match=message):
        lora.start(jax.random.key(0), variables, **options)
