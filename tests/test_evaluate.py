import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import metrics, sharding
from dlx.core import Variables
from dlx.data import pipeline
from dlx.evaluate import collected, mean_over

DATA = {"x": np.random.default_rng(0).normal(size=(83, 4)).astype(np.float32), "label": np.arange(83) % 3}
VARIABLES = Variables({"w": jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)}, {})


def predict(variables, batch):
    return {"logits": batch["x"] @ variables.params["w"], "label": batch["label"]}


def score(variables, batch):
    return {"accuracy": metrics.accuracy(predict(variables, batch)["logits"], batch["label"], batch["mask"])}


@pytest.mark.parametrize("size", [8, 16, 80, 88])
@pytest.mark.parametrize("devices", [1, 8])
def test_a_mean_is_exact_whatever_the_batch_size_the_padding_and_the_devices(size, devices):
    expected = np.mean((DATA["x"] @ np.asarray(VARIABLES.params["w"])).argmax(-1) == DATA["label"])
    with jax.set_mesh(sharding.mesh(devices=jax.devices()[:devices])):
        found = mean_over(pipeline.passes(DATA, size), score)(VARIABLES)
    assert found["accuracy"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("devices", [1, 8])
def test_collected_predictions_are_those_of_the_data_in_order_without_padding(devices):
    with jax.set_mesh(sharding.mesh(devices=jax.devices()[:devices])):
        found = collected(pipeline.passes(DATA, 16), predict, lambda values: values)(VARIABLES)
    np.testing.assert_array_equal(found["label"], DATA["label"])
    np.testing.assert_allclose(
        found["logits"], DATA["x"] @ np.asarray(VARIABLES.params["w"]), rtol=1e-5, atol=1e-6
    )


def test_the_score_is_traced_once_over_passes():
    traces = []

    def counted(variables, batch):
        traces.append(1)
        return score(variables, batch)

    evaluate = mean_over(pipeline.passes(DATA, 16), counted)
    assert evaluate(VARIABLES) == evaluate(VARIABLES) and len(traces) == 1


def test_an_empty_pass_is_named():
    for evaluator in (mean_over(lambda: iter([]), score), collected(lambda: iter([]), predict, dict)):
        with pytest.raises(ValueError, match="nothing to evaluate"):
            evaluator(VARIABLES)
