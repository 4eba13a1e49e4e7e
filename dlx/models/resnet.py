"""Residual networks (He, Zhang, Ren and Sun 2015), in the variant of torchvision ("v1.5").

Where a bottleneck halves the sides, its 3x3 convolution does, not the first 1x1 one (Goyal et al. 2017).
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.core import Model
from dlx.layers.convolution import Conv, max_pool
from dlx.layers.normalization import BatchNorm
from dlx.nn import from_linen

STAGES = {  # the table of the paper: blocks per stage, 64, 128, 256 and 512 channels wide
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015b


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    width: int
    stride: int
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b y x d"]:
        """Returns the block's features, `width` channels."""
        conv = partial(Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not self.train, dtype=self.dtype)

        y = nn.relu(norm()(conv(self.width, (3, 3), self.stride, padding=1)(x)))
        y = norm()(conv(self.width, (3, 3), padding=1)(y))
        if x.shape != y.shape:
            x = conv(self.width, (1, 1), self.stride, padding=0, name="shortcut_conv")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones and a shortcut, projected where the shape changes."""

    width: int
    stride: int
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b y x d"]:
        """Returns the block's features, four times `width` channels."""
        conv = partial(Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not self.train, dtype=self.dtype)

        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), self.stride, padding=1)(y)))
        y = norm()(conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = conv(4 * self.width, (1, 1), self.stride, padding=0, name="shortcut_conv")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, and a classifier of the features averaged over the image.

    The stem is "image", a 7x7 convolution of stride 2 and overlapping pooling, or "small", a 3x3
    convolution alone for images of some 32 pixels, as in the paper's experiments on CIFAR-10.
    """

    depth: int
    num_classes: int
    stem: str = "image"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"], *, train: bool) -> Shaped[Array, "b k"]:
        """Returns logits."""
        block = partial(Bottleneck if self.depth >= 50 else Basic, train=train, dtype=self.dtype)
        conv = partial(Conv, 64, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name="stem_conv")

        x = x.astype(self.dtype)
        x = conv((3, 3), padding=1)(x) if self.stem == "small" else conv((7, 7), 2, padding=3)(x)
        x = nn.relu(BatchNorm(use_running_average=not train, dtype=self.dtype, name="stem_norm")(x))
        if self.stem == "image":
            x = max_pool(x, 3, stride=2, padding=1)
        for stage, blocks in enumerate(STAGES[self.depth]):
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                x = block(64 * 2**stage, stride, name=f"stage{stage + 1}_block{number}")(x)
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x)


def resnet(depth: int, num_classes: int = 1000, stem: str = "image", dtype: str = "float32") -> Model:
    """Builds a residual network of 18, 34, 50, 101 or 152 layers for images [b, h, w, c]; see `ResNet`."""
    if depth not in STAGES:
        raise ValueError(f"no residual network of {depth} layers; there are {sorted(STAGES)}")
    if stem not in ("image", "small"):
        raise ValueError(f"the stem is 'image' or 'small', not {stem!r}")
    return from_linen(ResNet(depth, num_classes, stem, dtype))


def resnet18(num_classes: int = 1000, stem: str = "image", dtype: str = "float32") -> Model:
    """Builds ResNet-18: 11,689,512 parameters for 1000 classes."""
    return resnet(18, num_classes, stem, dtype)


def resnet34(num_classes: int = 1000, stem: str = "image", dtype: str = "float32") -> Model:
    """Builds ResNet-34: 21,797,672 parameters for 1000 classes."""
    return resnet(34, num_classes, stem, dtype)


def resnet50(num_classes: int = 1000, stem: str = "image", dtype: str = "float32") -> Model:
    """Builds ResNet-50: 25,557,032 parameters for 1000 classes."""
    return resnet(50, num_classes, stem, dtype)


def resnet101(num_classes: int = 1000, stem: str = "image", dtype: str = "float32") -> Model:
    """Builds ResNet-101: 44,549,160 parameters for 1000 classes."""
    return resnet(101, num_classes, stem, dtype)


def resnet152(num_classes: int = 1000, stem: str = "image", dtype: str = "float32") -> Model:
    """Builds ResNet-152: 60,192,808 parameters for 1000 classes."""
    return resnet(152, num_classes, stem, dtype)
