"""RandAugment (Cubuk et al. 2019): a few operations drawn for each image, at one common magnitude.

Each operation is one of three kinds: a warp of positions, a table of levels, a blend with a second picture
of the image itself. All images of a batch go through the three, by their own numbers, and take the result
of the kind that was drawn for them: fourteen operations cost three, without branches.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from dlx.layers.augmentation import bilinear

LARGEST = {  # operation -> its amount at magnitude 30, in the units that `operate` names
    "identity": 0.0,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 0.45,
    "translate_y": 0.45,
    "rotate": 30.0,
    "solarize": 256.0,
    "posterize": 4.0,
    "autocontrast": 0.0,
    "equalize": 0.0,
    "brightness": 0.9,
    "contrast": 0.9,
    "color": 0.9,
    "sharpness": 0.9,
}
OPERATIONS = tuple(LARGEST)
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
TABLES = ("solarize", "posterize", "autocontrast", "equalize", "brightness", "contrast")
BLENDS = ("color", "sharpness")
ONE_SIDED = ("identity", "solarize", "posterize", "autocontrast", "equalize")


def rand_augment(
    key: Array, images: Num[Array, "b h w c"], operations: int = 2, magnitude: float = 9.0
) -> Float[Array, "b h w c"]:
    """Applies to each image so many operations, each drawn out of fourteen, at a magnitude between 0 and 30.

    Pixels are between 0 and 255 and come back as whole numbers. The amounts grow linearly with the
    magnitude up to those of torchvision: `LARGEST`, with either sign where that makes sense. With no
    operations the images come back unchanged, and at magnitude 0 by all but autocontrast and equalize.
    """
    if not 0 <= magnitude <= 30:
        raise ValueError(f"the magnitude is between 0 and 30, not {magnitude}")
    largest = jnp.array(list(LARGEST.values())) * (magnitude / 30)
    two_sided = jnp.array([name not in ONE_SIDED for name in OPERATIONS])
    images = images.astype(jnp.float32)

    def step(images, key):
        choice_key, sign_key = jax.random.split(key)
        choice = jax.random.randint(choice_key, (len(images),), 0, len(OPERATIONS))
        minus = jax.random.bernoulli(sign_key, 0.5, (len(images),)) & two_sided[choice]
        return operate(images, choice, jnp.where(minus, -1, 1) * largest[choice]), None

    return jax.lax.scan(step, images, jax.random.split(key, operations))[0]


def color_jitter(
    key: Array,
    images: Num[Array, "b h w c"],
    brightness: float = 0.4,
    contrast: float = 0.4,
    color: float = 0.4,
) -> Float[Array, "b h w c"]:
    """Changes brightness, contrast and colour, in this order, of each image by its own uniform factors.

    Factors are between 1 minus and 1 plus the argument; at 0 nothing changes. Pixels are between 0 and 255
    and come back as whole numbers (Krizhevsky, Sutskever and Hinton 2012; Howard 2013).
    """
    images = images.astype(jnp.float32)
    strengths = {"brightness": brightness, "contrast": contrast, "color": color}
    for step, (name, strength) in zip(jax.random.split(key, 3), strengths.items(), strict=True):
        amount = jax.random.uniform(step, (len(images),), minval=-strength, maxval=strength)
        images = operate(images, jnp.full(len(images), OPERATIONS.index(name)), amount)
    return images


def operate(
    images: Float[Array, "b h w c"], choice: Int[Array, "b"], amount: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Applies `OPERATIONS[choice]` to each image, by its own `amount`.

    The amount is a slope for the shears, a share of the side for the translations, degrees counterclockwise
    for the rotation, levels below 256 from which "solarize" inverts, bits that "posterize" removes
    (rounded), and the factor less 1 for "brightness", "contrast", "color" and "sharpness". Places that come
    from outside the image are grey, 128.
    """
    chosen = {name: choice == number for number, name in enumerate(OPERATIONS)}
    images = jnp.clip(jnp.round(images), 0, 255)
    levels = images.astype(jnp.int32).reshape(len(images), -1, images.shape[-1])
    steps = {  # each from the images that came in: XLA would compute a chain over again for every neighbour
        MOVES: warp(images, chosen, amount),
        TABLES: jnp.take_along_axis(tables(images, chosen, amount), levels, axis=1).reshape(images.shape),
        BLENDS: recolour(images, chosen, amount),
    }
    for names, changed in steps.items():
        ours = functools.reduce(jnp.logical_or, [chosen[name] for name in names])
        images = jnp.where(ours[:, None, None, None], jnp.clip(jnp.round(changed), 0, 255), images)
    return images


def warp(
    images: Float[Array, "b h w c"], chosen: dict[str, Bool[Array, "b"]], amount: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Shears, translates or rotates about the centre, by bilinear sampling."""
    _, height, width, _ = images.shape

    def only(*names):
        return sum(jnp.where(chosen[name], amount, 0.0) for name in names)

    angle = jnp.deg2rad(only("rotate"))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack([cos, sin + only("shear_y"), only("shear_x") - sin, cos], -1).reshape(-1, 1, 1, 2, 2)
    offset = jnp.stack([only("translate_y") * height, only("translate_x") * width], axis=-1)[:, None, None]

    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    centre = jnp.array([height - 1, width - 1]) / 2
    where = jnp.sum(matrix * (grid - centre)[..., None, :], axis=-1) + centre + offset
    outside = jnp.any((where < -0.5) | (where > jnp.array([height, width]) - 0.5), axis=-1, keepdims=True)
    return jnp.where(outside, 128.0, jax.vmap(bilinear)(images, where))


def tables(
    images: Float[Array, "b h w c"], chosen: dict[str, Bool[Array, "b"]], amount: Float[Array, "b"]
) -> Float[Array, "b 256 c"]:
    """Returns what each level of each channel becomes."""
    level = jnp.arange(256.0)[:, None]
    amount = amount[:, None, None]
    low, high = (reduce(images, axis=(1, 2))[:, None] for reduce in (jnp.min, jnp.max))
    step = 2.0 ** jnp.clip(jnp.round(amount), 0, 8)
    mean = jnp.round(grey(images).mean(axis=(1, 2)))[:, None]
    found = {
        "solarize": jnp.where(level < 256 - amount, level, 255 - level),
        "posterize": level // step * step,
        "autocontrast": jnp.where(high > low, (level - low) * 255 / jnp.maximum(high - low, 1), level),
        "equalize": equalizing(images),
        "brightness": (1 + amount) * level,
        "contrast": (1 + amount) * level - amount * mean,
    }
    table = jnp.broadcast_to(level, (len(images), 256, images.shape[-1]))
    for name, levels in found.items():
        table = jnp.where(chosen[name][:, None, None], levels, table)
    return jnp.clip(table, 0, 255)


def equalizing(images: Float[Array, "b h w c"]) -> Float[Array, "b 256 c"]:
    """Returns the tables that make the levels of each channel about equally frequent, as Pillow does."""
    count = histogram(images)
    level = jnp.arange(256)[:, None]
    last = jnp.max(jnp.where(count > 0, level, 0), axis=1, keepdims=True)
    step = (count.sum(axis=1, keepdims=True) - jnp.take_along_axis(count, last, axis=1)) // 255
    below = jnp.cumsum(count, axis=1) - count
    return jnp.where(step > 0, (step // 2 + below) // jnp.maximum(step, 1), level).astype(jnp.float32)


def histogram(images: Float[Array, "b h w c"]) -> Int[Array, "b 256 c"]:
    """Counts the levels, whole numbers from 0 to 255, of each channel of each image."""
    batch, _, _, channels = images.shape
    pixels = images.reshape(batch, -1, channels).astype(jnp.int32)
    place = (jnp.arange(batch)[:, None, None] * 256 + pixels) * channels + jnp.arange(channels)
    # one flat sum: far faster on a CPU than products of indicators
    return jnp.zeros(batch * 256 * channels, jnp.int32).at[place].add(1).reshape(batch, 256, channels)


def recolour(
    images: Float[Array, "b h w c"], chosen: dict[str, Bool[Array, "b"]], amount: Float[Array, "b"]
) -> Float[Array, "b h w c"]:
    """Moves images away from, or towards, their grey or their smoothed picture."""
    other = images
    for name, picture in (("color", grey(images)), ("sharpness", smooth(images))):
        other = jnp.where(chosen[name][:, None, None, None], picture, other)
    return images + amount[:, None, None, None] * (images - other)


def grey(images: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    """Returns the luma of colour images (ITU-R BT.601), rounded; other images' channels averaged."""
    if images.shape[-1] != 3:
        return jnp.round(images.mean(axis=-1, keepdims=True))
    red, green, blue = jnp.split(images, 3, axis=-1)
    return jnp.round(0.299 * red + 0.587 * green + 0.114 * blue)


def smooth(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Averages each pixel, with weight 5, with its eight neighbours; the pixels at the edge stay."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images[:, 1:-1, 1:-1]
    return images.at[:, 1:-1, 1:-1].set(jnp.round(sums / 13))
