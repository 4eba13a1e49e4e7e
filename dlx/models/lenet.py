"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998), with the activations and pooling used today."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from dlx.core import Model
from dlx.layers.convolution import Conv, max_pool
from dlx.nn import from_linen


class LeNet(nn.Module):
    """Two 5x5 convolutions with max pooling, then a hidden dense layer.

    `features` are the channels of the two convolutions (6 and 16 in the paper) and the width of the dense
    layer (120 and 84 in the paper, one layer here).
    """

    num_classes: int
    features: tuple[int, int, int] = (32, 64, 256)
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"], *, train: bool) -> Shaped[Array, "b k"]:
        """Returns logits."""
        first, second, dense = self.features
        x = x.astype(self.dtype)
        for width in (first, second):
            x = nn.relu(Conv(width, (5, 5), dtype=self.dtype)(x))
            x = max_pool(x)
        x = nn.relu(nn.Dense(dense, dtype=self.dtype)(x.reshape(len(x), -1)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x)


def lenet(num_classes: int, features=(32, 64, 256), dropout: float = 0.0, dtype: str = "float32") -> Model:
    """Builds LeNet for images [b, h, w, c] with sides of at least 4 pixels."""
    return from_linen(LeNet(num_classes, tuple(features), dropout, dtype))
