from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same

from dlx.core import Model
from dlx.models import MODELS

SMALL = {  # a small instance of every family, and the shape of its input
    "convnet": ({"widths": (4, 8), "depth": 1, "dropout": 0.5}, (8, 8, 1)),
    "lenet": ({"features": (4, 8, 16), "dropout": 0.5}, (8, 8, 1)),
    "mlp": ({"hidden": (16, 16), "dropout": 0.5}, (8, 8, 1)),
    "resnet18": ({"stem": "small"}, (8, 8, 1)),
    "vgg16_bn": ({"hidden": 16}, (32, 32, 1)),
    "vit_s16": (
        {"width": 16, "depth": 2, "heads": 2, "hidden": 32, "dropout": 0.2, "stochastic_depth": 0.2},
        (32, 32, 1),
    ),
}
COUNTS = {  # number of classes, shape of an image, parameters
    "dbn": (10, (28, 28, 1), 1_666_794),  # 784-500-500-2000 and 10, with the visible biases
    # counted by hand from the layers
    "mlp": (10, (28, 28, 1), 784 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10),
    "lenet": (
        10,
        (28, 28, 1),
        25 * 32 + 32 + 25 * 32 * 64 + 64 + 7 * 7 * 64 * 256 + 256 + 256 * 10 + 10,
    ),
    "convnet": (
        10,
        (28, 28, 1),
        9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
        + 2 * 2 * (32 + 64 + 128)
        + 128 * 10
        + 10,
    ),
    # published
    "efficientnet_b0": (1000, (224, 224, 3), 5_288_548),
    "efficientnet_b1": (1000, (224, 224, 3), 7_794_184),
    "efficientnet_b2": (1000, (224, 224, 3), 9_109_994),
    "efficientnet_b3": (1000, (224, 224, 3), 12_233_232),
    "efficientnet_b4": (1000, (224, 224, 3), 19_341_616),
    "efficientnet_b5": (1000, (224, 224, 3), 30_389_784),
    "efficientnet_b6": (1000, (224, 224, 3), 43_040_704),
    "efficientnet_b7": (1000, (224, 224, 3), 66_347_960),
    "inception_v3": (1000, (299, 299, 3), 27_161_264),
    "resnet18": (1000, (224, 224, 3), 11_689_512),
    "resnet34": (1000, (224, 224, 3), 21_797_672),
    "resnet50": (1000, (224, 224, 3), 25_557_032),
    "resnet101": (1000, (224, 224, 3), 44_549_160),
    "resnet152": (1000, (224, 224, 3), 60_192_808),
    "vgg16": (1000, (224, 224, 3), 138_357_544),
    "vgg16_bn": (1000, (224, 224, 3), 138_365_992),
    "vgg19": (1000, (224, 224, 3), 143_667_240),
    "vgg19_bn": (1000, (224, 224, 3), 143_678_248),
    "vit_b16": (1000, (224, 224, 3), 86_567_656),
    "vit_b32": (1000, (224, 224, 3), 88_224_232),
    "vit_l16": (1000, (224, 224, 3), 304_326_632),
    "vit_l32": (1000, (224, 224, 3), 306_535_400),
    "vit_s16": (1000, (224, 224, 3), 22_050_664),
    "vit_s32": (1000, (224, 224, 3), 22_878_952),
}


def compiled(name, **settings):
    """Builds a model whose functions are jitted: many small compilations take longer than one."""
    model = MODELS[name](num_classes=3, **SMALL[name][0], **settings)
    return Model(jax.jit(model.init), jax.jit(model.apply))


@pytest.fixture(params=sorted(SMALL), scope="module")
def built(request):
    model = compiled(request.param)
    images = jax.random.normal(jax.random.key(1), (6, *SMALL[request.param][1]))
    return model, model.init(jax.random.key(0), images), images


def test_every_model_is_counted_here_or_where_its_family_is_tested():
    families = (
        "autoencoder",
        "bert",
        "forecasting_models",
        "gpt",
        "recurrent_models",
        "seq2seq",
        "tabular_models",
        "text_cnn",
        "transformer",
    )
    others = "".join((Path(__file__).parent / f"test_{family}.py").read_text() for family in families)
    missing = [name for name in set(MODELS) - set(COUNTS) if f'"{name.removeprefix("bert_")}"' not in others]
    assert missing == []


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_the_number_of_parameters_is_the_known_one(name, key):
    classes, shape, count = COUNTS[name]
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    shapes = jax.eval_shape(MODELS[name](num_classes=classes).init, key, image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count


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


@pytest.mark.parametrize("built", [name for name in SMALL if "resnet" not in name], indirect=True)
def test_dropout_draws_from_the_key(built):
    model, variables, images = built
    one, two = (model.apply(variables, images, key=jax.random.key(seed))[0] for seed in (1, 2))
    assert not same(one, two)


def test_every_parameter_gets_a_gradient(built):
    model, variables, images = built

    def loss(params):
        return jnp.sum(model.apply(variables._replace(params=params), images)[0] ** 2)

    gradients = jax.jit(jax.grad(loss))(variables.params)
    dead = [
        jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(gradients) if not jnp.any(g != 0)
    ]
    assert not dead


def test_bfloat16_compute_keeps_float32_parameters_and_logits(key):
    for name, (_, shape) in SMALL.items():
        model = compiled(name, dtype="bfloat16")
        images = jnp.ones((2, *shape))
        variables = model.init(key, images)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}, name
        exact, _ = compiled(name).apply(variables, images)
        rounded, _ = model.apply(variables, images)
        assert rounded.dtype == jnp.float32
        np.testing.assert_allclose(rounded, exact, atol=0.05, err_msg=name)
