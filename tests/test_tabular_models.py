"""Networks for tables: counted by hand, blind to the unknown, and the FT-Transformer's parts one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same

from dlx.core import Model
from dlx.models import MODELS

SMALL = {
    "tabular_mlp": {"hidden": (16, 16), "embedding": 4, "dropout": 0.5},
    "tabular_resnet": {"width": 8, "depth": 2, "hidden": 16, "embedding": 4, "dropout": 0.5},
    "ft_transformer": {"width": 8, "depth": 2, "heads": 2, "dropout": 0.5},
}
CARDINALITIES = (4, 3)


@pytest.fixture(params=sorted(SMALL), scope="module")
def built(request):
    """A model as jitted functions, variables in which every number matters, and inputs."""
    model = MODELS[request.param](num_classes=3, cardinalities=CARDINALITIES, **SMALL[request.param])
    model = Model(jax.jit(model.init), jax.jit(model.apply))
    rng = np.random.default_rng(0)
    numbers = jnp.float32(rng.normal(size=(6, 5)))
    codes = jnp.int32(np.stack([rng.integers(1, size, 6) for size in CARDINALITIES], 1))
    variables = model.init(jax.random.key(0), numbers, codes)
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), variables.params)
    return model, variables._replace(params=params), (numbers, codes)


def count(name, numbers, categories, **settings):
    model = MODELS[name](num_classes=1, **settings)
    inputs = jax.ShapeDtypeStruct((1, numbers), jnp.float32), jax.ShapeDtypeStruct((1, categories), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


def test_the_number_of_parameters_is_that_of_the_paper_by_hand():
    embedded = 3 * 8 + 2 * 8
    inside = 5 + 2 * 8
    expected = embedded + inside * 64 + 64 + 64 * 32 + 32 + 32 + 1
    assert count("tabular_mlp", 5, 2, cardinalities=(4, 3), hidden=(64, 32)) == expected
    block = 2 * 128 + 128 * 256 + 256 + 256 * 128 + 128
    expected = embedded + inside * 128 + 128 + 3 * block + 2 * 128 + 128 + 1
    assert count("tabular_resnet", 5, 2, cardinalities=(4, 3)) == expected
    width, hidden = 192, 256
    block = 4 * (width**2 + width) + 2 * width + width * 2 * hidden + 2 * hidden + hidden * width + width
    tokens = width + 8 * 2 * width  # the answer's, and a weight and a bias for each of eight numbers
    expected = tokens + 3 * block + 2 * 2 * width + 2 * width + width + 1
    assert count("ft_transformer", 8, 0) == expected


def test_numbers_as_waves_are_the_formula_of_the_paper():
    """PLR of Gorishniy et al. (2022) by hand: relu(linear(concat(cos(2 pi c x), sin(2 pi c x)))), column by
    column."""
    model = MODELS["tabular_mlp"](2, (), embedding=4, hidden=(), dropout=0.0, waves=3, deviation=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    codes = jnp.zeros((6, 0), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), x, codes)
    sizes = jax.tree.map(jnp.shape, variables.params)
    assert sizes == {
        "features": {"numbers": {"frequencies": (5, 3), "kernel": (5, 6, 4), "bias": (5, 4)}},
        "head": {"kernel": (5 + 20, 2), "bias": (2,)},
    }
    waves, head = jax.tree.map(
        np.asarray, (variables.params["features"]["numbers"], variables.params["head"])
    )
    vectors = [np.asarray(x)]
    for column in range(5):
        phase = 2 * np.pi * np.outer(x[:, column], waves["frequencies"][column])
        both = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
        vectors.append(np.maximum(both @ waves["kernel"][column] + waves["bias"][column], 0))
    expected = np.concatenate(vectors, axis=1) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply(variables, x, codes)[0], expected, atol=1e-5)
    many = MODELS["tabular_mlp"](1, (), waves=2000, deviation=0.5)
    shapes = jax.jit(many.init)(jax.random.key(0), x, codes).params["features"]["numbers"]
    assert float(shapes["frequencies"].std()) == pytest.approx(0.5, rel=0.05)
    slopes = jax.grad(lambda p: model.apply(variables._replace(params=p), x, codes)[0].sum())(
        variables.params
    )
    assert (jnp.abs(slopes["features"]["numbers"]["frequencies"]) > 0).all()


def test_without_a_key_the_outputs_are_the_same_twice_and_with_one_they_vary(built):
    model, variables, inputs = built
    outputs, state = model.apply(variables, *inputs)
    assert outputs.shape == (6, 3) and outputs.dtype == jnp.float32
    assert same(outputs, model.apply(variables, *inputs)[0]) and same(state, variables.state)
    one, two = (model.apply(variables, *inputs, key=jax.random.key(seed))[0] for seed in (1, 2))
    assert not same(one, two)


def test_a_batch_of_two_is_two_batches_of_one(built):
    model, variables, (numbers, codes) = built
    together, _ = model.apply(variables, numbers[:2], codes[:2])
    apart = [model.apply(variables, numbers[i : i + 1], codes[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(together, jnp.concatenate(apart), rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient_and_every_column_matters(built):
    model, variables, (numbers, codes) = built

    def loss(params, numbers):
        return jnp.sum(model.apply(variables._replace(params=params), numbers, codes)[0] ** 2)

    gradients, slopes = jax.jit(jax.grad(loss, (0, 1)))(variables.params, numbers)
    dead = [jax.tree_util.keystr(p) for p, g in jax.tree.leaves_with_path(gradients) if not jnp.any(g != 0)]
    assert not dead and bool((jnp.abs(slopes).max(0) > 0).all())
    before, _ = model.apply(variables, numbers, codes)
    for column, size in enumerate(CARDINALITIES):
        changed = codes.at[:, column].set(1 + codes[:, column] % (size - 1))
        assert not np.allclose(model.apply(variables, numbers, changed)[0], before)


def test_an_unknown_category_has_no_vector(built):
    model, variables, (numbers, codes) = built
    unknown, _ = model.apply(variables, numbers, codes.at[:, 0].set(0))

    def emptied(path, leaf):
        return leaf * ("category_0" not in jax.tree_util.keystr(path))

    params = jax.tree_util.tree_map_with_path(emptied, variables.params)
    without, _ = model.apply(variables._replace(params=params), numbers, codes)
    np.testing.assert_allclose(unknown, without, rtol=1e-5, atol=1e-6)
    assert not np.allclose(unknown, model.apply(variables, numbers, codes)[0])


def test_a_table_without_categories_or_without_numbers_is_learned_from(key):
    for name, settings in SMALL.items():
        model = MODELS[name](num_classes=1, **settings)
        inputs = jnp.ones((2, 3)), jnp.zeros((2, 0), jnp.int32)
        assert jax.eval_shape(model.init, key, *inputs).params
        model = MODELS[name](num_classes=1, cardinalities=(3,), **settings)
        inputs = jnp.zeros((2, 0)), jnp.ones((2, 1), jnp.int32)
        shapes = jax.eval_shape(model.init, key, *inputs)
        assert jax.eval_shape(model.apply, shapes, *inputs)[0].shape == (2, 1)


def test_columns_may_come_in_another_order_for_the_transformer():
    model = MODELS["ft_transformer"](num_classes=2, **SMALL["ft_transformer"])
    model = Model(jax.jit(model.init), jax.jit(model.apply))
    numbers, codes = jnp.float32(np.random.default_rng(0).normal(size=(4, 5))), jnp.zeros((4, 0), jnp.int32)
    variables = model.init(jax.random.key(0), numbers, codes)
    tokens = variables.params["tokens"]
    order = jnp.array([3, 1, 4, 0, 2])
    moved = tokens | {"weight": tokens["weight"][order], "bias": tokens["bias"][order]}
    expected, _ = model.apply(variables, numbers, codes)
    found, _ = model.apply(
        variables._replace(params=variables.params | {"tokens": moved}), numbers[:, order], codes
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_attention_with_dropout_of_nothing_is_attention():
    """The form for training, which drops weights, is the fast one when next to none are dropped."""
    settings = SMALL["ft_transformer"] | {"dropout": 0.0}
    numbers, codes = jnp.float32(np.random.default_rng(0).normal(size=(4, 5))), jnp.zeros((4, 0), jnp.int32)
    slow, fast = (
        MODELS["ft_transformer"](num_classes=2, attention_dropout=rate, **settings) for rate in (1e-9, 0.0)
    )
    variables = jax.jit(slow.init)(jax.random.key(0), numbers, codes)
    inputs = (variables, numbers, codes)
    outputs = [jax.jit(m.apply)(*inputs, key=jax.random.key(1))[0] for m in (slow, fast)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


def test_wrong_sizes_are_refused(key):
    for name in SMALL:
        with pytest.raises(ValueError, match=r"1 categories for cardinalities \(4, 3\)"):
            model = MODELS[name](num_classes=1, cardinalities=CARDINALITIES)
            jax.eval_shape(model.init, key, jnp.ones((2, 3)), jnp.ones((2, 1), jnp.int32))
    with pytest.raises(ValueError, match="width=10 does not split into heads=4 evenly"):
        MODELS["ft_transformer"](num_classes=1, width=10, heads=4)
