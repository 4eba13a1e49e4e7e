import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlx.layers.embedding import Stretch, frequencies, places, rotary


def test_products_of_rotated_vectors_know_only_the_distance(key):
    query, other = jax.random.normal(key, (2, 1, 1, 3, 8))

    def product(first, second):
        turned = (rotary(x, jnp.full((1, 1), p)) for x, p in ((query, first), (other, second)))
        return jnp.sum(next(turned) * next(turned), axis=-1)

    np.testing.assert_allclose(product(7, 3), product(104, 100), atol=1e-5)
    assert not np.allclose(product(7, 3), product(7, 4), atol=1e-3)


def test_rotation_is_that_of_complex_numbers(key):
    x = np.asarray(jax.random.normal(key, (2, 5, 3, 8)), np.float64)
    positions = np.array([[0, 1, 2, 3, 4], [9, 8, 50, 6, 5]])
    angle = positions[:, :, None, None] * 100.0 ** (-np.arange(4) / 4)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angle)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    got = rotary(jnp.float32(x), jnp.asarray(positions), base=100.0)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    half = rotary(jnp.bfloat16(x), jnp.asarray(positions) + 4096, base=100.0)
    wide = rotary(jnp.float32(jnp.bfloat16(x)), jnp.asarray(positions) + 4096, base=100.0)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.float32(half), wide, atol=0.02
    )  # angles of bfloat16 would be off by radians


def test_a_stretch_keeps_fast_rotations_and_slows_slow_ones():
    plain, long = frequencies(32, 500_000.0), frequencies(32, 500_000.0, Stretch(factor=32.0))
    turns = 8192 * plain / (2 * np.pi)
    np.testing.assert_array_equal(long[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(long[turns < 1], plain[turns < 1] / 32, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any() and bool(jnp.all((long < plain)[between] & (long > plain / 32)[between]))


@pytest.mark.parametrize(("start", "expected"), [(None, [[0, 1, 2]]), ([4, 0], [[4, 5, 6], [0, 1, 2]])])
def test_places_follow_each_other(start, expected):
    got = places(jnp.zeros((2, 3), jnp.int32), start and jnp.array(start))
    assert got.tolist() == expected
