"""VGG (Simonyan and Zisserman 2014): stacks of 3x3 convolutions between poolings, then three dense layers."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.core import Model
from dlx.layers.convolution import Conv, adaptive_avg_pool, max_pool
from dlx.layers.normalization import BatchNorm
from dlx.nn import from_linen

STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # columns D and E: 3x3 convolutions before each pooling
WIDTHS = (64, 128, 256, 512, 512)
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, no need to pretrain


class VGG(nn.Module):
    """Columns D and E of the paper's table 1, of 16 and 19 layers with weights.

    `batch_norm` normalises every convolution (Ioffe and Szegedy 2015); `hidden` is the width of the first two
    dense layers. The features are averaged to 7x7 before them, as which those of 224 pixels come.
    """

    depth: int
    num_classes: int
    batch_norm: bool
    hidden: int = 4096
    dropout: float = 0.5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"], *, train: bool) -> Shaped[Array, "b k"]:
        """Returns logits."""
        x = x.astype(self.dtype)
        for width, convolutions in zip(WIDTHS, STAGES[self.depth], strict=True):
            for _ in range(convolutions):
                x = Conv(width, (3, 3), padding=1, kernel_init=he_normal, dtype=self.dtype)(x)
                if self.batch_norm:
                    x = BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
                x = nn.relu(x)
            x = max_pool(x)
        x = adaptive_avg_pool(x, 7).reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(self.hidden, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32)(x)


def vgg16(num_classes: int = 1000, hidden: int = 4096, dropout: float = 0.5, dtype: str = "float32") -> Model:
    """Builds VGG-16, for sides of at least 32 pixels: 138,357,544 parameters for 1000 classes."""
    return from_linen(VGG(16, num_classes, False, hidden, dropout, dtype))


def vgg19(num_classes: int = 1000, hidden: int = 4096, dropout: float = 0.5, dtype: str = "float32") -> Model:
    """Builds VGG-19, for sides of at least 32 pixels: 143,667,240 parameters for 1000 classes."""
    return from_linen(VGG(19, num_classes, False, hidden, dropout, dtype))


def vgg16_bn(
    num_classes: int = 1000, hidden: int = 4096, dropout: float = 0.5, dtype: str = "float32"
) -> Model:
    """Builds VGG-16 with batch normalisation: 138,365,992 parameters for 1000 classes."""
    return from_linen(VGG(16, num_classes, True, hidden, dropout, dtype))


def vgg19_bn(
    num_classes: int = 1000, hidden: int = 4096, dropout: float = 0.5, dtype: str = "float32"
) -> Model:
    """Builds VGG-19 with batch normalisation: 143,678,248 parameters for 1000 classes."""
    return from_linen(VGG(19, num_classes, True, hidden, dropout, dtype))
