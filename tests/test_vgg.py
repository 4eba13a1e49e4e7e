from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from dlx.models import MODELS, vgg
from dlx.pretrained import from_torchvision, to_torchvision


def test_the_network_is_torchvisions():
    reference = parity.torchvision("vgg16", num_classes=10)
    variables = from_torchvision("vgg16", parity.arrays(reference))
    parity.check_inference(reference, vgg.vgg16(10), variables, parity.images(2, 64))


def test_the_normalised_network_is_torchvisions(monkeypatch):
    """With narrow dense layers, in training mode and backwards too."""

    def narrow():
        torch, model = parity.needed("torch"), parity.needed("torchvision").models.vgg16_bn()
        for number, (inputs, outputs) in {0: (25088, 32), 3: (32, 32), 6: (32, 7)}.items():
            model.classifier[number] = torch.nn.Linear(inputs, outputs)
        return model

    monkeypatch.setitem(MODELS, "vgg16_bn", partial(vgg.vgg16_bn, hidden=32))
    reference = parity.perturbed(narrow)
    variables = from_torchvision("vgg16_bn", parity.arrays(reference))
    model, back = vgg.vgg16_bn(7, hidden=32, dropout=0.0), partial(to_torchvision, "vgg16_bn")
    for size in (32, 70):
        parity.check_inference(reference, model, variables, parity.images(2, size))
    parity.check_training(reference, model, variables, parity.images(4, 70), back)
    parity.check_gradients(reference, model, variables, parity.images(2, 70), back)


@pytest.mark.parametrize("name", ["vgg19", "vgg19_bn"])
def test_the_deeper_ones_have_torchvisions_entries(name, key):
    torch, models = parity.needed("torch"), parity.needed("torchvision").models
    with torch.device("meta"):
        theirs = models.get_model(name).state_dict()
    theirs = {k: tuple(v.shape) for k, v in theirs.items() if "num_batches_tracked" not in k}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(MODELS[name]().init, key, image)
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    assert {k: v.shape for k, v in to_torchvision(name, blank).items()} == theirs


def test_dropout_falls_on_both_hidden_layers(key):
    model = vgg.vgg16(3, hidden=1000)
    images = jnp.ones((1, 32, 32, 3))
    jaxpr = jax.make_jaxpr(lambda: model.apply(model.init(key, images), images, key=key)[0])()
    assert str(jaxpr).count("name=_bernoulli") == 2
