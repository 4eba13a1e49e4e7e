from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from dlx.models import MODELS, resnet
from dlx.pretrained import TORCHVISION, from_timm, from_torchvision, to_timm, to_torchvision


@pytest.mark.parametrize("name, size", [("resnet18", 64), ("resnet18", 75), ("resnet50", 64)])
def test_the_network_is_torchvisions(name, size):
    reference = parity.torchvision(name)
    variables = from_torchvision(name, parity.arrays(reference))
    model, images, back = MODELS[name](), parity.images(4, size), partial(to_torchvision, name)
    parity.check_inference(reference, model, variables, images)
    parity.check_training(reference, model, variables, images, back)


def test_gradients_are_torchvisions():
    reference = parity.torchvision("resnet18", num_classes=7)
    variables = from_torchvision("resnet18", parity.arrays(reference))
    model, back = resnet.resnet18(7), partial(to_torchvision, "resnet18")
    parity.check_gradients(reference, model, variables, parity.images(2, 64), back)


def test_gradients_in_training_are_torchvisions(monkeypatch):
    """With SiLU for ReLU on both sides: among a batch's millions of values some lie so near to ReLU's corner
    that rounding, which differs from processor to processor, chooses their gradient.
    """
    monkeypatch.setattr(resnet.nn, "relu", resnet.nn.silu)
    reference = parity.torchvision("resnet18", num_classes=7)
    for module in reference.modules():
        if hasattr(module, "relu"):
            module.relu = parity.needed("torch").nn.SiLU()
    variables = from_torchvision("resnet18", parity.arrays(reference))
    model, back = resnet.resnet18(7), partial(to_torchvision, "resnet18")
    parity.check_gradients(
        reference, model, variables, parity.images(8, 64), back, train=True, tolerance=1e-4
    )


def test_timm_has_the_same_network():
    reference = parity.timm("resnet18", num_classes=7)
    variables = from_timm("resnet18", parity.arrays(reference))
    parity.check_inference(reference, resnet.resnet18(7), variables, parity.images(2, 64))
    assert set(to_timm("resnet18", variables)) == {
        name for name in parity.arrays(reference) if "num_batches_tracked" not in name
    }


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_the_deeper_ones_have_torchvisions_entries(name, key):
    torch, models = parity.needed("torch"), parity.needed("torchvision").models
    with torch.device("meta"):
        theirs = models.get_model(name).state_dict()
    theirs = {k: tuple(v.shape) for k, v in theirs.items() if "num_batches_tracked" not in k}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(MODELS[name]().init, key, image)
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    assert {k: v.shape for k, v in to_torchvision(name, blank).items()} == theirs
    assert name in TORCHVISION


def test_the_small_stem_keeps_the_sides_of_small_images(key):
    def shapes(stem):
        model = resnet.resnet18(10, stem=stem)
        jaxpr = jax.make_jaxpr(lambda: model.apply(model.init(key, images), images)[0])()
        return {v.aval.shape for equation in jaxpr.eqns for v in equation.outvars}

    images = jnp.zeros((2, 28, 28, 1))
    assert (2, 4, 4, 512) in shapes("small")
    assert (2, 1, 1, 512) in shapes("image")


def test_a_wrong_stem_or_depth_is_named():
    with pytest.raises(ValueError, match="'large'"):
        resnet.resnet18(stem="large")
    with pytest.raises(ValueError, match="19 layers"):
        resnet.resnet(19)
