"""EfficientNet B0 to B7 (Tan and Le 2019): one network, scaled in width, depth and resolution together."""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.core import Model
from dlx.layers.convolution import Conv
from dlx.layers.depthwise import DepthwiseConv
from dlx.layers.normalization import BatchNorm
from dlx.layers.regularization import stochastic_depth
from dlx.nn import from_linen

STAGES = (  # table 1 of the paper, the baseline B0: expansion, kernel, stride, channels, layers
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
VARIANTS = (  # B0 to B7: multiples of width and depth, rate of dropout; the side of the images in the paper
    (1.0, 1.0, 0.2),  # 224 pixels
    (1.0, 1.1, 0.2),  # 240
    (1.1, 1.2, 0.3),  # 260
    (1.2, 1.4, 0.3),  # 300
    (1.4, 1.8, 0.4),  # 380
    (1.6, 2.2, 0.4),  # 456
    (1.8, 2.6, 0.5),  # 528
    (2.0, 3.1, 0.5),  # 600
)
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015
he_depthwise = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # of one channel's window
uniform = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")  # up to 1 / sqrt(classes)


def scaled(channels: int, width: float) -> int:
    """Returns the multiple of 8 nearest to `width * channels`, or the next one if it loses more than 10 %."""
    exact = width * channels
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


class SqueezeExcite(nn.Module):
    """Weighs every channel by a gate computed from all channels' means (Hu, Shen and Sun 2017)."""

    squeezed: int
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b h w c"]:
        """Returns the channels times their gates."""
        conv = partial(Conv, kernel_size=(1, 1), kernel_init=he_normal, dtype=self.dtype)
        gate = x.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)
        gate = nn.silu(conv(self.squeezed, name="squeeze")(gate))
        return x * nn.sigmoid(conv(x.shape[-1], name="excite")(gate))


class MBConv(nn.Module):
    """The inverted bottleneck (Sandler et al. 2018): expand, filter each channel, gate, project.

    Where the shape stays, a shortcut goes around the block, whose branch is dropped at the rate
    `drop` in training. `norm` are momentum and epsilon of the batch normalisation.
    """

    expansion: int
    kernel: int
    stride: int
    width: int
    drop: float
    norm: tuple[float, float]
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b y x d"]:
        """Returns the block's features, `width` channels."""
        conv = partial(Conv, kernel_size=(1, 1), use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        norm = partial(BatchNorm, not self.train, *self.norm, dtype=self.dtype)

        channels, y = x.shape[-1], x
        if self.expansion > 1:
            y = conv(self.expansion * channels, name="expand_conv")(y)
            y = nn.silu(norm(name="expand_norm")(y))
        depthwise = DepthwiseConv(self.kernel, self.stride, he_depthwise, self.dtype, name="depthwise_conv")
        y = nn.silu(norm(name="depthwise_norm")(depthwise(y)))
        y = SqueezeExcite(max(1, channels // 4), self.dtype, name="gate")(y)
        y = norm(name="project_norm")(conv(self.width, name="project_conv")(y))
        if self.stride > 1 or channels != self.width:
            return y
        key = self.make_rng("dropout") if self.train and self.drop > 0 else None
        return x + stochastic_depth(y, self.drop, key)


class EfficientNet(nn.Module):
    """A stem, seven stages of blocks, and a classifier of the features averaged over the image.

    The rate of stochastic depth grows linearly from 0 at the first block towards `stochastic_depth` at
    the end.
    """

    variant: int
    num_classes: int
    dropout: float
    stochastic_depth: float
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"], *, train: bool) -> Shaped[Array, "b k"]:
        """Returns logits."""
        width, depth, _ = VARIANTS[self.variant]
        momentum, epsilon = (0.9, 1e-5) if self.variant < 5 else (0.99, 1e-3)
        conv = partial(Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        norm = partial(BatchNorm, not train, momentum, epsilon, dtype=self.dtype)
        stages = [math.ceil(depth * layers) for *_, layers in STAGES]

        x = x.astype(self.dtype)
        x = conv(scaled(32, width), (3, 3), 2, padding=1, name="stem_conv")(x)
        x = nn.silu(norm(name="stem_norm")(x))
        done = 0
        for stage, (expansion, kernel, stride, channels, _) in enumerate(STAGES):
            for number in range(stages[stage]):
                x = MBConv(
                    expansion,
                    kernel,
                    stride if number == 0 else 1,
                    scaled(channels, width),
                    self.stochastic_depth * done / sum(stages),
                    (momentum, epsilon),
                    train,
                    self.dtype,
                    name=f"stage{stage + 1}_block{number}",
                )(x)
                done += 1
        x = conv(4 * x.shape[-1], (1, 1), name="head_conv")(x)
        x = nn.silu(norm(name="head_norm")(x))
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=uniform, dtype=jnp.float32, name="head")(x)


def efficientnet(
    variant: int,
    num_classes: int = 1000,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
    dtype: str = "float32",
) -> Model:
    """Builds EfficientNet-B`variant`, 0 to 7, for images [b, h, w, c]; `dropout` None is the paper's rate.

    B0 to B4 normalise with momentum 0.9 and epsilon 1e-5, B5 to B7 with 0.99 and 1e-3, as torchvision's.
    """
    if variant not in range(len(VARIANTS)):
        raise ValueError(f"there are EfficientNet-B0 to B{len(VARIANTS) - 1}, no B{variant}")
    rate = VARIANTS[variant][2] if dropout is None else dropout
    return from_linen(EfficientNet(variant, num_classes, rate, stochastic_depth, dtype))


def efficientnet_b0(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B0, 5,288,548 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(0, num_classes, **settings)


def efficientnet_b1(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B1, 7,794,184 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(1, num_classes, **settings)


def efficientnet_b2(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B2, 9,109,994 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(2, num_classes, **settings)


def efficientnet_b3(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B3, 12,233,232 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(3, num_classes, **settings)


def efficientnet_b4(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B4, 19,341,616 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(4, num_classes, **settings)


def efficientnet_b5(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B5, 30,389,784 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(5, num_classes, **settings)


def efficientnet_b6(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B6, 43,040,704 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(6, num_classes, **settings)


def efficientnet_b7(num_classes: int = 1000, **settings) -> Model:
    """Builds EfficientNet-B7, 66,347,960 parameters for 1000 classes; settings as of `efficientnet`."""
    return efficientnet(7, num_classes, **settings)
