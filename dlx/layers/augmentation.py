"""Augmentation of image batches on the device, inside the jitted step, from the step's key.

Each image, or pair of images, has its own draw; the same key gives the same result. Images are [b, h, w, c]
with pixels between 0 and 255, bytes or real numbers, and stay in that range; only `random_erasing` knows of
it, and the rest works in any range. Labels to be mixed are [b, k], each row a distribution over classes, such
as `jax.nn.one_hot(label, k)` gives. RandAugment and its colours are in `dlx.layers.randaugment`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def random_flip(key: Array, images: Num[Array, "b h w c"]) -> Num[Array, "b h w c"]:
    """Mirrors each image left to right with probability one half."""
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_affine(
    key: Array,
    images: Num[Array, "b h w c"],
    *,
    shift: float = 0.0,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> Float[Array, "b h w c"]:
    """Moves, turns, scales and shears each image by its own uniform draw, with bilinear sampling.

    `shift` is in pixels, `rotate` in degrees, `scale` and `shear` are fractions: each draw is between minus
    and plus its argument. Pixels from outside the image take the nearest edge's value. With every
    strength 0 the images come back unchanged.
    """
    _, height, width, _ = images.shape
    draw = jax.random.uniform(key, (5, len(images)), minval=-1.0)
    angle = draw[0] * jnp.deg2rad(rotate)
    zoom, lean = 1 + draw[1] * scale, draw[2] * shear
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    matrix = jnp.stack([jnp.stack([cos, lean - sin], -1), jnp.stack([sin, cos], -1)], -2)  # [b, 2, 2]
    offset = draw[3:].T * shift

    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    centre = jnp.array([height - 1, width - 1]) / 2
    where = jnp.einsum("bij,hwj->bhwi", matrix, grid - centre) + centre + offset[:, None, None]
    return jax.vmap(bilinear)(images.astype(jnp.float32), where)


def random_crop(key: Array, images: Num[Array, "b h w c"], pad: int) -> Num[Array, "b h w c"]:
    """Adds `pad` pixels of 0 around each image and cuts its size out again, anywhere (He et al. 2015)."""
    around = jnp.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    corner = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)

    def cut(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(cut)(around, corner)


def random_resized_crop(
    key: Array,
    images: Num[Array, "b h w c"],
    size: tuple[int, int],
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Float[Array, "b y x c"]:
    """Cuts a rectangle out of each image and resizes it to `size`, (height, width) (Szegedy et al. 2014).

    `area` bounds the rectangle's share of the image, `aspect` its width over its height. Resizing is
    bilinear, with antialiasing where it shrinks. An image in which no rectangle of ten draws fits gives its
    largest centred rectangle within the bounds of `aspect`.
    """
    _, height, width, _ = images.shape
    fits, corner, sides = random_boxes(key, len(images), (height, width), area, aspect)
    widest = jnp.clip(width / height, *aspect)
    middle = jnp.array([jnp.minimum(height, width / widest), jnp.minimum(width, height * widest)])
    corner = jnp.where(fits[:, None], corner, (jnp.array([height, width]) - middle) / 2)
    sides = jnp.where(fits[:, None], sides, middle)

    def cut(image, corner, sides):
        scale = jnp.array(size) / sides
        shape = (*size, image.shape[-1])
        return jax.image.scale_and_translate(image, shape, (0, 1), scale, -corner * scale, "linear")

    return jax.vmap(cut)(images.astype(jnp.float32), corner, sides)


def random_erasing(
    key: Array,
    images: Num[Array, "b h w c"],
    probability: float = 0.5,
    *,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Float[Array, "b h w c"]:
    """Fills a rectangle with noise, uniform between 0 and 255, in some of the images (Zhong et al. 2017).

    Each image is changed with this `probability`, unless no rectangle of ten draws fits into it; `area`
    bounds the rectangle's share of the image, `aspect` its width over its height.
    """
    _, height, width, _ = images.shape
    box_key, chance_key, noise_key = jax.random.split(key, 3)
    fits, corner, sides = random_boxes(box_key, len(images), (height, width), area, aspect)
    chosen = fits & jax.random.bernoulli(chance_key, probability, (len(images),))
    start = jnp.round(corner).astype(jnp.int32)
    inside = within(start, start + jnp.round(sides).astype(jnp.int32), height, width)
    noise = jax.random.uniform(noise_key, images.shape, maxval=255.0)
    return jnp.where(chosen[:, None, None, None] & inside, noise, images)


def mixup(
    key: Array, images: Num[Array, "b h w c"], labels: Float[Array, "b k"], alpha: float = 0.2
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Averages each image, and its label, with those of another of the batch (Zhang et al. 2017).

    The weight of its own is a draw from Beta(alpha, alpha); at `alpha` 0 the batch comes back unchanged.
    """
    share_key, order_key = jax.random.split(key)
    share = random_share(share_key, len(images), alpha)
    order = jax.random.permutation(order_key, len(images))
    images = images.astype(jnp.float32)
    return blend(share, images, images[order]), blend(share, labels, labels[order])


def cutmix(
    key: Array, images: Num[Array, "b h w c"], labels: Float[Array, "b k"], alpha: float = 1.0
) -> tuple[Num[Array, "b h w c"], Float[Array, "b k"]]:
    """Pastes a rectangle of another image of the batch into each, and mixes the labels (Yun et al. 2019).

    The rectangle has the image's proportions and about a share of it that is a draw from Beta(alpha, alpha),
    around any pixel, cut off at the edges. Labels are mixed by the very share of the pixels that
    came from the other image. At `alpha` 0 the batch comes back unchanged.
    """
    _, height, width, _ = images.shape
    share_key, order_key, centre_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, len(images))
    size = jnp.array([height, width])
    sides = jnp.sqrt(1 - random_share(share_key, len(images), alpha))[:, None] * size
    centre = jax.random.uniform(centre_key, sides.shape) * size
    start, end = (jnp.round(centre + sign * sides / 2).astype(jnp.int32) for sign in (-1, 1))
    inside = within(start, end, height, width)
    share = 1 - inside.mean(axis=(1, 2, 3))
    return jnp.where(inside, images[order], images), blend(share, labels, labels[order])


def random_share(key: Array, count: int, alpha: float) -> Float[Array, "b"]:
    """Draws weights from Beta(alpha, alpha); at `alpha` 0 they are all 1."""
    return jax.random.beta(key, alpha, alpha, (count,)) if alpha else jnp.ones(count)


def blend(
    share: Float[Array, "b"], ours: Float[Array, "b ..."], others: Float[Array, "b ..."]
) -> Float[Array, "b ..."]:
    """Returns `share` of ours and the rest of the others, example by example."""
    share = share.reshape(-1, *(1 for _ in ours.shape[1:]))
    return share * ours + (1 - share) * others


def random_boxes(
    key: Array, count: int, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[Bool[Array, "b"], Float[Array, "b 2"], Float[Array, "b 2"]]:
    """Draws rectangles inside an image of `size`: whether one fits, its corner, its sides, as (row, column).

    The share of the image is uniform within `area`, the logarithm of width over height uniform within that of
    `aspect`. Of ten draws for each image the first that fits counts.
    """
    area_key, aspect_key, corner_key = jax.random.split(key, 3)
    pixels = jax.random.uniform(area_key, (10, count), minval=area[0], maxval=area[1]) * size[0] * size[1]
    low, high = jnp.log(jnp.array(aspect))
    ratio = jnp.exp(jax.random.uniform(aspect_key, (10, count), minval=low, maxval=high))
    tried = jnp.stack([jnp.sqrt(pixels / ratio), jnp.sqrt(pixels * ratio)], axis=-1)
    fit = jnp.all(tried <= jnp.array(size) + 1e-3, axis=-1)  # with room for rounding at the whole image
    first = fit.argmax(axis=0)
    sides = jnp.minimum(tried[first, jnp.arange(count)], jnp.array(size))
    corner = jax.random.uniform(corner_key, (count, 2)) * (jnp.array(size) - sides)
    return fit.any(axis=0), corner, sides


def within(
    start: Int[Array, "b 2"], end: Int[Array, "b 2"], height: int, width: int
) -> Bool[Array, "b {height} {width} 1"]:
    """Marks the pixels from (row, column) `start` to before `end`, of each image."""
    row, column = jnp.arange(height), jnp.arange(width)
    rows = (row >= start[:, :1]) & (row < end[:, :1])
    columns = (column >= start[:, 1:]) & (column < end[:, 1:])
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def bilinear(image: Float[Array, "h w c"], where: Float[Array, "y x 2"]) -> Float[Array, "y x c"]:
    """Samples an image at real-valued (row, column) positions; the edge's value goes on outside."""
    height, width, _ = image.shape
    where = jnp.clip(where, 0, jnp.array([height - 1, width - 1]))
    low = jnp.floor(where).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.array([height - 1, width - 1]))
    down, right = jnp.split(where - low, 2, axis=-1)
    top = image[low[..., 0], low[..., 1]] * (1 - right) + image[low[..., 0], high[..., 1]] * right
    bottom = image[high[..., 0], low[..., 1]] * (1 - right) + image[high[..., 0], high[..., 1]] * right
    return top * (1 - down) + bottom * down
