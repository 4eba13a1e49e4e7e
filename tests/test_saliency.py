"""Saliency against models whose gradient is known."""

import jax
import jax.numpy as jnp
import numpy as np

from dlx import saliency


def test_the_gradient_of_a_linear_model_is_its_weight(key):
    """Smoothed too, for it is the same everywhere; each image gets that of its own class."""
    weight = jax.random.normal(key, (4, 3, 2, 5))
    images = jax.random.randint(key, (6, 4, 3, 2), 0, 256)
    classes = jnp.array([0, 4, 2, 2, 1, 3])

    def logits(images):
        return jnp.einsum("bhwc,hwck->bk", images, weight) + 7

    expected = jnp.moveaxis(weight[..., classes], -1, 0)
    np.testing.assert_allclose(saliency.input_gradient(logits, images, classes), expected, rtol=1e-6)
    smooth = saliency.smooth_gradient(logits, key, images, classes, noise=10.0, draws=3)
    np.testing.assert_allclose(smooth, expected, rtol=1e-5)


def test_smoothing_averages_the_gradient_around_the_image(key):
    """The logit is a cube: its gradient 3 x^2 has the mean 3 (x^2 + noise^2), channel by channel."""
    images = jnp.full((1, 40, 40, 2), 2.0)
    noise = jnp.array([0.0, 1.0])

    def logits(images):
        return (images**3).sum(axis=(1, 2, 3))[:, None]

    def smooth(draws):
        return saliency.smooth_gradient(logits, key, images, jnp.array([0]), noise=noise, draws=draws)

    found = smooth(64)
    np.testing.assert_allclose(found[..., 0], 12, rtol=1e-5)
    assert abs(found[..., 1].mean() - 15) < 0.1  # 5 standard errors
    assert smooth(64)[..., 1].std() < 0.5 * smooth(4)[..., 1].std()
