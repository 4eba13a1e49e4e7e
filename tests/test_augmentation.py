from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from dlx.layers.augmentation import (
    bilinear,
    cutmix,
    mixup,
    random_affine,
    random_boxes,
    random_crop,
    random_erasing,
    random_flip,
    random_resized_crop,
)
from dlx.layers.randaugment import LARGEST, OPERATIONS, color_jitter, histogram, operate, rand_augment

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


PIXELS = jnp.round(255 * jax.random.uniform(jax.random.key(6), (32, 12, 10, 3)) ** 2)
PICTURES = jnp.round(255 * jax.random.uniform(jax.random.key(7), (14, 24, 20, 3)) ** 2)
LABELS = jax.nn.one_hot(jnp.arange(32), 32)
WAYS = {  # each way of changing images alone, and its strength 0
    "affine": (partial(random_affine, shift=2.0, rotate=20.0), random_affine),
    "crop": (partial(random_crop, pad=3), partial(random_crop, pad=0)),
    "resized crop": (
        partial(random_resized_crop, size=(12, 10)),
        partial(random_resized_crop, size=(12, 10), area=(1.0, 1.0), aspect=(10 / 12, 10 / 12)),
    ),
    "erasing": (partial(random_erasing, probability=1.0), partial(random_erasing, probability=0.0)),
    "randaugment": (partial(rand_augment, magnitude=15.0), partial(rand_augment, operations=0)),
    "colours": (color_jitter, partial(color_jitter, brightness=0.0, contrast=0.0, color=0.0)),
}
MIXES = {"mixup": mixup, "cutmix": cutmix}


@pytest.mark.parametrize("way, nothing", WAYS.values(), ids=WAYS)
def test_the_laws_of_every_way_to_change_an_image(way, nothing, key):
    way = jax.jit(way)
    once, twice = way(key, PIXELS), way(key, PIXELS)
    assert same(once, twice) and not same(once, way(jax.random.key(1), PIXELS))
    assert once.shape == PIXELS.shape and once.min() >= 0 and once.max() <= 255
    np.testing.assert_allclose(nothing(key, PIXELS), PIXELS, atol=1e-3)

    one = jnp.broadcast_to(PIXELS[:1], PIXELS.shape)
    assert len({np.asarray(image).tobytes() for image in way(key, one)}) > 16  # each has its own draw
    np.testing.assert_allclose(way(key, PIXELS.astype(jnp.uint8)).astype(jnp.float32), once, atol=1e-3)


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_labels_are_mixed_with_the_pixels(mix, key):
    """Images of one level each, their number: the mean level must be that of the mixed label."""
    levels = jnp.broadcast_to(jnp.arange(32.0)[:, None, None, None], (32, 12, 10, 3))
    images, labels = jax.jit(mix)(key, levels, LABELS)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), labels @ jnp.arange(32.0), atol=1e-4)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    assert labels.min() >= 0 and len(set(np.asarray(labels.max(axis=1)).tolist())) > 8
    assert same((images, labels), jax.jit(mix)(key, levels, LABELS))
    assert not same(images, mix(jax.random.key(1), levels, LABELS)[0])
    unmixed = mix(key, levels, LABELS, 0.0)
    np.testing.assert_array_equal(unmixed[0], levels)
    np.testing.assert_array_equal(unmixed[1], LABELS)


def test_cutmix_pastes_one_rectangle_whose_share_is_the_labels(key):
    numbered = jnp.broadcast_to(jnp.arange(32)[:, None, None, None], (32, 12, 10, 1)).astype(jnp.uint8)
    images, labels = cutmix(key, numbered, LABELS)
    assert images.dtype == jnp.uint8
    pasted = 0
    for number, (image, label) in enumerate(zip(np.asarray(images), np.asarray(labels), strict=True)):
        foreign = image[..., 0] != number
        assert round(120 * (1 - float(label[number]))) == foreign.sum()
        if foreign.any():
            rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
            assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            other = set(image[foreign].ravel().tolist())
            assert len(other) == 1 and label[other.pop()] == pytest.approx(foreign.sum() / 120, abs=1e-6)
            pasted += 1
    assert pasted > 16


def test_mixup_draws_from_beta(key):
    many = jnp.broadcast_to(jnp.arange(4000) % 2, (1, 4000)).T.astype(jnp.float32)
    labels = jnp.concatenate([many, 1 - many], axis=1)
    images = jnp.zeros((4000, 1, 1, 1))
    _, mixed = mixup(key, images, labels, alpha=0.5)
    own = jnp.where(many[:, 0] == 1, mixed[:, 0], mixed[:, 1])
    met = own < 1 - 1e-6  # the other one had the other label
    share = np.asarray(own[met])
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.5 + 1)), abs=0.01)  # of Beta(a, a)


@pytest.mark.parametrize("pad", [1, 4])
def test_a_crop_is_the_image_shifted_over_black(pad, key):
    cropped = random_crop(key, PIXELS, pad)
    found = set()
    for crop, image in zip(np.asarray(cropped), np.asarray(PIXELS), strict=True):
        around = np.pad(image, [(pad, pad), (pad, pad), (0, 0)])
        places = [
            (y, x)
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
            if np.array_equal(around[y : y + 12, x : x + 10], crop)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 4


BOXES = jax.jit(random_boxes, static_argnums=(1, 2, 3, 4))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(8, 8), (5, 30)]))
def test_boxes_lie_inside_with_the_area_and_aspect_asked_for(seed, size):
    area, aspect = (0.1, 0.6), (0.5, 2.0)
    fits, corner, sides = BOXES(jax.random.key(seed), 64, size, area, aspect)
    corner, sides = corner[fits], sides[fits]
    assert bool(jnp.all(corner >= 0)) and bool(jnp.all(corner + sides <= jnp.array(size) + 1e-3))
    share, ratio = sides.prod(axis=1) / (size[0] * size[1]), sides[:, 1] / sides[:, 0]
    assert bool(jnp.all((share > 0.098) & (share < 0.602)))
    assert bool(jnp.all((ratio > 0.49) & (ratio < 2.01)))
    assert float(fits.mean()) > (0.9 if size == (8, 8) else 0.0)


def test_a_resized_crop_is_a_straight_piece_of_the_image(key):
    """Of a picture whose two channels are row and column, a crop is a ramp in each."""
    row, column = jnp.meshgrid(jnp.arange(40.0), jnp.arange(60.0), indexing="ij")
    ramps = jnp.broadcast_to(jnp.stack([row, column], -1), (16, 40, 60, 2))
    crop = partial(random_resized_crop, size=(6, 8), area=(0.3, 0.6), aspect=(1.0, 2.0))
    crops = jax.jit(crop)(key, ramps)
    assert crops.shape == (16, 6, 8, 2)
    inner = np.asarray(crops)[:, 1:-1, 1:-1]
    down, right = np.diff(inner[..., 0], axis=1), np.diff(inner[..., 1], axis=2)
    height, width = 6 * down.mean(axis=(1, 2)), 8 * right.mean(axis=(1, 2))
    np.testing.assert_allclose(6 * down, np.broadcast_to(height[:, None, None], down.shape), rtol=0.03)
    np.testing.assert_allclose(8 * right, np.broadcast_to(width[:, None, None], right.shape), rtol=0.03)
    assert np.all((height * width > 0.28 * 2400) & (height * width < 0.62 * 2400))
    assert np.all((width / height > 0.97) & (width / height < 2.05)) and len(set(height.tolist())) == 16


def test_where_no_rectangle_fits_the_largest_centred_one_is_taken(key):
    image = jnp.broadcast_to(jnp.arange(40.0)[None, None, :, None], (2, 10, 40, 1))
    crops = random_resized_crop(key, image, (10, 10), area=(1.0, 1.0), aspect=(1.0, 1.0))
    np.testing.assert_allclose(crops[0, 0, :, 0], np.arange(15, 25), atol=1e-3)
    same_as_before = random_erasing(key, image, 1.0, area=(1.0, 1.0), aspect=(1.0, 1.0))
    np.testing.assert_array_equal(same_as_before, image)


def test_erasing_fills_one_rectangle_in_the_share_of_images_asked_for(key):
    images = jnp.full((400, 12, 10, 1), -1.0)
    erase = partial(random_erasing, probability=0.25, area=(0.1, 0.3), aspect=(0.5, 2.0))
    erased = np.asarray(jax.jit(erase)(key, images))[..., 0] != -1
    share = erased.mean(axis=(1, 2))
    assert 0.18 < (share > 0).mean() < 0.32
    assert share[share > 0].min() > 0.05 and share.max() < 0.4
    for foreign in erased[share > 0][:20]:
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def enhanced(enhance):
    return lambda image, amount: enhance(image).enhance(1 + amount)


PILLOW = {  # operation -> Pillow's, an amount, and by how many levels rounding may differ
    "identity": (lambda image, amount: image, 0.0, 0),
    "autocontrast": (lambda image, amount: ImageOps.autocontrast(image), 0.0, 1),
    "equalize": (lambda image, amount: ImageOps.equalize(image), 0.0, 0),
    "solarize": (lambda image, amount: ImageOps.solarize(image, int(256 - amount)), 100.0, 0),
    "posterize": (lambda image, amount: ImageOps.posterize(image, int(8 - amount)), 3.0, 0),
    "brightness": (enhanced(ImageEnhance.Brightness), 0.6, 1),
    "contrast": (enhanced(ImageEnhance.Contrast), 0.6, 1),
    "color": (enhanced(ImageEnhance.Color), 0.6, 2),
    "sharpness": (enhanced(ImageEnhance.Sharpness), 0.6, 2),
}


@pytest.mark.parametrize("name", PILLOW)
def test_colours_are_pillows(name):
    theirs, amount, tolerance = PILLOW[name]
    for sign in (1, -1) if name in ("brightness", "contrast", "color", "sharpness") else (1,):
        ours = apply(PICTURES, name, sign * amount)
        for mine, image in zip(ours, PICTURES, strict=True):
            expected = theirs(Image.fromarray(np.asarray(image, np.uint8)), sign * amount)
            np.testing.assert_allclose(mine, np.asarray(expected, np.float32), atol=tolerance)
    assert name == "identity" or not np.allclose(ours, PICTURES, atol=2)


def apply(images, name, amount):
    count = len(images)
    return jax.jit(operate)(images, jnp.full(count, OPERATIONS.index(name)), jnp.full(count, amount))


MOVES = {  # the coefficients of Pillow's affine transform, about the corner, in pixels' edges
    "shear_x": (0.3, (1, 0.3, -0.3 * 6, 0, 1, 0)),
    "shear_y": (0.3, (1, 0, 0, 0.3, 1, -0.3 * 5)),
    "translate_x": (0.4, (1, 0, 4, 0, 1, 0)),
    "translate_y": (0.25, (1, 0, 0, 0, 1, 3)),
}


@pytest.mark.parametrize("name", [*MOVES, "rotate"])
def test_moves_are_pillows(name):
    image = PIXELS[0]
    picture = Image.fromarray(np.asarray(image, np.uint8))
    grey, bilinear = (128, 128, 128), Image.Resampling.BILINEAR
    if name == "rotate":
        ours, expected = apply(image[None], name, 25.0)[0], picture.rotate(25, bilinear, fillcolor=grey)
    else:
        amount, matrix = MOVES[name]
        ours = apply(image[None], name, amount)[0]
        expected = picture.transform((10, 12), Image.Transform.AFFINE, matrix, bilinear, fillcolor=grey)
    np.testing.assert_allclose(ours, np.asarray(expected, np.float32), atol=1)


def test_randaugment_keeps_grey_images_in_range_and_whole_levels(key):
    images = PIXELS[..., :1]
    out = jax.jit(partial(rand_augment, operations=3, magnitude=30.0))(key, images)
    assert out.shape == images.shape
    assert bool(jnp.all((out >= 0) & (out <= 255) & (out == jnp.round(out))))


def test_magnitude_zero_changes_only_the_contrast():
    for name in OPERATIONS:
        assert same(apply(PICTURES, name, 0.0), PICTURES) != (name in ("autocontrast", "equalize")), name


def test_every_image_gets_its_own_operation():
    choice = jnp.arange(len(OPERATIONS))
    amount = jnp.array(list(LARGEST.values())) / 2
    together = jax.jit(operate)(PICTURES, choice, amount)
    for number, name in enumerate(OPERATIONS):
        assert same(together[number], apply(PICTURES, name, amount[number])[number]), name


def test_an_even_image_survives_every_operation():
    even = jnp.full((1, 8, 8, 3), 77.0)
    for name in ("autocontrast", "equalize", "contrast", "color", "sharpness"):
        np.testing.assert_array_equal(apply(even, name, 0.0), even)


def test_the_histogram_counts():
    expected = [np.bincount(np.asarray(PIXELS[3, ..., c], int).ravel(), minlength=256) for c in range(3)]
    np.testing.assert_array_equal(histogram(PIXELS)[3], np.stack(expected, -1))


def test_a_magnitude_out_of_range_is_named(key):
    with pytest.raises(ValueError, match="31"):
        rand_augment(key, PIXELS, magnitude=31.0)
