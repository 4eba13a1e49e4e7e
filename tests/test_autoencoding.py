"""Autoencoders of images: the bound in nats, binary images that stay the same, and the figures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx import configuration
from experiments import autoencoding

ROOT = Path(__file__).parent.parent


def smoke(name):
    return configuration.load(str(ROOT / f"configs/autoencoding/{name}.py") + ":smoke")


def test_the_bound_is_that_by_hand_over_binary_images_that_stay_the_same():
    config = smoke("digits_variational")
    task = autoencoding.make_task(config)
    variables = jax.jit(task.init)(jax.random.key(0))
    found = task.evaluators["test"](variables)
    assert found == task.evaluators["test"](variables)
    bounds = []
    for batch in autoencoding.passes(config, "test")():
        assert set(np.unique(batch["binary"])) == {0, 1}
        x = jnp.asarray(batch["binary"])
        outputs, _ = autoencoding.network(config).apply(variables, x, key=jax.random.key(0))
        on = jax.nn.sigmoid(outputs["reconstruction"])
        likelihood = jnp.log(jnp.where(x == 1, on, 1 - on)).sum((1, 2, 3))
        mean, variance = outputs["mean"], jnp.exp(outputs["log_variance"])
        kl = 0.5 * (variance + mean**2 - 1 - jnp.log(variance)).sum(-1)
        bounds += (likelihood - kl)[batch["mask"] > 0].tolist()
    assert found["elbo"] == pytest.approx(np.mean(bounds), rel=1e-4) and next(iter(found)) == "elbo"
    assert found["loss"] == pytest.approx(-found["elbo"])


def test_pixels_are_on_as_often_as_they_are_bright():
    config = smoke("digits_variational")
    rows = list(autoencoding.passes(config, "test")())
    bright = np.concatenate([row["image"][row["mask"] > 0] for row in rows]) / autoencoding.brightest(config)
    on = np.concatenate([row["binary"][row["mask"] > 0] for row in rows])
    assert on.mean() == pytest.approx(bright.mean(), abs=0.02)
    for low in (0.2, 0.5, 0.7):
        some = (bright >= low) & (bright < low + 0.1)
        assert on[some].mean() == pytest.approx(bright[some].mean(), abs=0.08)


def rows(images):
    return np.asarray(images, np.float64).reshape(len(images), -1)


def test_the_restored_images_are_noisy_ones_and_the_linear_peer_is_the_best_linear_map():
    config = smoke("digits_denoising")
    task, model = autoencoding.make_task(config), autoencoding.network(config)
    variables = jax.jit(task.init)(jax.random.key(0))
    x = rows(autoencoding.tested(config, 10**6))
    noisy = rows(np.concatenate([b["noisy"][b["mask"] > 0] for b in autoencoding.passes(config, "test")()]))
    assert (noisy - x).std() == pytest.approx(config.model.noise, rel=0.05)
    assert abs((noisy - x).mean()) < 0.02
    found = task.evaluators["test"](variables)
    again = jax.nn.sigmoid(model.apply(variables, jnp.asarray(noisy, jnp.float32))[0]["reconstruction"])
    expected = np.square(np.asarray(again) - x).sum(1).mean()
    assert next(iter(found)) == "restoration_error"
    assert found["restoration_error"] == pytest.approx(expected, rel=1e-4)
    assert (
        abs(found["restoration_error"] - found["squared_error"]) > 1e-3
    )  # of the clean images it is another
    train = rows(autoencoding.data(config).splits["train"]["image"]) / autoencoding.brightest(config)
    covariance = np.cov(train.T, bias=True)
    weights = np.linalg.solve(covariance + config.model.noise**2 * np.eye(x.shape[1]), covariance)
    restored = np.clip(train.mean(0) + (noisy - train.mean(0)) @ weights, 0, 1)
    assert found["restoration_error_linear"] == pytest.approx(np.square(restored - x).sum(1).mean(), rel=1e-3)


def test_the_peers_of_other_autoencoders_are_principal_components_and_independent_pixels():
    decomposition = pytest.importorskip("sklearn.decomposition", reason="compares with scikit-learn")
    config = smoke("digits_variational")
    task = autoencoding.make_task(config)
    found = task.evaluators["test"](jax.jit(task.init)(jax.random.key(0)))
    train = rows(autoencoding.data(config).splits["train"]["image"]) / autoencoding.brightest(config)
    x = rows(autoencoding.tested(config, 10**6))
    pca = decomposition.PCA(config.model.code).fit(train)
    again = np.clip(pca.inverse_transform(pca.transform(x)), 0, 1)
    assert found["squared_error_pca"] == pytest.approx(np.square(again - x).sum(1).mean(), rel=1e-3)
    plain = smoke("digits")
    with plain.unlocked():
        plain.model.code = config.model.code
    assert autoencoding.peers(plain, "test") == {"squared_error_pca": found["squared_error_pca"]}
    on = (train.sum(0) + 0.5) / (len(train) + 1)
    ones = rows(autoencoding.binary(config, "test"))
    likelihood = np.log(np.where(ones == 1, on, 1 - on)).sum(1).mean()
    assert found["elbo_pixels"] == pytest.approx(likelihood, rel=1e-4)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_squared_error_is_of_pixels(likelihood):
    config = smoke("digits")
    with config.unlocked():
        config.likelihood = likelihood
    task = autoencoding.make_task(config)
    variables = jax.jit(task.init)(jax.random.key(0))
    x = autoencoding.tested(config, 10**6)
    outputs = autoencoding.network(config).apply(variables, x)[0]["reconstruction"]
    again = jax.nn.sigmoid(outputs) if likelihood == "bernoulli" else jnp.clip(outputs, 0, 1)
    found = task.evaluators["test"](variables)
    assert next(iter(found)) == "squared_error" and "elbo" not in found
    assert found["squared_error"] == pytest.approx(
        float(jnp.square(again - x).sum((1, 2, 3)).mean()), rel=1e-4
    )
    if likelihood == "gaussian":
        expected = jnp.square(outputs - x).sum((1, 2, 3)).mean() / 2
        assert found["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_an_unknown_likelihood_is_named():
    config = smoke("digits")
    with config.unlocked():
        config.likelihood = "bernouli"
    task = autoencoding.make_task(config)
    variables = jax.jit(task.init)(jax.random.key(0))
    with pytest.raises(ValueError, match="did you mean 'bernoulli'"):
        task.loss(variables, task.batch(0), jax.random.key(0))


@pytest.mark.parametrize("name", ["digits_denoising", "digits_variational"])
def test_the_figures_are_drawn(name, tmp_path):
    config = smoke(name)
    variables = jax.jit(autoencoding.make_task(config).init)(jax.random.key(0))
    files = autoencoding.demo(config, variables, tmp_path)
    assert len(files) == (4 if name == "digits_variational" else 2)
    assert all(file.stat().st_size > 3_000 for file in files)
    assert "synthetic_images" in autoencoding.describe(config)["data"]
