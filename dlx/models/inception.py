"""Inception-v3 (Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2015), with the widths of its authors' code."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.core import Model
from dlx.layers.convolution import Conv, avg_pool, max_pool
from dlx.layers.normalization import BatchNorm
from dlx.nn import from_linen

Image = Shaped[Array, "b h w c"]
Features = Shaped[Array, "b y x d"]

ONE, THREE, FIVE = (1, 1), (3, 3), (5, 5)  # kernels: (rows, columns)
ROW3, COLUMN3, ROW7, COLUMN7 = (1, 3), (3, 1), (1, 7), (7, 1)


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation and ReLU; by default the sides stay."""

    width: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"
    deviation: float = 0.1
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Image) -> Features:
        """Returns `width` channels."""
        normal = nn.initializers.truncated_normal(self.deviation)
        conv = partial(Conv, use_bias=False, kernel_init=normal, dtype=self.dtype)
        x = conv(self.width, self.kernel, self.stride, self.padding)(x)
        return nn.relu(BatchNorm(not self.train, epsilon=1e-3, dtype=self.dtype)(x))


def chain(x: Image, *layers: Callable) -> Features:
    """Returns `x` after one layer after the other."""
    for layer in layers:
        x = layer(x)
    return x


def joined(*branches: Shaped[Array, "b h w _"]) -> Shaped[Array, "b h w d"]:
    """Returns the channels of all branches side by side."""
    return jnp.concatenate(branches, axis=-1)


def smooth(x: Image) -> Image:
    """Averages 3x3 pixels around every pixel; outside the image there are zeros."""
    return avg_pool(x, 3, stride=1, padding=1)


def figure5(x: Image, conv: Callable, pooled: int) -> Features:
    """Module A: two 3x3 convolutions in a row see as far as one of 5x5."""
    return joined(
        conv(64, ONE)(x),
        chain(x, conv(48, ONE), conv(64, FIVE)),
        chain(x, conv(64, ONE), conv(96, THREE), conv(96, THREE)),
        chain(x, smooth, conv(pooled, ONE)),
    )


def figure6(x: Image, conv: Callable, width: int) -> Features:
    """Module C: a row and a column of 7 pixels in place of 7x7."""
    return joined(
        conv(192, ONE)(x),
        chain(x, conv(width, ONE), conv(width, ROW7), conv(192, COLUMN7)),
        chain(
            x,
            conv(width, ONE),
            *(conv(width, kernel) for kernel in (COLUMN7, ROW7, COLUMN7)),
            conv(192, ROW7),
        ),
        chain(x, smooth, conv(192, ONE)),
    )


def figure7(x: Image, conv: Callable) -> Features:
    """Module E: rows and columns side by side, for many channels on the smallest grid."""

    def cross(x):
        return joined(conv(384, ROW3)(x), conv(384, COLUMN3)(x))

    return joined(
        conv(320, ONE)(x),
        chain(x, conv(384, ONE), cross),
        chain(x, conv(448, ONE), conv(384, THREE), cross),
        chain(x, smooth, conv(192, ONE)),
    )


def reduction35(x: Image, conv: Callable) -> Features:
    """Module B, figure 10: halves the 35x35 grid by convolution and pooling side by side."""
    half = partial(conv, kernel=THREE, stride=2, padding="VALID")
    return joined(
        half(384)(x),
        chain(x, conv(64, ONE), conv(96, THREE), half(96)),
        max_pool(x, 3, stride=2),
    )


def reduction17(x: Image, conv: Callable) -> Features:
    """Module D: halves the 17x17 grid likewise."""
    half = partial(conv, kernel=THREE, stride=2, padding="VALID")
    return joined(
        chain(x, conv(192, ONE), half(320)),
        chain(x, conv(192, ONE), conv(192, ROW7), conv(192, COLUMN7), half(192)),
        max_pool(x, 3, stride=2),
    )


class Mixed(nn.Module):
    """One module of the network: the branches that `figure` draws."""

    figure: Callable
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Image) -> Features:
        """Returns all branches' channels side by side."""
        return self.figure(x, partial(ConvNorm, train=self.train, dtype=self.dtype))


class Auxiliary(nn.Module):
    """The second classifier, on the last 17x17 grid, that regularises training (section 4 of the paper)."""

    num_classes: int
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Image) -> Shaped[Array, "b k"]:
        """Returns logits."""
        conv = partial(ConvNorm, train=self.train, dtype=self.dtype)
        x = avg_pool(x, 5, stride=3)
        x = conv(128, ONE)(x)
        x = conv(768, FIVE, padding="VALID", deviation=0.01)(x)
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        normal = nn.initializers.truncated_normal(0.001)
        return nn.Dense(self.num_classes, kernel_init=normal, dtype=jnp.float32, name="head")(x)


class Inception(nn.Module):
    """Table 1 of the paper, with the auxiliary classifier where `auxiliary`.

    In training the outputs are then two, logits and auxiliary logits, and the sides of the images at least
    299 pixels; else 75 suffice.
    """

    num_classes: int
    dropout: float
    auxiliary: bool
    dtype: str

    @nn.compact
    def __call__(
        self, x: Image, *, train: bool
    ) -> Shaped[Array, "b k"] | tuple[Shaped[Array, "b k"], Shaped[Array, "b k"]]:
        """Returns logits, in training with those of the auxiliary classifier."""
        conv = partial(ConvNorm, train=train, dtype=self.dtype)
        mixed = partial(Mixed, train=train, dtype=self.dtype)

        x = x.astype(self.dtype)
        x = conv(32, THREE, stride=2, padding="VALID", name="conv_1a")(x)
        x = conv(32, THREE, padding="VALID", name="conv_2a")(x)
        x = max_pool(conv(64, THREE, name="conv_2b")(x), 3, stride=2)
        x = conv(80, ONE, name="conv_3b")(x)
        x = max_pool(conv(192, THREE, padding="VALID", name="conv_4a")(x), 3, stride=2)
        for letter, pooled in zip("bcd", (32, 64, 64), strict=True):
            x = mixed(partial(figure5, pooled=pooled), name=f"mixed_5{letter}")(x)
        x = mixed(reduction35, name="mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = mixed(partial(figure6, width=width), name=f"mixed_6{letter}")(x)
        grid = x
        x = mixed(reduction17, name="mixed_7a")(x)
        for letter in "bc":
            x = mixed(figure7, name=f"mixed_7{letter}")(x)
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        normal = nn.initializers.truncated_normal(0.1)
        logits = nn.Dense(self.num_classes, kernel_init=normal, dtype=jnp.float32, name="head")(x)

        if not self.auxiliary or not (train or self.is_initializing()):
            return logits
        if self.is_initializing():  # at any size of image the classifier gets its parameters
            grid = jnp.zeros((1, 17, 17, grid.shape[-1]), grid.dtype)
        if min(grid.shape[1:3]) < 17:
            raise ValueError(
                "in training the auxiliary classifier needs images of at least 299 pixels a side: "
                "for smaller ones build the model with auxiliary=False"
            )
        second = Auxiliary(self.num_classes, train, self.dtype, name="auxiliary")(grid)
        return (logits, second) if train else logits


def inception_v3(
    num_classes: int = 1000, dropout: float = 0.5, auxiliary: bool = True, dtype: str = "float32"
) -> Model:
    """Builds Inception-v3: 27,161,264 parameters for 1000 classes, 23,834,568 without auxiliary classifier.

    Images [b, h, w, c] have sides of 75 pixels or more, 299 in the paper. Outputs are logits; with a key,
    where `auxiliary`, they are (logits, auxiliary logits), and the sides at least 299 pixels.
    """
    return from_linen(Inception(num_classes, dropout, auxiliary, dtype))
