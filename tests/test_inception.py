from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from conftest import same

from dlx.models import inception
from dlx.pretrained import PretrainedError, from_torchvision, to_torchvision

back = partial(to_torchvision, "inception_v3")


@pytest.fixture(scope="module")
def network():
    """torchvision's network, and its variables here."""
    reference = parity.torchvision("inception_v3", num_classes=7, init_weights=False, transform_input=False)
    return reference, from_torchvision("inception_v3", parity.arrays(reference))


@pytest.fixture(scope="module")
def apply():
    return jax.jit(inception.inception_v3(7).apply)


@pytest.mark.parametrize("size", [75, 96])
def test_it_is_torchvisions(network, size):
    reference, variables = network
    parity.check_inference(reference, inception.inception_v3(7), variables, parity.images(2, size))


def test_it_trains_as_torchvisions_with_both_outputs(network):
    reference, variables = network
    model = inception.inception_v3(7, dropout=0.0)
    parity.check_training(reference, model, variables, parity.images(6, 299), back)


def test_gradients_are_torchvisions(network):
    reference, variables = network
    parity.check_gradients(reference, inception.inception_v3(7), variables, parity.images(2, 75), back)


def test_a_round_trip_is_exact_and_holds_the_auxiliary_classifier(network):
    theirs = parity.arrays(network[0])
    ours = back(network[1])
    assert same(ours, {name: theirs[name] for name in theirs if not name.endswith("num_batches_tracked")})
    assert "AuxLogits.fc.weight" in ours


def test_weights_without_auxiliary_classifier_are_refused(network):
    bare = {name: x for name, x in parity.arrays(network[0]).items() if not name.startswith("AuxLogits")}
    with pytest.raises(PretrainedError, match=r"missing: AuxLogits\.conv0\.conv\.weight"):
        from_torchvision("inception_v3", bare)


def test_without_key_it_is_the_same_twice_and_a_batch_is_its_examples(network, apply):
    images = parity.images(2, 75)
    logits, state = apply(network[1], images)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    assert same(logits, apply(network[1], images)[0]) and same(state, network[1].state)
    np.testing.assert_allclose(apply(network[1], images[:1])[0], logits[:1], rtol=1e-4, atol=1e-5)


def test_the_auxiliary_classifier_has_parameters_at_any_size_and_costs_nothing_in_inference(key):
    def count(auxiliary):
        image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
        shapes = jax.eval_shape(inception.inception_v3(auxiliary=auxiliary).init, key, image)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes.params))

    assert (count(True), count(False)) == (27_161_264, 23_834_568)


def test_training_on_small_images_needs_no_auxiliary_classifier(network, key):
    images = parity.images(2, 96)
    with pytest.raises(ValueError, match="auxiliary=False"):
        jax.eval_shape(lambda: inception.inception_v3(7).apply(network[1], images, key=key))
    model = inception.inception_v3(7, auxiliary=False)
    logits, _ = jax.eval_shape(lambda: model.apply(model.init(key, images), images, key=key))
    assert logits.shape == (2, 7)


def test_half_precision_keeps_float32_weights_and_logits(network, apply, key):
    model, images = inception.inception_v3(7, dtype="bfloat16"), parity.images(2, 75)
    shapes = jax.eval_shape(model.init, key, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    rounded, exact = jax.jit(model.apply)(network[1], images)[0], apply(network[1], images)[0]
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.05 * float(jnp.abs(exact).max()))
