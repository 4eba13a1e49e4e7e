"""A small modern convolutional network: 3x3 convolutions, batch normalisation, global pooling."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.core import Model
from dlx.layers.convolution import Conv, max_pool
from dlx.nn import from_linen


class ConvNet(nn.Module):
    """Stages of `depth` 3x3 convolutions, each halving the sides by max pooling but the last.

    Every convolution is followed by batch normalisation (Ioffe and Szegedy 2015) and ReLU; the features
    are averaged over the image before the classifier (Lin, Chen and Yan 2013).
    """

    num_classes: int
    widths: Sequence[int] = (32, 64, 128)
    depth: int = 2
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"], *, train: bool) -> Shaped[Array, "b k"]:
        """Returns logits."""
        conv = partial(Conv, kernel_size=(3, 3), use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)

        x = x.astype(self.dtype)
        for stage, width in enumerate(self.widths):
            if stage > 0:
                x = max_pool(x)
            for _ in range(self.depth):
                x = nn.relu(norm()(conv(width)(x)))
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x)


def convnet(
    num_classes: int,
    widths: Sequence[int] = (32, 64, 128),
    depth: int = 2,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> Model:
    """Builds the network for images [b, h, w, c] with sides of at least 2 ** (len(widths) - 1) pixels."""
    return from_linen(ConvNet(num_classes, tuple(widths), depth, dropout, dtype))
