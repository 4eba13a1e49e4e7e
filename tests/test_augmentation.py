import jax
import jax.numpy as jnp
import numpy as np
from conftest import same
from scipy import ndimage

from dlx.layers.augmentation import bilinear, random_affine, random_flip

IMAGES = jax.random.uniform(jax.random.key(5), (64, 9, 7, 2))


def test_every_image_is_itself_or_its_mirror_and_both_happen(key):
    flipped = random_flip(key, IMAGES)
    mirrored = [same(a, b[:, ::-1]) for a, b in zip(flipped, IMAGES, strict=True)]
    kept = [same(a, b) for a, b in zip(flipped, IMAGES, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True)) and 16 < sum(mirrored) < 48


def test_strength_zero_is_the_identity_and_the_same_key_the_same_result(key):
    np.testing.assert_allclose(random_affine(key, IMAGES), IMAGES, atol=1e-6)
    strengths = {"shift": 2.0, "rotate": 30.0, "scale": 0.2, "shear": 0.2}
    once, twice = (random_affine(key, IMAGES, **strengths) for _ in range(2))
    other = random_affine(jax.random.key(1), IMAGES, **strengths)
    assert same(once, twice) and not same(once, other) and once.shape == IMAGES.shape


def test_each_image_has_its_own_draw(key):
    one = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    moved = random_affine(key, one, shift=2.0)
    assert len({np.asarray(image).tobytes() for image in moved}) == len(moved)


def test_pixels_stay_in_their_range(key):
    moved = random_affine(key, IMAGES, shift=3.0, rotate=180.0, scale=0.5, shear=0.5)
    assert float(moved.min()) >= float(IMAGES.min()) and float(moved.max()) <= float(IMAGES.max())


def test_sampling_equals_scipy():
    where = jax.random.uniform(jax.random.key(2), (5, 6, 2), minval=-3, maxval=12)
    expected = [
        ndimage.map_coordinates(
            np.asarray(IMAGES[0, ..., c]), np.moveaxis(where, -1, 0), order=1, mode="nearest"
        )
        for c in range(2)
    ]
    np.testing.assert_allclose(bilinear(IMAGES[0], where), np.stack(expected, -1), atol=1e-5)


def test_a_turn_by_ninety_degrees_turns_the_picture():
    square = IMAGES[:, :7]
    angles = jax.random.uniform(jax.random.key(0), (5, 64), minval=-1.0)[0]
    largest = int(jnp.argmax(jnp.abs(angles)))  # the draw of random_affine, scaled to exactly 90 degrees
    turned = random_affine(jax.random.key(0), square, rotate=90.0 / float(jnp.abs(angles[largest])))[largest]
    expected = np.rot90(square[largest], 1 if angles[largest] < 0 else -1)
    mirrored = np.rot90(square[largest], -1 if angles[largest] < 0 else 1)
    assert min(np.abs(turned - expected).max(), np.abs(turned - mirrored).max()) < 1e-3
