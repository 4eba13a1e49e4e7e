"""The vision transformer (Dosovitskiy et al. 2020, "An image is worth 16x16 words")."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from dlx.core import Model, Variables
from dlx.layers.activation import gelu
from dlx.layers.attention import SelfAttention
from dlx.layers.dense import by_rows
from dlx.layers.regularization import stochastic_depth
from dlx.nn import from_linen

SIZES = {  # table 1 of the paper; S is that of Touvron et al. 2020
    "s": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536},
    "b": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "l": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
}


class Block(nn.Module):
    """Self-attention, then two dense layers, each normalised before and added to what came in."""

    heads: int
    hidden: int
    dropout: float
    skip: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], *, train: bool) -> Float[Array, "b t d"]:
        """Returns the tokens, updated; in training each half is left out with probability `skip`."""
        width, xavier = x.shape[-1], nn.initializers.xavier_uniform()
        norm = partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
        dense = partial(
            nn.Dense,
            kernel_init=xavier,
            bias_init=nn.initializers.normal(1e-6),
            dtype=self.dtype,
            dot_general=by_rows,
        )
        drop = nn.Dropout(self.dropout, deterministic=not train)

        def kept(y):
            return stochastic_depth(y, self.skip, self.make_rng("dropout") if train and self.skip else None)

        y = SelfAttention(self.heads, self.dtype, name="attention")(norm(name="norm_1")(x))
        x = x + kept(drop(y))
        y = gelu(dense(self.hidden, name="dense_1")(norm(name="norm_2")(x)))
        return x + kept(drop(dense(width, name="dense_2")(drop(y))))


class VisionTransformer(nn.Module):
    """Patches as words, a class token before them, learned positions, and blocks that see everything.

    The blocks are unrolled. A scan over them compiles no faster (training step of ViT-B/16 at 64 pixels on a
    CPU: 3.0 s of processor time unrolled, 3.5 s scanned) and takes twice the memory (320 and 670 MB at
    batch 16), since every layer's parameters and gradients are copied out of and into a stack.
    """

    num_classes: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b h w c"], *, train: bool) -> Float[Array, "b k"]:
        """Returns logits."""
        batch, height, width, channels = x.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"images of {height} x {width} do not split into patches of {self.patch}")
        # a convolution with a stride as large as its kernel, as the one matrix product that it is
        x = x.astype(self.dtype).reshape(batch, height // self.patch, self.patch, -1, self.patch, channels)
        x = nn.DenseGeneral(self.width, axis=(2, 4, 5), dtype=self.dtype, name="patches")(x)
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.width))
        x = jnp.concatenate([token, x.reshape(batch, -1, self.width)], axis=1)
        places = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = nn.Dropout(self.dropout, deterministic=not train)(x + places.astype(self.dtype))

        for layer in range(self.depth):
            skip = self.stochastic_depth * layer / max(1, self.depth - 1)  # none at first, all of it at last
            block = Block(self.heads, self.hidden, self.dropout, skip, self.dtype, name=f"block_{layer}")
            x = block(x, train=train)
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x[:, 0])
        start = nn.initializers.truncated_normal(0.02)
        return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=start, name="head")(x)


def vit(
    num_classes: int = 1000,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    hidden: int = 768,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    dtype: str = "float32",
) -> Model:
    """Builds the transformer for images [b, h, w, c] whose sides are multiples of `patch`.

    The default is small, for images of about 32 pixels. `hidden` is the width between a block's two dense
    layers; `stochastic_depth` (Huang et al. 2016) the probability with which the last block's halves are left
    out of a training step, growing linearly from 0 at the first block.
    """
    module = VisionTransformer(
        num_classes, patch, width, depth, heads, hidden, dropout, stochastic_depth, dtype
    )
    return from_linen(module)


def vit_s16(num_classes: int = 1000, **settings) -> Model:
    """Builds ViT-S/16: 22,050,664 parameters for 1000 classes and images of 224 pixels."""
    return vit(num_classes, patch=16, **SIZES["s"] | settings)


def vit_s32(num_classes: int = 1000, **settings) -> Model:
    """Builds ViT-S/32: 22,878,952 parameters for 1000 classes and images of 224 pixels."""
    return vit(num_classes, patch=32, **SIZES["s"] | settings)


def vit_b16(num_classes: int = 1000, **settings) -> Model:
    """Builds ViT-B/16: 86,567,656 parameters for 1000 classes and images of 224 pixels."""
    return vit(num_classes, patch=16, **SIZES["b"] | settings)


def vit_b32(num_classes: int = 1000, **settings) -> Model:
    """Builds ViT-B/32: 88,224,232 parameters for 1000 classes and images of 224 pixels."""
    return vit(num_classes, patch=32, **SIZES["b"] | settings)


def vit_l16(num_classes: int = 1000, **settings) -> Model:
    """Builds ViT-L/16: 304,326,632 parameters for 1000 classes and images of 224 pixels."""
    return vit(num_classes, patch=16, **SIZES["l"] | settings)


def vit_l32(num_classes: int = 1000, **settings) -> Model:
    """Builds ViT-L/32: 306,535,400 parameters for 1000 classes and images of 224 pixels."""
    return vit(num_classes, patch=32, **SIZES["l"] | settings)


def resize_positions(variables: Variables, height: int, width: int) -> Variables:
    """Fits the weights of a vision transformer to images of another size, in pixels.

    The position embeddings, a picture of one square pixel for each patch, are resized by bicubic
    interpolation, with antialiasing where the picture shrinks; that of the class token stays (section 3.2 of
    the paper). The same size gives the same weights.
    """
    patch = variables.params["patches"]["kernel"].shape[0]
    if height % patch or width % patch:
        raise ValueError(f"images of {height} x {width} do not split into patches of {patch}")
    token, places = jnp.split(variables.params["positions"], [1], axis=1)
    side = math.isqrt(places.shape[1])
    if side * side != places.shape[1]:
        raise ValueError(f"{places.shape[1]} positions are no square: resize from the weights' own size")
    if (side, side) == (height // patch, width // patch):
        return variables
    picture = places.reshape(1, side, side, -1)
    picture = jax.image.resize(picture, (1, height // patch, width // patch, picture.shape[-1]), "bicubic")
    places = jnp.concatenate([token, picture.reshape(1, -1, picture.shape[-1])], axis=1)
    return Variables({**variables.params, "positions": places}, variables.state)
