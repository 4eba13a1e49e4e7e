import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same

from dlx.models import MODELS

SMALL = {  # a small instance of every model, and the shape of its input
    "convnet": ({"widths": (4, 8), "depth": 1, "dropout": 0.5}, (8, 8, 1)),
    "lenet": ({"features": (4, 8, 16), "dropout": 0.5}, (8, 8, 1)),
    "mlp": ({"hidden": (16, 16), "dropout": 0.5}, (8, 8, 1)),
}
COUNTS = {  # counted by hand from the layers, for inputs 28x28x1 and 10 classes
    "mlp": 784 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10,
    "lenet": 25 * 32 + 32 + 25 * 32 * 64 + 64 + 7 * 7 * 64 * 256 + 256 + 256 * 10 + 10,
    "convnet": 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
    + 2 * 2 * (32 + 64 + 128)
    + 128 * 10
    + 10,
}


@pytest.fixture(params=sorted(MODELS))
def built(request, key):
    settings, shape = SMALL[request.param]
    model = MODELS[request.param](num_classes=3, **settings)
    images = jax.random.normal(jax.random.key(1), (6, *shape))
    return model, model.init(key, images), images


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_number_of_parameters_is_the_known_one(name, key):
    shapes = jax.eval_shape(MODELS[name](num_classes=10).init, key, jnp.zeros((1, 28, 28, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == COUNTS[name]


def test_logits_come_without_key_the_same_twice(built):
    model, variables, images = built
    logits, state = model.apply(variables, images)
    assert logits.shape == (6, 3) and logits.dtype == jnp.float32
    assert same(logits, model.apply(variables, images)[0]) and same(state, variables.state)


def test_a_batch_of_two_is_two_batches_of_one(built):
    model, variables, images = built
    together, _ = model.apply(variables, images[:2])
    apart = jnp.concatenate([model.apply(variables, images[i : i + 1])[0] for i in range(2)])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


def test_dropout_draws_from_the_key(built):
    model, variables, images = built
    one, two = (model.apply(variables, images, key=jax.random.key(seed))[0] for seed in (1, 2))
    assert not same(one, two)


def test_every_parameter_gets_a_gradient(built):
    model, variables, images = built

    def loss(params):
        return jnp.sum(model.apply(variables._replace(params=params), images)[0] ** 2)

    gradients = jax.grad(loss)(variables.params)
    dead = [
        jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(gradients) if not jnp.any(g != 0)
    ]
    assert not dead


def test_bfloat16_compute_keeps_float32_parameters_and_logits(key):
    for name, (settings, shape) in SMALL.items():
        model = MODELS[name](num_classes=3, dtype="bfloat16", **settings)
        images = jnp.ones((2, *shape))
        variables = model.init(key, images)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}, name
        exact, _ = MODELS[name](num_classes=3, **settings).apply(variables, images)
        rounded, _ = model.apply(variables, images)
        assert rounded.dtype == jnp.float32
        np.testing.assert_allclose(rounded, exact, atol=0.05, err_msg=name)
